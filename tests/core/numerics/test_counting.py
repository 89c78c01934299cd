"""The counting kernels, each kind of vectors of its own, against numpy on the same values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.core.numerics.counting import BINS, WIDEST, count_with_numpy
from qtool.core.numerics.histogram import Histogram

_count = pytest.importorskip("qtool.core.numerics._count", reason="no C compiler was at hand")
LARGEST = float(np.finfo(np.float32).max)
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-39, -1e-39, 9.2e-41, LARGEST, -LARGEST, 1.0, -1.0, 6.0, 2.0**-126]
BAD = [np.nan, -np.nan, np.inf, -np.inf]
kinds = pytest.mark.parametrize("widest", range(_count.WIDEST + 1))


@st.composite
def arrays(draw):
    """Up to a few blocks, of sizes that fill no vector: special values among others of one sign or two."""
    size = draw(st.integers(1, 40) | st.integers(500, 1700))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sign = draw(st.sampled_from(["+", "-", "both"]))
    bits = rng.integers(0, 0x7F800000, size, dtype=np.uint32)
    negative = {"+": False, "-": True, "both": rng.random(size) < 0.5}[sign]
    bits |= np.asarray(negative, np.uint32) << np.uint32(31)
    special = np.array(draw(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=4)), np.float32)
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    return np.where(rng.random(size) < share, rng.choice(special, size), bits.view(np.float32)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    return np.bincount(x.view(np.uint32) >> 16, minlength=BINS)


@kinds
@settings(max_examples=200)
@given(x=arrays(), before=st.integers(0, 3))
def test_counts_and_extremes(widest, x, before):
    scratch = np.zeros(BINS, np.uint32)
    counts = np.full(BINS, before, np.int64)
    assert _count.count(x, scratch, counts, widest) == (x.min(), x.max())
    assert (counts - before == expected(x)).all()
    assert not scratch.any()


@kinds
@settings(max_examples=100)
@given(x=arrays(), bad=st.sampled_from(BAD), data=st.data())
def test_nan_and_inf_anywhere_count_nothing(widest, x, bad, data):
    x[data.draw(st.integers(0, x.size - 1))] = bad
    scratch, counts = np.zeros(BINS, np.uint32), np.zeros(BINS, np.int64)
    assert _count.count(x, scratch, counts, widest) is None
    assert not counts.any()
    assert not scratch.any()


@kinds
@pytest.mark.parametrize("offset", range(1, 16))
def test_arrays_that_are_not_aligned(widest, offset):
    x = np.random.default_rng(1).normal(size=3000).astype(np.float32)[offset:]
    counts = np.zeros(BINS, np.int64)
    _count.count(x, np.zeros(BINS, np.uint32), counts, widest)
    assert (counts == expected(x)).all()


@settings(deadline=None)
@given(arrays())
def test_the_form_without_a_compiler(x):
    counts = np.zeros(BINS, np.int64)
    assert count_with_numpy(counts, x) == (x.min(), x.max())
    assert (counts == expected(x)).all()


def test_more_than_a_piece_of_the_form_without_a_compiler():
    x = np.random.default_rng(2).normal(size=(1 << 19) + 77).astype(np.float32)
    counts = np.zeros(BINS, np.int64)
    count_with_numpy(counts, x)
    assert (counts == expected(x)).all()


@pytest.mark.parametrize("order", [(-0.0, 0.0), (0.0, -0.0)])
def test_the_sign_of_a_zero_does_not_depend_on_the_order(order):
    histogram = Histogram()
    for value in order:
        histogram.observe(np.full(3, value, np.float32))
    assert np.signbit([histogram.minimum, histogram.maximum]).tolist() == [False, False]
    assert (histogram.counts[0], histogram.counts[0x8000]) == (3, 3)


@pytest.mark.parametrize("change", [{"x": 0}, {"scratch": 7}, {"counts": 7}, {"widest": WIDEST + 1}, {"widest": -1}])
def test_wrong_buffers_are_refused(change):
    given = {"x": 5, "scratch": BINS, "counts": BINS, "widest": 0} | change
    with pytest.raises(ValueError, match="wrong size"):
        _count.count(
            np.zeros(given["x"], np.float32),
            np.zeros(given["scratch"], np.uint32),
            np.zeros(given["counts"], np.int64),
            given["widest"],
        )

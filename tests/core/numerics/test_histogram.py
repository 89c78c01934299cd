"""The 16-bit-key histogram against numpy on the raw values."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.core.numerics.counting import count_with_numpy
from qtool.core.numerics.histogram import Distribution, Histogram, NotFiniteError

LARGEST = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
special = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-39, LARGEST, -LARGEST, 1.0, -1.0, 2.0**-133, SMALLEST_NORMAL])
values = st.lists(finite | special | st.floats(-4, 4, width=32), max_size=60)


def observed(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.observe(array)
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    return bool((a.counts == b.counts).all()) and (a.minimum, a.maximum) == (b.minimum, b.maximum)


def key(value: float) -> int:
    """The upper 16 bits of a float32, big-endian."""
    return int.from_bytes(struct.pack(">f", value)[:2], "big")


def samples(name: str, n: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(7)
    return {
        "normal": lambda: rng.normal(0.3, 2.0, n),
        "relu": lambda: np.maximum(rng.normal(0.0, 1.0, n), 0.0),
        "laplace": lambda: rng.laplace(0.0, 0.1, n),
        "cauchy": lambda: rng.standard_cauchy(n),
        "negative": lambda: -rng.gamma(2.0, 3.0, n),
        "far": lambda: 1000.0 + rng.normal(0.0, 1.0, n),
        "three values": lambda: rng.choice([-1.0, 0.0, 2.0], n),
    }[name]().astype(np.float32)


SAMPLES = ["normal", "relu", "laplace", "cauchy", "negative", "far", "three values"]


@settings(deadline=None)
@given(values)
def test_counts_minimum_and_maximum(xs):
    x = np.array(xs, np.float32)
    histogram = observed(x)
    expected = [0] * 65536
    for value in x.tolist():
        expected[key(value)] += 1
    assert histogram.counts.tolist() == expected
    assert histogram.counts.dtype == np.int64
    assert histogram.count == len(xs)
    if xs:
        assert (histogram.minimum, histogram.maximum) == (min(x.tolist()), max(x.tolist()))


@settings(deadline=None)
@given(values.filter(bool))
def test_the_kernel_without_a_compiler_counts_the_same(xs):
    x = np.array(xs, np.float32)
    counts = np.ones(65536, np.int64)
    assert count_with_numpy(counts, x) == (x.min(), x.max())
    assert (counts - 1 == observed(x).counts).all()
    counts[:] = 0
    for bad in (np.nan, np.inf, -np.inf):
        assert count_with_numpy(counts, np.append(x, np.float32(bad))) is None
        assert not counts.any()


def test_many_equal_values_do_not_overflow_a_narrow_counter():
    x = np.full(70_000, -2.5, np.float32)
    histogram = observed(*[x] * 10)
    assert histogram.count == 700_000
    assert histogram.counts[key(-2.5)] == 700_000


@settings(deadline=None)
@given(values, values, values)
def test_merging_is_addition(a, b, c):
    a, b, c = (np.array(x, np.float32) for x in (a, b, c))
    left = observed(a)
    left.merge(observed(b))
    left.merge(observed(c))
    inner = observed(c)
    inner.merge(observed(b))
    right = observed(a)
    right.merge(inner)
    assert same(left, right)
    assert same(left, observed(np.concatenate([a, b, c])))


@settings(deadline=None)
@given(values, st.lists(st.integers(0, 60), max_size=5))
def test_batches_of_any_shape_give_the_same(xs, cuts):
    x = np.array(xs, np.float32)
    assert same(observed(*np.split(x, sorted(min(c, x.size) for c in cuts))), observed(x))


def test_memory_order_does_not_matter():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    strided = np.zeros((3, 4, 10), np.float32)[:, :, ::2]
    strided[...] = x
    assert same(observed(x), observed(np.asfortranarray(x)))
    assert same(observed(x), observed(strided))
    assert same(observed(x), observed(x.transpose(2, 0, 1)))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 3, 6])
def test_a_value_that_is_not_finite_is_refused_and_nothing_is_added(bad, where):
    x = np.arange(7, dtype=np.float32)
    x[where] = bad
    histogram = observed(np.ones(3, np.float32))
    with pytest.raises(NotFiniteError):
        histogram.observe(x)
    assert same(histogram, observed(np.ones(3, np.float32)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_count_as_float32(dtype):
    x = np.random.default_rng(0).normal(size=500).astype(dtype)
    assert same(observed(x), observed(x.astype(np.float32)))


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_an_array_without_elements_adds_nothing(shape):
    assert same(observed(np.zeros(shape, np.float32)), Histogram())
    assert same(observed(np.ones(2, np.float32), np.zeros(shape, np.float32)), observed(np.ones(2, np.float32)))
    distribution = Histogram().distribution()
    assert (distribution.minimum, distribution.maximum, distribution.counts.size) == (0.0, 0.0, 0)
    assert distribution.magnitudes().counts.size == 0


def holds(distribution: Distribution, value: float) -> float:
    """How many were counted in the bins that hold `value`; magnitudes below 2**-133 stand at the zero."""
    value = 0.0 if abs(value) < 2.0**-133 else value
    inside = (distribution.low <= value) & (value <= distribution.high)
    return float(distribution.counts[inside].sum())


@settings(max_examples=200)
@given(values.filter(bool))
def test_the_bins_ascend_and_hold_their_values(xs):
    x = np.array(xs, np.float32)
    distribution = observed(x).distribution()
    low, high, counts = distribution.low, distribution.high, distribution.counts
    assert (low <= high).all()
    assert (low[1:] >= high[:-1]).all()
    assert counts.sum() == x.size
    assert (counts > 0).all()
    assert (low >= x.min()).all()
    assert (high <= x.max()).all()
    if np.abs(x).max() >= 2.0**-133 and (np.abs(x) >= 2.0**-133).all():
        assert (distribution.minimum, distribution.maximum) == (x.min(), x.max())
        assert all(holds(distribution, v) >= (x == v).sum() for v in x.tolist())
    # a bin is narrow: 7 bits of mantissa
    normal = np.minimum(np.abs(low), np.abs(high)) >= SMALLEST_NORMAL
    assert ((high - low)[normal] <= np.minimum(np.abs(low), np.abs(high))[normal] / 128).all()


@settings(max_examples=200)
@given(values.filter(bool))
def test_the_magnitudes_are_the_distribution_of_the_absolute_values(xs):
    x = np.array(xs, np.float32)
    magnitudes = observed(x).distribution().magnitudes()
    of_absolutes = observed(np.abs(x)).distribution()
    assert magnitudes.counts.sum() == x.size
    assert (np.diff(magnitudes.low) > 0).all()
    assert (magnitudes.low[1:] >= magnitudes.high[:-1]).all()
    if (np.abs(x) >= 2.0**-133).all():
        assert magnitudes.maximum == of_absolutes.maximum
        np.testing.assert_array_equal(magnitudes.counts, of_absolutes.counts)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("magnitudes", [False, True])
def test_quantiles_are_within_a_bin_of_numpys(name, magnitudes):
    x = samples(name)
    distribution = observed(x).distribution()
    if magnitudes:
        x, distribution = np.abs(x), distribution.magnitudes()
    ordered = np.sort(x)
    for q in [0.0, 1e-5, 0.001, 0.1, 0.25, 0.4999, 0.9, 0.999, 0.99999, 1.0]:
        # between two observations any value will do
        below = ordered[max(math.floor(q * x.size) - 1, 0)]
        above = ordered[min(math.ceil(q * x.size), x.size - 1)]
        width = max(abs(below), abs(above)) / 128
        assert below - width <= distribution.quantile(q) <= above + width
    if not magnitudes:
        assert distribution.quantile(0.0) == ordered[0]
    assert distribution.quantile(1.0) == ordered[-1]


@pytest.mark.parametrize("name", SAMPLES)
def test_quantiles_ascend(name):
    distribution = observed(samples(name, 2000)).distribution()
    for one in (distribution, distribution.magnitudes()):
        quantiles = [one.quantile(q) for q in np.linspace(0.0, 1.0, 3001)]
        assert (np.diff(quantiles) >= 0).all()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("bins", [1, 16, 2048])
def test_equal_bins_keep_the_mass_and_its_place(name, bins):
    x = np.abs(samples(name))
    magnitudes = observed(samples(name)).distribution().magnitudes()
    top = magnitudes.maximum
    counts = magnitudes.rebin(bins, top)
    assert counts.shape == (bins,)
    assert (counts >= 0).all()
    assert counts.sum() == pytest.approx(x.size, abs=1e-6)
    # nothing moves further than the 16-bit bin that it came from
    edges = np.linspace(0.0, top, bins + 1)
    reached = np.cumsum(counts)
    assert (reached >= np.searchsorted(np.sort(x), edges[1:] * (1 - 1 / 127), side="right") - 1e-6).all()
    assert (reached <= np.searchsorted(np.sort(x), edges[1:] * (1 + 1 / 127), side="right") + 1e-6).all()


def test_equal_bins_are_smooth_for_values_of_both_signs():
    """A bin of x and the same bin of -x are spread alike, not one after the other."""
    x = np.random.default_rng(3).uniform(-1.0, 1.0, 400_000).astype(np.float32)
    counts = observed(x).distribution().magnitudes().rebin(2048, 1.0)
    expected = 400_000 / 2048
    # all but the first few are filled by many values, whose number strays by its square root
    assert np.abs(counts[16:-16] - expected).max() < 6 * math.sqrt(expected)


def test_the_largest_and_smallest_floats_are_no_trouble():
    x = np.array([-LARGEST, LARGEST, 1e-45, -1e-45, 0.0, 3.0], np.float32)
    distribution = observed(x).distribution()
    assert (distribution.minimum, distribution.maximum) == (-LARGEST, LARGEST)
    counts = distribution.magnitudes().rebin(2048, LARGEST)
    assert np.isfinite(counts).all()
    assert (counts[0], counts[-9:].sum(), counts.sum()) == (4, pytest.approx(2.0), 6)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e9, 1e30, 1e38])
def test_a_single_value_has_a_bin_without_width(scale):
    x = np.full(5, scale, np.float32)
    magnitudes = observed(x, -x).distribution().magnitudes()
    if scale > 1e-38:
        assert magnitudes.maximum == x[0]
        assert magnitudes.rebin(4, magnitudes.maximum).tolist() == [0, 0, 0, 10]
        assert magnitudes.quantile(0.5) == pytest.approx(scale, rel=1 / 127)
    assert magnitudes.counts.sum() == 10

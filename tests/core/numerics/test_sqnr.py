"""SQNR against its definition in long double, at any scale; what is equal and not finite, and what is not."""

import math

import numpy as np
import pytest

from qtool.core.numerics.sqnr import (
    OutputNoise,
    Parts,
    SignalToNoise,
    loudness,
    measured_outputs,
    signal_to_noise,
    unlike,
    worst,
)

RNG = np.random.default_rng(4)
X = RNG.normal(size=(7, 30))
Y = X + RNG.normal(scale=0.01, size=X.shape)


def definition(x, y):
    x, y = (array.astype(np.longdouble) for array in (x, y))
    return float(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-45, 1e-30, 1e-22, 1e-12, 1e-6, 1.0, 1e6, 1e19, 1e30, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scale_makes_no_difference(scale, dtype):
    with np.errstate(over="ignore", under="ignore"):
        x, y = (X * scale).astype(dtype), (Y * scale).astype(dtype)
    if not np.isfinite(x).all() or np.array_equal(x, y):
        return
    assert signal_to_noise(x, y) == pytest.approx(definition(x, y), abs=1e-3)


@pytest.mark.parametrize("order", [1, -1])
def test_batches_of_different_scales_add_up(order):
    scales = [1e-25, 1e-3, 1.0, 1e20, 1e-40][::order]
    found = SignalToNoise()
    pairs = [((X * s).astype(np.float32), (Y * s).astype(np.float32)) for s in scales]
    for x, y in pairs:
        found.add(x, y)
    assert found.db == pytest.approx(definition(*map(np.concatenate, zip(*pairs, strict=True))), abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equal_entries_that_are_not_finite_count_as_nothing(dtype):
    x, y = X.astype(dtype), Y.astype(dtype)
    expected = signal_to_noise(x[:, 3:], y[:, 3:])
    for array in (x, y):
        array[:, 0], array[:, 1], array[:, 2] = np.nan, np.inf, -np.inf
    assert signal_to_noise(x, y) == pytest.approx(expected, abs=1e-6)
    assert not unlike(x, y).any()
    nothing = np.full((2, 2), np.nan, dtype)
    assert signal_to_noise(nothing, nothing) == math.inf


@pytest.mark.parametrize(
    ("reference", "other", "db"),
    [
        (np.nan, 1.0, math.nan),
        (1.0, np.nan, math.nan),
        (np.nan, np.inf, math.nan),
        (np.inf, -np.inf, -math.inf),
        (np.inf, 3e38, -math.inf),
        (3e38, np.inf, -math.inf),
    ],
)
def test_others_are_a_fault_that_the_figure_shows(reference, other, db):
    found = SignalToNoise()
    found.add(np.array([1.0, reference, 2.0], np.float32), np.array([1.0, other, 2.0], np.float32))
    assert found.db == pytest.approx(db, nan_ok=True)
    assert found.unlike == 1
    assert loudness(found.db) == -math.inf


def test_the_widest_difference_of_floats_is_no_fault():
    found = SignalToNoise()
    found.add(np.array([3e38], np.float32), np.array([-3e38], np.float32))
    assert found.db == pytest.approx(-20 * math.log10(2))
    assert found.unlike == 0


def test_what_has_no_signal_no_noise_or_no_shape_in_common():
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert signal_to_noise(zero, zero) == math.inf
    assert signal_to_noise(zero, one) == -math.inf
    assert signal_to_noise(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)) == math.inf
    found = SignalToNoise()
    found.add(one, one[:3])
    assert (found.db, found.incomparable) == (None, 1)


def test_the_worst_is_of_those_that_were_measured():
    assert worst([3.0, None, math.inf]) == 3.0
    assert worst([None]) is None
    assert worst([]) is None
    assert math.isnan(worst([1.0, math.nan, 3.0]))


def test_whole_numbers_are_measured_where_there_are_no_others():
    label, real = np.zeros(2, np.int64), np.zeros(2, np.float16)
    words, truths = np.array(["a", "b"], object), np.zeros(2, bool)
    assert measured_outputs({"label": label, "real": real, "words": words}) == ("real",)
    assert measured_outputs({"label": label, "truths": truths, "words": words}) == ("label",)
    assert measured_outputs({"truths": truths, "words": words}) == ()


def test_one_array_that_makes_most_of_the_noise_is_told_apart():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(9, 100))
    parts = Parts(np.repeat([0, 1], 50), (0.0, 0.0))
    found, parted = OutputNoise(each=True), OutputNoise(parts, each=True)
    for number, x in enumerate(exact):
        error = np.where(np.arange(100) < 50, 0.001, 0.3 if number == 6 else 0.001)
        found.add(x, x + error)
        parted.add(x, x + error)
    uneven = found.uneven
    others = np.delete(exact, 6, axis=0)
    assert uneven.others_db == pytest.approx(signal_to_noise(others, others + 0.001))
    assert (uneven.arrays, uneven.share) == (9, pytest.approx(1.0, abs=1e-3))
    assert uneven.median_db == pytest.approx(np.median([signal_to_noise(x, x + 0.001) for x in exact]), abs=1.0)
    assert parted.uneven.others_db == pytest.approx(signal_to_noise(others[:, 50:], others[:, 50:] + 0.001))
    found.add(exact[0], exact[0] + 0.3)
    assert found.uneven is None and OutputNoise(each=True).uneven is None


@pytest.mark.parametrize(("sound", "middle"), [(1, 60.0), (5, None)])
def test_arrays_without_noise_have_no_median_in_decibels(sound, middle):
    found = OutputNoise(each=True)
    found.add(np.ones(100), np.full(100, 2.0))
    found.add(np.zeros(100), np.full(100, 1e-4))
    for number in range(7):
        found.add(np.ones(100), np.full(100, 1.0 if number < sound else 1.001))
    uneven = found.uneven
    assert uneven is not None and uneven.share > 0.99
    assert uneven.median_db == (None if middle is None else pytest.approx(middle, abs=0.1))


def test_silent_arrays_without_noise_say_nothing_of_the_median():
    # pytest makes errors of numpy's warnings
    found = OutputNoise(each=True)
    found.add(np.ones(100), np.full(100, 2.0))
    for number in range(8):
        exact = np.zeros(100) if number < 3 else np.ones(100)
        found.add(exact, exact * 1.001)
    assert found.uneven is not None
    assert found.uneven.median_db == pytest.approx(60.0, abs=0.1)


def test_what_one_array_drowns_is_still_measured():
    """Of arrays beside one with 10^18 times their noise, the figure is their own, whatever comes first."""
    for loud in (0, 5):
        found = OutputNoise(each=True)
        for number in range(6):
            found.add(np.ones(100), np.full(100, 1.0 + (1e3 if number == loud else 1e-6)))
        assert found.uneven is not None
        assert found.uneven.others_db == pytest.approx(120.0, abs=0.01)
        assert found.uneven.median_db == pytest.approx(120.0, abs=0.01)

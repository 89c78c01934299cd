"""Calibrators against numpy, an independent implementation of the entropy method, and brute force on the raw values."""

import math
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.core.errors import UsageError
from qtool.core.numerics import calibrators
from qtool.core.numerics.affine import TensorSpec, activation_qparams, dequantize, quantize
from qtool.core.numerics.calibrators import (
    CALIBRATORS,
    CANDIDATES,
    MSE,
    Calibrator,
    Entropy,
    Max,
    Percentile,
    chosen_calibrators,
    entropy_threshold,
    listed_calibrators,
)
from qtool.core.numerics.histogram import Histogram

AFFINE = TensorSpec("uint8", symmetric=False)
SYMMETRIC = TensorSpec("uint8", symmetric=True)
SIGNED = TensorSpec("int8", symmetric=False)
CENTRED = TensorSpec("int8", symmetric=True, zero_point_zero=True)
SPECS = {"affine": AFFINE, "symmetric": SYMMETRIC, "int8": SIGNED, "zero point zero": CENTRED}
ALL = [kind() for kind in CALIBRATORS]

RESOLUTION = 1 / 127


def of(x: np.ndarray):
    histogram = Histogram()
    histogram.observe(x)
    return histogram.distribution()


@cache
def sample(name: str, n: int = 50_000) -> np.ndarray:
    rng = np.random.default_rng(11)
    normal = rng.normal(0.0, 1.0, n)
    made = {
        "normal": lambda: normal,
        "laplace": lambda: rng.laplace(0.0, 0.02, n),
        "relu": lambda: np.maximum(normal, 0.0) * 3.0,
        "heavy": lambda: rng.standard_t(3, n) * 10.0,
        "heavy, one-sided": lambda: rng.lognormal(0.0, 1.5, n),
        "shifted": lambda: normal + 1.0,
        "uniform": lambda: rng.uniform(-1.0, 1.0, n),
        "negative": lambda: -np.abs(rng.laplace(0.0, 5.0, n)),
        "silu": lambda: 2 * normal / (1 + np.exp(-2 * normal)),
        "outlier": lambda: np.append(normal, 60.0),
        "negative outlier": lambda: np.append(np.abs(normal), -20.0),
    }
    return made[name]().astype(np.float32)


NAMES = [
    "normal", "laplace", "relu", "heavy", "heavy, one-sided", "shifted", "uniform", "negative", "silu", "outlier",
    "negative outlier",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_max_is_exact(name, spec):
    x = sample(name)
    assert Max().range_of(of(x), spec) == (min(x.min(), 0.0), max(x.max(), 0.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99, 99.999])
def test_percentile_of_the_magnitude_when_symmetric(name, percentile):
    x = sample(name)
    low, high = Percentile(percentile).range_of(of(x), SYMMETRIC)
    around = [
        np.quantile(np.abs(x), percentile / 100, method=method) * (1 + slack)
        for method, slack in (("lower", -RESOLUTION), ("higher", RESOLUTION))
    ]
    below = np.sort(np.abs(x))[max(int(percentile / 100 * x.size) - 2, 0)] * (1 - RESOLUTION)
    assert min(below, around[0]) <= max(-low, high) <= around[1]
    assert -low <= max(-x.min(), 0.0)
    assert high <= max(x.max(), 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99])
def test_percentile_leaves_half_of_the_rest_on_either_side_when_affine(name, percentile):
    x = np.sort(sample(name))
    low, high = Percentile(percentile).range_of(of(x), AFFINE)
    tail = (1 - percentile / 100) / 2 * x.size
    assert low <= 0.0 <= high
    if low < 0.0:
        assert (x < low * (1 + RESOLUTION)).sum() <= tail + 1
        assert (x < low * (1 - RESOLUTION)).sum() >= tail - 1
    if high > 0.0:
        assert (x > high * (1 + RESOLUTION)).sum() <= tail + 1
        assert (x > high * (1 - RESOLUTION)).sum() >= tail - 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_percentile_100_is_max(name, spec):
    distribution = of(sample(name))
    assert Percentile(100.0).range_of(distribution, spec) == Max().range_of(distribution, spec)


def reference_entropy(counts: np.ndarray) -> dict[int, float]:
    """The method, plainly, from the counts of |x| in 2048 equal bins: the divergence of each candidate."""
    counts = counts.astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    divergences = {}
    for i in range(128, 2049, 8):
        reference = counts[:i].copy()
        reference[i - 1] += counts[i:].sum()
        spread = np.zeros(i)
        for level in range(128):
            members = range(-(-level * i // 128), -(-(level + 1) * i // 128))
            filled = [j for j in members if counts[j] > 0]
            for j in filled:
                spread[j] = sum(counts[m] for m in members) / len(filled)
        if spread.sum() == 0 or ((reference > 0) & (spread == 0)).any():
            divergences[i] = np.inf
            continue
        p, q = reference / reference.sum(), spread / spread.sum()
        known = p > 0
        divergences[i] = float((p[known] * (np.log(p[known]) - np.log(q[known]))).sum())
    return divergences


def assert_one_stride_apart(threshold: float, top: float, counts: np.ndarray) -> None:
    divergences = reference_entropy(counts)
    best = min(divergences, key=divergences.__getitem__)
    bins = threshold / top * 2048
    assert bins == pytest.approx(round(bins))
    assert round(bins) % 8 == 0
    assert abs(bins - best) <= 8


@pytest.mark.parametrize("name", ["relu", "heavy", "silu"])
def test_entropy_of_values_is_the_published_method(name):
    x = sample(name, 300_000)
    top = float(np.abs(x).max())
    counts, _ = np.histogram(np.abs(x.astype(np.float64)), bins=2048, range=(0.0, top))
    assert_one_stride_apart(entropy_threshold(of(x).magnitudes()), top, counts)


def normal_mass(edges: np.ndarray) -> np.ndarray:
    return np.array([math.erf(e / math.sqrt(2)) for e in edges])


# the probability of |x| below an edge, and where the values end
DENSITIES = {
    "normal": (normal_mass, 6.5),
    "laplace": (lambda edges: -np.expm1(-edges), 18.0),
    "student": (lambda edges: edges / np.sqrt(2 + edges**2), 300.0),
    "rectified": (lambda edges: np.where(edges > 0, 0.5 + normal_mass(edges) / 2, 0.0), 6.5),
    "uniform": (lambda edges: edges, 1.0),
}


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("both_signs", [False, True])
def test_entropy_of_a_density_is_the_published_method(name, both_signs):
    """Very many values, so that no bin is empty: counts by the distribution function, in either form of bins."""
    mass, top = DENSITIES[name]
    keys = np.arange(0, 0x7F80)
    edges = (np.append(keys, 0x7F80).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    counts = np.rint(np.diff(mass(np.minimum(edges, top))) * 1e12).astype(np.int64)
    histogram = Histogram()
    histogram.counts[keys] = counts
    histogram.minimum, histogram.maximum = 0.0, top
    if both_signs:
        histogram.counts[keys + 0x8000] = counts
        histogram.minimum = -top
    equal = np.diff(mass(np.linspace(0.0, top, 2049))) * 1e12
    assert_one_stride_apart(entropy_threshold(histogram.distribution().magnitudes()), top, equal)


def test_entropy_clips_a_heavy_tail_and_keeps_what_is_uniform():
    x = sample("heavy", 300_000)
    assert entropy_threshold(of(x).magnitudes()) < 0.5 * np.abs(x).max()
    x = sample("uniform")
    assert entropy_threshold(of(x).magnitudes()) >= 0.98 * np.abs(x).max()


def few_values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    near, far = rng.normal(1.0, 0.01, 1000), rng.random(1000) < 0.9
    return {
        "one-hot": np.eye(50)[rng.integers(0, 50, 200)],
        "two values": np.where(far, 0.1, 1.0),
        "nearly two values": np.where(far, 0.1, 1.0) * near,
        "nearly two values, of both signs": np.where(far, 0.1, -1.0) * near,
        "three clusters": rng.choice([0.1, 0.45, 1.0], 1000, p=[0.9, 0.05, 0.05]) * near,
        "nearly constant": 5.0 + rng.normal(0.0, 1e-3, 1000),
        "nearly constant with one other": np.append(5.0 + rng.normal(0.0, 1e-3, 1000), 50.0),
        "8-bit picture": np.clip(rng.normal(100, 60, 3000), 0, 255).round() / 255,
        "counts": rng.geometric(0.05, 20_000),
        "a grid": np.round(rng.laplace(size=20_000) * 10) / 10,
        "mostly zero": np.where(rng.random(5000) < 0.97, 0.0, rng.integers(1, 5, 5000)),
        "powers of two": 2.0 ** rng.integers(-6, 1, 5000),
        "few": rng.normal(size=60),
    }


@pytest.mark.parametrize("name", few_values())
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_entropy_keeps_the_energy_of_few_values(name, spec):
    """A clip of what is no density saves nothing: the range is as good as the whole one, but for 6 dB."""
    x = few_values()[name].astype(np.float32)
    low, high = Entropy().range_of(of(x), spec)
    cut_off = x - np.clip(x, low, high)
    assert float(np.vdot(cut_off, cut_off)) < 2e-3 * float(np.vdot(x, x))
    whole = true_error(x, *Max().range_of(of(x), spec), spec)
    assert true_error(x, low, high, spec) <= max(4.0 * whole, 1e-5 * float(np.mean(x.astype(np.float64) ** 2)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_entropy_does_not_see_the_sign(sign):
    x = sample("relu")
    symmetric = np.where(np.arange(x.size) % 2, x, -x) * sign
    threshold = entropy_threshold(of(x).magnitudes())
    assert entropy_threshold(of(symmetric).magnitudes()) == pytest.approx(threshold, rel=0.01)
    low, high = Entropy().range_of(of(symmetric), AFFINE)
    assert max(-low, high) == pytest.approx(threshold, rel=0.01)


def true_error(x: np.ndarray, low: float, high: float, spec: TensorSpec) -> float:
    params = activation_qparams(low, high, spec)
    return float(((dequantize(quantize(x, params), params).astype(np.float64) - x) ** 2).mean())


def least_error(x: np.ndarray, spec: TensorSpec) -> float:
    """The least squared error over the raw values by trying ranges, finer around the best."""
    lowest, highest = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if spec.symmetric or spec.zero_point_zero:
        top = max(-lowest, highest)
        return min(
            true_error(x, max(-top * f, lowest), min(top * f, highest), spec) for f in np.geomspace(1, 0.003, 150)
        )
    shares = np.geomspace(1, 0.003, 25)
    lows, highs = (shares if lowest else [0.0]), (shares if highest else [0.0])
    best = (1.0, 1.0)
    for finer in (1.12, 1.03):
        best = min(
            ((a, b) for a in lows for b in highs), key=lambda f: true_error(x, lowest * f[0], highest * f[1], spec)
        )
        lows, highs = (np.minimum(f * finer ** np.arange(-3, 4) ** 1.0, 1.0) if f else [0.0] for f in best)
    return min(true_error(x, lowest * a, highest * b, spec) for a in lows for b in highs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_mse_is_close_to_the_least_error_there_is(name, spec):
    x = sample(name, 6_000)
    low, high = MSE().range_of(of(x), spec)
    assert true_error(x, low, high, spec) <= least_error(x, spec) * 1.03


@pytest.mark.parametrize("name", ["laplace", "shifted"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_mse_of_few_distinct_values_is_close_to_the_least_error_too(name, spec):
    x = sample(name, 300)
    low, high = MSE().range_of(of(x), spec)
    assert true_error(x, low, high, spec) <= least_error(x, spec) * 1.03


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_mse_reaches_far_below_an_outlier_among_very_many(spec):
    """A hundred million values and one outlier: clipping it to a hundredth is right."""
    x = sample("normal", 6_000)
    histogram = Histogram()
    histogram.observe(x)
    histogram.counts *= 20_000
    histogram.observe(np.array([1000.0], np.float32))
    low, high = MSE().range_of(histogram.distribution(), spec)

    def error(low: float, high: float) -> float:
        outlier = true_error(np.array([1000.0], np.float32), low, high, spec)
        return true_error(x, low, high, spec) + outlier / (20_000 * x.size)

    least = min(
        error(float(x.min()) if spec is AFFINE or spec is SIGNED else -t, t) for t in np.geomspace(1000, 1, 400)
    )
    assert error(low, high) <= least * 1.03


def test_mse_of_what_the_grid_represents_exactly_keeps_all_of_it():
    x = np.arange(-128, 128).astype(np.float32) / 4
    assert MSE().range_of(of(np.tile(x, 50)), SIGNED) == pytest.approx((-32.0, 31.75), rel=0.02)
    x = np.array([0.0, 1.0], np.float32)
    assert MSE().range_of(of(x), AFFINE)[1] == pytest.approx(1.0)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = st.one_of(
    st.lists(finite, min_size=1, max_size=30),
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30),
    st.lists(st.floats(-(2.0**-130), 2.0**-130, width=32), min_size=1, max_size=5),
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-39, 3.4028234663852886e38]), min_size=1, max_size=9),
)


@pytest.mark.parametrize("calibrator", [*ALL, Percentile(60.0)], ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@settings(max_examples=40)
@given(values)
def test_the_range_holds_zero_and_is_never_wider_than_the_values(calibrator, spec, xs):
    x = np.array(xs, np.float32)
    low, high = calibrator.range_of(of(x), spec)
    assert np.isfinite([low, high]).all()
    assert min(float(x.min()), 0.0) <= low <= 0.0 <= high <= max(float(x.max()), 0.0)
    activation_qparams(low, high, spec)


@pytest.mark.parametrize("calibrator", ALL, ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("value", [5.0, -5.0, 1e-30, 1e30, -3e38])
def test_a_constant_is_kept(calibrator, spec, value):
    x = np.full(1000, value, np.float32)
    low, high = calibrator.range_of(of(x), spec)
    assert (low, high) == pytest.approx((min(value, 0.0), max(value, 0.0)), rel=0.01)


@pytest.mark.parametrize("calibrator", ALL, ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_nothing_but_zeros_and_nothing_at_all(calibrator, spec):
    assert calibrator.range_of(of(np.zeros(9, np.float32)), spec) == (0.0, 0.0)
    assert calibrator.range_of(Histogram().distribution(), spec) == (0.0, 0.0)


@pytest.mark.parametrize("calibrator", [*ALL, Percentile(99.0)], ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("name", ["normal", "relu", "heavy"])
def test_scaling_the_values_scales_the_range(calibrator, spec, name):
    x = sample(name)
    a = calibrator.range_of(of(x), spec)
    b = calibrator.range_of(of(x * np.float32(2.0**20)), spec)
    assert b == pytest.approx((a[0] * 2.0**20, a[1] * 2.0**20), rel=1e-9)


@pytest.mark.parametrize("calibrator", [*ALL, Percentile(99.0)], ids=str)
def test_uint8_and_int8_choose_alike(calibrator):
    for name in ("normal", "relu", "shifted"):
        distribution = of(sample(name))
        assert calibrator.range_of(distribution, AFFINE) == calibrator.range_of(distribution, SIGNED)


@pytest.mark.parametrize(
    ("text", "calibrator"),
    [
        ("max", Max()),
        ("entropy", Entropy()),
        (" mse ", MSE()),
        ("percentile", Percentile(99.99)),
        ("percentile:99.999", Percentile(99.999)),
        ("percentile 99.9", Percentile(99.9)),
        ("percentile:99", Percentile(99)),
    ],
)
def test_a_text_names_a_calibrator(text, calibrator):
    assert Calibrator.parse(text) == calibrator
    assert Calibrator.parse(str(calibrator)) == calibrator
    assert Calibrator.parse(calibrator) is calibrator


def test_what_a_calibrator_is_called():
    assert [str(c) for c in CANDIDATES] == ["max", "entropy", "percentile 99.99", "percentile 99.999", "mse"]
    assert str(Percentile(99.0)) == "percentile 99"
    # six digits would call it 100, which is another calibrator
    assert str(Percentile(99.99999)) == "percentile 99.99999"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("average", "unknown calibrator 'average'; choose one of max, entropy, percentile[:P], mse"),
        ("", "unknown calibrator ''"),
        ("max:99", "calibrator 'max:99' makes no sense; write max"),
        ("percentile:high", "calibrator 'percentile:high' makes no sense; write percentile[:P]"),
        ("percentile:99:98", "makes no sense; write percentile[:P]"),
        ("percentile:50", "percentile 50 is not in (50, 100]; 99.99 is usual"),
        ("percentile:100.1", "percentile 100.1 is not in (50, 100]"),
        ("percentile:nan", "percentile nan is not in (50, 100]"),
    ],
)
def test_what_is_not_a_calibrator_is_refused(text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Calibrator.parse(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        chosen_calibrators(text)


@pytest.mark.parametrize("p", [50.0, 100.1, float("nan"), -1.0])
def test_a_percentile_outside_its_range_cannot_be_built(p):
    with pytest.raises(UsageError, match=r"\(50, 100\]"):
        Percentile(p)


def test_a_calibrator_has_no_parameter_of_another():
    with pytest.raises(TypeError):
        Max(99.0)
    with pytest.raises(TypeError):
        Calibrator()


def test_one_or_all():
    assert chosen_calibrators(None) == chosen_calibrators("auto") == CANDIDATES
    assert chosen_calibrators("percentile:99.9") == chosen_calibrators(Percentile(99.9)) == (Percentile(99.9),)


def test_a_list_of_calibrators():
    wanted = (Max(), Percentile(99.9))
    assert listed_calibrators("max, percentile:99.9,max") == wanted
    assert listed_calibrators([Max(), "percentile 99.9"]) == wanted
    assert listed_calibrators(Max()) == listed_calibrators("max") == (Max(),)
    for nothing in ([], "", "max,,mse"):
        with pytest.raises(UsageError, match="calibrator"):
            listed_calibrators(nothing)


def test_a_new_calibrator_is_a_class_and_a_row(monkeypatch):
    @dataclass(frozen=True, slots=True)
    class Half(Calibrator):
        method = "half"
        share: float = 0.5

        def _ends(self, distribution, _, /):
            return self.share * distribution.minimum, self.share * distribution.maximum

    monkeypatch.setattr(calibrators, "CALIBRATORS", (*CALIBRATORS, Half))
    assert Calibrator.parse("half:0.25") == Half(0.25)
    assert Half.spelling() == "half[:SHARE]"
    assert Half().range_of(of(np.array([-2.0, 4.0], np.float32)), AFFINE) == (-1.0, 2.0)

"""Calibrators: from the distribution of a tensor to the range that its integer grid covers.

All are pure functions of the same statistics, chosen after the data has gone. Source: the paper, section 4
(max, entropy, percentile); MSE minimises the expected squared error of the grid that would be used.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qtool.core.affine import TensorSpec, activation_qparams, integer_range
from qtool.core.counting import Array
from qtool.core.errors import UsageError
from qtool.core.histogram import Distribution

Method = Literal["max", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("max", "entropy", "percentile", "mse")
DEFAULT_PERCENTILE = 99.99
ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
ENTROPY_STRIDE = 8
# from the whole range to a thousandth of it, then between the neighbours of the best
_COARSE_SHARES = np.geomspace(1.0, 1e-3, 48)
_FINE_SHARES = np.geomspace(_COARSE_SHARES[0] / _COARSE_SHARES[1], _COARSE_SHARES[1] / _COARSE_SHARES[0], 17)


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A method and its parameter.

    Raises:
        ValueError: unknown method, or a percentile outside (50, 100].
    """

    method: Method
    percentile: float = DEFAULT_PERCENTILE

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown calibrator {self.method!r}; choose one of {', '.join(METHODS)}")
        if not 50.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile {self.percentile:g} is not in (50, 100]; 99.99 is usual")

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


# What the paper's workflow tries first (section 6, and tables 5 and 6), and the least squared error beside it.
CANDIDATES = (
    Calibrator("max"),
    Calibrator("entropy"),
    Calibrator("percentile", 99.99),
    Calibrator("percentile", 99.999),
    Calibrator("mse"),
)


def chosen_calibrators(given: "Calibrator | str | None") -> tuple[Calibrator, ...]:
    """What a caller asks for: one, or for None and "auto" all of `CANDIDATES`.

    Raises:
        UsageError: there is no such method.
    """
    if isinstance(given, Calibrator):
        return (given,)
    if given is None or given == "auto":
        return CANDIDATES
    if given not in METHODS:
        raise UsageError(f"unknown calibrator {given!r}; choose one of auto, {', '.join(METHODS)}")
    return (Calibrator(given),)


def choose_range(distribution: Distribution, calibrator: Calibrator, spec: TensorSpec) -> tuple[float, float]:
    """The range [low, high], low <= 0 <= high, that `calibrator` gives a tensor represented as `spec`."""
    low, high = min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
    if distribution.counts.size == 0 or low == high:
        return low, high
    if calibrator.method == "percentile":
        return _percentile(distribution, calibrator.percentile, symmetric=spec.symmetric)
    if calibrator.method == "entropy":
        threshold = entropy_threshold(distribution.magnitudes())
        return max(low, -threshold), min(high, threshold)
    if calibrator.method == "mse":
        return _least_squares(distribution, spec)
    return low, high


def _percentile(distribution: Distribution, percentile: float, *, symmetric: bool) -> tuple[float, float]:
    """Symmetric: the percentile of |x|. Affine: what lies outside is shared by the two tails."""
    if symmetric:
        threshold = distribution.magnitudes().quantile(percentile / 100.0)
        return max(min(distribution.minimum, 0.0), -threshold), min(max(distribution.maximum, 0.0), threshold)
    tail = (1.0 - percentile / 100.0) / 2.0
    return min(distribution.quantile(tail), 0.0), max(distribution.quantile(1.0 - tail), 0.0)


def entropy_threshold(magnitudes: Distribution) -> float:
    """The clip T of |x| that loses least information: KL divergence over 2048 bins against 128 levels.

    For every eighth number of bins i in 128..2048: P is the histogram of |x| up to bin i with everything beyond it
    counted in the last bin; Q is the histogram (without what lies beyond) merged into 128 levels and spread again over
    the bins that are not empty. T is the upper edge of the i with the smallest KL(P || Q). The 2048 equal bins of
    [0, max|x|] are filled from the 16-bit-key histogram, whose bins are spread evenly over those they cover.
    """
    top = magnitudes.maximum
    counts = magnitudes.rebin(ENTROPY_BINS, top)
    best, best_divergence = ENTROPY_BINS, np.inf
    # The bin at zero says nothing about where to clip and dwarfs the rest after a ReLU: take its neighbour's count.
    counts[0] = min(counts[0], counts[1])
    for i in range(ENTROPY_LEVELS, ENTROPY_BINS + 1, ENTROPY_STRIDE):
        divergence = _divergence(counts, i)
        if divergence < best_divergence:
            best, best_divergence = i, divergence
    return top * best / ENTROPY_BINS


def _divergence(counts: Array, i: int) -> float:
    inside = counts[:i]
    p = inside.copy()
    p[-1] += counts[i:].sum()
    level = (np.arange(i) * ENTROPY_LEVELS) // i
    filled = inside > 0
    mass = np.bincount(level, inside, ENTROPY_LEVELS)
    share = np.bincount(level, filled, ENTROPY_LEVELS)
    q = np.where(filled, mass[level] / np.maximum(share[level], 1.0), 0.0)
    known = p > 0
    if q.sum() == 0.0 or (q[known] == 0.0).any():
        return float(np.inf)
    p, q = p[known] / p.sum(), q[known] / q.sum()
    return float(np.sum(p * np.log(p / q)))


def _least_squares(distribution: Distribution, spec: TensorSpec) -> tuple[float, float]:
    """The range with the least expected squared error: of both ends together, then of each in turn."""
    bins = _coarsen(distribution)
    lowest, highest = min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
    if spec.symmetric or spec.zero_point_zero:
        top = max(-lowest, highest)
        low, high = _shrink(bins, spec, -top if lowest < 0.0 else 0.0, top)
        return max(low, lowest), min(high, highest)
    low, high = _shrink(bins, spec, lowest, highest)
    for _ in range(2 if lowest < 0.0 < highest else 0):
        low, _fixed = _shrink(bins, spec, lowest, high, "low")
        _fixed, high = _shrink(bins, spec, low, highest, "high")
    return low, high


def _shrink(
    bins: Distribution, spec: TensorSpec, low: float, high: float, ends: Literal["both", "low", "high"] = "both"
) -> tuple[float, float]:
    """[low, high] with `ends` multiplied by the share in [0.001, 1] that has the least expected error."""
    shares = _COARSE_SHARES
    for following in (_FINE_SHARES, None):
        lows = low * shares if ends != "high" else np.full_like(shares, low)
        highs = high * shares if ends != "low" else np.full_like(shares, high)
        best = int(np.argmin(_expected_error(bins, lows, highs, spec)))
        if following is not None:
            shares = np.minimum(shares[best] * following, 1.0)
    return float(lows[best]), float(highs[best])


def _coarsen(distribution: Distribution) -> Distribution:
    """Bins far below the finest step that any candidate grid has become one bin at zero, put first."""
    top = max(-distribution.minimum, distribution.maximum)
    tiny = np.maximum(np.abs(distribution.low), np.abs(distribution.high)) < top * _COARSE_SHARES[-1] / 1024.0
    if not tiny.any():
        return distribution
    keep = ~tiny
    return Distribution(
        np.concatenate([[0.0], distribution.low[keep]]),
        np.concatenate([[0.0], distribution.high[keep]]),
        np.concatenate([[distribution.counts[tiny].sum()], distribution.counts[keep]]),
    )


def _expected_error(bins: Distribution, low: Array, high: Array, spec: TensorSpec) -> Array:
    """Sum of squared errors ([k]) of the grids for the k ranges [low, high] ([k] each) over a distribution."""
    grids = [activation_qparams(*ends, spec) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    scale = np.array([grid.scale for grid in grids])
    zero_point = np.array([grid.zero_point for grid in grids])
    qmin, qmax = integer_range(spec.dtype)
    lows, highs = (qmin - zero_point) * scale, (qmax - zero_point) * scale
    return np.array([_error_of(bins, *grid) for grid in zip(scale[:, 0], lows[:, 0], highs[:, 0], strict=True)])


def _error_of(bins: Distribution, scale: float, low: float, high: float) -> float:
    """Sum of squared errors of the grid of multiples of `scale` in [low, high]."""
    width = bins.high - bins.low
    middle = (bins.low + bins.high) / 2.0
    # a bin much narrower than a step: the error at its middle; a wider one: the exact mean over the bin
    clipped = np.clip(middle, low, high)
    error = (middle - scale * np.rint(clipped / scale)) ** 2 + width**2 / 12.0
    wide = np.flatnonzero(width > scale / 8.0)
    ends = _integral(np.stack([bins.low[wide], bins.high[wide]]), scale, low, high)
    error[wide] = (ends[1] - ends[0]) / width[wide]
    return float(error @ bins.counts)


def _integral(x: Array, scale: float, low: float, high: float) -> Array:
    """Integral from 0 to x of the squared error of rounding to the multiples of `scale` in [low, high].

    Each whole step adds scale**3 / 12; beyond the range the error is the distance to its end.
    """
    inside = np.clip(x, low, high)
    n = np.rint(inside / scale)
    rest, beyond = inside - n * scale, x - inside
    # products, because numpy's ** 3 is a call of pow for each element
    result: Array = n * (scale**3 / 12.0) + (rest * rest * rest + beyond * beyond * beyond) / 3.0
    return result

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
# the numbers of bins that are tried, [k], and where their levels begin and end, [k, levels + 1]
_ENTROPY_ENDS = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1, ENTROPY_STRIDE)
_ENTROPY_EDGES = -(-np.arange(ENTROPY_LEVELS + 1) * _ENTROPY_ENDS[:, None] // ENTROPY_LEVELS)
# from the whole range to a thousandth of it, then between the neighbours of the best
_COARSE_SHARES = np.geomspace(1.0, 1e-3, 48)
# bins below this share of their value are points; none but those clipped to the extremes are
_NARROW = 1e-4
# grids that are worked on at once, so that arrays stay in a cache
_ROWS = 4
# neighbours that are one bin in the coarse search
_TOGETHER = 4
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
    # The bin at zero says nothing about where to clip and dwarfs the rest after a ReLU: take its neighbour's count.
    counts[0] = min(counts[0], counts[1])
    divergences = _divergences(counts)
    best = _ENTROPY_ENDS[int(np.argmin(divergences))] if np.isfinite(divergences).any() else ENTROPY_BINS
    return top * int(best) / ENTROPY_BINS


def _divergences(counts: Array) -> Array:
    """KL(P || Q) for each of `_ENTROPY_ENDS`, inf where Q is empty in a bin that P fills.

    Q is the same in all filled bins of a level, so that sums over levels, differences of running sums, are enough.
    """
    inside, total = _running(counts), float(counts.sum())
    logs = _running(np.where(counts > 0.0, counts * np.log(np.maximum(counts, 1e-300)), 0.0))
    ends, last = _ENTROPY_ENDS, counts[_ENTROPY_ENDS - 1]
    mass = np.diff(inside[_ENTROPY_EDGES])
    filled = np.diff(_running(counts > 0.0)[_ENTROPY_EDGES])
    beyond = np.maximum(total - inside[ends], 0.0)
    # P's last bin also holds what lies beyond
    own = logs[ends] + _xlogx(last + beyond) - _xlogx(last)
    share = np.where(mass > 0.0, np.log(np.maximum(mass, 1e-300) / np.maximum(filled, 1.0)), 0.0)
    cross = (mass * share).sum(axis=1) + np.where(beyond > 0.0, beyond * share[:, -1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergences = (own - cross) / total + np.log(inside[ends] / total)
    empty = (inside[ends] <= 0.0) | ((beyond > 0.0) & (last <= 0.0))
    result: Array = np.where(empty, np.inf, divergences)
    return result


def _running(x: Array) -> Array:
    """Sums of the first 0, 1, 2... elements."""
    return np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])


def _xlogx(x: Array) -> Array:
    result: Array = np.where(x > 0.0, x * np.log(np.maximum(x, 1e-300)), 0.0)
    return result


def _least_squares(distribution: Distribution, spec: TensorSpec) -> tuple[float, float]:
    """The range with the least expected squared error: of both ends together, then of each in turn."""
    fine = _coarsen(distribution)
    bins = _Edges.of(_merged(fine)), _Edges.of(fine)
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
    bins: "tuple[_Edges, _Edges]",
    spec: TensorSpec,
    low: float,
    high: float,
    ends: Literal["both", "low", "high"] = "both",
) -> tuple[float, float]:
    """[low, high] with `ends` multiplied by the share in [0.001, 1] that has the least expected error.

    `bins`: for the coarse search, and for the fine one.
    """
    shares = _COARSE_SHARES
    for distribution, following in zip(bins, (_FINE_SHARES, None), strict=True):
        lows = low * shares if ends != "high" else np.full_like(shares, low)
        highs = high * shares if ends != "low" else np.full_like(shares, high)
        best = int(np.argmin(_expected_error(distribution, lows, highs, spec)))
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


def _merged(bins: Distribution) -> Distribution:
    """Every so many neighbours as one bin, none across a gap."""
    place = np.arange(bins.counts.size)
    gap = np.append(True, bins.low[1:] > bins.high[:-1])
    first = np.flatnonzero((place - np.maximum.accumulate(np.where(gap, place, 0))) % _TOGETHER == 0)
    last = np.append(first[1:], bins.counts.size) - 1
    return Distribution(bins.low[first], bins.high[last], np.add.reduceat(bins.counts, first))


def _expected_error(bins: "_Edges", low: Array, high: Array, spec: TensorSpec) -> Array:
    """Sum of squared errors ([k]) of the grids for the k ranges [low, high] ([k] each) over a distribution."""
    grids = [activation_qparams(*ends, spec) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    scale = np.array([grid.scale for grid in grids])
    zero_point = np.array([grid.zero_point for grid in grids])
    qmin, qmax = integer_range(spec.dtype)
    lows, highs = (qmin - zero_point) * scale, (qmax - zero_point) * scale
    rows = range(0, len(grids), _ROWS)
    return np.concatenate([bins.errors(*(part[i : i + _ROWS] for part in (scale, lows, highs))) for i in rows])


@dataclass(frozen=True, slots=True)
class _Edges:
    """A distribution for sums of squared errors: an integral at the edges of its bins, and single points.

    The mean over a bin is the difference of the integral at its ends by its width, so that the sum over all bins is the
    integral at each edge times the density below it less the density above it. Bins that are too narrow for differences
    count at their middle.
    """

    edges: Array
    densities: Array
    points: Array
    counts: Array

    @classmethod
    def of(cls, bins: Distribution) -> "_Edges":
        width, middle = bins.high - bins.low, (bins.low + bins.high) / 2.0
        wide = width > _NARROW * np.abs(middle)
        density = bins.counts[wide] / width[wide]
        edges, where = np.unique(np.concatenate([bins.low[wide], bins.high[wide]]), return_inverse=True)
        densities = np.bincount(where, np.concatenate([-density, density]), edges.size)
        return cls(edges, densities, middle[~wide], bins.counts[~wide])

    def errors(self, scale: Array, low: Array, high: Array) -> Array:
        """[k], of the grids of multiples of `scale` in [low, high] ([k, 1] each)."""
        inside = np.clip(self.points, low, high)
        single = (self.points - scale * np.rint(inside / scale)) ** 2
        result: Array = _integral(self.edges, scale, low, high) @ self.densities + single @ self.counts
        return result


def _integral(x: Array, scale: Array, low: Array, high: Array) -> Array:
    """Integral from 0 to x of the squared error of rounding to the multiples of `scale` in [low, high].

    Each whole step adds scale**3 / 12; beyond the range the error is the distance to its end.
    """
    inside = np.clip(x, low, high)
    n = np.rint(inside / scale)
    rest, beyond = inside - n * scale, x - inside
    # products, because numpy's ** 3 is a call of pow for each element
    result: Array = n * (scale**3 / 12.0) + (rest * rest * rest + beyond * beyond * beyond) / 3.0
    return result

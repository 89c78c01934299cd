"""Calibrators: from the distribution of a tensor to the range that its integer grid covers.

All are pure functions of the same statistics, chosen after the data has gone. Source: the paper, section 4
(max, entropy, percentile); MSE minimises the expected squared error of the grid that would be used.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qtool.core.errors import UsageError
from qtool.core.numerics.affine import TensorSpec
from qtool.core.numerics.counting import Array
from qtool.core.numerics.histogram import Distribution
from qtool.core.numerics.least_squares import least_squares

Method = Literal["max", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("max", "entropy", "percentile", "mse")
DEFAULT_PERCENTILE = 99.99
ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
ENTROPY_STRIDE = 8
# the numbers of bins that are tried, [k], and where their levels begin and end, [k, levels + 1]
_ENTROPY_ENDS = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1, ENTROPY_STRIDE)
_ENTROPY_EDGES = -(-np.arange(ENTROPY_LEVELS + 1) * _ENTROPY_ENDS[:, None] // ENTROPY_LEVELS)


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
        return least_squares(distribution, spec)
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

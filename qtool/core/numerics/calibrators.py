"""Calibrators: from the distribution of a tensor to the range that its integer grid covers.

All are pure functions of the same statistics, chosen after the data has gone. Source: the paper, section 4
(max, entropy, percentile); MSE minimises the expected squared error of the grid that would be used.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from qtool.core.errors import UsageError
from qtool.core.numerics.affine import TensorSpec
from qtool.core.numerics.counting import Array
from qtool.core.numerics.histogram import MANTISSA_BITS, Distribution
from qtool.core.numerics.least_squares import least_squares
from qtool.core.text import meant

ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
ENTROPY_STRIDE = 8
# the numbers of bins that are tried, [k], and where their levels begin and end, [k, levels + 1]
_ENTROPY_ENDS = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1, ENTROPY_STRIDE)
_HELD, _BULK, _DENSE, _OCTAVES = 0.9, 0.99, 0.5, 4
_ENTROPY_EDGES = -(-np.arange(ENTROPY_LEVELS + 1) * _ENTROPY_ENDS[:, None] // ENTROPY_LEVELS)


@dataclass(frozen=True, slots=True)
class Calibrator(ABC):
    """A way to choose the range of a tensor: a value, equal to another of the same type and parameters.

    `Calibrator.parse("percentile:99.9")` gives one by its text, which whatever takes a calibrator takes as well.
    A new calibrator is a class here, whose fields are floats with defaults, and a row in `CALIBRATORS`.
    """

    method: ClassVar[str]

    def range_of(self, distribution: Distribution, spec: TensorSpec) -> tuple[float, float]:
        """Return the range of a tensor with this distribution, represented as `spec`: [low, high], low <= 0 <= high."""
        low, high = min(distribution.minimum, 0.0), max(distribution.maximum, 0.0)
        if distribution.counts.size == 0 or low == high:
            return low, high
        lower, upper = self._ends(distribution, spec)
        return min(max(lower, low), 0.0), max(min(upper, high), 0.0)

    @abstractmethod
    def _ends(self, distribution: Distribution, spec: TensorSpec, /) -> tuple[float, float]:
        """Where the range of values that are not all 0 ends; `range_of` keeps it within them, and 0 in it."""

    def __str__(self) -> str:
        return " ".join([self.method, *(_number(getattr(self, field.name)) for field in fields(self))])

    @classmethod
    def spelling(cls) -> str:
        """Return how `parse` takes the calibrator: "max", "percentile[:P]"."""
        return cls.method + "".join(f"[:{field.name.upper()}]" for field in fields(cls))

    @staticmethod
    def parse(given: "Calibrator | str") -> "Calibrator":
        """Return the calibrator that a text names: "max", "percentile", "percentile:99.999", or what `str` gives.

        Raises:
            UsageError: there is no such method, or its parameter makes no sense.
        """
        if isinstance(given, Calibrator):
            return given
        method, *parameters = re.split(r"\s*:\s*|\s+", str(given).strip())
        kind = next((kind for kind in CALIBRATORS if kind.method == method), None)
        if kind is None:
            raise UsageError(
                f"unknown calibrator {str(given)!r}{meant(method, SPELLINGS)}; choose one of {', '.join(SPELLINGS)}"
            )
        try:
            return kind(*map(float, parameters))
        except (TypeError, ValueError):
            raise UsageError(f"calibrator {str(given)!r} makes no sense; write {kind.spelling()}") from None


@dataclass(frozen=True, slots=True)
class Max(Calibrator):
    """The whole range of the values."""

    method = "max"

    def _ends(self, distribution: Distribution, _: TensorSpec, /) -> tuple[float, float]:
        return distribution.minimum, distribution.maximum


@dataclass(frozen=True, slots=True)
class Entropy(Calibrator):
    """The range that loses least information, see `entropy_threshold`."""

    method = "entropy"

    def _ends(self, distribution: Distribution, _: TensorSpec, /) -> tuple[float, float]:
        threshold = entropy_threshold(distribution.magnitudes())
        return -threshold, threshold


@dataclass(frozen=True, slots=True)
class Percentile(Calibrator):
    """The range that holds `p` percent of the values.

    On symmetric grids that is the percentile of |x|; on affine ones the two tails share what lies outside.

    Raises:
        UsageError: `p` is outside (50, 100].
    """

    method = "percentile"
    p: float = 99.99

    def __post_init__(self) -> None:
        if not 50.0 < self.p <= 100.0:
            raise UsageError(f"percentile {self.p:g} is not in (50, 100]; 99.99 is usual")

    def _ends(self, distribution: Distribution, spec: TensorSpec, /) -> tuple[float, float]:
        if spec.symmetric:
            threshold = distribution.magnitudes().quantile(self.p / 100.0)
            return -threshold, threshold
        tail = (1.0 - self.p / 100.0) / 2.0
        return distribution.quantile(tail), distribution.quantile(1.0 - tail)


@dataclass(frozen=True, slots=True)
class MSE(Calibrator):
    """The range whose grid has the least expected squared error."""

    method = "mse"

    def _ends(self, distribution: Distribution, spec: TensorSpec, /) -> tuple[float, float]:
        return least_squares(distribution, spec)


CALIBRATORS: tuple[type[Calibrator], ...] = (Max, Entropy, Percentile, MSE)
SPELLINGS = tuple(kind.spelling() for kind in CALIBRATORS)
"""How each is written on the command line, in a configuration file and in Python."""
# What the paper's workflow tries first (section 6, and tables 5 and 6), and the least squared error beside it.
CANDIDATES: tuple[Calibrator, ...] = (Max(), Entropy(), Percentile(99.99), Percentile(99.999), MSE())


def chosen_calibrators(given: Calibrator | str | None) -> tuple[Calibrator, ...]:
    """Return the calibrators to try: the one that a caller asks for, or for None and "auto" all of `CANDIDATES`.

    Raises:
        UsageError: there is no such method, or its parameter makes no sense.
    """
    return CANDIDATES if given is None or given == "auto" else (Calibrator.parse(given),)


def listed_calibrators(given: Calibrator | str | Iterable[Calibrator | str]) -> tuple[Calibrator, ...]:
    """Return each calibrator of a list once, in its order; the list may be a text such as "max,percentile:99.9".

    Raises:
        UsageError: the list is empty, or names what is no calibrator.
    """
    several = given.split(",") if isinstance(given, str) else [given] if isinstance(given, Calibrator) else given
    found = tuple(dict.fromkeys(map(Calibrator.parse, several)))
    if not found:
        raise UsageError(f"there is no calibrator to try; name some of {', '.join(SPELLINGS)}")
    return found


def _number(value: float) -> str:
    """The number in as few digits as say it exactly: 99.9, 99."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def entropy_threshold(magnitudes: Distribution) -> float:
    """Return the clip T of |x| that loses least information: KL divergence over 2048 bins against 128 levels.

    For every eighth number of bins i in 128..2048: P is the histogram of |x| up to bin i with everything beyond it
    counted in the last bin; Q is the histogram (without what lies beyond) merged into 128 levels and spread again over
    the bins that are not empty. T is the upper edge of the i with the smallest KL(P || Q). The 2048 equal bins of
    [0, max|x|] are filled from the 16-bit-key histogram, whose bins are spread evenly over those they cover.

    That is made for densities. Where few values are all there is, P and Q are the same for any clip that has one filled
    bin a level, or nearly all of the mass in its last bin. So a clip must hold nine tenths of the mass; and where the
    values are no density, what is cut off must not cost more than rounding costs without a clip.
    """
    top = magnitudes.maximum
    counts = magnitudes.rebin(ENTROPY_BINS, top)
    # The bin at zero says nothing about where to clip and dwarfs the rest after a ReLU: take its neighbour's count.
    counts[0] = min(counts[0], counts[1])
    divergences = _divergences(counts)
    divergences[~_may_clip(counts, magnitudes)] = np.inf
    best = _ENTROPY_ENDS[int(np.argmin(divergences))] if np.isfinite(divergences).any() else ENTROPY_BINS
    return top * int(best) / ENTROPY_BINS


def _may_clip(counts: Array, magnitudes: Distribution) -> Array:
    """Which of `_ENTROPY_ENDS` hold enough; the last one always does.

    Values are a density where the bins of the histogram, of which an octave has 128, are mostly filled in the four
    octaves below the 99th percentile.
    """
    below = _running(counts)
    enough: Array = below[_ENTROPY_ENDS] >= _HELD * below[-1]
    end = magnitudes.maximum * np.searchsorted(below, _BULK * below[-1]) / ENTROPY_BINS
    octaves = (magnitudes.high <= end) & (magnitudes.low >= end / 2**_OCTAVES)
    if np.count_nonzero(octaves) < _DENSE * _OCTAVES * 2**MANTISSA_BITS:
        places = np.arange(ENTROPY_BINS) + 0.5
        first, second = _running(counts * places), _running(counts * places**2)
        # the sum of (x - end)^2 over what lies beyond each end, in bins
        beyond, ends = below[-1] - below, np.arange(ENTROPY_BINS + 1.0)
        cut_off = second[-1] - second - 2.0 * ends * (first[-1] - first) + ends**2 * beyond
        rounding = below[-1] * (ENTROPY_BINS / ENTROPY_LEVELS) ** 2 / 12.0
        enough &= cut_off[_ENTROPY_ENDS] <= rounding
    enough[-1] = True
    return enough


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

"""Histograms whose key is the upper 16 bits of the float32: sign, exponent and 7 bits of mantissa.

No range need be known ahead, a bin is never wider than 0.8 % of its value, and two histograms merge by addition, so
shards, threads and batches of any shape give the same counts. Beside it stand the exact minimum, maximum and count.
"""

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
BINS = 1 << 16
_SIGN = 1 << 15
_INFINITY = 0x7F80


class NotFiniteError(ValueError):
    """The array holds NaN or Inf."""


@dataclass(slots=True)
class Histogram:
    """Counts (int64, [65536]), exact minimum, maximum and number of elements of everything observed so far."""

    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @property
    def count(self) -> int:
        """Number of elements observed."""
        return int(self.counts.sum())

    def observe(self, x: Array) -> None:
        """Add the elements of a float32 array of any shape.

        Raises:
            NotFiniteError: it holds NaN or Inf; nothing has been added then.
        """
        self.add(count(x))

    def add(self, counted: "Counted") -> None:
        """Add what `count` has made of an array."""
        self.counts[: counted.counts.size] += counted.counts
        self.minimum, self.maximum = min(self.minimum, counted.minimum), max(self.maximum, counted.maximum)

    def merge(self, other: "Histogram") -> None:
        """Add what `other` has observed."""
        self.counts += other.counts
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    def distribution(self) -> "Distribution":
        """The non-empty bins in ascending order of value, their edges clipped to the exact minimum and maximum."""
        keys = np.flatnonzero(self.counts)
        magnitude = (keys & (_SIGN - 1)).astype(np.uint32)
        inner = (magnitude << 16).view(np.float32).astype(np.float64)
        # the bin below infinity ends at the largest finite float
        outer = (np.minimum(magnitude + 1, _INFINITY) << 16).view(np.float32).astype(np.float64)
        outer = np.minimum(outer, float(np.finfo(np.float32).max))
        negative = keys >= _SIGN
        low = np.where(negative, -outer, inner)
        high = np.where(negative, -inner, outer)
        # the bins of +0 and -0 hold zeros and magnitudes below 2**-133: take them as zero
        zero = magnitude == 0
        low[zero], high[zero] = 0.0, 0.0
        order = np.argsort(low + high, kind="stable")
        low = np.clip(low[order], self.minimum, self.maximum)
        high = np.clip(high[order], self.minimum, self.maximum)
        return Distribution(low, high, self.counts[keys][order].astype(np.float64))


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts of one array (int64, [k], k <= 65536: the keys up to the largest that occurs), minimum and maximum."""

    counts: Array
    minimum: float
    maximum: float


def count(x: Array) -> Counted:
    """Count the elements of a float32 array of any shape by their upper 16 bits.

    Raises:
        NotFiniteError: it holds NaN or Inf.
    """
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    if flat.size == 0:
        return Counted(np.zeros(0, np.int64), float("inf"), float("-inf"))
    low, high = float(flat.min()), float(flat.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise NotFiniteError
    # bincount needs 8-byte integers; shifting into them directly saves a pass over the data
    keys = np.empty(flat.size, np.intp)
    np.right_shift(flat.view(np.uint32), 16, out=keys, casting="unsafe")
    return Counted(np.bincount(keys), low, high)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Bins [low, high] in ascending order with their counts (float64 each, [n]); values lie evenly within a bin."""

    low: Array
    high: Array
    counts: Array

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return float(self.low[0]) if self.low.size else 0.0

    @property
    def maximum(self) -> float:
        """The largest value."""
        return float(self.high[-1]) if self.high.size else 0.0

    def magnitudes(self) -> "Distribution":
        """The distribution of |x|."""
        negative = self.high <= 0.0
        low = np.where(negative, -self.high, self.low)
        high = np.where(negative, -self.low, self.high)
        order = np.argsort(low + high, kind="stable")
        return Distribution(low[order], high[order], self.counts[order])

    def quantile(self, q: float) -> float:
        """The value below which the fraction `q` of the elements lies, linear within a bin."""
        total = np.cumsum(self.counts)
        wanted = q * total[-1]
        i = min(int(np.searchsorted(total, wanted)), total.size - 1)
        before = total[i] - self.counts[i]
        inside = (wanted - before) / self.counts[i]
        return float(self.low[i] + (self.high[i] - self.low[i]) * np.clip(inside, 0.0, 1.0))

    def rebin(self, bins: int, top: float) -> Array:
        """Counts (float64, [bins]) over equal bins of [0, top], each source bin spread evenly over what it covers."""
        edges = np.linspace(0.0, top, bins + 1)
        width = np.maximum(self.high - self.low, 1e-300)
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])
        # cumulative count at each edge: whole bins below it plus the covered part of the bin it cuts
        index = np.searchsorted(self.high, edges, side="left")
        whole = cumulative[index]
        inside = np.minimum(index, self.low.size - 1)
        part = np.clip((edges - self.low[inside]) / width[inside], 0.0, 1.0) * self.counts[inside]
        part[index >= self.low.size] = 0.0
        at_edge = whole + part
        at_edge[0], at_edge[-1] = 0.0, cumulative[-1]
        return np.diff(at_edge)

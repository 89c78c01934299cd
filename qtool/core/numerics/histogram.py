"""Histograms whose key is the upper 16 bits of the float32: sign, exponent and 7 bits of mantissa.

No range need be known ahead, a bin is never wider than 0.8 % of its value, and two histograms merge by addition, so
shards, threads and batches of any shape give the same counts. Beside it stand the exact minimum, maximum and count.
"""

from dataclasses import dataclass, field

import numpy as np

from qtool.core.numerics.counting import BINS, Array, count_into

MANTISSA_BITS = 7
"""The bits of the mantissa that a bin's key holds: so an octave has 128 bins."""
_SIGN = 1 << 15
_INFINITY = 0x7F80


class NotFiniteError(ValueError):
    """An array that was to be counted holds NaN or Inf."""


@dataclass(slots=True)
class Histogram:
    """Counts (int64, [65536]), exact minimum, maximum and number of elements of everything observed so far."""

    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @property
    def count(self) -> int:
        """The number of elements observed."""
        return int(self.counts.sum())

    def observe(self, x: Array) -> None:
        """Add the elements of a float32 array of any shape.

        Raises:
            NotFiniteError: it holds NaN or Inf; nothing has been added then.
        """
        flat = np.ascontiguousarray(x, np.float32).reshape(-1)
        if flat.size == 0:
            return
        extremes = count_into(self.counts, flat)
        if extremes is None:
            raise NotFiniteError
        # a zero becomes +0, so that the order of the data makes no difference
        self.minimum, self.maximum = min(self.minimum, extremes[0] + 0.0), max(self.maximum, extremes[1] + 0.0)

    def merge(self, other: "Histogram") -> None:
        """Add what `other` has observed."""
        self.counts += other.counts
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    def distribution(self) -> "Distribution":
        """Return the non-empty bins in ascending order of value.

        Their edges are clipped to the exact minimum and maximum.
        """
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


@dataclass(slots=True)
class ChannelRange:
    """The least and the greatest value of each channel of a tensor [..., C]: float32, [C] each."""

    minimum: Array
    maximum: Array

    def observe(self, x: Array) -> None:
        """Add the elements of a float32 array [..., C]."""
        if x.size:
            rows = x.reshape(-1, x.shape[-1])
            np.minimum(self.minimum, rows.min(axis=0), out=self.minimum)
            np.maximum(self.maximum, rows.max(axis=0), out=self.maximum)

    def merge(self, other: "ChannelRange") -> None:
        """Add what `other` has observed."""
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)


def no_channels(count: int) -> ChannelRange:
    """Return the range of `count` channels before anything was observed: from inf to -inf."""
    return ChannelRange(np.full(count, np.inf, np.float32), np.full(count, -np.inf, np.float32))


@dataclass(frozen=True, slots=True)
class Distribution:
    """Bins [low, high] in ascending order with their counts (float64 each, [n]); values lie evenly within a bin."""

    low: Array
    high: Array
    counts: Array

    @property
    def minimum(self) -> float:
        """The smallest value; 0 where nothing was observed."""
        return float(self.low[0]) if self.low.size else 0.0

    @property
    def maximum(self) -> float:
        """The largest value; 0 where nothing was observed."""
        return float(self.high[-1]) if self.high.size else 0.0

    def magnitudes(self) -> "Distribution":
        """Return the distribution of |x|.

        The bins of x and -x, which differ in their clipped ends at most, are merged.
        """
        if self.low.size == 0:
            return self
        negative = self.high <= 0.0
        low = np.where(negative, -self.high, self.low)
        high = np.where(negative, -self.low, self.high)
        order = np.lexsort((high, low))
        first = np.flatnonzero(np.diff(low[order], prepend=-1.0))
        return Distribution(
            low[order][first],
            np.maximum.reduceat(high[order], first),
            np.add.reduceat(self.counts[order], first),
        )

    def quantile(self, q: float) -> float:
        """Return the value below which the fraction `q` of the elements lies, linear within a bin."""
        total = np.cumsum(self.counts)
        wanted = q * total[-1]
        i = min(int(np.searchsorted(total, wanted)), total.size - 1)
        before = total[i] - self.counts[i]
        inside = (wanted - before) / self.counts[i]
        return float(self.low[i] + (self.high[i] - self.low[i]) * np.clip(inside, 0.0, 1.0))

    def outside(self, low: float, high: float) -> float:
        """Return the share of the elements below `low` or above `high`, linear within a bin; 0 where there are none."""
        width = self.high - self.low
        # a bin without width holds one value
        filled = np.where(width > 0.0, width, 1.0)
        below = np.where(width > 0.0, np.clip((low - self.low) / filled, 0.0, 1.0), self.high < low)
        above = np.where(width > 0.0, np.clip((self.high - high) / filled, 0.0, 1.0), self.low > high)
        return float(((below + above) * self.counts).sum() / max(self.counts.sum(), 1.0))

    def evenly(self, bins: int) -> list[int]:
        """Return the counts over equal bins from the minimum to the maximum, parts of an element rounded up.

        One value alone is in the first bin; where nothing was observed there is none.
        """
        if not self.counts.size:
            return []
        low, high, total = self.minimum, self.maximum, float(self.counts.sum())
        if not high > low:
            return [int(total), *[0] * (bins - 1)]
        after = np.cumsum(self.counts)
        places = np.stack([self.low, self.high], axis=1).reshape(-1)
        below = np.stack([after - self.counts, after], axis=1).reshape(-1)
        at_edge = np.interp(np.linspace(low, high, bins + 1), places, below)
        at_edge[0], at_edge[-1] = 0.0, total
        # what rounding of sums leaves over is no element
        result: list[int] = np.ceil(np.diff(at_edge) - 1e-6).astype(np.int64).tolist()
        return result

    def rebin(self, bins: int, top: float) -> Array:
        """Return the counts (float64, [bins]) over equal bins of [0, top].

        Each source bin is spread evenly over what it covers.
        """
        edges = np.linspace(0.0, top, bins + 1)
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])
        # cumulative count at each edge: whole bins below it plus the covered part of the bin it cuts
        index = np.searchsorted(self.high, edges, side="left")
        whole = cumulative[index]
        inside = np.minimum(index, self.low.size - 1)
        width = (self.high - self.low)[inside]
        # a bin without width holds one value, and belongs to the right of an edge there
        share = np.divide(edges - self.low[inside], width, out=np.zeros_like(edges), where=width > 0.0)
        part = np.clip(share, 0.0, 1.0) * self.counts[inside]
        part[index >= self.low.size] = 0.0
        at_edge = whole + part
        at_edge[0], at_edge[-1] = 0.0, cumulative[-1]
        return np.diff(at_edge)

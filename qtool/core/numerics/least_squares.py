"""The MSE calibrator: the range whose grid has the least expected squared error, by search."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qtool.core.numerics.affine import TensorSpec, activation_qparams, integer_range
from qtool.core.numerics.counting import Array
from qtool.core.numerics.histogram import Distribution

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


def least_squares(distribution: Distribution, spec: TensorSpec) -> tuple[float, float]:
    """Return the range [low, high] with the least expected squared error, low <= 0 <= high.

    Both ends are moved together, then each in turn.
    """
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
    bins: tuple[_Edges, _Edges],
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


def _expected_error(bins: _Edges, low: Array, high: Array, spec: TensorSpec) -> Array:
    """Sum of squared errors ([k]) of the grids for the k ranges [low, high] ([k] each) over a distribution."""
    grids = [activation_qparams(*ends, spec) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    scale = np.array([grid.scale for grid in grids])
    zero_point = np.array([grid.zero_point for grid in grids])
    qmin, qmax = integer_range(spec.dtype)
    lows, highs = (qmin - zero_point) * scale, (qmax - zero_point) * scale
    rows = range(0, len(grids), _ROWS)
    return np.concatenate([bins.errors(*(part[i : i + _ROWS] for part in (scale, lows, highs))) for i in rows])

"""Integers of weights that fit what their layer reads: the search for scales, and rounding column after column.

Rounding a weight W to V costs the layer E|W x - V x|^2 = (W - V) H (W - V)', a number for each output channel, where
H = E[x x'] are the second moments of its inputs: about zero, or about their means where a bias takes up these.

Sources: Frantar et al. 2022, "GPTQ" (rounding in the order of H's diagonal, with damping; done here as the nearest
plane of Babai 1986, which is the same without an inverse); AIMET's documentation of sequential MSE (the search for
scales; here first by H's diagonal, as errors of neighbours have nothing to do with each other before GPTQ, then, close
to the largest scale, by what GPTQ makes with each: the fewer products are in a sum, the more one grid differs from the
next, so that of many some fit all numbers of a channel).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray
_DAMPING = 0.01
"""What is added to the diagonal of H, as a share of its mean."""
_SHARES = tuple(1.0 - 0.05 * step for step in range(13))
"""The scales that are tried, as shares of the one that reaches the largest weight."""
LEAST_SHARE = _SHARES[-1]
_NEAR = (0.985, 1.15)
"""Within these shares of it scales are tried with GPTQ: in steps smaller than one of the largest number."""
_MOST_TRIED, _TRIED = 64, 2**12
"""At most so many, and the fewer the more products are in a sum: so many products for each number of a weight."""
_BLOCK = 64
_EQUAL = 1e-9
"""Costs that differ by a smaller share are equal."""


@dataclass(frozen=True, slots=True)
class Moments:
    """The sums over positions of what a layer's weight is multiplied with, in G groups of K products a sum.

    squares: of x x', [G, K, K]. sums: of x, [G, K]. count: the positions.
    """

    squares: Array
    sums: Array
    count: int

    @classmethod
    def of(cls, columns: Array) -> "Moments":
        """Return the sums of the inputs at P positions, [G, K, P], in float64."""
        x = columns.astype(np.float64, copy=False)
        return cls(x @ np.swapaxes(x, 1, 2), x.sum(axis=2), x.shape[2])

    def plus(self, other: "Moments") -> "Moments":
        """Return the sums over the positions of both; the arrays of this one are used for it."""
        np.add(self.squares, other.squares, out=self.squares)
        return replace(self, sums=self.sums + other.sums, count=self.count + other.count)

    def mean(self, *, centred: bool) -> Array:
        """Return H, [G, K, K]; `centred`: about the means of the inputs."""
        count = max(self.count, 1)
        found: Array = self.squares / count
        return found - self.sums[:, :, None] * self.sums[:, None, :] / count**2 if centred else found


@dataclass(frozen=True, slots=True)
class WeightGrids:
    """The grids of a weight's channels, [G, M] each: the scale, and the largest integer.

    shared: one scale is for all channels.
    """

    scale: Array
    limit: Array
    shared: bool = False


def costs(weight: Array, real: Array, moments: Array) -> Array:
    """Return what real weights in the place of others, [G, M, K] both, cost each channel: [G, M]; `moments`: H."""
    lost = weight - real
    found: Array = np.einsum("gmk,gmk->gm", lost @ moments, lost)
    return found


def nearest(weight: Array, grids: WeightGrids) -> Array:
    """Return the nearest integers of a weight, float64 [G, M, K]."""
    most = grids.limit[:, :, None]
    found: Array = np.clip(np.rint(weight / grids.scale[:, :, None]), -most, most)
    return found


def best_scales(weight: Array, moments: Array, grids: WeightGrids, floor: Array) -> Array:
    """Return the scales, [G, M], whose nearest integers cost the least by H's diagonal, among shares of the present.

    What is larger than its grid is clipped. `floor`: the least scales that are allowed, [G, M].
    """
    diagonal = np.einsum("gkk->gk", moments)[:, None, :]
    found, least = grids.scale, np.full(grids.scale.shape, np.inf)
    for share in _SHARES:
        scale = np.minimum(np.maximum(grids.scale * share, floor), grids.scale).astype(np.float32).astype(np.float64)
        lost = weight - nearest(weight, WeightGrids(scale, grids.limit)) * scale[:, :, None]
        cost = (lost * lost * diagonal).sum(axis=2)
        if grids.shared:
            cost = np.full(cost.shape, cost.sum())
        better = cost < least * (1.0 - _EQUAL)
        found, least = np.where(better, scale, found), np.where(better, cost, least)
    return found


def scales_tried(length: int) -> int:
    """Return how many scales `fitted` tries with GPTQ for a weight of so many products a sum."""
    return min(_MOST_TRIED, _TRIED // max(length, 1))


def fitted(weight: Array, moments: Array, grids: WeightGrids, floor: Array) -> tuple[Array, Array]:
    """Return scales, [G, M], and the integers of GPTQ with them, [G, M, K], that together cost the least.

    `floor`: the least scales that are allowed, [G, M]. One scale for all channels is that of `best_scales`.
    """
    scale = best_scales(weight, moments, grids, floor)
    order = _Order.of(moments)
    integers = rounded(weight, moments, replace(grids, scale=scale), order)
    if grids.shared:
        return scale, integers
    least = costs(weight, integers * scale[:, :, None], moments)
    for share in np.linspace(*_NEAR, scales_tried(weight.shape[2])).tolist():
        tried = np.maximum(grids.scale * share, floor).astype(np.float32).astype(np.float64)
        found = rounded(weight, moments, replace(grids, scale=tried), order)
        cost = costs(weight, found * tried[:, :, None], moments)
        better = cost < least * (1.0 - _EQUAL)
        scale, least = np.where(better, tried, scale), np.where(better, cost, least)
        integers = np.where(better[:, :, None], found, integers)
    return scale, integers


@dataclass(frozen=True, slots=True)
class _Order:
    """The order in which columns are rounded, [G, K], and what each owes to those before: V of V V' = H, triangular."""

    columns: Array
    upper: Array

    @classmethod
    def of(cls, moments: Array) -> "_Order":
        stable = _damped(moments)
        order = np.argsort(-np.einsum("gkk->gk", stable), axis=1, kind="stable")
        # Cholesky's factor with the last column first
        turned = np.flip(order, axis=1)
        flipped = np.take_along_axis(np.take_along_axis(stable, turned[:, :, None], 1), turned[:, None, :], 2)
        return cls(order, np.flip(np.linalg.cholesky(flipped), axis=(1, 2)))


def rounded(weight: Array, moments: Array, grids: WeightGrids, by: "_Order | None" = None) -> Array:
    """Return the integers of GPTQ, float64 [G, M, K]: columns take up what rounding those before them has cost.

    Never worse than the nearest ones, which a channel keeps that they cost less. `by`: the order for these moments, if
    known.
    """

    def snap(aim: Array, _columns: Array) -> tuple[Array, Array]:
        integers = np.clip(np.rint(aim / grids.scale), -grids.limit, grids.limit)
        return integers, integers * grids.scale

    found, plain = column_by_column(weight, moments, snap, by), nearest(weight, grids)
    step = grids.scale[:, :, None]
    worse = costs(weight, found * step, moments) > costs(weight, plain * step, moments)
    return np.where(worse[:, :, None], plain, found)


def column_by_column(
    weight: Array, moments: Array, snap: Callable[[Array, Array], tuple[Array, Array]], by: "_Order | None" = None
) -> Array:
    """Return integers, float64 [G, M, K], each column of which takes up what rounding those before it has cost.

    The order is that of H's diagonal, the largest first.

    Args:
        weight: float64 [G, M, K].
        moments: H, [G, K, K]; it is damped.
        snap: from what a column of each group should be, [G, M], and which columns these are, [G], the integers and
            what they mean, [G, M] both.
        by: the order for these moments, if known.
    """
    by = by or _Order.of(moments)
    order, upper = by.columns, by.upper
    wanted = np.take_along_axis(weight, order[:, None, :], 2)
    integers, lost, size = np.empty_like(wanted), np.zeros_like(wanted), wanted.shape[2]
    for start in range(0, size, _BLOCK):
        block = slice(start, min(start + _BLOCK, size))
        owed = lost[:, :, :start] @ upper[:, :start, block]
        for i in range(block.start, block.stop):
            more = np.einsum("gmk,gk->gm", lost[:, :, start:i], upper[:, start:i, i])
            aim = wanted[:, :, i] + (owed[:, :, i - start] + more) / upper[:, i, i, None]
            integers[:, :, i], real = snap(aim, order[:, i])
            lost[:, :, i] = wanted[:, :, i] - real
    found = np.empty_like(integers)
    np.put_along_axis(found, np.broadcast_to(order[:, None, :], found.shape), integers, 2)
    return found


def _damped(moments: Array) -> Array:
    mean = np.einsum("gkk->gk", moments).mean(axis=1)
    added = np.where(mean > 0.0, _DAMPING * mean, 1.0)
    result: Array = moments + added[:, None, None] * np.eye(moments.shape[1])
    return result

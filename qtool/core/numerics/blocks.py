"""Weights in blocks: so many numbers of a sum share a scale, and a zero point where their grid is affine.

A weight is [M, K] here: M output channels, K products a sum; the rows of a table are such channels too. Integers are
unsigned, from 0 to 2^bits - 1. The last block of a row may be shorter.

Sources: onnxruntime `core/mlas/lib/q4_dq.cpp` (the grid that reaches the largest numbers, and its rounding, half away
from zero) and docs/ContribOperators.md, MatMulNBits (how integers are packed); the search for scales is that of
`qtool.core.numerics.rounding`, with the scale that fits the integers best (least squares).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qtool.core.numerics.rounding import column_by_column, costs

Array = np.ndarray
_SHARES = tuple(1.0 - 0.05 * step for step in range(1, 10))
"""The ranges that are tried, as shares of the one that reaches the largest numbers."""
_AT_ONCE = 2**17
"""Numbers that stay in a cache while several passes are made over them."""
_EQUAL = 1e-6
"""Costs that differ by a smaller share are equal."""


@dataclass(frozen=True, slots=True)
class BlockGrids:
    """The grids of a weight's blocks. scale: [M, B], float32; it may be negative, and 0 where all numbers are.

    bits: of an integer. size: numbers a block. zero_point: [M, B], uint8; None: the middle, 2^(bits - 1).
    """

    bits: int
    size: int
    scale: Array
    zero_point: Array | None

    @property
    def zeros(self) -> Array:
        """The integers that mean zero, [M, B], float32."""
        if self.zero_point is None:
            return np.full(self.scale.shape, float(middle(self.bits)), np.float32)
        found: Array = self.zero_point.astype(np.float32)
        return found


def middle(bits: int) -> int:
    """Return the integer that means zero on a symmetric grid."""
    return 1 << (bits - 1)


def largest(bits: int) -> int:
    """Return the largest integer, 15 or 255."""
    return (1 << bits) - 1


def count(length: int, size: int) -> int:
    """Return how many blocks of a size hold so many numbers."""
    return -(-length // size)


def blocks_of(rows: Array, size: int) -> Array:
    """Return [M, K] as [M, B, size], with zeros behind the last number."""
    blocks = count(rows.shape[1], size)
    padded = np.pad(rows, ((0, 0), (0, blocks * size - rows.shape[1])))
    return padded.reshape(rows.shape[0], blocks, size)


def reaching(rows: Array, bits: int, size: int, *, symmetric: bool) -> BlockGrids:
    """Return the grids that reach the largest numbers of each block of a float32 weight [M, K]."""
    low, high = _ends(blocks_of(rows, size))
    return _grids(low, high, bits, size, symmetric=symmetric)


def _ends(blocks: Array) -> tuple[Array, Array]:
    return np.minimum(blocks.min(axis=2), np.float32(0.0)), np.maximum(blocks.max(axis=2), np.float32(0.0))


def _grids(low: Array, high: Array, bits: int, size: int, *, symmetric: bool) -> BlockGrids:
    """As onnxruntime's own tool has them: a symmetric grid has one step more on the side of the largest number."""
    if symmetric:
        far = np.where(np.abs(high) > np.abs(low), high, low)
        return BlockGrids(bits, size, (far / np.float32(-middle(bits))).astype(np.float32), None)
    scale = ((high - low) / np.float32(largest(bits))).astype(np.float32)
    below = np.where(scale > 0, -low / np.where(scale > 0, scale, np.float32(1.0)), np.float32(0.0))
    zero = np.floor(np.clip(below, 0, largest(bits)) + np.float32(0.5))
    return BlockGrids(bits, size, scale, zero.astype(np.uint8))


def nearest(rows: Array, grids: BlockGrids) -> Array:
    """Return the integers of a float32 weight [M, K] that are nearest to it, uint8."""
    result = np.empty(rows.shape, np.uint8)
    for part in _parts(rows.shape):
        taken = BlockGrids(grids.bits, grids.size, grids.scale[part], _part(grids.zero_point, part))
        integers = _snapped(blocks_of(rows[part].astype(np.float32, copy=False), grids.size), taken)
        result[part] = integers.reshape(len(integers), -1)[:, : rows.shape[1]]
    return result


def _snapped(blocks: Array, grids: BlockGrids) -> Array:
    """Of [M, B, size], as float32. Like onnxruntime it multiplies by the inverse of the scale, and rounds halves up."""
    inverse = np.divide(np.float32(1.0), grids.scale, out=np.zeros_like(grids.scale), where=grids.scale != 0)
    with np.errstate(over="ignore", invalid="ignore"):
        steps: Array = blocks * inverse[:, :, None]
        steps += grids.zeros[:, :, None]
        steps += np.float32(0.5)
    np.floor(steps, out=steps)
    np.clip(steps, 0, largest(grids.bits), out=steps)
    return steps


def real(integers: Array, grids: BlockGrids) -> Array:
    """Return the real numbers that integers [M, K] mean, (q - zero point) * scale, float32."""
    steps = blocks_of(integers.astype(np.float32), grids.size)
    steps -= grids.zeros[:, :, None]
    steps *= grids.scale[:, :, None]
    return steps.reshape(len(integers), -1)[:, : integers.shape[1]]


def searched(rows: Array, bits: int, size: int, weights: Array, *, symmetric: bool) -> BlockGrids:
    """Return the grids whose nearest integers cost the least squared error, weighted, block by block.

    Ranges are shares of those that reach the largest numbers: what is larger is clipped where that costs less than it
    gains. Each has the scale that fits its integers best.

    Args:
        rows: the weight, float32 [M, K].
        bits: of an integer.
        size: of a block.
        weights: of the squared error of each product of a sum, [K]: the second moments of what it is multiplied with.
        symmetric: whether zero is the middle.
    """
    blocks_count = count(rows.shape[1], size)
    scale = np.empty((rows.shape[0], blocks_count), np.float32)
    zero = np.empty(scale.shape, np.uint8)
    weighting = blocks_of((weights / max(float(weights.max()), 1e-30)).astype(np.float32)[None], size)
    for part in _parts(rows.shape):
        scale[part], zero[part] = _searched(blocks_of(rows[part], size), bits, weighting, symmetric=symmetric)
    return BlockGrids(bits, size, scale, None if symmetric else zero)


def _searched(blocks: Array, bits: int, weighting: Array, *, symmetric: bool) -> tuple[Array, Array]:
    """The best share, and the scale that fits its integers best, where that costs less still."""
    low, high = _ends(blocks)
    size = blocks.shape[2]
    best = _grids(low, high, bits, size, symmetric=symmetric)
    least = _costs(blocks, best, weighting)
    for share in _SHARES:
        tried = _grids(low * np.float32(share), high * np.float32(share), bits, size, symmetric=symmetric)
        best, least = _better(best, least, tried, _costs(blocks, tried, weighting))
    fitted = _fitted(blocks, best, weighting)
    best, _ = _better(best, least, fitted, _costs(blocks, fitted, weighting))
    return best.scale, best.zeros.astype(np.uint8)


def _costs(blocks: Array, grids: BlockGrids, weighting: Array) -> Array:
    """What the nearest integers cost each block, [M, B]."""
    lost = _snapped(blocks, grids)
    lost -= grids.zeros[:, :, None]
    lost *= grids.scale[:, :, None]
    lost -= blocks
    lost *= lost
    lost *= weighting
    found: Array = lost.sum(axis=2)
    return found


def _better(best: BlockGrids, least: Array, tried: BlockGrids, cost: Array) -> tuple[BlockGrids, Array]:
    better = cost < least * np.float32(1.0 - _EQUAL)
    zero = best.zero_point
    if zero is not None and tried.zero_point is not None:
        zero = np.where(better, tried.zero_point, zero)
    scale = np.where(better, tried.scale, best.scale)
    return BlockGrids(best.bits, best.size, scale, zero), np.where(better, cost, least)


def _fitted(blocks: Array, grids: BlockGrids, weighting: Array) -> BlockGrids:
    """With the scales of the least weighted squared error for the nearest integers."""
    steps = _snapped(blocks, grids) - grids.zeros[:, :, None]
    squares = (steps * steps * weighting).sum(axis=2)
    products = (steps * blocks * weighting).sum(axis=2)
    scale = np.divide(products, squares, out=grids.scale.copy(), where=squares > 0)
    return BlockGrids(grids.bits, grids.size, scale, grids.zero_point)


@dataclass(frozen=True, slots=True)
class Seen:
    """The second moments of what a weight is multiplied with, H, [K, K].

    fit: on a part of the data; confirming: on the rest; whole: on all of it.
    """

    fit: Array
    confirming: Array
    whole: Array

    def plus(self, other: "Seen") -> "Seen":
        """Return the sums of both, of two layers that read one weight."""
        return Seen(self.fit + other.fit, self.confirming + other.confirming, self.whole + other.whole)


def confirmed(rows: Array, seen: Seen, grids: BlockGrids) -> Array:
    """Return the integers of GPTQ on all data, uint8 [M, K], or the nearest ones.

    That is where those of a part of the data cost more than these on the rest. `rows`: the weight, float32 [M, K].
    """
    plain, found = nearest(rows, grids), compensated(rows, seen.fit, grids)
    old, new = (_cost(rows, integers, seen.confirming, grids) for integers in (plain, found))
    return compensated(rows, seen.whole, grids) if new < old else plain


def _cost(rows: Array, integers: Array, moments: Array, grids: BlockGrids) -> float:
    meant = real(integers, grids).astype(np.float64)
    return float(costs(rows.astype(np.float64)[None], meant[None], moments[None]).sum())


def compensated(rows: Array, moments: Array, grids: BlockGrids) -> Array:
    """Return the integers of GPTQ, uint8 [M, K]: columns take up what rounding those before them has cost.

    Args:
        rows: the weight, float32 [M, K].
        moments: H, the second moments of what the weight is multiplied with, [K, K].
        grids: of its blocks.
    """
    weight, zeros, most = rows.astype(np.float64)[None], grids.zeros.astype(np.float64), float(largest(grids.bits))
    scale = grids.scale.astype(np.float64)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)

    def snap(aim: Array, columns: Array) -> tuple[Array, Array]:
        at = int(columns[0]) // grids.size
        integers = np.clip(np.floor(aim[0] * inverse[:, at] + zeros[:, at] + 0.5), 0.0, most)
        return integers[None], ((integers - zeros[:, at]) * scale[:, at])[None]

    found: Array = column_by_column(weight, moments[None], snap)[0].astype(np.uint8)
    return found


def packed(integers: Array, bits: int, size: int, fill: int) -> Array:
    """Return integers [M, K] as bytes, [M, B, size * bits / 8], the first of a byte in its lower bits.

    `fill`: the integer behind the last one of a row.
    """
    blocks = count(integers.shape[1], size)
    whole = np.pad(integers, ((0, 0), (0, blocks * size - integers.shape[1])), constant_values=fill)
    found = whole.reshape(len(integers), blocks, size)
    return found if bits == 8 else in_bytes(found)


def in_bytes(integers: Array) -> Array:
    """Return integers of 4 bits in bytes, two of the last axis in each, the first in the lower bits; 0 fills it up."""
    odd = integers.shape[-1] % 2
    whole = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, odd)]) if odd else integers
    found: Array = (whole[..., 0::2] | (whole[..., 1::2] << 4)).astype(np.uint8)
    return found


def from_bytes(stored: Array) -> Array:
    """Return the integers of 4 bits that bytes hold, two for each along the last axis: the inverse of `in_bytes`."""
    found: Array = np.stack([stored & 15, stored >> 4], axis=-1).reshape(*stored.shape[:-1], -1)
    return found


def unpacked(stored: Array, bits: int, length: int) -> Array:
    """Return the integers [M, K] in `packed` bytes; `length`: K."""
    found = stored if bits == 8 else from_bytes(stored)
    return found.reshape(len(stored), -1)[:, :length]


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(_AT_ONCE // max(shape[1], 1), 1)
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def _part(array: Array | None, part: slice) -> Array | None:
    return None if array is None else array[part]

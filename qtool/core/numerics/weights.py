"""Weights and biases: symmetric int8 per output channel by max, int32 bias, and what keeps both from overflowing.

Source: the paper, sections 3.2 and 4 (weights by max calibration, range [-127, 127]); ONNX QLinearConv (bias scale
x_scale * w_scale).
"""

from dataclasses import dataclass, field

import numpy as np

from qtool.core.numerics.affine import QParams

Array = np.ndarray
SEVEN_BITS = 64
# elements that are worked on at once, where temporaries are several times as large
_AT_ONCE = 2**22
# elements that stay in a cache while several passes are made over them
_BLOCK = 2**16
# a smaller product of scales is subnormal in float32, or close to it
_MIN_PRODUCT = 2.0**-100


def largest_magnitudes(weight: Array, axis: int | None) -> Array:
    """Return max|w| of each channel along `axis` ([C], float64), or of all for None (one number)."""
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    result: Array = np.maximum(weight.max(axis=others, initial=0.0), -weight.min(axis=others, initial=0.0))
    return result.astype(np.float64)


def weight_grid(largest: Array, axis: int | None, floor: Array | float = 0.0, steps: Array | float = 127.0) -> QParams:
    """Return the grid of a weight: scale = max|w| / steps by channel, zero point 0, integers in [-127, 127].

    Args:
        largest: `largest_magnitudes` of the weight along `axis`.
        axis: of the output channels, [C] scales; None for one scale.
        floor: the least scale allowed, for each channel or for all.
        steps: 127, or 64 in channels that need 7 bits ([C] or one).
    """
    scale = np.atleast_1d(np.maximum(largest / steps, floor))
    scale = np.where(scale > 0.0, scale, 1.0).astype(np.float32)
    scale = np.maximum(scale, np.float32(2.0**-100))
    return QParams(tuple(map(float, scale)), (0,) * scale.size, "int8", axis)


def weight_qparams(
    weight: Array, axis: int | None, floor: Array | float = 0.0, steps: Array | float = 127.0
) -> QParams:
    """Return the `weight_grid` of a weight of any shape, float32."""
    return weight_grid(largest_magnitudes(weight, axis), axis, floor, steps)


def quantize_weight(weight: Array, params: QParams) -> Array:
    """Return the integers of a weight: int8 in [-127, 127] (-128 is not used), same shape; zero points are 0."""
    shape = [1] * weight.ndim
    if params.axis is not None:
        shape[params.axis] = -1
    scale = np.asarray(params.scale, np.float32).reshape(shape)
    result = np.empty(weight.shape, np.int8)
    rows = max(_BLOCK * len(weight) // max(weight.size, 1), 1) if weight.ndim else 1
    for start in range(0, len(weight) if weight.ndim else 1, rows):
        part = slice(start, start + rows) if weight.ndim else ...
        with np.errstate(over="ignore"):
            steps = np.asarray(weight[part] / (scale[part] if params.axis == 0 else scale))
        np.rint(steps, out=steps)
        np.clip(steps, -127.0, 127.0, out=steps)
        result[part] = steps
    return result


@dataclass(frozen=True, slots=True)
class WeightMemo:
    """A store of what plans for one graph share and compute once; weights are known by their tensors' names.

    largest: by axis, of weights that are known to be finite. saturating, integers: by grid. tied: whether a table and
    the weight of a product hold the same rows.
    """

    largest: dict[tuple[str, int | None], Array] = field(default_factory=dict)
    saturating: dict[tuple[str, QParams], Array] = field(default_factory=dict)
    integers: dict[tuple[str, QParams], Array] = field(default_factory=dict)
    tied: dict[tuple[str, str], bool] = field(default_factory=dict)

    def quantized(self, tensor: str, weight: Array, params: QParams) -> Array:
        """Return what `quantize_weight` gives; the array is shared, and must not be changed."""
        key = (tensor, params)
        if key not in self.integers:
            self.integers[key] = quantize_weight(weight, params)
        return self.integers[key]


def bias_floor(bias: Array, input_scale: float, accumulated: int) -> Array:
    """Return the least weight scale ([M], float64) at which the int32 accumulator holds bias and products.

    `accumulated` is the number of products summed into one output; half of the int32 range is the most that is kept for
    them, which 33,155 products of the worst case cannot exceed. A channel needs this where its weights are tiny
    beside its bias; its weights then lose bits that the output could not show.
    """
    room = 2.0**31 - 1 - min(accumulated * 255.0 * 127.0, 2.0**30)
    needed = np.abs(bias.astype(np.float64)) / (room - 1.0) / input_scale
    # the float32 rounding of both scales must not push it over
    return np.maximum(needed * (1.0 + 1e-5), _MIN_PRODUCT / input_scale)


def bias_scale(input_scale: float, weight: QParams) -> tuple[float, ...]:
    """Return x_scale * w_scale of each channel, computed in float32 as onnxruntime does."""
    return tuple(map(float, np.float32(input_scale) * np.asarray(weight.scale, np.float32)))


def quantize_bias(bias: Array, scale: tuple[float, ...]) -> Array:
    """Return the integers of a bias: int32, [M], saturated; `scale` has M elements or one."""
    exact = np.rint(bias.astype(np.float64) / np.asarray(scale, np.float64))
    result: Array = np.clip(exact, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    return result


def saturating_channels(quantized: Array, axis: int) -> Array:
    """Return which output channels ([C], bool) can overflow the 16-bit sum of two uint8 x int8 products.

    x86 without VNNI adds neighbouring products in int16 (vpmaddubsw): 255 * |w0 + w1| of one sign must stay within
    32767. Which weights are neighbours depends on the layout that the kernel packs: both orders, channels first and
    channels last, with both alignments, are looked at. Source: onnxruntime `core/mlas/lib/platform.cpp`.
    """
    moved = np.moveaxis(quantized, axis, 0)
    result = np.zeros(moved.shape[0], bool)
    at_once = max(_AT_ONCE * moved.shape[0] // max(moved.size, 1), 1)
    for start in range(0, moved.shape[0], at_once):
        part = moved[start : start + at_once].astype(np.int32)
        orders = [part.reshape(part.shape[0], -1)]
        if part.ndim > 2:
            orders.append(np.moveaxis(part, 1, -1).reshape(part.shape[0], -1))
        for flat in orders:
            pair = flat[:, :-1] + flat[:, 1:]
            same_sign = flat[:, :-1] * flat[:, 1:] > 0
            result[start : start + at_once] |= ((np.abs(pair) * 255 > 32767) & same_sign).any(axis=1)
    return result


def seven_bit_steps(saturating: Array) -> Array:
    """Return the steps for `weight_qparams`: 64 where a channel saturates, else 127 ([C], float64)."""
    return np.where(saturating, float(SEVEN_BITS), 127.0)

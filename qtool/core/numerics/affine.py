"""Scale and affine mapping between real numbers and 8-bit integers, as ONNX's QuantizeLinear defines it.

Source: the paper, section 3.1; ONNX operators QuantizeLinear and DequantizeLinear. Zero is always representable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

DType = Literal["uint8", "int8"]
Array = np.ndarray

# Scales below this risk products of scales that underflow float32 inside an integer kernel.
MIN_SCALE = float(np.float32(2.0**-80))
# the step of a tensor that is always 0: biases of layers that read it are rounded to this times the weights' steps
_OF_ZEROS = float(np.float32(1.0 / 255.0))
FLOAT32_MAX = 2.0**128 - 2.0**104
_SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The representation of an activation: `dtype`, and whether its grid is symmetric around zero.

    With `symmetric`, a signed tensor gets the zero point in the middle of the type (128 or 0) and 127 steps on either
    side; a tensor without negative values keeps the full range of the type. `zero_point_zero` forces the zero point
    to the number 0 even then (TensorRT).
    """

    dtype: DType
    symmetric: bool
    zero_point_zero: bool = False


@dataclass(frozen=True, slots=True)
class QParams:
    """Scale, zero point and type of one tensor; one element each for per-tensor, C of them for per-channel.

    `axis` is None for per-tensor. Scales are float32 values.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    dtype: DType
    axis: int | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and largest real number that a per-tensor grid represents, computed in float32 as ONNX does."""
        qmin, qmax = integer_range(self.dtype)
        scale, zero_point = np.float32(self.scale[0]), self.zero_point[0]
        with np.errstate(over="ignore"):
            return float(np.float32(qmin - zero_point) * scale), float(np.float32(qmax - zero_point) * scale)

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where there is no such grid, whatever its tensor."""
        check_scales(self.scale)
        qmin, qmax = integer_range(self.dtype)
        if len(self.zero_point) != len(self.scale) or not all(qmin <= z <= qmax for z in self.zero_point):
            raise ValueError(f"zero_point: one is needed for each scale, in [{qmin}, {qmax}]")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError("axis: several scales need one")


def check_scales(scale: Sequence[float]) -> None:
    """Raise `ValueError` where these are not scales: positive, normal float32 numbers, at least one."""
    if not scale or not all(_SMALLEST_NORMAL <= s <= FLOAT32_MAX for s in scale):
        raise ValueError("scale: positive float32 numbers are needed")


def integer_range(dtype: DType) -> tuple[int, int]:
    """Return the smallest and the largest integer: (0, 255) for uint8, (-128, 127) for int8."""
    return (0, 255) if dtype == "uint8" else (-128, 127)


def activation_qparams(low: float, high: float, spec: TensorSpec) -> QParams:
    """Return the grid of `spec` that covers [low, high] widened to hold zero.

    Raises:
        ValueError: a bound is not finite, or low > high.
    """
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise ValueError(f"not a range: [{low}, {high}]")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    qmin, qmax = integer_range(spec.dtype)
    middle = (qmin + qmax + 1) // 2
    if spec.zero_point_zero or (spec.symmetric and low < 0.0):
        scale, zero_point = max(-low, high) / 127.0, 0 if spec.zero_point_zero else middle
    elif low == 0.0:
        scale, zero_point = high / 255.0, qmin
    else:
        scale = (high - low) / 255.0
        zero_point = int(np.clip(np.rint(qmin - low / scale), qmin, qmax)) if scale > 0.0 else qmin
    scale = float(np.float32(max(scale, MIN_SCALE))) if scale > 0.0 else _OF_ZEROS
    return QParams((scale,), (zero_point,), spec.dtype)


def fit_inside(params: QParams, low: float, high: float) -> QParams:
    """Return the grid nearest to a per-tensor one that lies within [low, high], so that a Clip changes nothing.

    onnxruntime drops a Clip before a QuantizeLinear only then (`ClipQuantFusion`). The scale shrinks; the zero point
    moves where less of the range is lost that way. Returns `params` itself where it fits already, and where no grid
    can: zero outside the bounds, or bounds so narrow that the scale would underflow.
    """
    start, end = params.range
    if low <= start and end <= high:
        return params
    if not low <= 0.0 <= high:
        return params
    start, end = max(start, low), min(end, high)
    qmin, qmax = integer_range(params.dtype)
    below = np.arange(qmax - qmin + 1.0)
    above = below[::-1]
    # for each zero point: the largest scale within the bounds, and the one that reaches both ends of the range
    allowed = np.minimum(_ratio(-low, below, np.inf), _ratio(high, above, np.inf))
    scales = np.minimum(allowed, np.maximum(_ratio(-start, below, 0.0), _ratio(end, above, 0.0)))
    lost = np.maximum(-start - below * scales, 0.0) + np.maximum(end - above * scales, 0.0)
    cost = np.where(scales >= MIN_SCALE, lost + scales, np.inf)
    chosen, present = int(np.argmin(cost)), params.zero_point[0] - qmin
    if cost[chosen] == np.inf:
        return params
    if cost[present] <= cost[chosen] * (1.0 + 1e-6):
        chosen = present
    scale = np.float32(scales[chosen])
    while np.float32(chosen) * scale > np.float32(-low) or np.float32(above[chosen]) * scale > np.float32(high):
        scale = np.nextafter(scale, np.float32(0.0))
    return QParams((float(scale),), (qmin + chosen,), params.dtype)


def _ratio(length: float, steps: Array, without: float) -> Array:
    """Return length / steps, and `without` where there are no steps."""
    result: Array = np.divide(length, steps, out=np.full_like(steps, without), where=steps > 0.0)
    return result


def quantize(x: Array, params: QParams) -> Array:
    """Return the integers of QuantizeLinear: x / scale rounded half to even, plus zero point, saturated.

    `x` has any shape, which the result keeps; NaN is not allowed.
    """
    scale, zero_point = _broadcast(params, x.ndim)
    qmin, qmax = integer_range(params.dtype)
    with np.errstate(over="ignore"):
        # one array of this size is enough: weights may be large
        steps = np.asarray(x.astype(np.float32, copy=False) / scale)
    np.rint(steps, out=steps)
    # Saturate before adding: float32 holds these integers exactly only below 2**24.
    np.clip(steps, -(2.0**20), 2.0**20, out=steps)
    steps += zero_point
    np.clip(steps, qmin, qmax, out=steps)
    result: Array = steps.astype(params.dtype)
    return result


def dequantize(q: Array, params: QParams) -> Array:
    """Return the real numbers of DequantizeLinear: (q - zero point) * scale in float32. Any shape."""
    scale, zero_point = _broadcast(params, q.ndim)
    steps = np.asarray(np.subtract(q, zero_point.astype(np.int32), dtype=np.int32))
    result: Array = steps.astype(np.float32)
    with np.errstate(over="ignore"):
        result *= scale
    return result


def _broadcast(params: QParams, ndim: int) -> tuple[Array, Array]:
    scale = np.asarray(params.scale, np.float32)
    zero_point = np.asarray(params.zero_point, np.float32)
    if params.axis is None:
        return scale.reshape(()), zero_point.reshape(())
    shape = [1] * ndim
    shape[params.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)

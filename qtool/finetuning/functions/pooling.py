"""Pools over windows or whole channels.

Source: the operators' pages of ONNX; onnxruntime core/providers/cpu/nn/pool_attributes.h for the sizes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from qtool.finetuning.calls import Call
from qtool.finetuning.functions.layers import padded, pads_of, reach

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class _Window:
    """Where a pool's windows lie.

    pads: what the node says. more: at the end of each axis, so that the last window of a ceiling fits. fits: no window
    reaches beyond the padding.
    """

    def __init__(self, call: Call, x: Tensor) -> None:
        axes = x.ndim - 2
        self.kernel = list(call.get("kernel_shape"))
        self.strides = list(call.get("strides") or [1] * axes)
        self.dilations = list(call.get("dilations") or [1] * axes)
        reaches = reach(self.kernel, self.dilations)
        self.pads = pads_of(call, x.shape[2:], reaches, self.strides)
        self.more = [0] * axes
        if call.get("ceil_mode", 0) and call.get("auto_pad", "NOTSET") in ("", "NOTSET"):
            self.more = [
                _beyond(n, self.pads[a], self.pads[axes + a], reaches[a], self.strides[a])
                for a, n in enumerate(x.shape[2:])
            ]

    @property
    def ends(self) -> list[int]:
        """The padding with what a ceiling adds."""
        axes = len(self.more)
        return [*self.pads[:axes], *(p + m for p, m in zip(self.pads[axes:], self.more, strict=True))]


def _beyond(size: int, begin: int, end: int, reaches: int, stride: int) -> int:
    """How far the last window reaches beyond the padding; one that begins in the padding behind is left out."""
    whole = size + begin + end - reaches
    count = math.ceil(whole / stride) + 1
    if (count - 1) * stride >= size + begin:
        count -= 1
    return max((count - 1) * stride - whole, 0)


def max_pool(call: Call, x: Tensor) -> Tensor:
    """Return the largest element of each window."""
    window = _Window(call, x)
    kind = x.dtype
    if not x.is_floating_point():
        x = x.double()
    x = padded(x, window.ends, -torch.inf)
    made = _MAX[x.ndim - 2](x, window.kernel, window.strides, 0, window.dilations)
    return made.to(kind)


def average_pool(call: Call, x: Tensor) -> Tensor:
    """Return the mean of each window; padding counts where the node says so, what a ceiling adds never does."""
    window = _Window(call, x)
    if not any(window.ends) and set(window.dilations) == {1}:
        return _sums(x, window) / math.prod(window.kernel)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if call.get("count_include_pad", 0):
        inside = padded(inside, window.pads, 1.0)
        inside = padded(inside, [*[0] * len(window.more), *window.more])
    else:
        inside = padded(inside, window.ends)
    return _sums(padded(x, window.ends), window) / _sums(inside, window)


def lp_pool(call: Call, x: Tensor) -> Tensor:
    """Return the norm of each window."""
    window, p = _Window(call, x), int(call.get("p", 2))
    return _sums(padded(x, window.ends).abs() ** p, window) ** (1.0 / p)


def _sums(x: Tensor, window: _Window) -> Tensor:
    """Of each window, by a convolution of each channel with ones; without dilation by a pool."""
    axes = x.ndim - 2
    if set(window.dilations) == {1}:
        return _plain_sums(x, window)
    ones = torch.ones((1, 1, *window.kernel), dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, 1, *x.shape[2:])
    made = _CONV[axes](flat, ones, None, window.strides, 0, window.dilations)
    return made.reshape(*x.shape[:2], *made.shape[2:])


def _plain_sums(x: Tensor, window: _Window) -> Tensor:
    size = math.prod(window.kernel)
    if x.ndim == 3:
        return functional.avg_pool1d(x, window.kernel, window.strides) * size
    pool = functional.avg_pool2d if x.ndim == 4 else functional.avg_pool3d
    return pool(x, window.kernel, window.strides, divisor_override=1)


def spatial_axes(x: Tensor) -> Sequence[int]:
    """Return all axes behind the channels."""
    return list(range(2, x.ndim))


def global_average(_call: Call, x: Tensor) -> Tensor:
    """Return the mean of each channel."""
    return x.mean(spatial_axes(x), keepdim=True)


def global_max(_call: Call, x: Tensor) -> Tensor:
    """Return the largest element of each channel."""
    return x.amax(spatial_axes(x), keepdim=True)


def global_lp(call: Call, x: Tensor) -> Tensor:
    """Return the norm of each channel."""
    return torch.linalg.vector_norm(x, call.get("p", 2), spatial_axes(x), keepdim=True)

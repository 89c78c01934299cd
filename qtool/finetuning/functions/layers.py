"""Convolutions and products. Source: the operators' pages of ONNX."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from qtool.finetuning.calls import Call

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Return over how many places a kernel reaches, an axis each."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def pads_of(call: Call, size: Sequence[int], reaches: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the padding at the beginnings of all axes, then at their ends, whichever way a node says it."""
    auto, axes = call.get("auto_pad", "NOTSET"), len(size)
    if auto == "VALID":
        return [0] * (2 * axes)
    if auto in ("", "NOTSET"):
        return list(call.get("pads") or [0] * (2 * axes))
    totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(size, reaches, strides, strict=True)]
    return split_padding(totals, upper=auto == "SAME_UPPER")


def split_padding(totals: Sequence[int], *, upper: bool) -> list[int]:
    """Return what pads on both sides add up to these numbers, the odd one at the end where `upper`."""
    less = [t // 2 for t in totals]
    more = [t - t // 2 for t in totals]
    return [*less, *more] if upper else [*more, *less]


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Return a tensor [N, C, ...] with its last axes padded, or cut where a number is negative."""
    axes = len(pads) // 2
    order = [n for axis in reversed(range(axes)) for n in (pads[axis], pads[axes + axis])]
    return functional.pad(x, order, value=value) if any(order) else x


def conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a convolution of any number of spatial axes up to three."""
    axes = x.ndim - 2
    strides = list(call.get("strides") or [1] * axes)
    dilations = list(call.get("dilations") or [1] * axes)
    pads = pads_of(call, x.shape[2:], reach(weight.shape[2:], dilations), strides)
    same = pads[:axes]
    if pads[axes:] != same or min(pads, default=0) < 0:
        x, same = padded(x, pads), [0] * axes
    return _CONV[axes](x, weight, bias, strides, same, dilations, int(call.get("group", 1)))


def conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a transposed convolution, cut or filled to its length before the bias is added."""
    axes = x.ndim - 2
    strides = list(call.get("strides") or [1] * axes)
    dilations = list(call.get("dilations") or [1] * axes)
    more = list(call.get("output_padding") or [0] * axes)
    reaches = reach(weight.shape[2:], dilations)
    full = [(n - 1) * s + r for n, s, r in zip(x.shape[2:], strides, reaches, strict=True)]
    auto, wanted = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if wanted:
        totals = [f + m - w for f, m, w in zip(full, more, list(wanted)[-axes:], strict=True)]
        pads = split_padding(totals, upper=auto == "SAME_UPPER")
    else:
        pads = pads_of(call, x.shape[2:], reaches, strides)
    made = _CONV_TRANSPOSE[axes](x, weight, None, strides, 0, 0, int(call.get("group", 1)), dilations)
    ends = [m - p for m, p in zip(more, pads[axes:], strict=True)]
    made = padded(made, [*(-p for p in pads[:axes]), *ends])
    return made if bias is None else made + bias.reshape(-1, *[1] * axes)


def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Return alpha * A @ B + beta * C."""
    a = a.T if call.get("transA", 0) else a
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = a @ (b.T if call.get("transB", 0) else b)
    product = product if alpha == 1.0 else alpha * product
    return product if c is None else product + (c if beta == 1.0 else beta * c)


def matmul(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return a product of matrices, broadcast over the axes in front."""
    return torch.matmul(a, b)


def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return alpha * A @ B, each with its last two axes exchanged where the node says so."""
    a = a.transpose(-1, -2) if call.get("transA", 0) else a
    return call.get("alpha", 1.0) * torch.matmul(a, b.transpose(-1, -2) if call.get("transB", 0) else b)


def keeps_batches(call: Call) -> str | None:
    """Return why a fused product is not computed; None where it is."""
    return "moves its first axis" if call.get("transBatchA", 0) or call.get("transBatchB", 0) else None


def einsum(call: Call, *operands: Tensor) -> Tensor:
    """Return a sum of products as an equation says it."""
    return torch.einsum(call.get("equation"), *operands)

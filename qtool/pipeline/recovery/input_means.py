"""Means of the inputs of layers: for each element of a weight, the mean of what it is multiplied with.

A convolution or Gemm is linear, so the mean of its output over samples and positions is its weight times these. One
pass over the examples serves every grid that the weights may get.
"""

import math
from collections.abc import Mapping

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node


def biased_layers(model: Model) -> list[Node]:
    """The layers with a constant weight whose bias can take up a shift of the mean, in graph order."""
    return [
        node
        for node in model.graph
        if edit.is_main_op(node, "Conv", "Gemm")
        and len(node.inputs) > 2
        and node.inputs[2] is not None
        and edit.weight_like(node.inputs[1])
    ]


def input_sums(node: Node, x: Array) -> tuple[Array, int]:
    """Sums, float64, [C, k1, k2, ...] over a Conv's input [N, C, d1, d2, ...] or [K] over a Gemm's, and of how many."""
    if node.op_type == "Gemm":
        rows = 1 if edit.attribute(node, "transA", 0) else 0
        return x.sum(axis=rows, dtype=np.float64), x.shape[rows]
    kernel = edit.constant(node.inputs[1]).shape[2:]
    strides = edit.attribute(node, "strides") or [1] * len(kernel)
    dilations = edit.attribute(node, "dilations") or [1] * len(kernel)
    before, sizes = _geometry(node, x.shape[2:], kernel, strides, dilations)
    others = tuple(i for i in range(x.ndim) if i != 1)
    result = np.zeros((x.shape[1], *kernel))
    for offset in np.ndindex(*kernel):
        window = [
            _read(position * dilation - pad, stride, size, limit)
            for position, dilation, pad, stride, size, limit in zip(
                offset, dilations, before, strides, sizes, x.shape[2:], strict=True
            )
        ]
        result[(slice(None), *offset)] = x[:, :, *window].sum(axis=others, dtype=np.float64)
    return result, x.shape[0] * math.prod(sizes)


def mean_shift(node: Node, change: Array, means: Array) -> Array:
    """By how much the mean of each output channel moves ([M], float64) when `change` is added to the weight."""
    if node.op_type == "Gemm":
        rows = change if edit.attribute(node, "transB", 0) else change.T
        shift: Array = rows.astype(np.float64) @ means * float(edit.attribute(node, "alpha", 1.0))
        return shift
    groups = int(edit.attribute(node, "group", 1))
    parts = change.reshape(groups, change.shape[0] // groups, -1).astype(np.float64)
    sums: Array = (parts @ means.reshape(groups, -1, 1)).reshape(-1)
    return sums


def smoothed_means(
    model: Model, means: Mapping[str, Array], scales: Mapping[str, tuple[float, ...]]
) -> dict[str, Array]:
    """The means in the graph whose tensors are divided by `scales` ([C] each); `model` is the graph before."""
    inputs = {str(node.name): str(node.inputs[0].name) for node in biased_layers(model) if node.inputs[0] is not None}
    return {
        layer: found / np.asarray(scales[inputs[layer]]) if inputs[layer] in scales else found
        for layer, found in means.items()
    }


def _read(start: int, stride: int, size: int, limit: int) -> slice:
    """Those of start, start + stride, ... (`size` of them) that lie in [0, limit)."""
    first = max(0, -(start // stride))
    last = min(size, (limit - 1 - start) // stride + 1)
    return slice(start + first * stride, start + (last - 1) * stride + 1, stride) if last > first else slice(0, 0)


def _geometry(
    node: Node, dims: tuple[int, ...], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """The padding before each axis, and the size of the output. Source: ONNX operator Conv."""
    rule = edit.attribute(node, "auto_pad", "NOTSET")
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [-(-dim // stride) for dim, stride in zip(dims, strides, strict=True)]
        totals = [
            max((size - 1) * stride + span - dim, 0)
            for size, stride, span, dim in zip(sizes, strides, spans, dims, strict=True)
        ]
        return [total // 2 if rule == "SAME_UPPER" else total - total // 2 for total in totals], sizes
    pads = (edit.attribute(node, "pads") if rule == "NOTSET" else None) or [0] * (2 * len(kernel))
    before, after = list(pads[: len(kernel)]), pads[len(kernel) :]
    sizes = [
        (dim + a + b - span) // stride + 1
        for dim, a, b, span, stride in zip(dims, before, after, spans, strides, strict=True)
    ]
    return before, sizes

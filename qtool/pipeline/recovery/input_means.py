"""Means of the inputs of layers: for each element of a weight, the mean of what it is multiplied with.

A convolution or Gemm is linear, so the mean of its output over samples and positions is its weight times these. One
pass over the examples serves every grid that the weights may get.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qtool.graph import edit
from qtool.graph.bodies import levels
from qtool.graph.edit import Array, Model, Node
from qtool.graph.layers import Layer
from qtool.pipeline.recovery.smoothing import divided_inputs

_LAYERS = ("Conv", "Gemm")


def biased_layers(model: Model) -> list[Layer]:
    """Return the layers with a constant weight whose bias can take up a shift of the mean, in graph order.

    Behind those of the main graph stand those of the bodies of If, Loop and Scan.
    """
    found = [Layer.of(n) for level in levels(model) for n in level.graph if edit.is_main_op(n, *_LAYERS)]
    return [layer for layer in found if layer and layer.bias is not None and edit.weight_like(layer.weight)]


def input_names(model: Model) -> dict[str, str]:
    """Return the name of the tensor whose means the bias correction of a layer needs, by the layer's name."""
    nodes = [layer.node for layer in biased_layers(model)]
    return {str(node.name): str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None}


def input_sums(layer: Layer, x: Array) -> tuple[Array, int]:
    """Return the sums of what a layer's weight is multiplied with, float64, and how many terms each has.

    A Conv's input [N, C, d1, d2, ...] gives sums [C, k1, k2, ...], a Gemm's gives [K].
    """
    if layer.is_product:
        # onnxruntime takes a vector as a matrix of one row
        x = np.atleast_2d(x)
        rows = 1 if layer.transposes_input else 0
        return x.sum(axis=rows, dtype=np.float64), x.shape[rows]
    node, kernel = layer.node, layer.kernel(edit.constant(layer.weight).shape)
    strides = edit.attribute(node, "strides") or [1] * len(kernel)
    dilations = edit.attribute(node, "dilations") or [1] * len(kernel)
    before, sizes = geometry(node, x.shape[2:], kernel, strides, dilations)
    reads = [
        [_read(position * dilation - pad, stride, size, limit) for position in range(length)]
        for length, dilation, pad, stride, size, limit in zip(
            kernel, dilations, before, strides, sizes, x.shape[2:], strict=True
        )
    ]
    return _window_sums(x, reads), x.shape[0] * math.prod(sizes)


def _window_sums(x: Array, reads: Sequence[Sequence[slice]]) -> Array:
    """Of [N, C, d1, d2, ...], the sums of what each place of a window reads along each axis: [C, k1, k2, ...].

    Axis by axis, so that all of the numbers are read k1 times only.
    """
    if not reads:
        found: Array = x.sum(axis=0, dtype=np.float64)
        return found
    parts = [x[:, :, read].sum(axis=(0, 2), dtype=np.float64) for read in reads[0]]
    return np.stack([_window_sums(part[None], reads[1:]) for part in parts], axis=1)


def mean_shift(layer: Layer, change: Array, means: Array) -> Array:
    """Return how far the mean of each output channel moves ([M], float64) when `change` is added to the weight."""
    if layer.is_product:
        shift: Array = layer.matrix(change).T.astype(np.float64) @ means * layer.alpha
        return shift
    rows = layer.output_channels(change)
    parts = rows.reshape(*rows.shape[:2], -1).astype(np.float64)
    sums: Array = (parts @ means.reshape(len(parts), -1, 1)).reshape(-1)
    return sums


def smoothed_means(
    model: Model, means: Mapping[str, Array], scales: Mapping[str, tuple[float, ...]]
) -> dict[str, Array]:
    """Return the means in the graph whose tensors are divided by `scales` ([C] each); `model` is the graph before."""
    divided = divided_inputs(model)
    return {
        layer: found / np.asarray(scales[divided[layer]]) if divided.get(layer) in scales else found
        for layer, found in means.items()
    }


def _read(start: int, stride: int, size: int, limit: int) -> slice:
    """Those of start, start + stride, ... (`size` of them) that lie in [0, limit)."""
    first = max(0, -(start // stride))
    last = min(size, (limit - 1 - start) // stride + 1)
    return slice(start + first * stride, start + (last - 1) * stride + 1, stride) if last > first else slice(0, 0)


def geometry(
    node: Node, dims: tuple[int, ...], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Return the padding before each axis of a Conv's input, and the size of its output. Source: ONNX operator Conv."""
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

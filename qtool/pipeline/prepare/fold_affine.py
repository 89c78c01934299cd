"""BatchNormalization, Mul, Div, Add and Sub with one constant per output channel go into the Conv or Gemm before them.

The integer bias holds the shift, and the per-channel weight scale takes up the factor (the paper, section 3.2).
Declines where the layer's output is read elsewhere, a constant varies along another axis, or training outputs are used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True, slots=True)
class _Affine:
    """y = factor * x + shift, one element per output channel (float64, [M])."""

    factor: Array
    shift: Array


def apply(model: Model) -> int:
    """Returns how many nodes were folded."""
    names = edit.Names(model.graph)
    count = 0
    for layer in list(model.graph):
        if not edit.is_main_op(layer, *_LAYERS) or not _constant_layer(layer):
            continue
        while (follower := edit.single_consumer(layer.outputs[0])) is not None:
            affine = _affine_of(follower, layer)
            if affine is None:
                break
            _fold(model, layer, affine, names)
            edit.replace_uses(follower.outputs[0], layer.outputs[0])
            edit.remove_node(follower)
            count += 1
    return count


def _constant_layer(layer: Node) -> bool:
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if not edit.weight_like(layer.inputs[1]) or not (bias is None or edit.weight_like(bias)):
        return False
    if layer.op_type != "Gemm":
        return True
    return float(edit.attribute(layer, "beta", 1.0)) == 1.0 and (bias is None or edit.constant(bias).ndim <= 1)


def _channels(layer: Node) -> int:
    shape = edit.constant(layer.inputs[1]).shape
    if layer.op_type == "Conv":
        return int(shape[0])
    if layer.op_type == "ConvTranspose":
        return int(shape[1]) * int(edit.attribute(layer, "group", 1))
    return int(shape[0 if edit.attribute(layer, "transB", 0) else 1])


def _affine_of(node: Node, layer: Node) -> _Affine | None:
    m = _channels(layer)
    if edit.is_main_op(node, "BatchNormalization"):
        return _batch_norm(node, m)
    if not edit.is_main_op(node, "Mul", "Div", "Add", "Sub"):
        return None
    position = 0 if node.inputs[0] is layer.outputs[0] else 1
    other = edit.constant_or_none(node.inputs[1 - position])
    if other is None or other.dtype != np.float32 or (position == 1 and node.op_type in ("Div", "Sub")):
        return None
    layer_rank = edit.rank(layer.outputs[0])
    vector = _per_channel(other, m, edit.constant(layer.inputs[1]).ndim if layer.op_type != "Gemm" else layer_rank or 2)
    if vector is None:
        return None
    return _ARITHMETIC[node.op_type](vector) if node.op_type != "Div" or vector.all() else None


_ARITHMETIC: dict[str, Callable[[Array], _Affine]] = {
    "Mul": lambda v: _Affine(v, np.zeros_like(v)),
    "Div": lambda v: _Affine(1.0 / v, np.zeros_like(v)),
    "Add": lambda v: _Affine(np.ones_like(v), v),
    "Sub": lambda v: _Affine(np.ones_like(v), -v),
}


def _batch_norm(node: Node, m: int) -> _Affine | None:
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]) or edit.attribute(node, "training_mode", 0):
        return None
    parameters = [edit.constant_or_none(v) for v in node.inputs[1:5]]
    if any(p is None or p.size != m for p in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    factor = gamma / np.sqrt(variance + float(edit.attribute(node, "epsilon", 1e-5)))
    return _Affine(factor, beta - mean * factor) if np.isfinite(factor).all() else None


def _per_channel(constant: Array, m: int, layer_rank: int) -> Array | None:
    """The constant as [M] where it broadcasts along the channel axis alone; None where it varies elsewhere."""
    if constant.size == 1 and constant.ndim <= layer_rank:
        return np.full(m, float(constant.reshape(())[()]))
    shape = (1,) * (layer_rank - constant.ndim) + constant.shape
    if len(shape) != layer_rank or constant.size != m or shape[1] != m:
        return None
    return constant.reshape(-1).astype(np.float64)


def _fold(model: Model, layer: Node, affine: _Affine, names: edit.Names) -> None:
    weight = edit.constant(layer.inputs[1]).astype(np.float64)
    bias_value = layer.inputs[2] if len(layer.inputs) > 2 else None
    bias = np.zeros(affine.shift.size) if bias_value is None else edit.constant(bias_value).astype(np.float64)
    if layer.op_type == "Conv":
        weight = weight * affine.factor.reshape(-1, *[1] * (weight.ndim - 1))
    elif layer.op_type == "ConvTranspose":
        groups = int(edit.attribute(layer, "group", 1))
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        factor = affine.factor.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        weight = (split * factor).reshape(weight.shape)
    else:
        weight = weight * (affine.factor[:, None] if edit.attribute(layer, "transB", 0) else affine.factor[None, :])
    base = layer.inputs[1].name if layer.inputs[1] is not None else layer.name
    new_weight = edit.add_initializer(model.graph, names.fresh(f"{base}_folded"), weight.astype(np.float32))
    shift = np.broadcast_to(bias, affine.shift.shape) * affine.factor + affine.shift
    new_bias = edit.add_initializer(model.graph, names.fresh(f"{layer.name}_bias"), shift.astype(np.float32))
    layer.replace_input_with(1, new_weight)
    if len(layer.inputs) < 3:
        layer.resize_inputs(3)
    layer.replace_input_with(2, new_bias)

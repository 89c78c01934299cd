"""BatchNormalization, Mul, Div, Add and Sub with one constant per output channel go into the Conv or Gemm before them.

The integer bias holds the shift, and the per-channel weight scale takes up the factor (the paper, section 3.2). A
positive factor goes past a Relu or LeakyRelu, which keep it. Declines where the layer's output is read elsewhere, a
constant varies along another axis, training outputs are used, or the folded numbers are not finite in float32 (a
negative variance; factors that only together fit).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qtool.graph import compose, edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer, per_channel

_Folded = dict[tuple[Value, bytes, int | None, int], Value]
"""What a weight becomes with the same factors: layers that share it go on sharing it."""


@dataclass(frozen=True, slots=True)
class _Affine:
    """y = factor * x + shift, one element per output channel (float64, [M])."""

    factor: Array
    shift: Array

    @property
    def only_scales(self) -> bool:
        """Whether it multiplies with positive numbers alone."""
        return bool((self.factor > 0.0).all() and not self.shift.any())


def apply(model: Model) -> int:
    """Fold affine nodes into the layers in front of them, in place; return how many nodes were folded."""
    names = edit.Names(model.graph)
    folded: _Folded = {}
    count = 0
    for node in list(model.graph):
        layer = Layer.of(node)
        if layer is None or not _foldable(layer):
            continue
        last = node
        while (follower := edit.single_consumer(last.outputs[0])) is not None:
            if last is node and edit.is_main_op(follower, "Relu", "LeakyRelu"):
                last = follower
                continue
            affine = _affine_of(follower, last.outputs[0], layer)
            if (
                affine is None
                or (last is not node and not affine.only_scales)
                or not _fold(model, layer, affine, names, folded)
            ):
                break
            edit.replace_uses(follower.outputs[0], last.outputs[0])
            edit.take_origins(node, follower)
            edit.remove_node(follower)
            count += 1
    return count


def fold_scalar(model: Model, layer: Layer, factor: float, shift: float, names: edit.Names) -> bool:
    """Let a layer make `factor` times what it made, plus `shift`, in place; return whether it could be folded.

    Nothing is changed where the layer takes no such bias, or the folded numbers are not finite.
    """
    if not _foldable(layer):
        return False
    m = layer.output_size(edit.constant(layer.weight).shape)
    return _fold(model, layer, _Affine(np.full(m, factor), np.full(m, shift)), names, {})


def _foldable(layer: Layer) -> bool:
    """Whether it has a constant weight, and takes a constant bias of one number an output channel."""
    if layer.operator.bias is None or layer.beta != 1.0 or not edit.weight_like(layer.weight):
        return False
    shape = edit.constant(layer.weight).shape
    if not layer.fits(shape):
        return False
    if layer.bias is None:
        return True
    bias = edit.constant(layer.bias) if edit.weight_like(layer.bias) else None
    return bias is not None and bias.ndim <= 1 and bias.size in (1, layer.output_size(shape))


def _affine_of(node: Node, x: Value, layer: Layer) -> _Affine | None:
    weight = edit.constant(layer.weight)
    m = layer.output_size(weight.shape)
    if edit.is_main_op(node, "BatchNormalization"):
        return _batch_norm(node, m)
    if not edit.is_main_op(node, "Mul", "Div", "Add", "Sub"):
        return None
    position = 0 if node.inputs[0] is x else 1
    other = edit.constant_or_none(node.inputs[1 - position])
    if other is None or other.dtype != np.float32 or (position == 1 and node.op_type in ("Div", "Sub")):
        return None
    vector = _channel_vector(other, m, weight.ndim)
    if vector is None:
        return None
    with np.errstate(all="ignore"):
        return _ARITHMETIC[node.op_type](vector)


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
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + float(edit.attribute(node, "epsilon", 1e-5)))
        return _Affine(factor, beta - mean * factor)


def _channel_vector(constant: Array, m: int, layer_rank: int) -> Array | None:
    """The constant as [M] where it broadcasts along the channel axis alone; None where it varies elsewhere."""
    if constant.size == 1 and constant.ndim <= layer_rank:
        return np.full(m, float(constant.reshape(())[()]))
    shape = (1,) * (layer_rank - constant.ndim) + constant.shape
    if len(shape) != layer_rank or constant.size != m or shape[1] != m:
        return None
    return constant.reshape(-1).astype(np.float64)


def _fold(model: Model, layer: Layer, affine: _Affine, names: edit.Names, known: _Folded) -> bool:
    """Returns False, and changes nothing, where the folded numbers are not finite. `known` is added to."""
    weight = edit.constant(layer.weight).astype(np.float64, order="C")
    channels = layer.output_channels(weight)
    bias = np.zeros(affine.shift.size) if layer.bias is None else edit.constant(layer.bias).astype(np.float64)
    with np.errstate(all="ignore"):
        channels *= per_channel(affine.factor, channels)
        folded = weight.astype(np.float32)
        shift = (np.broadcast_to(bias, affine.shift.shape) * affine.factor + affine.shift).astype(np.float32)
    if not (np.isfinite(folded).all() and np.isfinite(shift).all()):
        return False
    old = layer.weight
    assert old is not None
    key = (old, affine.factor.tobytes(), layer.output_axis, layer.groups)
    if key not in known:
        shared = len(old.uses()) > 1 or any(weight is old for weight, *_ in known)
        known[key] = edit.add_initializer(model.graph, names.fresh(f"{old.name}_folded"), folded)
        if shared and (layer.groups == 1 or layer.output_axis == 0):
            shape = [-1 if axis == layer.output_axis else 1 for axis in range(folded.ndim)]
            edit.remember(known[key], compose.product_origin(old, affine.factor.astype(np.float32).reshape(shape)))
    new_weight = known[key]
    new_bias = edit.add_initializer(model.graph, names.fresh(f"{layer.node.name}_bias"), shift)
    assert layer.operator.bias is not None
    edit.set_input(layer.node, layer.operator.weights[0], new_weight)
    edit.set_input(layer.node, layer.operator.bias, new_bias)
    return True

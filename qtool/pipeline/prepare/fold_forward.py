"""Mul, Div, Add and Sub with a constant go into the layers that read the result, whose weights and biases take them up.

Between integer layers each would be an 8-bit operator of its own: the learned scale and shift behind the activations of
PP-LCNet and PP-HGNet, the standardisation of pictures. A factor in front of a shift that has to stay, for a padded
convolution would see another border without it, goes past the shift, which is divided by it.

Declines where anything but a layer with a weight of its own reads the result, a graph output is that, the constant
varies along another axis than the channels, factors differ by more than 2 (the layer's input would be quantised less
evenly), numbers are not finite, and behind what onnxruntime may fuse as it is written (a normalisation, GELU).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer, per_channel

_MOST_APART = 2.0
_STARTS = (
    "Add", "AveragePool", "BatchNormalization", "Cast", "Celu", "Clip", "Concat", "Conv", "ConvTranspose", "Elu",
    "Flatten", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool",
    "Mish", "PRelu", "Relu", "Reshape", "Resize", "Selu", "Sigmoid", "Softplus", "Squeeze", "Tanh", "Transpose",
)  # fmt: skip
_GATES = ("Sigmoid", "HardSigmoid", "HardSwish")


@dataclass(frozen=True, slots=True)
class _Step:
    """A node that makes factor * x + shift of x; both as the node's constant lies, in float64."""

    node: Node
    x: Value
    factor: Array
    shift: Array

    @property
    def scales(self) -> bool:
        """Whether it multiplies, and adds nothing."""
        return not self.shift.any()

    @property
    def shifts(self) -> bool:
        """Whether it adds, and multiplies with nothing."""
        return bool((self.factor == 1.0).all())


def apply(model: Model) -> int:
    """Fold constant factors and shifts into the layers behind them, in place; return how many nodes were folded."""
    names = edit.Names(model.graph)
    count = 0
    for node in reversed(list(model.graph)):
        affine = _affine_of(node)
        if affine is None or node.outputs[0].is_graph_output() or not _even(affine.factor) or not _may_start(affine.x):
            continue
        behind = _shift_behind(affine)
        layers = _layers(model, node.outputs[0] if behind is None else behind.node.outputs[0])
        divided = None if behind is None else _divided(behind, affine.factor)
        if layers is None or (behind is not None and divided is None) or not _fold(model, affine, layers, names):
            continue
        if behind is not None and divided is not None:
            index = 1 - list(behind.node.inputs).index(behind.x)
            name = names.fresh(f"{behind.node.name}_divided")
            behind.node.replace_input_with(index, edit.add_initializer(model.graph, name, divided))
        edit.replace_uses(node.outputs[0], affine.x)
        for layer in layers:
            edit.take_origins(layer.node, node)
        edit.remove_node(node)
        count += 1
    return count


_ARITHMETIC: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "Mul": lambda c: (c, np.zeros_like(c)),
    "Div": lambda c: (1.0 / c, np.zeros_like(c)),
    "Add": lambda c: (np.ones_like(c), c),
    "Sub": lambda c: (np.ones_like(c), -c),
}


def _affine_of(node: Node) -> _Step | None:
    if not edit.is_main_op(node, *_ARITHMETIC):
        return None
    for position in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
        constant, x = node.inputs[position], node.inputs[1 - position]
        if x is None or constant is None or not edit.weight_like(constant) or edit.constant_or_none(x) is not None:
            continue
        array = edit.constant(constant)
        if edit.is_float32(x) and array.size and edit.keeps_shape(array, x):
            with np.errstate(all="ignore"):
                return _Step(node, x, *_ARITHMETIC[node.op_type](array.astype(np.float64)))
    return None


def _may_start(x: Value) -> bool:
    """Whether no fusion of onnxruntime's ends in what is done with x: it is an input, an activation or the like."""
    maker = x.producer()
    while maker is not None and (before := _affine_of(maker)) is not None:
        maker = before.x.producer()
    if maker is None:
        return True
    if edit.is_main_op(maker, "Mul"):
        makers = [None if v is None else v.producer() for v in maker.inputs]
        return any(m is not None and edit.is_main_op(m, *_GATES) for m in makers)
    return edit.is_main_op(maker, *_STARTS)


def _shift_behind(affine: _Step) -> _Step | None:
    """The shift that alone reads a product."""
    reader = edit.single_consumer(affine.node.outputs[0]) if affine.scales else None
    behind = None if reader is None or reader.outputs[0].is_graph_output() else _affine_of(reader)
    return behind if behind is not None and behind.shifts else None


def _layers(model: Model, value: Value) -> list[Layer] | None:
    """The layers that read a value; None where something else does, or a weight is not theirs alone."""
    readers = edit.consumers(value)
    layers = [layer for node in readers if (layer := Layer.of(node)) is not None and _reads(model, layer, value)]
    if not layers or len(layers) < len(readers):
        return None
    own = {layer.node for layer in layers}
    weights = [weight for layer in layers if (weight := layer.weight) is not None]
    return layers if all(node in own for weight in weights for node, _ in weight.uses()) else None


def _reads(model: Model, layer: Layer, value: Value) -> bool:
    """Whether a layer of the main graph multiplies a value with a constant weight."""
    node = layer.node
    if not layer.is_linear or node.graph is not model.graph or not edit.weight_like(layer.weight):
        return False
    shape = edit.constant(layer.weight).shape
    plain = layer.fits(shape) and 0 not in shape and layer.alpha == layer.beta == 1.0 and not layer.transposes_input
    return plain and node.inputs[0] is value and list(node.inputs).count(value) == 1


def _fold(model: Model, affine: _Step, layers: Sequence[Layer], names: edit.Names) -> bool:
    """Returns False, and changes nothing, where a layer cannot take the node up."""
    weights: dict[Value, Array] = {}
    biases: list[Array | None] = []
    for layer in layers:
        factor, shift = (_of_channels(layer, affine.x, array) for array in (affine.factor, affine.shift))
        if factor is None or shift is None or (shift.any() and not _takes_shift(layer)):
            return False
        assert layer.weight is not None
        weight = edit.constant(layer.weight).astype(np.float64, order="C")
        channels = layer.input_channels(weight)
        biases.append(_shifted(layer, weight, shift) if shift.any() else None)
        with np.errstate(all="ignore"):
            channels *= per_channel(factor, channels)
            weights[layer.weight] = weight.astype(np.float32)
    if not all(np.isfinite(a).all() for a in (*weights.values(), *biases) if a is not None):
        return False
    if not affine.shifts:
        scaled = {
            old: edit.add_initializer(model.graph, names.fresh(f"{old.name}_scaled"), new)
            for old, new in weights.items()
        }
        for layer in layers:
            assert layer.weight is not None
            edit.set_input(layer.node, layer.operator.weights[0], scaled[layer.weight])
    for layer, bias in zip(layers, biases, strict=True):
        if bias is not None:
            assert layer.operator.bias is not None
            new_bias = edit.add_initializer(model.graph, names.fresh(f"{layer.node.name}_bias"), bias)
            edit.set_input(layer.node, layer.operator.bias, new_bias)
    return True


def _of_channels(layer: Layer, x: Value, array: Array) -> Array | None:
    """A constant as one number an input channel; None where it varies along another axis, or too much."""
    weight = edit.constant(layer.weight)
    channels, n = layer.input_size(weight.shape), edit.rank(x)
    axis = 1 if layer.operator.kind != "matrix product" or n is None else n - 1
    shape = (1,) * ((n or 0) - array.ndim) + array.shape
    if array.size == 1:
        return np.full(channels, float(array.reshape(())[()]))
    return array.reshape(-1) if array.size == channels and shape[axis : axis + 1] == (channels,) else None


def _takes_shift(layer: Layer) -> bool:
    """Whether what is added to all that a layer reads adds the same to all of an output channel."""
    if layer.operator.bias is None or layer.operator.kind == "transposed convolution":
        return False
    shape = edit.constant(layer.weight).shape
    if any(edit.attribute(layer.node, "pads", None) or ()) or edit.attribute(layer.node, "auto_pad", "NOTSET") not in (
        "NOTSET", "VALID",
    ):  # fmt: skip
        return False
    return layer.bias is None or (
        edit.weight_like(layer.bias) and edit.constant(layer.bias).shape == (layer.output_size(shape),)
    )


def _shifted(layer: Layer, weight: Array, shift: Array) -> Array:
    channels = layer.input_channels(weight)
    moved = (channels * per_channel(shift, channels)).sum(axis=(1, *range(3, channels.ndim))).reshape(-1)
    bias = 0.0 if layer.bias is None else edit.constant(layer.bias).astype(np.float64)
    return np.asarray(moved + bias).astype(np.float32)


def _even(factor: Array) -> bool:
    sizes = np.abs(factor)
    return bool(np.isfinite(sizes).all() and sizes.min() > 0.0 and sizes.max() <= _MOST_APART * sizes.min())


def _divided(behind: _Step, factor: Array) -> Array | None:
    """The constant of a shift that a factor has gone past; None where it is not finite."""
    with np.errstate(all="ignore"):
        shift = (behind.shift / factor).astype(np.float32)
    return None if not np.isfinite(shift).all() else -shift if behind.node.op_type == "Sub" else shift

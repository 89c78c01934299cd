"""SmoothQuant: outliers of an activation's channels are divided out of it and multiplied into the weight.

Source: Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
equation 4: s_c = max|X_c|^a / max|W_c|^(1-a). The migration strength a is chosen for each tensor by what rounding both
sides is expected to cost, in closed form: uniform noise of step^2 / 12 through a linear layer. Scales are powers of
two, so that both sides stay exact in float. A layer normalisation that feeds nothing else takes the division over;
elsewhere it is a Div of its own, which stands only where the expected noise falls to less than `_WORTH` of what it was.
Div has no integer kernel: in a Mul the factors would share one 8-bit grid, and the small ones would be lost.

A weight that several layers read stays one weight: their inputs are divided by the same numbers, and where that cannot
be they are left alone; so is a weight that holds what a table holds, since their integers are in the file once. A
channel that is zero throughout, or that no weight reads, is not divided.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.histogram import ChannelRange
from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer, is_linear
from qtool.targets.conditions import is_tied

_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_WORTH = 0.7
_TINY = 1e-5
_FURTHEST = 10.0
"""The logarithm to base 2 of the largest factor: what hardly moved on the data may move on other data."""
_BLOCK = 2**17
"""Elements of a weight that are worked on at once."""


def smoothable_tensors(model: Model) -> list[str]:
    """Return the inputs [..., C] of rank 3 or more of layers with a constant weight [C, N], by name, in graph order."""
    return list(_readers(model))


def token_layers(model: Model) -> tuple[str, ...]:
    """Return the names of the layers that read `smoothable_tensors`, in graph order."""
    wanted = {layer.node.name for readers in _readers(model).values() for layer in readers}
    return tuple(str(node.name) for node in model.graph if node.name in wanted)


def check_channels(model: Model, channels: Mapping[str, ChannelRange]) -> None:
    """Refuse ranges of another number of channels than a smoothable tensor has. Raises `ValueError`."""
    for tensor, readers in _readers(model).items():
        if tensor in channels and channels[tensor].minimum.shape != (_rows(readers[0]).shape[0],):
            raise ValueError(f"tensor {tensor!r} has another number of channels")


def find_smoothing(
    model: Model, channels: Mapping[str, ChannelRange], squares: Mapping[str, Array], layers: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """Find what the channels of tensors are to be divided by (powers of two, [C]); what gains nothing is left out.

    Args:
        channels: the least and the greatest value of each channel of `smoothable_tensors`.
        squares: the mean square of each channel, [C].
        layers: the nodes that will be integer; a tensor that others of its layers read as float is left alone.
    """
    names = set(layers)
    readers = {
        tensor: found
        for tensor, found in _readers(model).items()
        if tensor in channels and all(layer.node.name in names and not is_tied(layer, model.graph) for layer in found)
    }
    groups = _sharing(readers, names)

    def best(group: Sequence[str]) -> tuple[float, ...] | None:
        noises = []
        for tensor in group:
            found, reading = channels[tensor], readers[tensor]
            weight = np.concatenate([_rows(layer) for layer in reading], axis=1)
            low, high = found.minimum.astype(np.float64), found.maximum.astype(np.float64)
            noises.append(_RoundingNoise(low, high, squares[tensor], weight))
        largest = np.max([noise.largest for noise in noises], axis=0)
        magnitude = np.max([noise.magnitude.max(axis=1) for noise in noises], axis=0)
        scales = [_scales(largest, magnitude, strength) for strength in _STRENGTHS]
        tried = np.stack([np.ones(len(largest)), *scales])
        expected = np.sum([noise.expected(tried) for noise in noises], axis=0)
        chosen = int(np.argmin(expected[1:])) + 1
        free = all(_normalisation(readers[tensor]) is not None for tensor in group)
        worth = expected[chosen] < (1.0 if free else _WORTH) * expected[0]
        return tuple(map(float, scales[chosen - 1])) if worth else None

    found = dict(zip(groups, side_by_side(best, groups), strict=True))
    scale_of = {tensor: scale for group, scale in found.items() if scale is not None for tensor in group}
    return {tensor: scale_of[tensor] for tensor in readers if tensor in scale_of}


def smooth(model: Model, scales: Mapping[str, Sequence[float]]) -> Model:
    """Return a copy of the prepared graph with the channels divided; it computes the same.

    Raises:
        ValueError: the scales do not fit the graph.
    """
    result = edit.clone(model)
    names = edit.Names(result.graph)
    readers = _readers(result)
    scaled: dict[tuple[Value | None, bool, tuple[float, ...]], Value] = {}
    for tensor, numbers in scales.items():
        scale = np.asarray(numbers, np.float32)
        if tensor not in readers or scale.shape != (_rows(readers[tensor][0]).shape[0],):
            raise ValueError(f"it smooths tensor {tensor!r}, which this model does not hold like that")
        for layer in readers[tensor]:
            key = (layer.weight, _input_first(layer), tuple(numbers))
            if key not in scaled:
                rows = layer.matrix(_rows(layer) * scale[:, None])
                scaled[key] = edit.add_initializer(
                    result.graph, names.fresh(f"{layer.node.name}_smoothed_weight"), rows
                )
            layer.node.replace_input_with(layer.operator.weights[0], scaled[key])
        _divide(result, readers[tensor], scale, names)
    return result


def smoothed_ranges(
    model: Model, scales: Mapping[str, Sequence[float]], channels: Mapping[str, ChannelRange]
) -> dict[str, tuple[float, float]]:
    """Return the exact range of each divided tensor, by its name in the smoothed graph; `model` is the graph before."""
    result = {}
    for tensor, name in divided_names(model).items():
        if tensor in scales:
            scale, found = np.asarray(scales[tensor], np.float64), channels[tensor]
            result[name] = float((found.minimum / scale).min()), float((found.maximum / scale).max())
    return result


def divided_names(model: Model) -> dict[str, str]:
    """Return the name that each of `smoothable_tensors` has once it is divided; `model` is the graph before."""
    return {
        tensor: smoothed_name(tensor) if _normalisation(readers) is None else tensor
        for tensor, readers in _readers(model).items()
    }


def smoothed_name(tensor: str) -> str:
    """Return the name of a divided tensor where a Div divides it."""
    return f"{tensor}_smoothed"


def divided_inputs(model: Model) -> dict[str, str]:
    """Return which of `smoothable_tensors` each layer reads that would read it divided, by the layer's name."""
    return {str(layer.node.name): tensor for tensor, readers in _readers(model).items() for layer in readers}


class _RoundingNoise:
    """What rounding is expected to add to a linear layer's outputs, summed over them; `weight` is [C, N]."""

    def __init__(self, low: Array, high: Array, squares: Array, weight: Array) -> None:
        self.low, self.high, self.squares = np.minimum(low, 0.0), np.maximum(high, 0.0), squares
        self.largest = np.maximum(-self.low, self.high)
        self.magnitude = np.abs(weight)
        self.power = np.einsum("ij,ij->i", weight, weight, dtype=np.float64)

    def expected(self, scales: Array) -> Array:
        """In squared units of the output, times 12: [k], for scales [k, C] that are powers of two."""
        step = ((self.high / scales).max(axis=1) - (self.low / scales).min(axis=1)) / 255.0
        steps_w = self._largest(scales).astype(np.float64) / 127.0
        rounding_w: Array = (steps_w**2).sum(axis=1) * (self.squares / scales**2).sum(axis=1)
        total: Array = step**2 * (scales**2 @ self.power) + rounding_w
        return total

    def _largest(self, scales: Array) -> Array:
        """max|w| of each output after the scaling, [k, N]; in parts that stay in a cache."""
        factors = scales.astype(self.magnitude.dtype)[:, :, None]
        result = np.zeros((len(scales), self.magnitude.shape[1]), self.magnitude.dtype)
        rows = max(_BLOCK // self.magnitude.shape[1], 1)
        for start in range(0, len(self.magnitude), rows):
            part = self.magnitude[start : start + rows]
            for factor, largest in zip(factors[:, start : start + rows], result, strict=True):
                np.maximum(largest, (part * factor).max(axis=0), out=largest)
        return result


def _scales(activation: Array, weight: Array, strength: float) -> Array:
    a = np.maximum(activation, _TINY * max(float(activation.max(initial=0.0)), _TINY))
    w = np.maximum(weight, _TINY * max(float(weight.max(initial=0.0)), _TINY))
    exponent = strength * np.log2(a) - (1.0 - strength) * np.log2(w)
    live = (activation > 0.0) & (weight > 0.0)
    middle = np.median(exponent[live]) if live.any() else 0.0
    scales: Array = np.exp2(np.where(live, np.clip(np.rint(exponent - middle), -_FURTHEST, _FURTHEST), 0.0))
    return scales


def _sharing(readers: Mapping[str, Sequence[Layer]], names: set[str]) -> list[tuple[str, ...]]:
    """The tensors in groups whose layers share weights; without those whose weights other integer layers read as well.

    `names`: of the integer layers; what others read is kept in float for them anyhow.
    """
    group_of = {tensor: index for index, tensor in enumerate(readers)}
    users: dict[Value | None, list[tuple[str, Layer]]] = {}
    for tensor, found in readers.items():
        for layer in found:
            users.setdefault(layer.weight, []).append((tensor, layer))
    refused: set[str] = set()
    for weight, pairs in users.items():
        joined = {group_of[tensor] for tensor, _ in pairs}
        group_of = {tensor: min(joined) if group in joined else group for tensor, group in group_of.items()}
        here = {layer.node for _, layer in pairs}
        users_of = [] if weight is None else edit.consumers(weight)
        others = any(node.name in names and node not in here and is_linear(node) for node in users_of)
        if others or len({_input_first(layer) for _, layer in pairs}) > 1:
            refused.update(tensor for tensor, _ in pairs)
    ordered = sorted(readers, key=lambda tensor: group_of[tensor])
    groups = [tuple(group) for _, group in groupby(ordered, key=lambda tensor: group_of[tensor])]
    return [group for group in groups if not refused.intersection(group)]


def _input_first(layer: Layer) -> bool:
    """Whether the weight is stored as [C, N]."""
    return layer.output_axis == 1


def _readers(model: Model) -> dict[str, list[Layer]]:
    result: dict[str, list[Layer]] = {}
    for node in model.graph:
        layer = _product(node)
        x = None if layer is None else node.inputs[0]
        if layer is None or x is None or x.is_initializer() or not edit.is_float32(x):
            continue
        if edit.constant(layer.weight).ndim == 2 and (edit.rank(x) or 3) > 2 and not layer.transposes_input:
            result.setdefault(str(x.name), []).append(layer)
    return result


def _product(node: Node) -> Layer | None:
    """The node as a product with a constant matrix, if it is one."""
    layer = Layer.of(node)
    return layer if layer is not None and layer.is_product and edit.weight_like(layer.weight) else None


def _rows(layer: Layer) -> Array:
    """The weight, [C, N]."""
    return layer.matrix(edit.constant(layer.weight))


def _divide(model: Model, readers: Sequence[Layer], scale: Array, names: edit.Names) -> None:
    value = readers[0].node.inputs[0]
    assert value is not None
    takers = _normalisation(readers)
    if takers is not None:
        for node, index in takers:
            old = edit.constant(node.inputs[index])
            new = edit.add_initializer(model.graph, names.fresh(f"{node.name}_smoothed_{index}"), old / scale)
            node.replace_input_with(index, new)
        return
    factor = edit.add_initializer(model.graph, names.fresh(f"{value.name}_smoothing"), scale)
    name = smoothed_name(str(value.name))
    divided = edit.new_node("Div", [value, factor], name, name=names.fresh(f"{value.name}_smoothing_node"))
    divided.outputs[0].type, divided.outputs[0].shape = value.type, value.shape
    model.graph.insert_before(readers[0].node, divided)
    for layer in readers:
        layer.node.replace_input_with(0, divided.outputs[0])


def _normalisation(readers: Sequence[Layer]) -> list[tuple[Node, int]] | None:
    """(node, input) of scale and shift of a layer normalisation whose result only these layers read, or None."""
    value = readers[0].node.inputs[0]
    node = None if value is None else value.producer()
    if value is None or node is None or value.is_graph_output():
        return None
    own = {layer.node for layer in readers}
    if not all(i == 0 and reader in own for reader, i in value.uses()):
        return None
    if edit.is_main_op(node, "LayerNormalization"):
        taken = [(node, i) for i in (1, 2) if len(node.inputs) > i and node.inputs[i] is not None]
        return taken if all(edit.weight_like(n.inputs[i]) for n, i in taken) else None
    return _written_out(node)


def _written_out(add: Node) -> list[tuple[Node, int]] | None:
    """The same of Add(Mul(x, scale), shift), as exporters before opset 17 end it; vectors both."""
    shift = _vector_input(add, "Add")
    scaled = None if shift is None else add.inputs[1 - shift]
    product = None if scaled is None or edit.single_consumer(scaled) is not add else scaled.producer()
    factor = None if product is None else _vector_input(product, "Mul")
    if shift is None or product is None or factor is None:
        return None
    return [(product, factor), (add, shift)]


def _vector_input(node: Node, op: str) -> int | None:
    if not edit.is_main_op(node, op):
        return None
    for index in (0, 1):
        if edit.weight_like(node.inputs[index]) and edit.constant(node.inputs[index]).ndim == 1:
            return index
    return None

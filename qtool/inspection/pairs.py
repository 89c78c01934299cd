"""The pairs of tensors of a float model and an int8 model of any maker: by name, else by the order of the layers."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtool.anatomy import grids
from qtool.anatomy.integers import INTEGER_OPERATORS, NBITS
from qtool.anatomy.opened import element_type
from qtool.anatomy.planned import is_layer
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.graph.quantizers import is_quantizing

_FLOATS = frozenset({"float", "float16", "double", "bfloat16"})
# what makers call the 8-bit form of a tensor
_STORED = ("{}_quantized", "{}_QuantizeLinear_Output", "{}_quant")
_FEW = 0.5
"""Where fewer of the layers have the names of float's, they are paired by their order."""
_SUMS = ("MatMulInteger", "ConvInteger")
"""They make int32."""
_HELD = ("Relu", "Clip", "BatchNormalization")


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of the float model, and where the int8 model has it.

    tensor: its name. op: the operator that makes it. found: the value of the int8 model that is compared: behind its
    own Q/DQ where it has these. names: what it is called in the int8 model, in 8 bits too.
    """

    tensor: str
    op: str
    found: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs, in the order of the float model, and the int8 model in which each stored tensor is float once too.

    by_order: whether they are paired by the order of the layers, since names say nothing.
    """

    pairs: tuple[Pair, ...]
    model: Model
    by_order: bool


def pair_tensors(floating: Model, quantized: Model) -> Pairs:
    """Return the pairs of tensors of two models; neither is changed."""
    model = edit.clone(quantized)
    _make_float(model)
    values = edit.named_values(model.graph)
    named = {}
    for node in floating.graph:
        for output in node.outputs:
            other = _by_name(str(output.name), values)
            if other is not None and _is_float(output) and not edit.has_subgraph(node):
                named[_last_absorbed(output, values)] = other
    layers = [node for node in floating.graph if is_layer(node)]
    met = sum(not named.keys().isdisjoint((edit.main_output(node), _held(node))) for node in layers)
    by_order = met < _FEW * len(layers)
    if by_order:
        named = _by_order(layers, [node for node in model.graph if is_layer(node)])
    pairs = []
    wider = {value for node in model.graph for value in _with_more_channels(node)}
    for output, other in named.items():
        if other in wider:
            continue
        maker = output.producer()
        source = other.producer()
        names = [other, source.inputs[0]] if source is not None and grids.is_dequantize(source) else [other]
        names += _with_more_channels(_behind_grid(other).producer())
        called = tuple(str(value.name) for value in names if value is not None)
        pairs.append(Pair(str(output.name), "" if maker is None else maker.op_type, _shown(other), called))
    return Pairs(tuple(pairs), model, by_order)


def _make_float(model: Model) -> None:
    """In place: a DQ and a Q that change nothing, behind each integer operator that makes 8-bit data."""
    names = edit.Names(model.graph)
    for node in list(model.graph):
        row = INTEGER_OPERATORS.get(node.op_type)
        if row is None or row.y_scale is None or row.y_zero is None or len(node.inputs) <= max(row.y_scale, row.y_zero):
            continue
        output, scale, zero = node.outputs[0], node.inputs[row.y_scale], node.inputs[row.y_zero]
        if scale is None or zero is None or output.is_graph_output() or not output.uses():
            continue
        readers = edit.consumers(output)
        if all(map(grids.is_dequantize, readers)):
            continue
        base = names.fresh(f"{output.name}/float")
        dequantize = edit.new_node("DequantizeLinear", [output, scale, zero], base, name=names.fresh(f"{base}/dq"))
        again = names.fresh(f"{output.name}/again")
        quantize = edit.new_node("QuantizeLinear", [dequantize.outputs[0], scale, zero], again, name=f"{again}/q")
        model.graph.insert_after(node, [dequantize, quantize])
        edit.replace_uses(output, quantize.outputs[0], only=readers)


def _with_more_channels(node: Node | None) -> list[Value]:
    """The values in front of a Slice on 8-bit data that are written with more channels, back to the layer itself.

    Bounds of the layer's lie between. They have the names of float's, and other shapes.
    """
    end = None if node is None or not edit.is_main_op(node, "Slice") else _behind_grid(node.inputs[0])
    if node is None or end is None or end is node.inputs[0]:
        return []
    found = [value for value in (node.inputs[0], end) if value is not None]
    maker = end.producer()
    if maker is not None and edit.is_main_op(maker, "Relu", "Clip") and maker.inputs[0] is not None:
        found.append(maker.inputs[0])
    maker = found[-1].producer()
    return found if maker is not None and edit.is_main_op(maker, "Conv") else []


def _behind_grid(value: Value | None) -> Value:
    """The value in front of the Q/DQ that make another one; else that itself."""
    assert value is not None
    dequantize = value.producer()
    stored = dequantize.inputs[0] if dequantize is not None and grids.is_dequantize(dequantize) else None
    quantize = None if stored is None else stored.producer()
    source = quantize.inputs[0] if quantize is not None and grids.is_quantize(quantize) else None
    return value if source is None else source


def _by_name(name: str, values: Mapping[str, Value]) -> Value | None:
    found = values.get(name)
    if found is not None and _is_float(found):
        return found
    for pattern in _STORED:
        stored = values.get(pattern.format(name))
        for reader in [] if stored is None else edit.consumers(stored):
            if grids.is_dequantize(reader):
                return reader.outputs[0]
    return None


def _last_absorbed(output: Value, values: Mapping[str, Value]) -> Value:
    """The output, or what is behind a bound or batch normalisation of float's that the int8 model has no more."""
    while True:
        reader = edit.single_consumer(output)
        if reader is None or not edit.is_main_op(reader, *_HELD) or _by_name(str(reader.outputs[0].name), values):
            return output
        output = reader.outputs[0]


def _is_float(value: Value) -> bool:
    """Whether a value is float, or may be: no type is inferred behind an operator of onnxruntime's own."""
    node = value.producer()
    if value.dtype is not None or node is None:
        return element_type(value) in _FLOATS
    row = INTEGER_OPERATORS.get(node.op_type)
    if row is not None:
        return row.y_scale is None and not edit.is_main_op(node, *_SUMS)
    return not is_quantizing(node.op_type) or grids.is_dequantize(node)


def _shown(value: Value) -> str:
    """The name of a value behind its own Q/DQ, where all that read it do so there."""
    readers = edit.consumers(value)
    if not readers or value.is_graph_output() or not all(grids.is_quantize(reader) for reader in readers):
        return str(value.name)
    behind = [after for after in edit.consumers(readers[0].outputs[0]) if grids.is_dequantize(after)]
    return str(behind[0].outputs[0].name) if behind else str(value.name)


def _held(node: Node) -> Value:
    """The value behind a layer and the batch normalisation and bounds that makers fold into it."""
    value = edit.main_output(node)
    while True:
        reader = edit.single_consumer(value)
        if reader is None or not edit.is_main_op(reader, *_HELD):
            return value
        value = reader.outputs[0]


def _by_order(layers: Sequence[Node], others: Sequence[Node]) -> dict[Value, Value]:
    ours, theirs = [_kind(node) for node in layers], [_kind(node) for node in others]
    found = {}
    for block in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        for step in range(block.size):
            one, other = layers[block.a + step], others[block.b + step]
            value, twin = _normalized(one), _normalized(other)
            if _is_float(twin) or twin.dtype is None:
                found[value] = twin
    return found


def _normalized(node: Node) -> Value:
    """The output of a layer, behind a batch normalisation, which one of two models may have folded."""
    return grids.behind_norm(node) or edit.main_output(node)


def _kind(node: Node) -> tuple[object, ...]:
    """What two forms of one layer have in common: the kind, and the size of the weight, however it lies."""
    row = INTEGER_OPERATORS.get(node.op_type)
    if node.op_type == NBITS:
        return "product", tuple(sorted(int(edit.attribute(node, name, 0)) for name in ("K", "N")))
    op = node.op_type if row is None else row.counted_as
    layer = Layer.of(node)
    index = row.w if row is not None else (layer.operator.weights[0] if layer is not None else 1)
    weight = node.inputs[index] if index is not None and len(node.inputs) > index else None
    placed = grids.grid_behind(weight)
    shape = edit.static_shape(weight) or (None if placed is None else edit.static_shape(placed.stored)) or ()
    product = op in ("MatMul", "Gemm")
    return ("product" if product else op, tuple(sorted(shape)) if product else tuple(shape))

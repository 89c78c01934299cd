"""The part of `rewrite` that stores weights in blocks.

A product becomes onnxruntime's MatMulNBits, which rounds each block of its input to 8 bits (accuracy level 4) and
multiplies integers; a Gather becomes GatherBlockQuantized. Or the weight is read through a DequantizeLinear of opset
21, of which onnxruntime makes a MatMulNBits when it loads the model.

Sources: onnxruntime docs/ContribOperators.md (MatMulNBits, GatherBlockQuantized), and for DequantizeLinear
`core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc` (a matrix [K, N] in blocks along axis 0).
"""

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.numerics.blocks import in_bytes, middle, packed
from qtool.core.records.plan import BlockPlan
from qtool.graph import contrib, edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer

OPSET = 21
"""The first of which DequantizeLinear has blocks and 4 bits."""
_ACCURACY = 4
_FOUR = 4


def store_blocks(model: Model, row: BlockPlan, names: edit.Names) -> None:
    """Let the nodes that read a weight as the row says read its blocks instead, in place.

    Raises:
        ModelError: the row names what the graph does not hold.
    """
    nodes = {n.name: n for n in model.graph}
    weight = model.graph.initializers.get(row.tensor)
    layers = [Layer.of(nodes[name]) if name in nodes else None for name, _ in row.readers]
    if weight is None or None in layers or not row.fits(edit.constant(weight).shape):
        raise ModelError(f"the plan holds blocks of {row.tensor!r}, which the model does not hold; make it again")
    matrix = edit.constant(weight)
    integers = row.quantized(matrix)
    if row.written == "qdq":
        _dequantize(model, row, integers, [layer for layer in layers if layer is not None], names)
        return
    edit.import_domain(model, contrib.DOMAIN, 1)
    operands: dict[bool, list[Value | None]] = {}
    for layer in layers:
        assert layer is not None
        table = not layer.is_product
        if table not in operands:
            operands[table] = _operands(model, row, integers, names, table=table)
        _replace(layer, row, operands[table], integers.shape, names)


def _operands(model: Model, row: BlockPlan, integers: Array, names: edit.Names, *, table: bool) -> list[Value | None]:
    """The integers, their scales, and their zero points where they have some."""
    grids, graph = row.grids(len(integers)), model.graph
    if table:
        stored = in_bytes(integers) if row.bits == _FOUR else integers
    else:
        stored = packed(integers, row.bits, row.block, middle(row.bits))
    result: list[Value | None] = [
        edit.add_initializer(graph, names.fresh(f"{row.tensor}_blocks"), np.ascontiguousarray(stored)),
        edit.add_initializer(graph, names.fresh(f"{row.tensor}_scales"), grids.scale),
    ]
    if grids.zero_point is not None:
        zero = in_bytes(grids.zero_point) if row.bits == _FOUR else grids.zero_point
        result.append(edit.add_initializer(graph, names.fresh(f"{row.tensor}_zero_points"), zero))
    return result


def _replace(
    layer: Layer, row: BlockPlan, operands: list[Value | None], shape: tuple[int, ...], names: edit.Names
) -> None:
    node = layer.node
    attributes: dict[str, object] = {"bits": row.bits, "block_size": row.block}
    if layer.is_product:
        attributes |= {"K": shape[1], "N": shape[0], "accuracy_level": _ACCURACY}
        inputs = [node.inputs[0], *operands]
        if layer.bias is not None:
            inputs += [None] * (5 - len(inputs)) + [layer.bias]
    else:
        attributes |= {"gather_axis": 0, "quantize_axis": 1}
        inputs = [operands[0], node.inputs[1], *operands[1:]]
    new = edit.new_node(
        "MatMulNBits" if layer.is_product else "GatherBlockQuantized", inputs, names.fresh(f"{node.name}_in_blocks"),
        name=str(node.name), attributes=attributes, domain=contrib.DOMAIN,
    )  # fmt: skip
    _in_place(node, new)


def _dequantize(model: Model, row: BlockPlan, integers: Array, layers: list[Layer], names: edit.Names) -> None:
    """Read the weight as [K, N], whatever it was: nothing else is fused."""
    grids, graph, offset = row.grids(len(integers)), model.graph, middle(row.bits)
    stored = (integers.astype(np.int16) - offset).astype(np.int8).T
    inputs = [
        edit.add_integers(graph, names.fresh(f"{row.tensor}_blocks"), stored, row.bits),
        edit.add_initializer(graph, names.fresh(f"{row.tensor}_scales"), np.ascontiguousarray(grids.scale.T)),
    ]
    if grids.zero_point is not None:
        zero = (grids.zero_point.astype(np.int16) - offset).astype(np.int8).T
        inputs.append(edit.add_integers(graph, names.fresh(f"{row.tensor}_zero_points"), zero, row.bits))
    name = names.fresh(f"{row.tensor}_dequantized")
    read = edit.new_node(
        "DequantizeLinear", inputs, name, name=names.fresh(f"{name}_node"),
        attributes={"axis": 0, "block_size": row.block},
    )  # fmt: skip
    graph.insert_before(graph[0], read)
    for layer in layers:
        layer.node.replace_input_with(layer.operator.weights[0], read.outputs[0])
        if layer.operator.transposed_by is not None and row.axis == 1:
            edit.set_attribute(layer.node, layer.operator.transposed_by, 0)


def _in_place(old: Node, new: Node) -> None:
    graph = old.graph
    assert graph is not None
    graph.insert_before(old, new)
    edit.replace_node(old, new)

"""Takes back what `qtool.pipeline.rewrite` adds besides Q/DQ, for the comparison of structures.

Barriers go, weights that the model computes become constants, and what `qtool.pipeline.rewrite.dynamic` emits becomes
one node of float again.

What comes back reads its weights through DequantizeLinear, so that `structure` can hold them against the float ones.
"""

from collections.abc import Sequence

import numpy as np

from qtool.core.errors import VerificationError
from qtool.core.numerics.blocks import middle, unpacked
from qtool.core.records.plan import BlockPlan
from qtool.graph import compose, edit
from qtool.graph.bodies import alone, bodies, put_back, tell_types
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer
from qtool.runtime.session import Session

_FOUR, _SIGNED = 4, 128
"""Bits; and what makes a signed byte an unsigned one."""
_MOVES = ("Transpose", "Pad", "Reshape")
"""What makes another order of a table's integers."""
_OPERANDS, _ZERO = 2, 3
"""The inputs of a product, and the place of the zero points."""


def undo_dynamic(prepared: Model, quantized: Model) -> None:
    """Turn each group that stands for a dynamic layer or a table back into one node of float, in place, in `quantized`.

    Raises:
        VerificationError: a group is not one that the rewriting makes.
    """
    before = {n.name: n for n in prepared.graph.all_nodes()}
    names = edit.Names(quantized.graph)
    for node in list(quantized.graph):
        old = before.get(node.name)
        if old is None or old.op_type == node.op_type == "LSTM":
            continue
        if node.op_type == "MatMulInteger":
            _undo_matmul(quantized, old, node, names)
        elif node.op_type == "DynamicQuantizeLSTM":
            _undo_lstm(quantized, old, node, names)
        elif node.op_type == "Gather" and edit.is_main_op(old, "Gather") and _is_table(node):
            _undo_table(quantized, old, node, names)


def undo_blocks(prepared: Model, quantized: Model) -> None:
    """Turn what reads weights in blocks back into nodes of float, in place, in `quantized`.

    These read the blocks through a DequantizeLinear along the axis that the float node sums over.

    Raises:
        VerificationError: a node is not one that the rewriting makes.
    """
    before = {n.name: n for n in prepared.graph.all_nodes()}
    names = edit.Names(quantized.graph)
    for node in list(quantized.graph):
        old = before.get(node.name)
        layer = None if old is None else Layer.of(old)
        if layer is None:
            continue
        if node.op_type == "MatMulNBits":
            _undo_packed(quantized, layer, node, names)
        elif node.op_type == "GatherBlockQuantized":
            _undo_rows(quantized, layer, node, names)
        elif layer.is_product and layer.input_axis == 1 and _reads_blocks(node):
            _undo_turned(quantized, layer, node, names)


def in_real_numbers(prepared: Model, quantized: Model, blocks: Sequence[BlockPlan]) -> None:
    """Let each node that reads blocks be one of float that reads what these stand for, in place, in `quantized`.

    Raises:
        VerificationError: a node is not one that the rewriting makes.
    """
    undo_computed(quantized)
    tell_types(prepared, quantized)
    readers = {name for row in blocks for name, _ in row.readers}
    for body in reversed(list(bodies(quantized.graph))):
        reads = any(node.name in readers for node in body.graph)
        part = alone(quantized, body) if reads else None
        if part is not None:
            _in_real_numbers(prepared, part.model, blocks)
            put_back(quantized, part)
    _in_real_numbers(prepared, quantized, blocks)


def _in_real_numbers(prepared: Model, quantized: Model, blocks: Sequence[BlockPlan]) -> None:
    undo_blocks(prepared, quantized)
    nodes, names = {n.name: n for n in quantized.graph}, edit.Names(quantized.graph)
    for row in blocks:
        readers = [reader for reader in row.readers if reader[0] in nodes]
        if not readers:
            continue
        real = row.real(edit.constant(prepared.graph.initializers[row.tensor]))
        value = edit.add_initializer(quantized.graph, names.fresh(f"{row.tensor}_real"), real)
        for name, index in readers:
            read = nodes[name].inputs[index]
            nodes[name].replace_input_with(index, value)
            made = None if read is None else read.producer()
            if made is not None and not made.outputs[0].uses():
                edit.remove_node(made)


def _reads_blocks(node: Node) -> bool:
    made = None if len(node.inputs) < _OPERANDS or node.inputs[1] is None else node.inputs[1].producer()
    return made is not None and made.op_type == "DequantizeLinear" and bool(edit.attribute(made, "block_size", 0))


def _undo_packed(model: Model, layer: Layer, node: Node, names: edit.Names) -> None:
    length, bits = int(edit.attribute(node, "K")), int(edit.attribute(node, "bits"))
    scale = edit.constant(node.inputs[2])
    zero = node.inputs[3] if len(node.inputs) > _ZERO else None
    zeros = None if zero is None else unpacked(edit.constant(zero), bits, scale.shape[1])
    weight = _in_blocks(
        model, node, unpacked(edit.constant(node.inputs[1]), bits, length), (scale, zeros), layer.input_axis, names
    )
    bias = [] if layer.bias is None else [node.inputs[5]]
    _restore(layer.node, node, [node.inputs[0], weight, *bias], [node])


def _undo_rows(model: Model, layer: Layer, node: Node, names: edit.Names) -> None:
    bits, table = int(edit.attribute(node, "bits")), edit.constant(layer.weight)
    scale = edit.constant(node.inputs[2])
    zero = node.inputs[3] if len(node.inputs) > _ZERO else None
    zeros = None if zero is None else unpacked(edit.constant(zero), bits, scale.shape[1])
    weight = _in_blocks(
        model, node, unpacked(edit.constant(node.inputs[0]), bits, table.shape[1]), (scale, zeros), 1, names
    )
    _restore(layer.node, node, [weight, node.inputs[1]], [node])


def _undo_turned(model: Model, layer: Layer, node: Node, names: edit.Names) -> None:
    """Of a Gemm whose weight is [N, K], and that reads [K, N]."""
    read = node.inputs[1].producer()  # type: ignore[union-attr]
    assert read is not None
    stored, scale, *zero = (edit.constant(value).T for value in read.inputs)
    zeros = zero[0].astype(np.int16) if zero else np.zeros(scale.shape, np.int16)
    offset = _SIGNED
    grid = scale, (zeros + offset).astype(np.uint8)
    integers = (stored.astype(np.int16) + offset).astype(np.uint8)
    weight = _in_blocks(model, node, integers, grid, 1, names, int(edit.attribute(read, "block_size")))
    _restore(layer.node, node, [node.inputs[0], weight, *list(node.inputs)[2:]], [node])


def _in_blocks(
    model: Model, node: Node, integers: Array, grid: tuple[Array, Array | None], axis: int, names: edit.Names,
    size: int | None = None,
) -> Value:  # fmt: skip
    """The weight that integers [M, K] and their scales and zero points [M, B] stand for, in blocks along `axis`."""
    graph = model.graph
    scale, zeros = grid
    offset = middle(int(edit.attribute(node, "bits", _FOUR)))
    zeros = np.full(scale.shape, offset, np.uint8) if zeros is None else zeros.astype(np.uint8)
    arrays = [array if axis == 1 else array.T for array in (integers, scale, zeros)]
    inputs = [
        edit.add_initializer(graph, names.fresh(f"{node.name}_undone"), np.ascontiguousarray(array)) for array in arrays
    ]
    name = names.fresh(f"{node.name}_undone_weight")
    size = int(edit.attribute(node, "block_size")) if size is None else size
    attributes: dict[str, object] = {"axis": axis, "block_size": size}
    dequantize = edit.new_node("DequantizeLinear", inputs, name, name=f"{name}_node", attributes=attributes)
    graph.insert_before(graph[0], dequantize)
    return dequantize.outputs[0]


def undo_computed(quantized: Model) -> None:
    """Turn integers of weights that the model computes into constants, in place, in `quantized`.

    Raises:
        ModelError: onnxruntime cannot compute them.
    """
    known = set(quantized.graph.initializers.values())
    weights = []
    for node in quantized.graph:
        if node.inputs and not edit.has_subgraph(node) and all(v is None or v in known for v in node.inputs):
            known.update(node.outputs)
            if edit.is_main_op(node, "QuantizeLinear") or _moves_bytes(node):
                follower = edit.single_consumer(node.outputs[0])
                if follower is None or not edit.is_main_op(follower, *_MOVES):
                    weights.append(node.outputs[0])
    if not weights:
        return
    session = Session(compose.constant_part(quantized, weights), optimize=False, name="the weights that it computes")
    names = edit.Names(quantized.graph)
    for value, integers in zip(weights, session.run_list({}, [str(v.name) for v in weights]), strict=True):
        edit.replace_uses(value, edit.add_initializer(quantized.graph, names.fresh(f"{value.name}_undone"), integers))
    _remove_unread(quantized, known)


def _moves_bytes(node: Node) -> bool:
    """Whether it gives the integers of a table, or of a weight, in another shape."""
    if not edit.is_main_op(node, *_MOVES) or node.inputs[0] is None:
        return False
    maker, array = node.inputs[0].producer(), edit.constant_or_none(node.inputs[0])
    if maker is not None:
        return edit.is_main_op(maker, "QuantizeLinear") or _moves_bytes(maker)
    return array is not None and array.dtype in (np.int8, np.uint8)


def _remove_unread(model: Model, values: set[Value]) -> None:
    for node in reversed(model.graph):
        if node.outputs[0] in values and not any(o.uses() or o.is_graph_output() for o in node.outputs):
            edit.remove_node(node)


def undo_barriers(prepared: Model, quantized: Model) -> None:
    """Remove each Max of one tensor that the prepared graph does not hold, in place, from `quantized`."""
    before = {n.name for n in prepared.graph.all_nodes()}
    for node in list(quantized.graph):
        if edit.is_main_op(node, "Max") and len(node.inputs) == 1 and node.name not in before:
            assert node.inputs[0] is not None
            edit.replace_uses(node.outputs[0], node.inputs[0])
            edit.remove_node(node)


def undo_folded(prepared: Model, quantized: Model) -> None:
    """Turn the Cast and Mul of a weight, which are computed on loading, back into a DequantizeLinear, in place."""
    before = {n.name for n in prepared.graph.all_nodes()}
    names = edit.Names(quantized.graph)
    for node in list(quantized.graph):
        cast = node.inputs[0].producer() if edit.is_main_op(node, "Mul") and node.inputs[0] is not None else None
        if node.name in before or cast is None or not edit.is_main_op(cast, "Cast"):
            continue
        stored, scale = edit.constant_or_none(cast.inputs[0]), edit.constant_or_none(node.inputs[1])
        if stored is None or scale is None or stored.dtype != np.int8:
            continue
        axis = None if scale.ndim == 0 else int(np.argmax(scale.shape))
        made = _dequantized(quantized, node, stored, scale.reshape(-1) if scale.ndim else scale, axis, names)
        edit.replace_uses(node.outputs[0], made)
        edit.remove_node(node)
        edit.remove_node(cast)


def _is_table(node: Node) -> bool:
    table = edit.constant_or_none(node.inputs[0])
    return table is not None and table.dtype == np.int8


def _follow(node: Node, op: str) -> Node:
    """The only reader of the node's first output, which must be an `op`."""
    reader = edit.single_consumer(node.outputs[0])
    if reader is None or reader.op_type != op:
        raise VerificationError(f"node {node.name!r} is followed by something else than {op}; please report this model")
    return reader


def _producer(value: Value | None, op: str, node: Node) -> Node:
    made = None if value is None else value.producer()
    if made is None or made.op_type != op:
        raise VerificationError(f"node {node.name!r} reads what no {op} makes; please report this model")
    return made


def _undo_matmul(model: Model, old: Node, node: Node, names: edit.Names) -> None:
    quantizer = _producer(node.inputs[0], "DynamicQuantizeLinear", node)
    cast = _follow(node, "Cast")
    product = _follow(cast, "Mul")
    scales = _producer(product.inputs[1], "Mul", node)
    stored, zero = edit.constant(node.inputs[1]), edit.constant(node.inputs[3])
    scale = edit.constant(scales.inputs[1])
    wired = node.inputs[2] is quantizer.outputs[2] and scales.inputs[0] is quantizer.outputs[1]
    if not wired or zero.any():
        raise VerificationError(f"node {node.name!r} takes the grid of another input; please report this model")
    layer = Layer.of(old)
    if layer is None or not layer.is_product:
        raise VerificationError(f"node {node.name!r} stands for no product; please report this model")
    last, bias = product, []
    if layer.bias is not None:
        last = _follow(product, "Add")
        bias = [last.inputs[1]]
    axis = None if scale.ndim == 0 else layer.output_axis
    weight = _dequantized(model, node, layer.matrix(stored), scale, axis, names)
    _restore(old, last, [quantizer.inputs[0], weight, *bias], [last, product, scales, cast, node, quantizer])


def _undo_lstm(model: Model, old: Node, node: Node, names: edit.Names) -> None:
    weights = []
    for index, scale_index in ((1, 8), (2, 10)):
        scale = edit.constant(node.inputs[scale_index])
        if edit.constant(node.inputs[scale_index + 1]).any() or (scale != scale[:1]).any():
            raise VerificationError(f"node {node.name!r} has another grid than planned; please report this model")
        stored = edit.constant(node.inputs[index]).transpose(0, 2, 1)
        scale, axis = (scale[0], 1) if scale.ndim == 2 else (scale[:1].reshape(()), None)
        weights.append(_dequantized(model, node, stored, scale, axis, names))
    inputs = [node.inputs[0], *weights, *list(node.inputs)[3 : len(old.inputs)]]
    _restore(old, node, inputs, [node])


def _undo_table(model: Model, old: Node, node: Node, names: edit.Names) -> None:
    cast = _follow(node, "Cast")
    product = _follow(cast, "Mul")
    scale = edit.constant_or_none(product.inputs[1])
    removed = [product, cast, node]
    axis = None
    if scale is None:
        picked = _producer(product.inputs[1], "Gather", node)
        if picked.inputs[1] is not node.inputs[1]:
            raise VerificationError(f"node {node.name!r} takes the scales of other rows; please report this model")
        scale, axis = edit.constant(picked.inputs[0]).reshape(-1), 0
        removed.insert(1, picked)
    weight = _dequantized(model, node, edit.constant(node.inputs[0]), scale, axis, names)
    _restore(old, product, [weight, node.inputs[1]], removed)


def _dequantized(model: Model, node: Node, stored: Array, scale: Array, axis: int | None, names: edit.Names) -> Value:
    graph = model.graph
    inputs = [
        edit.add_initializer(graph, names.fresh(f"{node.name}_undone"), np.ascontiguousarray(stored)),
        edit.add_initializer(graph, names.fresh(f"{node.name}_undone_scale"), scale),
    ]
    name = names.fresh(f"{node.name}_undone_weight")
    attributes: dict[str, object] = {} if axis is None else {"axis": axis}
    dequantize = edit.new_node("DequantizeLinear", inputs, name, name=f"{name}_node", attributes=attributes)
    graph.insert_before(graph[0], dequantize)
    return dequantize.outputs[0]


def _restore(old: Node, last: Node, inputs: list[Value | None], removed: list[Node]) -> None:
    """A node like `old`, in the place of the group that ends in `last`."""
    graph = last.graph
    assert graph is not None
    attributes = {key: edit.attribute(old, key) for key in old.attributes}
    outputs = [f"{o.name}_undone_{i}" for i, o in enumerate(last.outputs)]
    node = edit.new_node(old.op_type, inputs, outputs, name=str(old.name), attributes=attributes, domain=old.domain)
    graph.insert_before(last, node)
    for before, after in zip(last.outputs, node.outputs, strict=True):
        edit.replace_uses(before, after)
    for gone in dict.fromkeys(removed):
        if not any(o.uses() or o.is_graph_output() for o in gone.outputs):
            edit.remove_node(gone)

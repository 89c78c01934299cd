"""Takes back what `qtool.pipeline.rewrite` adds besides Q/DQ, for the comparison of structures.

Barriers go, weights that the model computes become constants, and what `qtool.pipeline.rewrite.dynamic` emits becomes
one node of float again.

What comes back reads its weights through DequantizeLinear, so that `structure` can hold them against the float ones.
"""

import numpy as np

from qtool.core.errors import VerificationError
from qtool.graph import compose, edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer
from qtool.runtime.session import Session


def undo_dynamic(prepared: Model, quantized: Model) -> None:
    """Turn each group that stands for a dynamic layer or a table back into one node of float, in place, in `quantized`.

    Raises:
        VerificationError: a group is not one that the rewriting makes.
    """
    before = {n.name: n for n in prepared.graph}
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


def undo_folded(prepared: Model, quantized: Model) -> None:
    """Turn weights of 8 bits that become float32 on loading into ones that a DequantizeLinear reads, in `quantized`."""
    before = {n.name for n in prepared.graph}
    names = edit.Names(quantized.graph)
    for node in list(quantized.graph):
        cast = node.inputs[0].producer() if edit.is_main_op(node, "Mul") and node.inputs[0] is not None else None
        if node.name in before or cast is None or not edit.is_main_op(cast, "Cast"):
            continue
        stored, scale = edit.constant_or_none(cast.inputs[0]), edit.constant_or_none(node.inputs[1])
        if stored is None or scale is None or stored.dtype != np.int8:
            continue
        axis = None if scale.ndim == 0 else int(np.argmax(scale.shape))
        scale = scale if axis is None else scale.reshape(-1)
        weight = _dequantized(quantized, node, stored, scale, axis, names)
        edit.replace_uses(node.outputs[0], weight)
        for gone in (node, cast):
            edit.remove_node(gone)


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
            if edit.is_main_op(node, "QuantizeLinear"):
                turned = edit.single_consumer(node.outputs[0])
                last = turned if turned is not None and edit.is_main_op(turned, "Transpose") else node
                weights.append(last.outputs[0])
    if not weights:
        return
    session = Session(compose.constant_part(quantized, weights), optimize=False, name="the weights that it computes")
    names = edit.Names(quantized.graph)
    for value, integers in zip(weights, session.run_list({}, [str(v.name) for v in weights]), strict=True):
        edit.replace_uses(value, edit.add_initializer(quantized.graph, names.fresh(f"{value.name}_undone"), integers))
    _remove_unread(quantized, known)


def _remove_unread(model: Model, values: set[Value]) -> None:
    for node in reversed(model.graph):
        if node.outputs[0] in values and not any(o.uses() or o.is_graph_output() for o in node.outputs):
            edit.remove_node(node)


def undo_barriers(prepared: Model, quantized: Model) -> None:
    """Remove each Max of one tensor that the prepared graph does not hold, in place, from `quantized`."""
    before = {n.name for n in prepared.graph}
    for node in list(quantized.graph):
        if edit.is_main_op(node, "Max") and len(node.inputs) == 1 and node.name not in before:
            assert node.inputs[0] is not None
            edit.replace_uses(node.outputs[0], node.inputs[0])
            edit.remove_node(node)


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

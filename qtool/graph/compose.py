"""Models made of parts of a model."""

import onnx_ir as ir
from onnx_ir.passes import common

from qtool.graph.model_io import to_bytes


def constant_part(model: ir.Model, nodes: list[ir.Node], wanted: list[ir.Value]) -> bytes:
    """A model without inputs that computes `wanted` from initializers through `nodes` (closed, in graph order)."""
    values: dict[ir.Value, ir.Value] = {}
    initializers: list[ir.Value] = []
    copies: list[ir.Node] = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in values:
                copy = ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=value.const_value)
                values[value] = copy
                initializers.append(copy)
        copy_node = ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else values[v] for v in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for old, new in zip(node.outputs, copy_node.outputs, strict=True):
            new.name, new.type = old.name, old.type
            values[old] = new
        copies.append(copy_node)
    graph = ir.Graph(
        [],
        [values[v] for v in wanted],
        nodes=copies,
        initializers=initializers,
        opset_imports=dict(model.opset_imports),
        name="constants",
    )
    return to_bytes(ir.Model(graph, ir_version=model.ir_version))


def with_outputs(model: ir.Model, names: list[str]) -> bytes:
    """The serialised model with the values `names` as its only outputs; what they do not need is removed.

    Raises:
        KeyError: there is no such value.
    """
    copy = model.clone()
    values = {v.name: v for v in copy.graph.inputs}
    values.update({v.name: v for n in copy.graph for v in n.outputs})
    values.update(copy.graph.initializers)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    common.RemoveUnusedNodesPass()(copy)
    return to_bytes(copy)


def cut(model: ir.Model) -> tuple[bytes, dict[str, str]]:
    """The quantised model cut at every QuantizeLinear, so that each layer can be run on given 8-bit inputs.

    Returns the serialised model and, for each 8-bit tensor (now an output), the name of the input that feeds its
    readers.
    """
    copy = model.clone()
    inputs: dict[str, str] = {}
    for node in list(copy.graph):
        if node.op_type != "QuantizeLinear":
            continue
        old = node.outputs[0]
        zero_point = node.inputs[2]
        assert old.name is not None and zero_point is not None
        fed = ir.Value(name=f"{old.name}/fed", type=zero_point.type)
        for reader, index in list(old.uses()):
            reader.replace_input_with(index, fed)
        copy.graph.inputs.append(fed)
        copy.graph.outputs.append(old)
        inputs[old.name] = f"{old.name}/fed"
    return to_bytes(copy), inputs

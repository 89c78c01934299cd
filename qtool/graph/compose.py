"""Models made of parts of a model."""

import onnx_ir as ir
from onnx_ir.passes import common

from qtool.graph.serialized import Serialized, consume
from qtool.graph.subgraphs import subgraphs


def constant_part(model: ir.Model, nodes: list[ir.Node], wanted: list[ir.Value]) -> Serialized:
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
    return consume(ir.Model(graph, ir_version=model.ir_version))


def with_outputs(model: ir.Model, names: list[str], *, in_place: bool = False) -> Serialized:
    """The serialised model with the values `names` as its only outputs; what they do not need is removed.

    The model is changed where `in_place` says that it is not needed any more.

    Raises:
        KeyError: there is no such value.
    """
    copy = model if in_place else model.clone()
    values = {v.name: v for v in copy.graph.inputs}
    values.update({v.name: v for n in copy.graph for v in n.outputs})
    values.update(copy.graph.initializers)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    common.RemoveUnusedNodesPass()(copy)
    return consume(copy)


def cut(model: ir.Model) -> tuple[Serialized, dict[str, str]]:
    """The quantised model cut at every QuantizeLinear and DynamicQuantizeLinear, so that each layer runs alone.

    Returns the serialised model and, for each tensor where it was cut (now an output), the name of the input that feeds
    its readers: 8-bit tensors, and the scales and zero points that were found in the run.
    """
    copy = model.clone()
    inputs: dict[str, str] = {}
    for node in list(copy.graph):
        for old, kind in zip(node.outputs, _cut_types(node), strict=False):
            assert old.name is not None
            fed = ir.Value(name=f"{old.name}/fed", type=kind)
            for reader, index in list(old.uses()):
                reader.replace_input_with(index, fed)
            copy.graph.inputs.append(fed)
            copy.graph.outputs.append(old)
            inputs[old.name] = f"{old.name}/fed"
    return consume(copy), inputs


def _cut_types(node: ir.Node) -> list[ir.TypeProtocol | None]:
    """The types of the outputs at which the graph is cut."""
    if node.op_type == "DynamicQuantizeLinear":
        stored, real = ir.TensorType(ir.DataType.UINT8), ir.TensorType(ir.DataType.FLOAT)
        return [stored, real, stored]
    if node.op_type == "QuantizeLinear" and node.inputs[2] is not None:
        return [node.inputs[2].type]
    return []


def dynamic_tensors(model: ir.Model) -> list[str]:
    """The 8-bit tensors whose grid is found in each run."""
    return [str(node.outputs[0].name) for node in model.graph if node.op_type == "DynamicQuantizeLinear"]


def reads(node: ir.Node) -> list[ir.Value]:
    """What the node reads: its inputs, then what the graphs inside of it read (their own values among them)."""
    values = [v for v in node.inputs if v is not None]
    for graph in subgraphs(node):
        values += [v for inner in graph for v in reads(inner)]
        values += list(graph.outputs)
    return values


def part(model: ir.Model, nodes: list[str], fed: list[str], outputs: list[str]) -> ir.Model:
    """A model of its own of some nodes of the main graph: it computes `outputs` from the values `fed`.

    Raises:
        KeyError: there is no such value.
    """
    wanted = set(nodes)
    chosen = [node for node in model.graph if node.name in wanted]
    if any(reads(node) != [v for v in node.inputs if v is not None] for node in chosen):
        return _pruned(model, fed, outputs)
    known: dict[str | None, ir.Value] = {v.name: v for v in model.graph.inputs}
    known.update({o.name: o for n in model.graph for o in n.outputs})
    inputs = [ir.Value(name=name, shape=known[name].shape, type=known[name].type) for name in fed]
    values: dict[ir.Value, ir.Value] = {known[v.name]: v for v in inputs}
    initializers: list[ir.Value] = []
    copies: list[ir.Node] = []
    for node in chosen:
        for value in node.inputs:
            if value is not None and value not in values and value.is_initializer():
                values[value] = ir.Value(
                    name=value.name, shape=value.shape, type=value.type, const_value=value.const_value
                )
                initializers.append(values[value])
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else values[v] for v in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            values[old] = new
        copies.append(copy)
    graph = ir.Graph(
        inputs,
        [values[known[name]] for name in outputs],
        nodes=copies,
        initializers=initializers,
        opset_imports=dict(model.opset_imports),
        name="part",
    )
    return ir.Model(graph, ir_version=model.ir_version)


def _pruned(model: ir.Model, fed: list[str], outputs: list[str]) -> ir.Model:
    """The same by cutting off what is not needed, where graphs inside of nodes read values."""
    copy = model.clone()
    values = {v.name: v for v in copy.graph.inputs}
    values.update({o.name: o for n in copy.graph for o in n.outputs})
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in outputs)
    copy.graph.inputs.clear()
    for name in fed:
        old = values[name]
        new = ir.Value(name=name, shape=old.shape, type=old.type)
        for reader, index in list(old.uses()):
            reader.replace_input_with(index, new)
        old.name = f"{name}/computed"
        copy.graph.inputs.append(new)
    common.RemoveUnusedNodesPass()(copy)
    return copy


def feed_stored(model: ir.Model, tensors: list[str]) -> dict[str, str]:
    """Let the 8-bit forms of some float inputs of a quantised model be fed instead of them; changes the model.

    Returns the name of the new input for each tensor.
    """
    result: dict[str, str] = {}
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if source is None or source.name not in tensors or source not in model.graph.inputs:
            continue
        zero_point = node.inputs[2]
        assert zero_point is not None
        fed = ir.Value(name=f"{source.name}/stored", shape=source.shape, type=zero_point.type)
        for reader, index in list(node.outputs[0].uses()):
            reader.replace_input_with(index, fed)
        model.graph.remove(node, safe=True)
        model.graph.inputs.remove(source)
        model.graph.inputs.append(fed)
        result[source.name] = f"{source.name}/stored"
    return result


def hand_out_stored(model: ir.Model, tensors: list[str], keep: list[str]) -> dict[str, str]:
    """Let the 8-bit forms of some outputs of a quantised model be outputs, instead of these, or beside those in `keep`.

    Changes the model; returns the name of the 8-bit output for each tensor.
    """
    result: dict[str, str] = {}
    for value in list(model.graph.outputs):
        node = value.producer()
        if value.name not in tensors or node is None or node.op_type != "DequantizeLinear":
            continue
        stored = node.inputs[0]
        assert stored is not None and stored.name is not None
        model.graph.outputs.append(stored)
        if value.name not in keep:
            model.graph.outputs.remove(value)
            if not value.uses():
                model.graph.remove(node, safe=True)
        result[str(value.name)] = stored.name
    return result


def stored_names(prepared: ir.Model, quantized: ir.Model) -> dict[str, str]:
    """Tensor of the prepared graph -> the name of the 8-bit tensor that holds it in the quantised one."""
    tensors = {(node.name, o.index()): str(o.name) for node in prepared.graph for o in node.outputs}
    result = {}
    for node in quantized.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is not None:
            maker = value.producer()
            tensor = str(value.name) if maker is None else tensors[maker.name, value.index()]
            result[tensor] = str(node.outputs[0].name)
    return result

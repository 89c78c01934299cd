"""Models made of parts of a model."""

from collections.abc import Container, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qtool.graph import edit
from qtool.graph.serialized import Serialized, consume
from qtool.graph.subgraphs import remove_unused, subgraphs

_BYTES = "qtool.bytes"


def constant_part(model: ir.Model, wanted: list[ir.Value]) -> Serialized:
    """Return a serialised model without inputs that computes the values `wanted`, which depend only on initializers."""
    return consume(_extracted(model, [], wanted))


def origin(model: ir.Model, value: ir.Value, *, smaller_than: int, kept: Container[str] = ()) -> ir.Graph | None:
    """Return the nodes and initializers that make `value`, which depends on nothing else; None where they are larger.

    `smaller_than`: in bytes. `kept`: the initializers that others read as well, which count as nothing, and so does an
    initializer that remembers its own origin.
    """
    graph = _part_of(model.graph, [], [value])
    sizes = [
        v.const_value.nbytes
        for v in graph.initializers.values()
        if v.const_value is not None and not edit.origin_of(v) and v.name not in kept
    ]
    return graph if sum(sizes) < smaller_than else None


def needed(model: ir.Model, origin: ir.Graph) -> tuple[int, dict[str, int]]:
    """Return what a model's file needs more with a constant made by `origin`.

    That is the bytes of the nodes, and those of each initializer that nothing in the file reads yet, by name.
    """
    nodes = _node_bytes(origin)
    lacking: dict[str, int] = {}
    for name, value in origin.initializers.items():
        made, same = edit.origin_of(value), model.graph.initializers.get(name)
        if same is not None and same.const_value is value.const_value and same.uses():
            continue
        if made is not None:
            more, others = needed(model, made)
            nodes += more
            lacking |= others
        elif value.const_value is not None:
            lacking[name] = value.const_value.nbytes
    return nodes, lacking


def _node_bytes(graph: ir.Graph) -> int:
    """What the nodes take in a file, without their own names, which it needs not."""
    if _BYTES not in graph.meta:
        graph.meta[_BYTES] = sum(ir.to_proto(node).ByteSize() - len(node.name or "") for node in graph)
    found: int = graph.meta[_BYTES]
    return found


def product_origin(constant: ir.Value, factor: np.ndarray) -> ir.Graph:
    """Return the graph that makes the product of a constant, which goes on remembering what makes it, and another."""
    name = f"{constant.name}_factor"
    tensor = ir.tensor(factor, name=name)
    inputs = [
        ir.Value(name=constant.name, shape=constant.shape, type=constant.type, const_value=constant.const_value),
        ir.Value(name=name, shape=ir.Shape(factor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor),
    ]
    edit.remember(inputs[0], edit.origin_of(constant))
    node = edit.new_node("Mul", inputs, f"{constant.name}_product", name=f"{constant.name}_product_node")
    return ir.Graph([], node.outputs, nodes=[node], initializers=inputs)


def quantized_origin(
    constant: ir.Value, scale: ir.Value, zero_point: ir.Value, axis: int | None, *, transposed: bool = False
) -> ir.Graph:
    """Return the graph that makes the integers of a constant, which goes on remembering what makes it.

    `transposed`: of the matrix transposed.
    """
    inputs = [
        ir.Value(name=v.name, shape=v.shape, type=v.type, const_value=v.const_value)
        for v in (constant, scale, zero_point)
    ]
    edit.remember(inputs[0], edit.origin_of(constant))
    attributes = {} if axis is None else {"axis": axis}
    integers = f"{constant.name}_integers"
    nodes = [edit.new_node("QuantizeLinear", inputs, integers, name=f"{integers}_node", attributes=attributes)]
    if transposed:
        turned = f"{constant.name}_turned"
        nodes.append(
            edit.new_node("Transpose", nodes[0].outputs, turned, name=f"{turned}_node", attributes={"perm": [1, 0]})
        )
    return ir.Graph([], nodes[-1].outputs, nodes=nodes, initializers=inputs)


def with_outputs(model: ir.Model, names: list[str], *, in_place: bool = False) -> Serialized:
    """Return a serialised model whose only outputs are the values `names`; nodes that they do not need are removed.

    `model` itself is changed where `in_place` says that it is not needed any more.

    Raises:
        KeyError: there is no such value.
    """
    copy = model if in_place else model.clone()
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in names)
    remove_unused(copy)
    return consume(copy)


def hand_out_reads(model: ir.Model, nodes: Mapping[str, str]) -> dict[str, str]:
    """Let what some nodes read be outputs of a quantised model too, and return the names of these outputs.

    Changes the model. `nodes`: node -> what to call what it reads, which is the key of what is returned. An 8-bit
    tensor is dequantised once more for it: onnxruntime has a DequantizeLinear for each reader, so that the others fuse
    as before.
    """
    result: dict[str, str] = {}
    for node in [node for node in model.graph if node.name in nodes]:
        called = nodes[str(node.name)]
        value = node.inputs[0]
        maker = None if value is None else value.producer()
        if value is None or called in result:
            continue
        if maker is not None and maker.op_type == "DequantizeLinear":
            twin = edit.copy_node(maker, list(maker.inputs), f"{value.name}/read", name=f"{maker.name}/read")
            model.graph.insert_after(maker, twin)
            twin.outputs[0].type = value.type or ir.TensorType(ir.DataType.FLOAT)
            value = twin.outputs[0]
        if not value.is_graph_output():
            model.graph.outputs.append(value)
        result[called] = str(value.name)
    return result


def cut(model: ir.Model) -> tuple[Serialized, dict[str, str]]:
    """Cut a quantised model at every QuantizeLinear and DynamicQuantizeLinear, so that each layer runs by itself.

    Returns the serialised model and, for each tensor where it was cut (now an output), the name of the input that feeds
    its readers: 8-bit tensors, and the scales and zero points that were found in the run. Weights that the model
    computes are left as they are.
    """
    copy = model.clone()
    inputs: dict[str, str] = {}
    known = set(copy.graph.initializers.values())
    for node in list(copy.graph):
        if node.inputs and not subgraphs(node) and all(v is None or v in known for v in node.inputs):
            # onnxruntime computes it when it loads the model
            known.update(node.outputs)
            continue
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
    if node.op_type == "QuantizeLinear" and len(node.inputs) > 2 and node.inputs[2] is not None:
        # numpy has no arrays of the others, such as float8
        return [node.inputs[2].type] if node.inputs[2].dtype in _FED else []
    return []


_FED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32)


def dynamic_tensors(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """Return the 8-bit tensors whose grid is found anew in each run -> the names of the layers that read them."""
    found = (node.outputs[0] for node in model.graph if node.op_type == "DynamicQuantizeLinear")
    return {str(value.name): tuple(str(node.name) for node, _ in value.uses()) for value in found}


def reads(node: ir.Node) -> list[ir.Value]:
    """Return the values that a node reads: its inputs, then what graphs inside of it read (also their own values)."""
    values = [v for v in node.inputs if v is not None]
    for graph in subgraphs(node):
        values += [v for inner in graph for v in reads(inner)]
        values += list(graph.outputs)
    return values


def part(model: ir.Model, fed: list[str], outputs: list[str]) -> ir.Model:
    """Return the nodes of the main graph that compute `outputs` from the values `fed`, as a model of their own.

    Raises:
        ValueError: there is no such value, or the outputs depend on more than `fed`.
    """
    return _extracted(model, fed, outputs)


def _extracted(model: ir.Model, inputs: Sequence[str], outputs: Sequence[ir.Value | str]) -> ir.Model:
    return ir.Model(_part_of(model.graph, inputs, outputs), ir_version=model.ir_version)


def _part_of(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[ir.Value | str]) -> ir.Graph:
    """The nodes that compute the outputs, as a graph, whose initializers are in the order that they had."""
    part = ir.convenience.extract(graph, inputs, outputs)
    # these came from a set, whose order is that of addresses in memory
    taken = dict(part.initializers)
    part.initializers.clear()
    part.initializers.update({name: taken[name] for name in graph.initializers if name in taken})
    return part


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
    """Return the name of the 8-bit form in the quantised graph, for each tensor of the prepared graph that has one."""
    tensors = {(node.name, o.index()): str(o.name) for node in prepared.graph for o in node.outputs}
    result = {}
    for node in quantized.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is not None:
            maker = value.producer()
            if maker is not None and maker.op_type == "Max" and (maker.name, 0) not in tensors:
                # the barrier that `qtool.pipeline.rewrite` puts in front of a Q
                value = maker.inputs[0]
                assert value is not None
                maker = value.producer()
            elif maker is not None and maker.op_type == "Slice" and (maker.name, 0) not in tensors:
                # what drops channels: all of them have a grid in front of it, which came first
                value = _before_quantizers(maker.inputs[0])
                maker = value.producer()
            # what several nodes were put in the place of keeps its name
            name = str(value.name)
            tensor = name if maker is None else tensors.get((maker.name, value.index()), name)
            result[tensor] = str(node.outputs[0].name)
    return result


def _before_quantizers(value: ir.Value | None) -> ir.Value:
    """The value before Q/DQ, one or more."""
    assert value is not None
    maker = value.producer()
    if maker is None or maker.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return value
    return _before_quantizers(maker.inputs[0])


def cut_floats(model: ir.Model, names: Sequence[str]) -> tuple[Serialized, dict[str, str]]:
    """Cut a model at float values of its main graph, so that what lies between them runs by itself.

    Returns the serialised model, whose only outputs are these values, and for each of them the name of the input that
    its readers are fed with.

    Raises:
        KeyError: there is no such value.
    """
    copy = model.clone()
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    copy.graph.outputs.clear()
    fed = {}
    for name in names:
        old = values[name]
        new = ir.Value(name=f"{name}/fed", type=old.type or ir.TensorType(ir.DataType.FLOAT))
        for reader, index in list(old.uses()):
            reader.replace_input_with(index, new)
        copy.graph.inputs.append(new)
        copy.graph.outputs.append(old)
        fed[name] = f"{name}/fed"
    remove_unused(copy)
    return consume(copy), fed

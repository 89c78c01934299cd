"""The bodies of If, Loop and Scan as models of their own, and back in their place.

What a body reads from around it is fed to the model that it becomes: each such value has a name of its own there, since
the body runs more or less often than what is around it, and so sees other values. Constants are constants there too.
"""

from collections.abc import Collection, Container, Hashable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph import edit
from qtool.graph.names import Names

_CALLED = "qtool.around"
KINDS = ("If", "Loop", "Scan")


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A body, where it stands.

    name: the node that holds it and the attribute, such as `If_0.then_branch`. graph: itself.
    """

    name: str
    holder: ir.Node
    graph: ir.Graph


@dataclass(frozen=True, slots=True, eq=False)
class Alone:
    """A body as a model of its own.

    own: how many of its inputs are the body's; behind them stands what it reads from around it. around: these inputs by
    name -> the values outside. called: the same -> what they are called where they are made.
    """

    body: Body
    model: ir.Model
    own: int
    around: dict[str, ir.Value]
    called: dict[str, str]


def bodies(graph: ir.Graph) -> Iterator[Body]:
    """Yield the bodies that nodes of a graph hold, each before those inside of it. Names of nodes must be unique."""
    for node in graph:
        for body in held(node):
            yield body
            yield from bodies(body.graph)


def held(node: ir.Node) -> list[Body]:
    """Return the bodies that an If, Loop or Scan holds; none of another operator."""
    if node.op_type not in KINDS or node.domain not in ("", "ai.onnx"):
        return []
    graphs = [(key, found.value) for key, found in node.attributes.items() if found.type == ir.AttributeType.GRAPH]
    return [Body(f"{node.name}.{key}", node, graph) for key, graph in graphs]


def beside(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes of a graph from which a path that leads through no body ends at an output of the graph."""
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):
        ends = (v.is_graph_output() or any(user in found for user, _ in v.uses()) for v in node.outputs)
        if not held(node) and any(ends):
            found.add(node)
    return found


def parts(model: ir.Model) -> list[Alone]:
    """Return the bodies of a model as models of their own, each before those inside of it; see `alone`."""
    found = [part for node in model.graph for body in held(node) if (part := alone(model, body)) is not None]
    return [one for part in found for one in (part, *parts(part.model))]


def levels(model: ir.Model) -> list[ir.Model]:
    """Return a model, and its bodies as models of their own, each before those inside of it; see `alone`."""
    return [model, *(part.model for part in parts(model))]


def values_inside(model: ir.Model) -> dict[str, ir.Value]:
    """Return what a model and its bodies are fed with or compute, by name; constants are left out."""
    found: dict[str, ir.Value] = {}
    for level in levels(model):
        values = ir.convenience.create_value_mapping(level.graph, include_subgraphs=False)
        found |= {name: value for name, value in values.items() if not value.is_initializer()}
    return found


def tensors_inside(model: ir.Model, names: Container[str]) -> dict[str, list[str]]:
    """Return which of the values `names` each body is fed with or computes; bodies without any are left out."""
    result = {}
    for part in parts(model):
        graph = part.model.graph
        found = [value for node in graph for value in node.outputs]
        here = [str(value.name) for value in (*graph.inputs, *found) if value.name and value.name in names]
        if here:
            result[part.body.name] = here
    return result


def alone(model: ir.Model, body: Body) -> Alone | None:
    """Return a body as a model of its own, which shares its tensors; None where it reads what is no tensor.

    `model`: the one that holds it.
    """
    copy = body.graph.clone(allow_outer_scope_values=True)
    own = len(copy.inputs)
    around: dict[str, ir.Value] = {}
    called: dict[str, str] = {}
    others: dict[ir.Value, ir.Value] = {}
    for outer in _read_from_around(copy):
        if outer.is_initializer():
            name = str(outer.name)
            fed = ir.Value(name=name, shape=outer.shape, type=outer.type, const_value=outer.const_value)
            fed.meta.update(outer.meta)
            copy.register_initializer(fed)
        else:
            base = outer.meta.get(_CALLED, str(outer.name))
            name = around_name(base, body.name)
            called[name] = base
            fed = ir.Value(name=name, shape=outer.shape, type=outer.type)
            fed.meta[_CALLED] = base
            copy.inputs.append(fed)
            around[name] = outer
        others[outer] = fed
    _read_instead(copy, others)
    copy.opset_imports.update(model.graph.opset_imports)
    copy.name = copy.name or body.name
    if not all(isinstance(value.type, ir.TensorType) for value in copy.inputs):
        return None
    return Alone(body, ir.Model(copy, ir_version=model.ir_version), own, around, called)


def tell_types(prepared: ir.Model, rewritten: ir.Model) -> None:
    """Give what a rewritten model computes the types that the prepared one knows, in place.

    A file does not hold what inference finds again, and a body needs the types of what it reads.
    """
    known = {output.name: output.type for node in prepared.graph.all_nodes() for output in node.outputs}
    for node in rewritten.graph.all_nodes():
        for output in node.outputs:
            if output.type is None:
                made = node.op_type in ("DequantizeLinear", "Max", "Mul")
                output.type = known.get(output.name) or (ir.TensorType(ir.DataType.FLOAT) if made else None)


def around_name(tensor: str, body: str) -> str:
    """Return what a tensor from around a body is called in it."""
    return f"{tensor}@{body}"


def put_back(model: ir.Model, part: Alone) -> None:
    """Let the body compute what the model that it became computes now; both models are changed.

    Constants that are new become constants of the main graph of `model`, but for those that the body hands out.
    """
    graph, source = part.body.graph, part.model.graph
    outputs = list(source.outputs)
    source.outputs.clear()
    graph.outputs.clear()
    _clear(graph)
    names = Names(model.graph)
    inputs = list(source.inputs)
    for value, fed in zip(graph.inputs, inputs[: part.own], strict=True):
        ir.convenience.replace_all_uses_with(fed, value)
        outputs = [value if output is fed else output for output in outputs]
        value.type, value.shape = fed.type, fed.shape
    for fed in inputs[part.own :]:
        ir.convenience.replace_all_uses_with(fed, part.around[str(fed.name)])
    for name, value in list(source.initializers.items()):
        del source.initializers[name]
        known = model.graph.initializers.get(name)
        if any(output is value for output in outputs):
            graph.register_initializer(value)
        elif known is not None and known.const_value is value.const_value:
            ir.convenience.replace_all_uses_with(value, known)
        elif value.uses():
            value.name = names.fresh(name)
            model.graph.register_initializer(value)
    nodes = list(source)
    source.remove(nodes)
    graph.extend(nodes)
    graph.outputs.extend(outputs)
    for domain, version in source.opset_imports.items():
        model.graph.opset_imports.setdefault(domain, version)


def share_constants(model: ir.Model, before: Collection[str]) -> None:
    """Let constants of the main graph that are the same be one, in place; those named `before` stay."""
    known: dict[Hashable, ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        found = value.const_value
        if name in before or found is None or value.is_graph_output():
            continue
        first = known.setdefault((found.dtype, tuple(found.shape), found.tobytes()), value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            del model.graph.initializers[name]


def share_dequantized(model: ir.Model, readers: Collection[tuple[str, int]]) -> None:
    """Let a weight that several graphs read, or that the main graph makes, be one of Cast and Mul there, in place.

    onnxruntime loads no model in which a product within a body reads the DequantizeLinear there of a constant from
    around it (it cannot make MatMulNBits of it), and would compute a DequantizeLinear of the main graph in each run.
    Cast and Mul it computes when it loads the model. `readers`: of what may be dequantised so, by node and input; the
    zero points are 0.
    """
    names = Names(model.graph)
    nodes = {node.name: node for node in model.graph.all_nodes()}
    made: dict[ir.Value, list[ir.Node]] = {}
    for name, index in readers:
        node = nodes.get(name)
        value = node.inputs[index] if node is not None else None
        maker = value.producer() if value is not None else None
        source = maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else None
        if maker is not None and source is not None and maker not in made.setdefault(source, []):
            made[source].append(maker)
    for source, same in made.items():
        inside = any(node.graph is not model.graph for node in same)
        if len({id(node.graph) for node in same}) == 1 and not (inside and edit.origin_of(source) is not None):
            continue
        # weights that differ by a factor have the same integers
        made_once: dict[Hashable, ir.Value] = {}
        for node in same:
            kind = (node.inputs[1], edit.attribute(node, "axis", 1))
            real = made_once.get(kind) or made_once.setdefault(kind, _real(model, source, node, names))
            ir.convenience.replace_all_uses_with(node.outputs[0], real)
            node.graph.remove(node, safe=True)  # type: ignore[union-attr]
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _real(model: ir.Model, stored: ir.Value, dequantize: ir.Node, names: Names) -> ir.Value:
    """What a DequantizeLinear makes of a constant, by Cast and Mul at the beginning of the main graph."""
    scale = dequantize.inputs[1]
    assert scale is not None and scale.const_value is not None
    array, rank = scale.const_value.numpy(), stored.shape.rank() if stored.shape is not None else 0
    if array.ndim:
        shape = [1] * rank
        shape[edit.attribute(dequantize, "axis", 1)] = -1
        array = array.reshape(shape)
    base = str(dequantize.outputs[0].name)
    factor = edit.add_initializer(model.graph, names.fresh(f"{base}_factor"), array)
    cast, product = (names.fresh(f"{base}_{what}") for what in ("cast", "product"))
    group = [edit.new_node("Cast", [stored], cast, name=f"{cast}_node", attributes={"to": ir.DataType.FLOAT.value})]
    group.append(edit.new_node("Mul", [group[0].outputs[0], factor], product, name=f"{product}_node"))
    model.graph.insert_before(model.graph[0], group)
    return group[1].outputs[0]


def sink_constants(model: ir.Model) -> None:
    """Put each constant of the main graph that only one body reads into that body, in place; of grids, each body's own.

    What others are made of stays, and so does what remembers what makes it, since that is done in the main graph. Some
    of onnxruntime's fusions, such as that of MatMulNBits, see no constants from around a body; those of version 1.24 do
    not see there that a zero point makes a Relu needless.
    """
    names = Names(model.graph)
    for value in list(model.graph.initializers.values()):
        if value.const_value is not None and value.const_value.size == 1:
            _part_by_body(model, value, names)
    for name, value in list(model.graph.initializers.items()):
        graphs = {id(node.graph): node.graph for node, _ in value.uses()}
        stays = value.is_graph_output() or edit.origin_of(value) is not None or edit.is_read(value)
        if len(graphs) == 1 and not stays:
            (graph,) = graphs.values()
            if graph is not None and graph is not model.graph:
                del model.graph.initializers[name]
                graph.register_initializer(value)


def _part_by_body(model: ir.Model, value: ir.Value, names: Names) -> None:
    """Let each body that reads a number of a grid read a copy of its own, where others read it too."""
    of_grids: dict[int, list[tuple[ir.Node, int]]] = {}
    for node, index in value.uses():
        if index and node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.graph is not model.graph:
            of_grids.setdefault(id(node.graph), []).append((node, index))
    for readers in of_grids.values():
        if len(readers) == len(value.uses()):
            return
        copy = ir.Value(name=names.fresh(str(value.name)), shape=value.shape, type=value.type)
        copy.const_value = value.const_value
        graph = readers[0][0].graph
        assert isinstance(graph, ir.Graph)
        graph.register_initializer(copy)
        for node, index in readers:
            node.replace_input_with(index, copy)


def _read_from_around(graph: ir.Graph) -> list[ir.Value]:
    """The values that nodes of a graph read, those inside of them too, and that it does not hold; in order."""
    inside = set(graph.inputs) | set(graph.initializers.values())
    for node in graph.all_nodes():
        inside.update(node.outputs)
        for body in edit.subgraphs(node):
            inside |= set(body.inputs) | set(body.initializers.values())
    found: dict[ir.Value, None] = {}
    for node in graph.all_nodes():
        found.update(dict.fromkeys(v for v in node.inputs if v is not None and v not in inside))
        for body in edit.subgraphs(node):
            found.update(dict.fromkeys(v for v in body.outputs if v not in inside))
    found.update(dict.fromkeys(v for v in graph.outputs if v not in inside))
    return list(found)


def _read_instead(graph: ir.Graph, others: Mapping[ir.Value, ir.Value]) -> None:
    """Let the nodes of a graph, those inside of them too, and the graphs themselves read others of what is around."""
    for node in graph.all_nodes():
        for index, value in enumerate(node.inputs):
            if value is not None and value in others:
                node.replace_input_with(index, others[value])
        for body in edit.subgraphs(node):
            _hand_out_instead(body, others)
    _hand_out_instead(graph, others)


def _hand_out_instead(graph: ir.Graph, others: Mapping[ir.Value, ir.Value]) -> None:
    for index, value in enumerate(graph.outputs):
        if value in others:
            graph.outputs[index] = others[value]


def _clear(graph: ir.Graph) -> None:
    """Take all nodes and constants out, which then read nothing any more."""
    for node in graph.all_nodes():
        for body in edit.subgraphs(node):
            body.outputs.clear()
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    graph.remove(list(graph))
    graph.initializers.clear()

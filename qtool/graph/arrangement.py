"""Names and order of a model's nodes, before anything reads them: every name is text, and nodes follow what they read.

Source: onnx.proto (GraphProto: nodes are sorted topologically; names are UTF-8). onnxruntime sorts nodes by itself, and
so do some of the tools that write models not.
"""

import heapq
from collections.abc import Iterable, Iterator, MutableSequence, Set

import onnx
from google.protobuf.message import Message

from qtool.core.errors import ModelError

Nodes = MutableSequence[onnx.NodeProto]


def arrange(proto: onnx.ModelProto, what: str) -> None:
    """Put the nodes of all graphs and functions in order, and remove descriptions that are no text; in place.

    What the file states of inner tensors (`value_info`) goes too: onnxruntime only warns where it is wrong, so that
    nothing may be built on it.

    `what`: what to call the model in messages.

    Raises:
        ModelError: a name is no text, a node reads what nothing makes, or nodes wait for each other.
    """
    _check_text(proto, what)
    graph = proto.graph
    _arrange_graph(graph, set(), f"{what}: not a valid ONNX model (")
    for function in proto.functions:
        function.ClearField("value_info")
        start = f"{what}: not a valid ONNX model (function {function.name!r}: "
        _arrange(function.node, set(function.input), function.output, start)


def _check_text(message: Message, what: str) -> None:
    """Refuse a name that is not UTF-8 (which comes as bytes), and forget such a description."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in (value,) if isinstance(value, str | bytes) else value:
                if not isinstance(text, bytes):
                    continue
                if field.name != "doc_string":
                    raise ModelError(f"{what}: {field.full_name} {text!r} is not UTF-8; export the model again")
                message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                _check_text(part, what)


def _arrange_graph(graph: onnx.GraphProto, around: Set[str], start: str) -> None:
    graph.ClearField("value_info")
    _arrange(graph.node, around | _given(graph), [value.name for value in graph.output], start)


def _called(node: onnx.NodeProto) -> str:
    """What messages call a node: its name, or that of its first output, as `qtool.graph.names` will name it."""
    return node.name or next((name for name in node.output if name), node.op_type)


def _given(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph has without a node's work."""
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    return {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | sparse


def _arrange(nodes: Nodes, known: Set[str], outputs: Iterable[str], start: str) -> None:
    """Sort nodes that may read `known`, and the graphs inside of them; `start` begins the messages."""
    reads = [list(_reads(node)) for node in nodes]
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    for node, names in zip(nodes, reads, strict=True):
        for name in names:
            if name not in makers and name not in known:
                raise ModelError(f"{start}node {_called(node)!r} reads {name!r}, which nothing makes); export it again")
    for name in outputs:
        if name not in makers and name not in known:
            raise ModelError(f"{start}nothing makes output {name!r}); export it again")
    waits = [{makers[name] for name in names if name in makers and name not in known} for names in reads]
    if any(source >= index for index, sources in enumerate(waits) for source in sources):
        order = _order(waits)
        if len(order) < len(nodes):
            stuck = min(set(range(len(nodes))) - set(order))
            raise ModelError(f"{start}node {_called(nodes[stuck])!r} waits for its own output); export it again")
        arranged = [nodes[index] for index in order]
        copies = []
        for node in arranged:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del nodes[:]
        nodes.extend(copies)
    for node in nodes:
        for graph in _graphs(node):
            _arrange_graph(graph, known | makers.keys(), start)


def _order(waits: list[set[int]]) -> list[int]:
    """The indices so that each follows those that it waits for, otherwise as they were; those in a circle are left out.

    Source: Kahn's algorithm.
    """
    readers: list[list[int]] = [[] for _ in waits]
    for index, sources in enumerate(waits):
        for source in sources:
            readers[source].append(index)
    missing = [len(sources) for sources in waits]
    ready = [index for index, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node takes from its graph, for itself and for the graphs inside of it."""
    yield from filter(None, node.input)
    for graph in _graphs(node):
        inside = _given(graph) | {name for inner in graph.node for name in inner.output}
        wanted = {name for inner in graph.node for name in _reads(inner)} | {value.name for value in graph.output}
        # in a fixed order, for messages
        yield from sorted(wanted - inside)


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def described(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield the inputs and outputs of a graph, and of the graphs inside of its nodes."""
    yield from graph.input
    yield from graph.output
    for node in graph.node:
        for inner in _graphs(node):
            yield from described(inner)


def check_nodes(proto: onnx.ModelProto) -> None:
    """Check every node against its operator's schema; for models at which `onnx.checker` stops before it sees them.

    What has no schema (other domains) is onnxruntime's business. Source: onnx.checker, check_node.

    Raises:
        onnx.checker.ValidationError: a node has too few inputs or outputs, or attributes that its operator lacks.
    """
    for nodes, opsets in ((proto.graph.node, proto.opset_import), *((f.node, f.opset_import) for f in proto.functions)):
        context = type(onnx.checker.DEFAULT_CONTEXT)()
        context.ir_version = proto.ir_version
        context.opset_imports = {opset.domain: opset.version for opset in opsets}
        for node in _all_nodes(nodes):
            try:
                onnx.checker.check_node(_without_graphs(node), context)
            except onnx.checker.ValidationError as error:
                if not tolerated(error):
                    raise


def unnamed_output(proto: onnx.ModelProto) -> str | None:
    """Return what to call a node that gives no name to one of any number of outputs; None where each has names.

    ONNX lets optional outputs alone be left out; `onnx.checker` does not look, and onnxruntime 1.32 ends the process.
    """
    for node in _all_nodes([*proto.graph.node, *(node for function in proto.functions for node in function.node)]):
        if "" in node.output and onnx.defs.has(node.op_type, node.domain):
            last = onnx.defs.get_schema(node.op_type, node.domain).outputs[-1]
            if last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
                return f"{node.op_type} node {_called(node)!r}"
    return None


def tolerated(error: onnx.checker.ValidationError) -> bool:
    """Return whether a complaint of `onnx.checker` is of an operator that it does not know.

    Custom domains are onnxruntime's business: what it cannot load is refused when the session is made.
    """
    return any(words in str(error) for words in ("No opset import for domain", "No Op registered for"))


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _graphs(node):
            yield from _all_nodes(graph.node)


def _without_graphs(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with empty graphs: the checker would look for what they read around them."""
    if not any(True for _ in _graphs(node)):
        return node
    light = onnx.NodeProto()
    light.CopyFrom(node)
    for attribute in light.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            graph.CopyFrom(onnx.GraphProto(name=graph.name or "graph"))
    return light

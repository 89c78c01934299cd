"""Between ONNX's protocol buffers and onnx-ir, which has no type for maps: they keep theirs there and back.

A ZipMap at the end of a classifier gives a sequence of maps. Nothing computes with one: it is an output.
"""

from collections.abc import Iterator

import onnx
import onnx_ir as ir

_TYPE = "qtool.type"
"""The key of a value's metadata that holds its type, encoded."""
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Return the model that a protocol buffer holds, which may lose its map types."""
    kept = {}
    for info in _infos(proto.graph):
        if _has_map(info.type):
            kept[info.name] = info.type.SerializeToString()
            info.ClearField("type")
    model = ir.from_proto(proto)
    if kept:
        for name, value in ir.convenience.create_value_mapping(model.graph, include_subgraphs=False).items():
            if name in kept:
                value.meta[_TYPE] = kept[name]
    return model


def is_map(value: ir.Value) -> bool:
    """Return whether a value is a map, or a sequence of maps, which onnx-ir has no type for."""
    return _TYPE in value.meta


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return a model as a protocol buffer, which does not spend bytes on fields that are empty."""
    proto = ir.to_proto(model)
    _clear_empty(proto.graph)
    for values, infos in ((model.graph.inputs, proto.graph.input), (model.graph.outputs, proto.graph.output)):
        for value, info in zip(values, infos, strict=True):
            if _TYPE in value.meta:
                info.type.ParseFromString(value.meta[_TYPE])
    return proto


def _clear_empty(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for field in ("name", "domain", "overload", "doc_string"):
            if not getattr(node, field):
                node.ClearField(field)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                _clear_empty(inner)


def keep_types(source: ir.Model, result: ir.Model) -> None:
    """Give the outputs of `result` the types that those of the same name have in `source`, where they have none."""
    before = {value.name: value for value in source.graph.outputs}
    for value in result.graph.outputs:
        old = before.get(value.name)
        if old is not None and not isinstance(old.type, ir.TensorType):
            value.type, value.shape = old.type, old.shape
            value.meta.update(old.meta)


def _has_map(kind: onnx.TypeProto) -> bool:
    while (name := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, name).elem_type
    return bool(name == "map_type")


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info

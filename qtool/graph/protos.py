"""Between ONNX's protocol buffers and onnx-ir, which has no type for maps: they keep theirs there and back.

A ZipMap at the end of a classifier gives a sequence of maps. Nothing computes with one: it is an output.
"""

from collections.abc import Iterator

import onnx
import onnx_ir as ir

_TYPE = "qtool.type"
"""The key of a value's metadata that holds its type, encoded."""


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


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return a model as a protocol buffer."""
    proto = ir.to_proto(model)
    for values, infos in ((model.graph.inputs, proto.graph.input), (model.graph.outputs, proto.graph.output)):
        for value, info in zip(values, infos, strict=True):
            if _TYPE in value.meta:
                info.type.ParseFromString(value.meta[_TYPE])
    return proto


def keep_types(source: ir.Model, result: ir.Model) -> None:
    """Give the outputs of `result` the types that those of the same name have in `source`, where they have none."""
    before = {value.name: value for value in source.graph.outputs}
    for value in result.graph.outputs:
        old = before.get(value.name)
        if old is not None and not isinstance(old.type, ir.TensorType):
            value.type, value.shape = old.type, old.shape
            value.meta.update(old.meta)


def with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, or a copy in which what is fed and given out has a type and a shape, be it a wrong one.

    onnxruntime needs neither, and `onnx.checker` does not look at what they say.
    """
    infos = (*proto.graph.input, *proto.graph.output)
    if all(map(_is_complete, infos)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.WhichOneof("value") is None:
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for tensor in _tensor_types(info.type):
            tensor.shape.SetInParent()
    return copy


def _is_complete(info: onnx.ValueInfoProto) -> bool:
    kind = info.type.WhichOneof("value")
    return kind is not None and all(tensor.HasField("shape") for tensor in _tensor_types(info.type))


def _tensor_types(kind: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    """The tensor type in a type, if there is one."""
    while (name := kind.WhichOneof("value")) in ("sequence_type", "optional_type", "map_type"):
        kind = kind.map_type.value_type if name == "map_type" else getattr(kind, name).elem_type
    if name == "tensor_type":
        yield kind.tensor_type


def _has_map(kind: onnx.TypeProto) -> bool:
    while (name := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, name).elem_type
    return bool(name == "map_type")


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info

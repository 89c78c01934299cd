"""Models as onnxruntime and files take them: a small protocol buffer, and the large tensors as they lie, not copied."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import google.protobuf.message
import numpy as np
import onnx
import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.core.files import atomic_output, together
from qtool.graph import external
from qtool.graph.external import StoredTensor
from qtool.graph.protos import from_proto, to_proto

PROTOBUF = 2**31 - 1
"""The size in bytes at which protocol buffers end."""
SINGLE_FILE = PROTOBUF
"""A larger model is two files."""
_ALIGNMENT = 4096
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# where a tensor lies that is in no file
_MEMORY = "*memory*"
# what numpy and onnxruntime both know under their own names
_NATIVE = {
    ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL,
    ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
    ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Serialized:
    """A model whose large initializers are external to its protocol buffer.

    graph: the protocol buffer. tensors: the large initializers by name. folder: what the locations of those that lie in
    files are relative to; None where all are in memory.
    """

    graph: bytes
    tensors: Mapping[str, ir.TensorProtocol]
    folder: Path | None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The large initializers that lie in memory, by name."""
        return {
            name: np.ascontiguousarray(tensor.numpy())
            for name, tensor in self.tensors.items()
            if not isinstance(tensor, StoredTensor)
        }

    @property
    def size(self) -> int:
        """The size of the model in bytes; as a single file it takes a few less, as two files a few more."""
        return len(self.graph) + sum(tensor.nbytes for tensor in self.tensors.values())

    def noting(self, notes: Mapping[str, str]) -> "Serialized":
        """Return the model as a file of it is to be: with these entries in its metadata, before those that it has.

        A node that is called as its first output is, or a quantiser that is called after it, has no name there, as in
        many a file: whoever loads it calls it by that output (`qtool.graph.names.make_unique`).
        """
        proto = onnx.load_from_string(self.graph)
        for key, text in notes.items():
            proto.metadata_props.add(key=key, value=text)
        for node in proto.graph.node:
            output = node.output[0] if node.output else ""
            if node.name == output or (node.op_type in _QUANTIZERS and node.name == f"{output}_node"):
                node.ClearField("name")
        return replace(self, graph=encode(proto))

    def joined(self) -> bytes:
        """Return one protocol buffer that holds the whole model.

        Raises:
            ModelError: beyond protobuf's limit of 2 GB.
        """
        if not self.tensors:
            return self.graph
        if self.size > PROTOBUF:
            raise _too_large()
        proto = onnx.load_from_string(self.graph)
        for tensor in proto.graph.initializer:
            if tensor.name in self.tensors:
                external.set_raw(tensor, self.tensors[tensor.name].tobytes())
        return encode(proto)


def serialize(model: ir.Model) -> Serialized:
    """Return a model as a small protocol buffer and its large tensors; the model is not changed.

    Raises:
        ModelError: what is left beside the large initializers is beyond protobuf's limit of 2 GB, or a file that
            tensors lie in has changed.
    """
    return consume(model.clone())


def consume(model: ir.Model) -> Serialized:
    """Return a model in serialised form, for one that is not needed any more: it is changed, where `serialize` copies.

    Raises:
        ModelError: see `serialize`.
    """
    tensors: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is None or not _is_large(value.const_value):
            continue
        if value.uses() or value.is_graph_output():
            tensors[name] = value.const_value
        else:
            # onnxruntime forgets it, and then refuses to be given it
            del model.graph.initializers[name]
    stored = [tensor for tensor in tensors.values() if isinstance(tensor, StoredTensor)]
    for source in {tensor.source for tensor in stored}:
        source.check()
    folder = _folder_of(stored)
    for name, tensor in tensors.items():
        where, offset = _MEMORY, 0
        if isinstance(tensor, StoredTensor):
            where, offset = _location(tensor, folder), tensor.offset
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            where, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    for graph in model.graphs():
        for value in graph.initializers.values():
            if not value.is_graph_input() and value.const_value is not None:
                # onnx-ir would write them beside the tensor, which says the same
                value.type = value.shape = None
    return Serialized(encode(to_proto(model)), tensors, folder)


def outside(proto: onnx.ModelProto, tensors: Mapping[str, StoredTensor]) -> Serialized:
    """Return the model that a protocol buffer holds, whose large initializers `tensors` it says to lie elsewhere."""
    folder = _folder_of(tensors.values())
    for tensor in proto.graph.initializer:
        if (stored := tensors.get(tensor.name)) is not None:
            external.set_external(tensor, _location(stored, folder), stored.offset, stored.nbytes)
    return Serialized(encode(proto), tensors, folder)


def _folder_of(tensors: Iterable[StoredTensor]) -> Path | None:
    """The folder that holds all their files."""
    parents = [tensor.source.file.parent for tensor in tensors]
    return Path(os.path.commonpath(parents)) if parents else None


def _location(tensor: StoredTensor, folder: Path | None) -> str:
    return os.path.relpath(tensor.source.file, folder)


def _is_large(tensor: ir.TensorProtocol) -> bool:
    if isinstance(tensor, StoredTensor):
        return True
    return tensor.dtype in _NATIVE and tensor.nbytes >= external.LARGE


def encode(proto: onnx.ModelProto) -> bytes:
    """Return the bytes of a protocol buffer. Raises `ModelError` where they are more than 2 GB."""
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (ValueError, google.protobuf.message.EncodeError) as error:
        raise _too_large() from error
    if len(data) > PROTOBUF:
        raise _too_large()
    return data


def _too_large() -> ModelError:
    return ModelError(
        "what cannot lie outside of the protocol buffer is larger than its limit of 2 GB; move weights out of the "
        "attributes of nodes and the graphs inside of them"
    )


def deserialize(model: Serialized) -> ir.Model:
    """Return the model that `serialize` has serialised."""
    result = from_proto(onnx.load_from_string(model.graph))
    for name, tensor in model.tensors.items():
        result.graph.initializers[name].const_value = tensor
    return result


def write(model: Serialized, path: str | Path) -> int:
    """Write atomically: one file, or, where that would be too large, the weights in another; return the size in bytes.

    The second one is called `<path>.data`.

    Raises:
        OutputError: it cannot be written. What was there before is there then.
    """
    if model.size <= SINGLE_FILE:
        data = model.joined()
        with atomic_output(path) as temporary:
            temporary.write_bytes(data)
        return len(data)
    data_file = data_path(path)
    with together(data_file, path), atomic_output(data_file) as weights, atomic_output(path) as temporary:
        proto = onnx.load_from_string(model.graph)
        with weights.open("wb") as stream:
            for tensor in proto.graph.initializer:
                if tensor.name in model.tensors:
                    content = model.tensors[tensor.name].tobytes()
                    stream.write(bytes(-stream.tell() % _ALIGNMENT))
                    external.set_external(tensor, data_file.name, stream.tell(), len(content))
                    stream.write(content)
            size = stream.tell()
        temporary.write_bytes(encode(proto))
        return size + temporary.stat().st_size


def data_path(path: str | Path) -> Path:
    """Return the path of the weights of a model that does not fit into the file at `path`."""
    return Path(f"{path}.data")

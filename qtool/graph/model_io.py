"""Models in and out: load with every check an untrusted file needs, serialise, save atomically."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.core.files import atomic_output

_PROTOBUF_LIMIT = 2**31 - 1
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, where it came from, and the SHA-256 of its content (external data included)."""

    model: ir.Model
    path: Path
    digest: str


def load(path: str | Path) -> LoadedModel:
    """Read an ONNX model.

    Raises:
        ModelError: no such file, not an ONNX model, truncated, invalid, external data missing, too short or outside
            the model's folder, or parts that cannot be carried over (training info, sparse initializers).
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; give the path of an ONNX model")
    try:
        proto = onnx.load(str(file), load_external_data=False)
    except google.protobuf.message.DecodeError as error:
        raise ModelError(f"{file}: not an ONNX model, or truncated; export or download it again") from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except Exception as error:
        raise ModelError(f"{file}: not an ONNX model ({_line(error)}); export or download it again") from error
    _check_proto(proto, file)
    digest = _digest(proto, file)
    _load_external(proto, file)
    _check_sizes(proto, file)
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{file}: cannot be read ({_line(error)}); check it with onnx.checker") from error
    return LoadedModel(model, file, digest)


def _check_proto(proto: onnx.ModelProto, file: Path) -> None:
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{file}: not an ONNX model (no graph or no opset); export or download it again")
    if not proto.graph.node:
        raise ModelError(f"{file}: the graph holds no nodes; nothing to quantise")
    if proto.training_info:
        raise ModelError(f"{file}: holds training info, which would be lost; export the model for inference")
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise ModelError(f"{file}: sparse initializer {name!r} is not supported; export it dense")
    _check_external(proto, file)
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        # custom domains are onnxruntime's business; what it cannot load is refused when the session is made
        if "No opset import for domain" not in str(error) and "No Op registered for" not in str(error):
            raise ModelError(f"{file}: not a valid ONNX model ({_line(error)}); export it again") from error
    except Exception as error:
        raise ModelError(f"{file}: not a valid ONNX model ({_line(error)}); export it again") from error


def _external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [
        tensor
        for tensor in onnx.external_data_helper._get_all_tensors(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]


def _external_file(tensor: onnx.TensorProto, file: Path) -> tuple[Path, int, int | None]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        length = int(entries["length"]) if "length" in entries else None
        offset = int(entries.get("offset", 0))
    except ValueError as error:
        raise ModelError(
            f"{file}: tensor {tensor.name!r} says nonsense of its external data; export it again"
        ) from error
    return file.parent / entries.get("location", ""), offset, length


def _check_external(proto: onnx.ModelProto, file: Path) -> None:
    folder = file.parent.resolve()
    for tensor in _external_tensors(proto):
        data, offset, length = _external_file(tensor, file)
        if not data.resolve().is_relative_to(folder):
            raise ModelError(f"{file}: tensor {tensor.name!r} points outside the model's folder ({data}); refused")
        if offset < 0 or (length or 0) < 0:
            raise ModelError(f"{file}: tensor {tensor.name!r} says nonsense of its external data; export it again")
        if not data.is_file():
            raise ModelError(f"{file}: external data file {data} of tensor {tensor.name!r} is missing; put it there")
        if data.stat().st_size < offset + (length or 0):
            raise ModelError(f"{file}: external data file {data} is truncated; copy or download it again")


def _load_external(proto: onnx.ModelProto, file: Path) -> None:
    """Into memory: sessions are made of bytes, which have no folder that external data could lie in."""
    for tensor in _external_tensors(proto):
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(file.parent))
        except Exception as error:
            raise ModelError(
                f"{file}: external data of tensor {tensor.name!r} cannot be read ({_line(error)}); export it again"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _check_sizes(proto: onnx.ModelProto, file: Path) -> None:
    """As many bytes as shape and type need, no more: `onnx.checker` looks at neither surplus nor external data."""
    for tensor in onnx.external_data_helper._get_all_tensors(proto):
        if tensor.HasField("raw_data"):
            try:
                bits = ir.DataType(tensor.data_type).bitwidth
            except (ValueError, TypeError) as error:
                raise ModelError(
                    f"{file}: tensor {tensor.name!r} has the unknown type {tensor.data_type}; export it again"
                ) from error
            have, need = len(tensor.raw_data), math.ceil(math.prod(tensor.dims) * bits / 8)
            if have != need:
                raise ModelError(
                    f"{file}: tensor {tensor.name!r} holds {have} bytes, its shape needs {need}; export it again"
                )


def _digest(proto: onnx.ModelProto, file: Path) -> str:
    digest = hashlib.sha256()
    external = sorted({_external_file(tensor, file)[0] for tensor in _external_tensors(proto)})
    for part in [file, *external]:
        with part.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def to_bytes(model: ir.Model) -> bytes:
    """Serialise.

    Raises:
        ModelError: beyond protobuf's limit of 2 GB.
    """
    proto = ir.to_proto(model)
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except ValueError as error:
        raise ModelError(
            "the model is larger than protobuf's 2 GB; models of this size are not supported yet"
        ) from error
    if len(data) > _PROTOBUF_LIMIT:
        raise ModelError("the model is larger than protobuf's 2 GB; models of this size are not supported yet")
    return data


def size_on_disk(path: Path) -> int:
    """Bytes of a model file and its external data."""
    proto = onnx.load(str(path), load_external_data=False)
    external = {_external_file(tensor, path)[0] for tensor in _external_tensors(proto)}
    return path.stat().st_size + sum(file.stat().st_size for file in external)


def from_bytes(data: bytes) -> ir.Model:
    """Deserialise what `to_bytes` made."""
    return ir.from_proto(onnx.load_from_string(data))


def save(model: ir.Model, path: str | Path) -> int:
    """Write atomically; returns the size in bytes. Raises `OutputError`."""
    data = to_bytes(model)
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

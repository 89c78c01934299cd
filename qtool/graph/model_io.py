"""Models in and out: load with every check an untrusted file needs, serialise, write."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.core.concurrency import both
from qtool.core.errors import ModelError, UsageError
from qtool.core.files import check_writable
from qtool.core.reading import open_file
from qtool.graph import external
from qtool.graph.loading import check_proto, one_line, read_proto, take_in
from qtool.graph.model_files import model_files
from qtool.graph.protos import from_proto
from qtool.graph.serialized import Serialized, consume, data_path, deserialize, outside, serialize, write

__all__ = [
    "LoadedModel", "Serialized", "check_output", "consume", "data_path", "deserialize", "digest_of", "from_bytes",
    "load", "refer", "serialize", "to_bytes", "write",
]  # fmt: skip

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, where it came from, and the SHA-256 of its content (external data included).

    Large weights are not in memory but in their file, which must not change as long as the model is in use.
    """

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
    proto = read_proto(file)
    check_proto(proto, file)
    # before the external tensors are taken in, which then say nothing of files any more
    parts = [file, *sorted({external.span(tensor, file).file for tensor in external.external_tensors(proto)} - {file})]
    model, digest = both(lambda: _model(proto, file), lambda: _digest(parts))
    return LoadedModel(model, file, digest)


def refer(path: str | Path) -> Serialized:
    """Return the model in a file as it is there, whose large initializers stay in their files.

    onnxruntime loads it in half the time that the file takes, which it would read and copy.

    Raises:
        ModelError: the file is missing, cannot be read, or is no ONNX model.
    """
    file = Path(path)
    proto = read_proto(file)
    return outside(proto, take_in(proto, file))


def _model(proto: onnx.ModelProto, file: Path) -> ir.Model:
    stored = take_in(proto, file)
    try:
        model = from_proto(proto)
    except Exception as error:
        raise ModelError(f"{file}: cannot be read ({one_line(error)}); check it with onnx.checker") from error
    for name, tensor in stored.items():
        model.graph.initializers[name].const_value = tensor
    return model


def _digest(parts: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        with open_file(part) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of a model's content as `load` gives it. Raises `OSError`."""
    return _digest(model_files(path))


def to_bytes(model: ir.Model) -> bytes:
    """Return the whole model as one protocol buffer; `serialize` makes no copies and has no limit of size.

    Raises:
        ModelError: beyond protobuf's limit of 2 GB.
    """
    return serialize(model).joined()


def from_bytes(data: bytes) -> ir.Model:
    """Return the model that `to_bytes` has turned into bytes."""
    return from_proto(onnx.load_from_string(data))


def check_output(output: str | Path, model: str | Path) -> None:
    """Refuse an output that cannot be written or would overwrite the float model.

    Raises:
        OutputError, UsageError: as said.
    """
    target = check_writable(output)
    written = [path for path in (target, data_path(target)) if path.exists()]
    if Path(model).is_file() and any(path.samefile(file) for path in written for file in model_files(model)):
        raise UsageError(f"{target}: would overwrite the float model; choose another output")

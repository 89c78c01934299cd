"""Tensors whose bytes lie in a file, which is mapped into memory: the model's own, or one of external data.

DataFile: onnx.proto, TensorProto.external_data; the protocol buffers' encoding.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import onnx
import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.core.process import trim_heap
from qtool.core.reading import open_file
from qtool.graph.wire import BYTES, Field, encoded, fields

LARGE = 2**16
"""Tensors of at least so many bytes are kept outside of protocol buffers."""
ITSELF = "*this file*"
"""The location of what lies in the model's own file."""
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_RAW_DATA, _DATA_LOCATION = 9, 14
# dims, data_type, name, raw_data, doc_string, metadata_props: nothing that says of other data
_PLAIN = {1, 2, 8, _RAW_DATA, 12, 16}


class DataFile:
    """A file that tensors lie in, as it was when it was opened.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file.resolve()
        with open_file(file) as stream:
            self.content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._stamp = _stamp(self.file)
        _SOURCES.add(self)

    def check(self) -> None:
        """Refuse another file in its place, which onnxruntime would read. Raises `ModelError`."""
        if _stamp(self.file) != self._stamp:
            raise ModelError(f"{self.file}: was changed while it was being read; run this again")


_SOURCES: WeakSet[DataFile] = WeakSet()


def forget_files() -> bool:
    """Give the memory back to the system that mapped files take, which can be read again; return whether any is mapped.

    Cheap enough for each time that a model is loaded.
    """
    sources = list(_SOURCES)
    for source in sources if hasattr(mmap, "MADV_DONTNEED") else ():
        source.content.madvise(mmap.MADV_DONTNEED)
    return bool(sources)


def let_go() -> None:
    """Give memory back to the system before much of it is needed, where files are mapped.

    That is `forget_files`, and what the C library keeps of freed memory, which is zeroed before it is used again.
    """
    if forget_files():
        trim_heap()


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class StoredTensor(ir.Tensor[Any]):
    """A tensor whose bytes begin at `offset` in a file; its array is a view of the mapped file."""

    __slots__ = ("offset", "source")

    def __init__(self, source: DataFile, offset: int, dtype: ir.DataType, shape: tuple[int, ...], name: str) -> None:
        little_endian = np.dtype(dtype.numpy()).newbyteorder("<")
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(source.content, little_endian, count, offset).reshape(shape)
        super().__init__(array, dtype=dtype, name=name)
        self.source, self.offset = source, offset


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a tensor's bytes; the length is None where they reach to the end of the file."""

    file: Path
    offset: int
    length: int | None

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.file.stat().st_size - self.offset if self.length is None else self.length


def tensors_of(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List all tensors of a model, those in attributes and in the graphs inside of nodes too."""
    return list(onnx.external_data_helper._get_all_tensors(proto))


def external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List the tensors whose bytes lie elsewhere, be it in the model's own file."""
    return [tensor for tensor in tensors_of(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL]


def location(tensor: onnx.TensorProto) -> str:
    """Return where an external tensor's file is, as the model states it; "" where it does not."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def span(tensor: onnx.TensorProto, model: Path) -> Span:
    """Find the bytes of an external tensor of the model at that path. Raises `ModelError` where it states nonsense."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        length = int(entries["length"]) if "length" in entries else None
        offset = int(entries.get("offset", 0))
    except ValueError as error:
        raise ModelError(
            f"{model}: tensor {tensor.name!r} says nonsense of its external data; export it again"
        ) from error
    where = location(tensor)
    return Span(model if where == ITSELF else model.parent / where, offset, length)


def set_external(tensor: onnx.TensorProto, where: str, offset: int, length: int) -> None:
    """Make the tensor external: its bytes lie at `where`, `length` of them from `offset` on."""
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", where), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def set_raw(tensor: onnx.TensorProto, data: bytes) -> None:
    """Make the tensor hold its bytes, wherever they were before."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = data


def outline(file: Path) -> bytes:
    """Read the model in a file with its large initializers external to it, at `ITSELF`; what is no model, as it is.

    Raises:
        OSError: the file cannot be read.
    """
    if file.stat().st_size < LARGE:
        with open_file(file) as stream:
            return stream.read(LARGE)
    with open_file(file) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return b"".join(
                encoded(field.number, _outlined_graph(data, field)) if _is(field, _MODEL_GRAPH) else _whole(data, field)
                for field in fields(data, 0, len(data))
            )
        except ValueError:
            return data[:]


def _outlined_graph(data: mmap.mmap, graph: Field) -> bytes:
    return b"".join(
        encoded(field.number, _outlined_tensor(data, field))
        if _is(field, _GRAPH_INITIALIZER) and field.end - field.start >= LARGE
        else _whole(data, field)
        for field in fields(data, graph.start, graph.end)
    )


def _outlined_tensor(data: mmap.mmap, tensor: Field) -> bytes:
    found = list(fields(data, tensor.start, tensor.end))
    raw = [field for field in found if field.number == _RAW_DATA]
    plain = all(f.number in _PLAIN or (f.number == _DATA_LOCATION and data[f.end - 1] == 0) for f in found)
    if len(raw) != 1 or raw[0].end - raw[0].start < LARGE or not plain:
        return data[tensor.start : tensor.end]
    outside = onnx.TensorProto()
    set_external(outside, ITSELF, raw[0].start, raw[0].end - raw[0].start)
    told: bytes = outside.SerializeToString()
    return b"".join(_whole(data, f) for f in found if f is not raw[0]) + told


def _is(field: Field, number: int) -> bool:
    return field.number == number and field.kind == BYTES


def _whole(data: mmap.mmap, field: Field) -> bytes:
    return data[field.begin : field.end]

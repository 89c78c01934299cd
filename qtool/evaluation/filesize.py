"""The size of a model on disk, the external data that it refers to included.

The references are found by walking the protocol buffer's fields (onnx.proto3: ModelProto,
TensorProto.external_data) in a memory map, without reading a weight.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

# message -> field number -> message, for every path from a model to a tensor
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def model_size(path: str | Path) -> int:
    """Bytes of the file at `path` and of every external data file that it refers to, each file once."""
    model = Path(path)
    size = model.stat().st_size
    if not size:
        return 0
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            locations = set(_locations(data, 0, len(data), "model"))
        except (IndexError, ValueError):
            # onnxruntime also loads its own format, which keeps everything in the file
            locations = set()
    files = {model.parent / location for location in locations}
    return size + sum(file.stat().st_size for file in files if file.is_file())


def _locations(data: mmap.mmap, start: int, end: int, message: str) -> Iterator[str]:
    for field, begin, stop in _fields(data, start, end):
        inner = _FIELDS[message].get(field)
        if inner == "entry":
            entry = {number: bytes(data[first:last]) for number, first, last in _fields(data, begin, stop)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif inner is not None:
            yield from _locations(data, begin, stop, inner)


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each length-delimited field between `position` and `end`."""
    while position < end:
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _BYTES:
            length, position = _varint(data, position)
            if position + length > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, position, position + length
            position += length
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in {_FIXED64, _FIXED32}:
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")

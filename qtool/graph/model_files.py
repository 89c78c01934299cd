"""The size of a model on disk, the external data that it refers to included.

The references are found by walking the protocol buffer's fields (onnx.proto3: ModelProto,
TensorProto.external_data) in a memory map, without reading a weight.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from qtool.core.reading import open_file
from qtool.graph.wire import BYTES, fields

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
_METADATA = 14
_OP_TYPE = 4


def model_size(path: str | Path) -> int:
    """Return the bytes of the file at `path` and of every external data file that it refers to, each file once."""
    return sum(file.stat().st_size for file in model_files(path))


def model_files(path: str | Path) -> list[Path]:
    """List the file at `path`, then every external data file that it refers to and that exists, each once."""
    model = Path(path)
    if not model.stat().st_size:
        return [model]
    with open_file(model) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            locations = set(_locations(data, 0, len(data), "model"))
        except ValueError:
            # onnxruntime also loads its own format, which keeps everything in the file
            locations = set()
    files = sorted({model.parent / location for location in locations})
    return [model, *(file for file in files if file.is_file())]


def operators(path: str | Path) -> set[str]:
    """Return the operator types of a model file, those in bodies and functions too; none of what is no ONNX model."""
    model = Path(path)
    if not model.stat().st_size:
        return set()
    with open_file(model) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_operators(data, 0, len(data), "model"))
        except ValueError:
            return set()


def metadata_of(path: str | Path) -> dict[str, str]:
    """Return the entries of a model's metadata (ModelProto.metadata_props); none of what is no ONNX model."""
    model = Path(path)
    if not model.stat().st_size:
        return {}
    found = {}
    with open_file(model) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for number, kind, _, begin, stop in fields(data, 0, len(data)):
                if number == _METADATA and kind == BYTES:
                    entry = {field.number: data[field.start : field.end] for field in fields(data, begin, stop)}
                    found[entry.get(1, b"").decode("utf-8", "replace")] = entry.get(2, b"").decode("utf-8", "replace")
        except (ValueError, TypeError):
            return {}
    return found


def _operators(data: mmap.mmap, start: int, end: int, message: str) -> Iterator[str]:
    for number, kind, _, begin, stop in fields(data, start, end):
        inner = _FIELDS[message].get(number) if kind == BYTES else None
        if message == "node" and number == _OP_TYPE:
            yield data[begin:stop].decode("utf-8", "replace")
        elif inner in ("graph", "function", "node", "attribute"):
            yield from _operators(data, begin, stop, inner)


def _locations(data: mmap.mmap, start: int, end: int, message: str) -> Iterator[str]:
    for number, kind, _, begin, stop in fields(data, start, end):
        inner = _FIELDS[message].get(number) if kind == BYTES else None
        if inner == "entry":
            entry = {field.number: data[field.start : field.end] for field in fields(data, begin, stop)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif inner is not None:
            yield from _locations(data, begin, stop, inner)

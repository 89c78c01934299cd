"""A `.jsonl` file -> batches: an object a line, numbers or text."""

import errno
import functools
import json
import reprlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.reading import read_lines
from qtool.core.records.codec import parsed
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount, meant
from qtool.feeds.batching import Chunk, Deferred, Reader
from qtool.feeds.checks import quoted
from qtool.feeds.fitting import Fitter
from qtool.feeds.matching import LABELS

LINE_LIMIT = 64 << 20
"""Bytes."""
_LABEL_KEYS = ("label", LABELS)
_TEXT, _PAIR = "text", "text_pair"


def open_jsonl(path: Path, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open a file with one sample a line, never whole in memory; empty lines are left out.

    A line is an object: the model's inputs by name, as nested lists of numbers without the batch axis, and `label` or
    `labels`. With the fitter's encoder `text`, and `text_pair`, stand for the inputs that it makes.

    Raises:
        DataError: at once for the first line, later while iterating: it names the line.
    """
    lines = _Lines(path, fitter)
    for first in lines.chunks():
        first.read()
        break
    available = sum(1 for _ in islice(_numbered(path), limit))
    return Reader(str(path), lines.chunks, available=available, batching=fitter.batching(batch_size, limit))


class _Lines:
    def __init__(self, path: Path, fitter: Fitter) -> None:
        self._path = path
        self._fitter = fitter
        self._inputs = {spec.name: spec for spec in fitter.known}
        self._labels = () if LABELS in self._inputs else tuple(key for key in _LABEL_KEYS if key not in self._inputs)
        self._texts = tuple(key for key in (_TEXT, _PAIR) if key not in self._inputs)

    def chunks(self) -> Iterator[Deferred]:
        for start, (number, line) in enumerate(_numbered(self._path)):
            yield Deferred(1, True, functools.partial(self._chunk, start, number, line))

    def _chunk(self, start: int, number: int, line: bytes) -> Chunk:
        where = f"{self._path}, line {number}"
        chunk = self._fitter.fit(where, self._arrays(where, _parsed(where, line)), start, where)
        if chunk.divisible and chunk.size != 1:
            raise DataError(f"{where}: holds {amount(chunk.size, 'sample')}; give one a line, without the batch axis")
        return chunk

    def _arrays(self, where: str, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        known = (*self._inputs, *self._labels, *self._texts)
        for key in record:
            if key not in known:
                raise DataError(
                    f"{where}: unknown key {reprlib.repr(key)}{meant(key, known)}; the keys are {quoted(known)}"
                )
        if sum(key in self._labels for key in record) > 1:
            raise DataError(f"{where}: has both 'label' and 'labels'; give one")
        arrays = self._encoded(where, record)
        for key, value in record.items():
            if key in self._inputs:
                if key in arrays:
                    raise DataError(f"{where}: '{key}' stands beside the text that makes it; give one of them")
                spec = self._inputs[key]
                arrays[key] = _input_array(where, key, value, spec, images=self._fitter.pixels_of(spec) is not None)
            elif key in self._labels:
                arrays[LABELS] = _label_array(where, key, value)
        return arrays

    def _encoded(self, where: str, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs that the text makes."""
        texts = {key: record[key] for key in self._texts if key in record}
        for key, value in texts.items():
            if not isinstance(value, str):
                raise DataError(f"{where}: '{key}' is {_kind(value)}; give a text")
        encoder = self._fitter.encoder
        if encoder is None:
            if texts:
                raise DataError(
                    f"{where}: holds '{next(iter(texts))}'; give the model's tokenizer.json as {arg('tokenizer')}"
                )
            return {}
        if _TEXT not in texts:
            raise DataError(f"{where}: has no 'text' for the tokenizer; give it, or leave {arg('tokenizer')} out")
        return encoder.encode(where, texts[_TEXT], texts.get(_PAIR))


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, numbered from 1 as an editor does it."""
    try:
        for number, line in enumerate(read_lines(path, LINE_LIMIT), 1):
            if line.strip():
                yield number, line
    except OSError as error:
        remedy = "give large samples as a folder of .npz" if error.errno == errno.EFBIG else "check the file"
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def _parsed(where: str, line: bytes) -> dict[str, Any]:
    try:
        record = parsed(line.decode("utf-8-sig"), strict=False)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON ({error.msg} at character {error.pos + 1}); give an object") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8; save the file as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{where}: cannot be read ({' '.join(str(error).split())[:100]}); correct it") from error
    if not isinstance(record, dict):
        raise DataError(f'{where}: is {_kind(record)}, not an object; write {{"input": [...], "label": 0}}')
    return record


def _input_array(where: str, key: str, value: Any, spec: InputSpec, *, images: bool) -> np.ndarray:
    array = _array(where, key, value)
    if array.dtype.kind == "U" and spec.dtype != np.object_:
        raise DataError(f"{where}: '{key}' holds a text; give nested lists of numbers")
    if images and array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    # JSON writes 1.0 as 1, and an empty list has no type
    if array.size == 0 or (spec.dtype.kind == "f" and array.dtype.kind in "iu"):
        return array.astype(spec.dtype)
    return array


def _label_array(where: str, key: str, value: Any) -> np.ndarray:
    array = _array(where, key, value)
    return array if array.size else array.astype(np.int64)


def _array(where: str, key: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: '{key}' is ragged; lists inside one list must have one length") from error
    if array.dtype.kind not in "biufU":
        raise DataError(f"{where}: '{key}' holds {_kind(value)} that is no number; give nested lists of numbers")
    return array


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")

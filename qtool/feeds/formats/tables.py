"""Arrays whose first axis counts samples -> batches."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum

import numpy as np

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.feeds.batching import Batching, Chunk, Deferred, Place, Reader
from qtool.feeds.boxes import moved
from qtool.feeds.checks import check_dtype, check_shape, fits_dimensions, shape_error
from qtool.feeds.fitting import Fitter, check_label
from qtool.feeds.formats.npz import Rows, Table


class _Form(Enum):
    """How an array feeds its input."""

    ROWS = "sliced along the first axis, which is the input's batch axis"
    WHOLE = "one whole input at every index"
    CONSTANT = "the same number in every batch"


def open_table(table: Table, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open arrays whose first axis counts samples.

    An array with the input's rank r is sliced `[i:i+B]`. An array of rank r+1 holds a whole input at every
    index, and a batch is then one of them. A single number feeds an input without axes in every batch; beside
    the inputs it says something of the set, not of a sample, and is left out.

    Raises:
        DataError: an array is missing, or its type, its shape or its number of samples is wrong.
    """
    streamed = _StreamedTable(table, fitter)
    batching = Batching(limit=limit) if streamed.whole else fitter.batching(batch_size, limit)
    wanted = streamed.available if limit is None else min(limit, streamed.available)

    def read() -> Iterator[Deferred]:
        return streamed.chunks(wanted, batching.size)

    return Reader(table.name, read, available=streamed.available, batching=batching)


def equal_counts(where: str, counts: Mapping[str, int]) -> int:
    """Return the number of samples that all arrays have; `counts` is theirs by name.

    Raises:
        DataError: the numbers differ, or are 0.
    """
    first, count = next(iter(counts.items()))
    for name, other in counts.items():
        if other != count:
            raise DataError(
                f"{where}: unequal sample counts: '{first}' has {count}, '{name}' has {other}; "
                f"give as many of each, or remove what is not data"
            )
    if count == 0:
        raise DataError(f"{where}: holds no samples ('{first}' is empty); give at least one")
    return count


class _StreamedTable:
    def __init__(self, table: Table, fitter: Fitter) -> None:
        self._table = table
        self._fitter = fitter
        headers = table.headers
        self._roles = fitter.match(table.name, headers)
        self._labels = [n for n, header in headers.items() if n not in self._roles.values() and header.shape]
        for name in self._labels:
            check_label(table.name, name, headers[name])
        self._forms = {spec.name: self._form(spec) for spec in fitter.inputs}
        self.available = self._count()
        self.whole = _Form.WHOLE in self._forms.values()
        if not self.whole and not fitter.common_axis:
            raise DataError(
                f"{table.name}: the model fixes different first dimensions, so its inputs have no common "
                f"batch axis; give every array one more axis, the samples, in front"
            )
        for spec in fitter.inputs:
            self._check_shape(spec)

    def _form(self, spec: InputSpec) -> _Form:
        where, name = self._table.name, self._roles[spec.name]
        header = self._table.headers[name]
        pixels = self._fitter.pixels_of(spec)
        if pixels is not None:
            pixels.images_shape(where, header, stacked=True)
            return _Form.ROWS
        check_dtype(where, f"'{name}'", header.dtype, spec)
        rank = len(header.shape)
        if spec.shape is None:
            return _Form.ROWS if rank else _Form.CONSTANT
        if rank == len(spec.shape) + 1:
            return _Form.WHOLE
        if rank != len(spec.shape):
            raise shape_error(where, f"'{name}'", header, spec)
        return _Form.ROWS if rank else _Form.CONSTANT

    def _check_shape(self, spec: InputSpec) -> None:
        where, name = self._table.name, self._roles[spec.name]
        header, form = self._table.headers[name], self._forms[spec.name]
        if spec.shape is None or form == _Form.CONSTANT:
            return
        pixels = self._fitter.pixels_of(spec)
        if pixels is not None:
            images = pixels.images_shape(where, header, stacked=True)
            header = replace(header, shape=pixels.output_shape(images), dtype=spec.dtype)
        sliced = form == _Form.ROWS
        if sliced and self.whole and not fits_dimensions((1,), spec.shape[:1]):
            raise shape_error(where, f"'{name}'", header, spec)
        expected = (None, *(spec.shape[1:] if sliced else spec.shape))
        check_shape(where, f"'{name}'", header, expected, spec)

    def _count(self) -> int:
        """The number of samples, the same for all arrays."""
        where = self._table.name
        names = [self._roles[name] for name, form in self._forms.items() if form != _Form.CONSTANT]
        counts = {name: self._table.headers[name].shape[0] for name in [*names, *self._labels]}
        if not names:
            raise DataError(f"{where}: no array has a first axis that counts samples; give one value a sample")
        return equal_counts(where, counts)

    def chunks(self, wanted: int, size: int) -> Iterator[Deferred]:
        """The first `wanted` samples, `size` at a time."""
        with self._table.open() as rows:
            constants = {
                spec.name: rows[self._roles[spec.name]].read(1)
                for spec in self._fitter.inputs
                if self._forms[spec.name] == _Form.CONSTANT
            }
            for start in range(0, wanted, size):
                count = min(size, wanted - start)
                read = functools.partial(self._chunk, rows, constants, start, count)
                yield Deferred(count, not self.whole, read, functools.partial(self._skip, rows, count))

    def _skip(self, rows: Mapping[str, Rows], count: int) -> None:
        read = {self._roles[name] for name, form in self._forms.items() if form != _Form.CONSTANT}
        for name in (*read, *self._labels):
            rows[name].skip(count)

    def _chunk(self, rows: Mapping[str, Rows], constants: Mapping[str, np.ndarray], start: int, size: int) -> Chunk:
        inputs = {}
        for spec in self._fitter.inputs:
            form = self._forms[spec.name]
            values = constants[spec.name] if form == _Form.CONSTANT else rows[self._roles[spec.name]].read(size)
            values = values[0] if form == _Form.WHOLE else values
            by_sample = form == _Form.ROWS
            inputs[spec.name] = self._fitter.value(
                self._table.name, values, spec, start, samples=by_sample, stacked=True
            )
        labels = {name: rows[name].read(size) for name in self._labels}
        pixels, geometry = self._fitter.pixels, None
        if pixels is not None:
            images = self._table.headers[self._roles[pixels.spec.name]]
            height, width = pixels.images_shape(self._table.name, images, stacked=True)[1:3]
            geometry = pixels.geometry((height, width))
            labels = moved(labels, geometry)
        labels = self._fitter.shifted(self._table.name, labels)
        places = (Place(laid=geometry),) * size
        return Chunk(inputs, labels, size, None, divisible=not self.whole, places=places)

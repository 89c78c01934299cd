"""Folders of arrays: `.npy` and `.npz` files, or ONNX `test_data_set_N` folders."""

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount
from qtool.feeds.batching import Batching, Chunk, Deferred, Reader
from qtool.feeds.checks import check_shape, quoted
from qtool.feeds.fitting import Fitter
from qtool.feeds.formats.listing import files_of, natural_key, read_labels, subfolders_of
from qtool.feeds.formats.npz import NpyTable, NpzTable, Table
from qtool.feeds.matching import LABELS, state_remedy

ARRAY_SUFFIXES = (".npy", ".npz")
_TEST_SET = re.compile(r"test_data_set_\d+")
_TEST_INPUT = re.compile(r"input_(\d+)\.pb")


def open_array_folder(folder: Path, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open a folder of `.npy` and `.npz` files, one sample or one batch each, in natural order.

    A labels.csv (columns file, label) gives the order and the labels. The headers of all files are read at
    once, so that a file that does not fit is found before anything runs.

    Raises:
        DataError: a file cannot be read or does not fit the model.
    """
    files = read_labels(folder) or [(path, None) for path in files_of(folder, ARRAY_SUFFIXES)]
    available, divisible = 0, True
    sizes: list[tuple[int, bool]] = []
    for path, label in files:
        table = _file_table(path, fitter)
        plan = fitter.arrange(str(path), table.headers)
        if label is not None and plan.size != 1:
            raise DataError(
                f"{path}: holds {amount(plan.size, 'sample')} but labels.csv one label; give one sample a file"
            )
        available += plan.size
        divisible = divisible and plan.divisible
        sizes.append((plan.size, plan.divisible))

    def load(path: Path, label: int | None, start: int) -> Chunk:
        chunk = fitter.fit(str(path), _load(_file_table(path, fitter)), start, str(path))
        if label is None:
            return chunk
        labels = fitter.shifted(str(path), {LABELS: np.array([label], np.int64)})
        return replace(chunk, labels={**chunk.labels, **labels})

    def read() -> Iterator[Deferred]:
        start = 0
        for (path, label), (size, divisible) in zip(files, sizes, strict=True):
            yield Deferred(size, divisible, functools.partial(load, path, label, start))
            start += size

    batching = fitter.batching(batch_size, limit)
    return Reader(
        str(folder), read, available=available, batching=replace(batching, exact=batching.exact and divisible)
    )


def _file_table(path: Path, fitter: Fitter) -> Table:
    if path.suffix.lower() == ".npz":
        return NpzTable(path)
    if len(fitter.inputs) > 1:
        names = quoted(spec.name for spec in fitter.inputs)
        raise DataError(
            f"{path}: holds one array, but the model has the inputs {names}; use .npz files with these names"
            f"{state_remedy(fitter.inputs, fitter.outputs)}"
        )
    return NpyTable(path, fitter.inputs[0].name)


def _load(table: Table) -> dict[str, np.ndarray]:
    with table.open() as rows:
        return {name: rows[name].read(header.shape[0] if header.shape else 1) for name, header in table.headers.items()}


def onnx_sets_of(folder: Path) -> list[Path]:
    """Return the ONNX test sets that a folder is or holds, in natural order. Raises `DataError`."""
    if any(_TEST_INPUT.fullmatch(path.name) for path in files_of(folder, (".pb",))):
        return [folder]
    return sorted((path for path in subfolders_of(folder) if _TEST_SET.fullmatch(path.name)), key=natural_key)


def open_test_sets(folder: Path, sets: list[Path], fitter: Fitter, limit: int | None) -> Reader:
    """Open ONNX test sets: `input_K.pb` is the model's K-th input, each set one batch.

    The expected outputs beside them are not read. Source: onnx/backend/test/runner, `test_data_set_N`.

    Raises:
        DataError: an input file is missing or too many, is damaged or does not fit the model.
    """
    from qtool.graph.tensor_files import read_tensor_file

    for path in sets:
        _check_test_set(path, fitter.inputs)

    def read() -> Iterator[Chunk]:
        start = 0
        for path in sets:
            arrays = {spec.name: read_tensor_file(path / f"input_{k}.pb") for k, spec in enumerate(fitter.inputs)}
            for spec in fitter.inputs:
                if spec.shape is not None and fitter.pixels_of(spec) is None:
                    check_shape(str(path), f"'{spec.name}'", arrays[spec.name], spec.shape, spec)
            chunk = fitter.fit(str(path), arrays, start, str(path))
            yield chunk
            start += chunk.size

    return Reader(str(folder), read, available=None, batching=Batching(limit=limit))


def _check_test_set(path: Path, inputs: list[InputSpec]) -> None:
    numbers = {int(match.group(1)) for file in files_of(path, (".pb",)) if (match := _TEST_INPUT.fullmatch(file.name))}
    for number, spec in enumerate(inputs):
        if number not in numbers:
            raise DataError(f"{path}: input_{number}.pb, the model's input '{spec.name}', does not exist; add it")
    if len(numbers) > len(inputs):
        raise DataError(
            f"{path}: input_{max(numbers)}.pb is one more than the model's {amount(len(inputs), 'input')}; "
            f"use the test set of this model"
        )

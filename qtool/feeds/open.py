"""DATA of every kind -> `Feeds`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.recognition import instead_of_data, tilde
from qtool.core.state import check_states, expanded_states
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount
from qtool.feeds.batching import Feeds, Reader
from qtool.feeds.checks import quoted
from qtool.feeds.fitting import Fitter
from qtool.feeds.formats.annotations import AUTO
from qtool.feeds.formats.folders import ARRAY_SUFFIXES, onnx_sets_of, open_array_folder, open_test_sets
from qtool.feeds.formats.functions import (
    arrays_of,
    is_function_spec,
    load_function,
    open_function,
    open_records,
)
from qtool.feeds.formats.images import IMAGE_SUFFIXES, open_images
from qtool.feeds.formats.jsonl import open_jsonl
from qtool.feeds.formats.listing import LABELS_FILE, files_of
from qtool.feeds.formats.npz import ArrayTable, NpyTable, NpzTable, Table
from qtool.feeds.formats.sequences import SequenceFitter, open_sequence_table
from qtool.feeds.formats.tables import open_table
from qtool.feeds.masks import chosen_mask
from qtool.feeds.matching import state_remedy
from qtool.feeds.reading import LabelledOptions, Reading
from qtool.feeds.source import Source
from qtool.feeds.texts import TextEncoder
from qtool.feeds.trimming import Trim
from qtool.graph import edit
from qtool.graph.edit import Model
from qtool.graph.finite import fed_specs

Record = Mapping[str, Any]
JSONL = ".jsonl"
Data = str | Path | Record | Iterable[Record] | Callable[[], Iterable[Record]]


def open_feeds(
    data: Data,
    inputs: Sequence[InputSpec],
    *,
    outputs: Sequence[InputSpec] = (),
    samples: int | None = None,
    batch_size: int = 1,
    **options: Unpack[LabelledOptions],
) -> Feeds:
    """Open data as batches for a model.

    Args:
        data: a path or `MODULE:FUNCTION` as on the command line; or a mapping name -> array whose first axes
            count samples; or dictionaries name -> array, one sample or batch each; or a function that yields
            them.
        inputs: the model's inputs, in its order.
        outputs: the model's outputs, which states are fed from.
        samples: take the first so many only.
        batch_size: how many samples of equal shape are stacked, where the model does not fix that; a batch
            that the data itself states (a dictionary, a file of a folder) is not taken apart.
        options: preprocess, tokenizer, max_length, trim, state, labels: see `LabelledOptions`. With `state` every batch
            is one sequence, see `qtool.feeds.formats.sequences`.

    Raises:
        DataError: the data does not exist, or does not fit the model as far as that shows without reading it.
        UsageError: an option is impossible.
    """
    for option, number in (("samples", samples), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise UsageError(f"{arg(option, number)}: give 1 or more")
    return _opened(data, inputs, outputs, samples, batch_size, Reading.of(options))


def open_for_model(
    model: Model, data: Data, *, samples: int | None = None, batch_size: int = 1, **options: Unpack[LabelledOptions]
) -> Feeds:
    """Open data as batches for a model's graph: `open_feeds` with its inputs and outputs."""
    inputs, outputs = fed_specs(model), edit.output_specs(model)
    return open_feeds(data, inputs, outputs=outputs, samples=samples, batch_size=batch_size, **options)


def open_source(source: Source, inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> Feeds | None:
    """Open data again, in this or another process, as it was opened first.

    None where this process does not find it, or finds another number of samples; and for functions, see
    `Source.by_path`.
    """
    if source.data is None or not source.by_path:
        return None
    try:
        feeds = _opened(source.data, inputs, outputs, source.samples, source.batch_size, source.reading)
    except DataError:
        return None
    return feeds if feeds.samples == source.available else None


def _opened(
    data: Data,
    inputs: Sequence[InputSpec],
    outputs: Sequence[InputSpec],
    samples: int | None,
    batch_size: int,
    reading: Reading,
) -> Feeds:
    fitter: Fitter
    trim = None
    if reading.states:
        reading = replace(reading, states=expanded_states(reading.states, inputs, outputs))
        check_states(reading.states, inputs, outputs)
        if batch_size != 1:
            raise UsageError(
                f"{arg('batch_size', batch_size)}: with {arg('state')} one sequence runs at a time; leave it out"
            )
        fitter = SequenceFitter(inputs, outputs, reading.states)
    else:
        encoder = _encoder(data, inputs, reading)
        trim = None if reading.trim is None else Trim.of(reading.trim, inputs)
        fitter = Fitter(inputs, reading.preprocess, encoder, outputs, reading.labels)
    reader = _reader(data, fitter, batch_size, samples)
    if reading.labels not in (None, AUTO) and not _has_pictures(data):
        raise UsageError(f"{arg('labels', reading.labels)}: is for a folder of pictures, which the data is not")
    mask = None if reading.states else chosen_mask(inputs, reading.mask)
    return Feeds(reader, reading.states, trim, Source.of(data, samples, batch_size, reading, reader.samples), mask)


def _has_pictures(data: Data) -> bool:
    folder = Path(data) if isinstance(data, str | Path) else None
    return folder is not None and folder.is_dir() and bool(files_of(folder, IMAGE_SUFFIXES, recurse=True))


def _encoder(data: Data, inputs: Sequence[InputSpec], reading: Reading) -> TextEncoder | None:
    if reading.tokenizer is None:
        return None
    if not (isinstance(data, str | Path) and Path(data).suffix.lower() == JSONL):
        raise UsageError(f"{arg('tokenizer', reading.tokenizer)}: is for text in a {JSONL} file, which the data is not")
    return TextEncoder(reading.tokenizer, inputs, reading.max_length)


def _reader(data: Data, fitter: Fitter, batch_size: int, samples: int | None) -> Reader:
    if isinstance(data, str | Path):
        return _named_reader(str(data), fitter, batch_size, samples)
    if isinstance(data, np.ndarray):
        return _table_reader(ArrayTable("the array", {"array": data}), fitter, batch_size, samples)
    if isinstance(data, Mapping):
        return _table_reader(ArrayTable("the arrays", arrays_of("the arrays", data)), fitter, batch_size, samples)
    if isinstance(data, Iterator):
        raise DataError(
            f"the data is a {type(data).__name__}, which can be read only once; pass the function that "
            f"makes it, or a list"
        )
    if callable(data):
        # an object that is called has no name by default, but may give itself one
        name = str(getattr(data, "__qualname__", None) or getattr(data, "__name__", type(data).__name__))
        return open_function(name, data, fitter, batch_size, samples)
    if isinstance(data, Iterable):
        return open_records("the data", data, fitter, batch_size, samples)
    raise DataError(f"the data is a {type(data).__name__}; give a path, arrays by name, dictionaries, or a function")


def _table_reader(table: Table, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    if isinstance(fitter, SequenceFitter):
        return open_sequence_table(table, fitter, limit)
    return open_table(table, fitter, batch_size, limit)


def _named_reader(text: str, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    path = Path(text)
    try:
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{text[:100]}: cannot be read ({error.strerror}); check the path") from error
    if path.is_dir():
        return _folder_reader(path, fitter, batch_size, limit)
    if not exists:
        if is_function_spec(text):
            return open_function(text, load_function(text), fitter, batch_size, limit)
        raise DataError(
            f"{text}: does not exist; give a .npz or .jsonl file, a folder of .npy, .npz or image files, "
            f"an ONNX test_data_set folder, or MODULE:FUNCTION{tilde(text)}"
        )
    suffix = path.suffix.lower()
    other = instead_of_data(path)
    if other is not None:
        raise DataError(f"{text}: {other}")
    if suffix == ".npz":
        return _table_reader(NpzTable(path), fitter, batch_size, limit)
    if suffix == JSONL:
        return open_jsonl(path, fitter, batch_size, limit)
    if suffix == ".npy":
        if len(fitter.inputs) > 1:
            names = quoted(spec.name for spec in fitter.inputs)
            raise DataError(
                f"{text}: holds one array, but the model has the inputs {names}; use a .npz file with these names"
                f"{state_remedy(fitter.inputs, fitter.outputs)}"
            )
        return _table_reader(NpyTable(path, fitter.inputs[0].name), fitter, batch_size, limit)
    if suffix == ".py":
        raise DataError(f"{text}: is Python; name the function that yields the data: {text}:FUNCTION")
    if suffix in IMAGE_SUFFIXES:
        raise DataError(f"{text}: is one image; give the folder that holds it")
    raise DataError(f"{text}: is no data that qtool reads; give a .npz or .jsonl file, a folder, or MODULE:FUNCTION")


def _folder_reader(folder: Path, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    arrays = files_of(folder, ARRAY_SUFFIXES)
    if isinstance(fitter, SequenceFitter) and not arrays:
        raise DataError(f"{folder}: holds no sequences; with {arg('state')} give .npz or .npy files, one sequence each")
    sets = onnx_sets_of(folder)
    if sets:
        return open_test_sets(folder, sets, fitter, limit)
    images = files_of(folder, IMAGE_SUFFIXES, recurse=True)
    if arrays and images:
        raise DataError(
            f"{folder}: holds {amount(len(arrays), 'array file')} and {amount(len(images), 'image')}; leave "
            "only one kind in the folder"
        )
    if arrays:
        return open_array_folder(folder, fitter, batch_size, limit)
    if images:
        return open_images(folder, fitter, batch_size, limit)
    looked_for = ", ".join((*ARRAY_SUFFIXES, *IMAGE_SUFFIXES))
    raise DataError(
        f"{folder}: holds no data; looked for {looked_for}, {LABELS_FILE} beside them, and test_data_set_N folders"
    )

"""Batches of samples, and how what a format reads at once becomes them."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.records.parts import Shard
from qtool.core.state import State
from qtool.core.text import amount
from qtool.feeds.geometry import Geometry
from qtool.feeds.masks import NO_MASK
from qtool.feeds.reading import ReadOptions
from qtool.feeds.source import NOWHERE, Source


@dataclass(frozen=True, slots=True)
class Place:
    """The origin of a sample: its file, if it has one, and how its picture came to lie in the input, if it did."""

    file: str | None = None
    laid: Geometry | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The arrays that the model takes at once.

    `inputs` maps input name to a C-contiguous array of the input's type. `labels` maps name to an array whose
    first axis counts samples. `start` is the index of the first sample in the data set and `size` the number
    of samples. `origin` names the batch in messages: "images.npz, samples 3 to 6" or "calib/0004.jpg". `places` are
    the samples', empty where nothing is known of them.
    """

    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    start: int
    size: int
    origin: str
    places: tuple[Place, ...] = ()


def record_of(batch: Batch, states: Sequence[State]) -> dict[str, np.ndarray]:
    """Return the inputs and labels of a batch by name, as data that is read again; with states one sequence."""
    if states:
        # a record is one sequence, without the axis of samples
        return {**batch.labels, **batch.inputs, **{name: array[0] for name, array in batch.labels.items()}}
    return {**batch.labels, **batch.inputs}


@dataclass(frozen=True, slots=True)
class Chunk:
    """The arrays that a format reads at once.

    `divisible` says that the first axis of every array (rank 0 apart) counts samples, so that the chunk may
    be cut and joined; otherwise it is one run of the model as it stands. `origin` is the file, or None where
    the index says it better. `places` are as in `Batch`.
    """

    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    size: int
    origin: str | None
    divisible: bool = True
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Deferred:
    """A chunk that has not been read, so that who wants only some batches need not read the others.

    Either `read` or `skip` is called once, unless the data is left altogether; without a `shape` before the next chunk
    is asked for.

    size, divisible: of the chunk. shape: equal for chunks that may be joined, None where only reading would tell.
    """

    size: int
    divisible: bool
    read: Callable[[], Chunk]
    skip: Callable[[], None] = lambda: None
    shape: Hashable | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """The number of samples that a batch takes.

    `exact` means that the model's batch dimension is fixed at `size`; otherwise `size` is how many samples of
    equal shape are stacked, and a larger chunk stays whole. `limit` is the number of samples taken altogether
    (None: all).
    """

    size: int = 1
    exact: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """A data set that is read in chunks, and the batches that they go into; each format has a function that makes one.

    name: what to call the data in messages. read: begins with the first chunk whenever it is called. available: the
    number of samples in the data, or None where only reading everything would tell. notes: what of the data is not
    among them, in words.

    Raises:
        DataError: the samples do not fill the batches that the model fixes.
    """

    name: str
    read: Callable[[], Iterator[Chunk | Deferred]]
    available: int | None
    batching: Batching
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        samples, size = self.samples, self.batching.size
        if self.batching.exact and samples is not None and samples % size:
            raise _leftover(self.name, samples, size)

    @property
    def samples(self) -> int | None:
        """The number of samples that the batches hold together, or None where that is not known."""
        if self.available is None or self.batching.limit is None:
            return self.available
        return min(self.available, self.batching.limit)


@dataclass(frozen=True, slots=True)
class Feeds:
    """A data set as batches; every iteration streams it from the start.

    Attributes:
        reader: where the samples come from.
        states: what is fed back; where there are any, every batch is one sequence (`qtool.feeds.formats.sequences`).
        finish: what is done to every batch before it is handed out, or None.
        source: how another process opens the same data; `NOWHERE` for what was made in this one.
        mask: the input whose zeros are padding, or None.

    Raises:
        DataError: while iterating, when the data cannot be fed to the model.
    """

    reader: Reader
    states: tuple[State, ...] = ()
    finish: Callable[[Batch], Batch] | None = None
    source: Source = NOWHERE
    mask: str | None = None

    @property
    def name(self) -> str:
        """The name of the data in messages."""
        return self.reader.name

    @property
    def notes(self) -> tuple[str, ...]:
        """The parts of the data that are left out, in words, a line each."""
        return self.reader.notes

    @property
    def again(self) -> ReadOptions:
        """The options by which what was made of this data is read as it was."""
        return {"state": self.states, "mask": None if self.states else self.mask or NO_MASK}

    @property
    def samples(self) -> int | None:
        """The number of samples, or None where only reading everything would tell."""
        return self.reader.samples

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, wanted: Callable[[int], bool] | None = None) -> Iterator[Batch]:
        """Yield the batches whose number, from 0, is wanted; the others are not read where the data allows that.

        Each is what it is among all of them: with the same samples, `start` and `origin`.
        """
        start = 0
        batching = self.reader.batching
        chunks = _limited(self.reader.read(), batching.limit)
        for number, group in enumerate(_grouped(self.name, chunks, batching)):
            size = sum(chunk.size for chunk in group)
            if wanted is None or wanted(number):
                batch = self._batch(_joined([_read(chunk) for chunk in group]), start)
                yield batch if self.finish is None else self.finish(batch)
            else:
                for chunk in group:
                    if isinstance(chunk, Deferred):
                        chunk.skip()
            start += size
        if start == 0:
            raise DataError(f"{self.name}: holds no samples; give at least one")

    def part(self, shard: Shard, first: int, stop: int | None = None) -> Iterator[Batch]:
        """Yield the batches `first` to before `stop` (None: the end) of the shard; no others are read."""

        def wanted(number: int) -> bool:
            within, turn = divmod(number, shard.count)
            return turn == shard.index - 1 and within >= first

        return islice(self.batches(wanted), None if stop is None else stop - first)

    def _batch(self, chunk: Chunk, start: int) -> Batch:
        return Batch(
            inputs={name: np.asarray(array, order="C") for name, array in chunk.inputs.items()},
            labels=chunk.labels,
            start=start,
            size=chunk.size,
            origin=chunk.origin or f"{self.name}, {span(start, chunk.size)}",
            places=chunk.places,
        )


def given_feeds(name: str, batches: Sequence[Batch], states: tuple[State, ...]) -> Feeds:
    """Make feeds of batches that were made elsewhere, as they are."""

    def read() -> Iterator[Chunk]:
        for batch in batches:
            yield Chunk(batch.inputs, batch.labels, batch.size, batch.origin, divisible=False, places=batch.places)

    return Feeds(Reader(name, read, sum(batch.size for batch in batches), Batching()), states)


def _read(chunk: Chunk | Deferred) -> Chunk:
    return chunk.read() if isinstance(chunk, Deferred) else chunk


def span(start: int, size: int) -> str:
    """Return the words for `size` samples from index `start` on."""
    return f"sample {start}" if size == 1 else f"samples {start} to {start + size - 1}"


def _leftover(name: str, found: int, size: int) -> DataError:
    whole = found - found % size
    remedy = f"use {arg('samples', whole)}" if whole else "give more samples"
    do = "does" if found == 1 else "do"
    return DataError(
        f"{name}: {amount(found, 'sample')} {do} not fill batches of {size}, the batch size that the model "
        f"fixes; {remedy}, or a model with a free batch dimension"
    )


def _limited(chunks: Iterator[Chunk | Deferred], limit: int | None) -> Iterator[Chunk | Deferred]:
    """Yield the first `limit` samples; an indivisible chunk that reaches over the limit stays whole."""
    taken = 0
    for chunk in chunks:
        kept = chunk
        if limit is not None and chunk.divisible and taken + chunk.size > limit:
            kept = _cut(_read(chunk), 0, limit - taken)
        taken += kept.size
        yield kept
        if limit is not None and taken >= limit:
            return


def _grouped(name: str, chunks: Iterator[Chunk | Deferred], batching: Batching) -> Iterator[list[Chunk | Deferred]]:
    """Yield what makes up each batch."""
    pending: list[Chunk | Deferred] = []
    done = held = 0
    for coming in chunks:
        # a batch by itself, whatever its shape
        alone = (
            not coming.divisible or coming.size == batching.size or (not batching.exact and coming.size > batching.size)
        )
        if not pending and alone:
            yield [coming]
            done += coming.size
            continue
        chunk = coming if isinstance(coming, Chunk) or coming.shape is not None else coming.read()
        if pending and (_key(chunk) != _key(pending[0]) or (not batching.exact and held + chunk.size > batching.size)):
            if batching.exact:
                raise _shape_changed(name, done, held, batching.size)
            yield pending
            done, held, pending = done + held, 0, []
        if not chunk.divisible:
            yield [chunk]
            done += chunk.size
            continue
        for piece in _pieces(chunk, batching, held):
            pending.append(piece)
            held += piece.size
            if held >= batching.size:
                yield pending
                done, held, pending = done + held, 0, []
    if pending:
        if batching.exact:
            raise _leftover(name, done + held, batching.size)
        yield pending


def _shape_changed(name: str, start: int, held: int, size: int) -> DataError:
    return DataError(
        f"{name}: {span(start, held)} do not fill a batch of {size}, the batch size that the model fixes, "
        f"before the shape changes; order the samples so that {size} of one shape follow each other"
    )


def _pieces(chunk: Chunk | Deferred, batching: Batching, held: int) -> Iterator[Chunk | Deferred]:
    if not batching.exact or held + chunk.size <= batching.size:
        yield chunk
        return
    chunk, first = _read(chunk), 0
    while first < chunk.size:
        stop = min(chunk.size, first + batching.size - held)
        yield _cut(chunk, first, stop)
        first, held = stop, 0


def _cut(chunk: Chunk, first: int, stop: int) -> Chunk:
    if first == 0 and stop == chunk.size:
        return chunk
    return replace(
        chunk,
        inputs={name: array[first:stop] if array.ndim else array for name, array in chunk.inputs.items()},
        labels={name: array[first:stop] for name, array in chunk.labels.items()},
        size=stop - first,
        places=chunk.places[first:stop],
    )


def _key(chunk: Chunk | Deferred) -> Hashable:
    """Return what is equal for chunks that may be joined."""
    if isinstance(chunk, Deferred):
        return chunk.divisible, chunk.shape
    inputs = tuple((n, a.shape[1:] if a.ndim else a.tobytes()) for n, a in sorted(chunk.inputs.items()))
    # texts of any length are of one kind
    labels = tuple(
        (n, a.shape[1:], a.dtype.str.rstrip("0123456789") if a.dtype.kind in "US" else a.dtype.str)
        for n, a in sorted(chunk.labels.items())
    )
    return chunk.divisible, inputs, labels


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    first, last = chunks[0], chunks[-1]
    origin = first.origin if first.origin == last.origin else f"{first.origin} to {last.origin}"
    return Chunk(
        inputs={
            name: np.concatenate([chunk.inputs[name] for chunk in chunks]) if array.ndim else array
            for name, array in first.inputs.items()
        },
        labels={name: np.concatenate([chunk.labels[name] for chunk in chunks]) for name in first.labels},
        size=sum(chunk.size for chunk in chunks),
        origin=origin,
        places=tuple(place for chunk in chunks for place in chunk.places),
    )

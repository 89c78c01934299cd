"""The data of a training: samples that train, on disk, and those that choose and report, which are never trained on."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.text import amount
from qtool.core.turns import turn_of
from qtool.feeds import Batch, Feeds

Arrays = dict[str, np.ndarray]
Shapes = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Of a sample, each array's name, type and shape."""
_LEAST, _TURNS = 4, 10
"""Of so many samples one chooses and one reports: the fewer there are, the more of them."""
_ENOUGH = 32
"""Samples that choose, and that report, where there are as many: of fewer the noise hides small gains."""
KEPT = 128
"""Samples that choose, and that report, at most: they are in memory."""
FEW = 64
"""With fewer samples than these to train on, they are learned by heart."""


@dataclass(slots=True)
class Samples:
    """Samples in a file that is open within a `with`, each a set of named arrays, read one by one in any order.

    What holds the same shapes may be joined to a batch: `shapes` has a key of these for each sample. The first of them
    are in memory, in so many bytes of `room`; `spilled` are the bytes in the file.
    """

    path: Path
    room: int = 0
    spilled: int = 0
    shapes: list[Shapes] = field(default_factory=list)
    _places: list[int | Arrays] = field(default_factory=list)
    _digest: Any = field(default_factory=hashlib.sha256)
    _file: BinaryIO | None = None

    def __enter__(self) -> "Samples":
        self._file = self.path.open("wb+")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, arrays: Arrays) -> None:
        """Add a sample. Raises `OSError`: there is no room."""
        assert self._file is not None
        self.shapes.append(tuple((name, array.dtype.str, array.shape) for name, array in arrays.items()))
        size = sum(array.nbytes for array in arrays.values())
        held = size <= self.room
        if held:
            self.room -= size
            self._places.append({name: np.array(array) for name, array in arrays.items()})
        else:
            self._file.seek(0, 2)
            self._places.append(self._file.tell())
            self.spilled += size
        for array in arrays.values():
            content = np.ascontiguousarray(array).tobytes()
            self._digest.update(content)
            if not held:
                self._file.write(content)

    @property
    def digest(self) -> str:
        """The SHA-256 of all samples, in their order."""
        return str(self._digest.hexdigest())

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Arrays:
        place = self._places[index]
        if isinstance(place, dict):
            return place
        assert self._file is not None
        self._file.seek(place)
        result: Arrays = {}
        for name, kind, shape in self.shapes[index]:
            dtype = np.dtype(kind)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            result[name] = np.frombuffer(bytearray(self._file.read(size)), dtype).reshape(shape)
        return result


@dataclass(slots=True)
class Labelled:
    """Samples in memory with what the data holds beside the inputs; called, it yields both together, for a metric.

    name: of the data. labels: beside each of `inputs`.
    """

    name: str
    inputs: list[Arrays] = field(default_factory=list)
    labels: list[Arrays] = field(default_factory=list)

    @property
    def __name__(self) -> str:
        """What to call the data in messages."""
        return self.name

    def __len__(self) -> int:
        return len(self.inputs)

    def add(self, batch: Batch) -> None:
        """Add a sample."""
        self.inputs.append(dict(batch.inputs))
        self.labels.append(dict(batch.labels))

    def one_by_one(self) -> Iterator["Labelled"]:
        """Yield each sample by itself."""
        for inputs, labels in zip(self.inputs, self.labels, strict=True):
            yield Labelled(self.name, [inputs], [labels])

    def __call__(self) -> Iterator[Arrays]:
        """Yield the samples as dictionaries of inputs and labels."""
        for inputs, labels in zip(self.inputs, self.labels, strict=True):
            yield {**labels, **inputs}


@dataclass(frozen=True, slots=True)
class Parted:
    """The data by what it is for; words: who does what. labels: beside what trains, where they are wanted."""

    choosing: Labelled
    reporting: Labelled
    training: Samples
    words: str
    labels: Samples | None = None


def part_samples(
    feeds: Feeds,
    reporting: Feeds | None,
    training: Samples,
    labels: Samples | None = None,
    *,
    labelled: bool = False,
) -> Parted:
    """Return the samples of data by what they are for: some choose, as many report, and the others train.

    These are 32 each where they are a tenth to a quarter of all, else the nearer of both.

    Args:
        feeds: the data, in batches of one sample, or of as many as the model fixes.
        reporting: data that reports instead, where it is given.
        training: is added what trains.
        labels: is added what the data holds beside that, unless it is None.
        labelled: what chooses needs labels: where the data has none, of two samples of what reports one chooses.

    Raises:
        DataError: there are too few samples, or no labels where they are wanted.
    """
    count = _counted(feeds)
    if count < _LEAST:
        raise DataError(_too_few(feeds, count))
    turns = max(_LEAST, min(_TURNS, count // _ENOUGH))
    first = next(iter(feeds))
    if labels is not None and not first.labels:
        raise DataError(
            f"{arg('labels_loss')}: {feeds.name} has no labels; give data that has, or leave it out, and only the "
            "float model is learned from"
        )
    elsewhere = labelled and reporting is not None and not first.labels
    chosen, reported = Labelled(feeds.name), Labelled(feeds.name if reporting is None else reporting.name)
    for number, batch in enumerate(feeds):
        turn = None if elsewhere else turn_of(number, turns)
        if turn == 0 and len(chosen) < KEPT:
            chosen.add(batch)
        elif reporting is None and turn == 1 and len(reported) < KEPT:
            reported.add(batch)
        else:
            training.add(dict(batch.inputs))
            if labels is not None:
                labels.add({name: array for name, array in batch.labels.items() if array.dtype.kind in "biuf"})
    if reporting is not None:
        chosen = _taken(reporting, chosen, reported, elsewhere=elsewhere)
    words = (
        f"{len(training)} of {feeds.name} train, {len(chosen)} of {chosen.name} choose; {len(reported)} of "
        f"{reported.name} report"
        if elsewhere
        else f"{len(training)} of {feeds.name} train, {len(chosen)} choose; {len(reported)} of {reported.name} report"
    )
    return Parted(chosen, reported, training, words, labels)


def _taken(reporting: Feeds, chosen: Labelled, reported: Labelled, *, elsewhere: bool) -> Labelled:
    """What chooses, where data that reports is given, which is added to `reported`; of a single sample both do."""
    if not elsewhere:
        for batch, _ in zip(reporting, range(KEPT), strict=False):
            reported.add(batch)
        return chosen
    chosen = Labelled(reporting.name)
    for number, batch in zip(range(2 * KEPT), reporting, strict=False):
        (chosen if turn_of(number, 2) == 0 else reported).add(batch)
    if not len(chosen) or not len(reported):
        raise DataError(f"{reporting.name}: holds 1 sample; give 2 or more, since one chooses and one reports")
    return chosen


def _too_few(feeds: Feeds, found: int) -> str:
    """Why so few samples do not do, and what to give."""
    asked, least = feeds.source.samples, f"give {_LEAST} or more, and best some hundreds"
    if asked is not None and asked <= found:
        return f"{arg('samples', asked)}: too few to train, choose and report; {least}"
    return f"{feeds.name}: holds {amount(found, 'sample')}; {least}"


def _counted(feeds: Feeds) -> int:
    """How many batches there are, as far as that matters."""
    return sum(1 for _ in zip(range(_TURNS * _ENOUGH), feeds, strict=False))


def shuffled(shapes: Sequence[Shapes], size: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Yield batches of samples of equal shapes, by their numbers, all of them once, in random order."""
    waiting: dict[Shapes, list[int]] = {}
    for index in random.permutation(len(shapes)).tolist():
        batch = waiting.setdefault(shapes[index], [])
        batch.append(index)
        if len(batch) == size:
            yield waiting.pop(shapes[index])
    yield from waiting.values()


def joined(samples: Sequence[Arrays]) -> Arrays:
    """Return samples as one batch: their arrays one behind the other along the first axis."""
    first = samples[0]
    if len(samples) == 1:
        return first
    return {name: np.concatenate([sample[name] for sample in samples]) for name in first}

"""Parts of a data set that take turns sample by sample, at random, so that one sorted by class splits evenly."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.core.turns import turn_of
from qtool.feeds import Batch, Feeds
from qtool.feeds.batching import record_of

Record = dict[str, Any]
Records = Callable[[], Iterator[Record]]
_PARTS = 4
"""Parts of one data set: two calibrate, one chooses, one reports."""


@dataclass(frozen=True, slots=True)
class Subset:
    """The samples whose turn it is; called, it yields dictionaries of inputs and labels.

    Of each `modulus` samples in a row every one has another turn, see `turn_of`. A batch that cannot be taken apart,
    since an input of it does not count samples on its first axis or the model fixes the size of batches, has one turn
    as a whole.
    """

    feeds: Feeds
    modulus: int
    turns: tuple[int, ...]
    unit: str = "samples"

    @property
    def __name__(self) -> str:
        """What to call the data in messages and results."""
        if self.modulus == 1:
            return self.feeds.name
        return f"{self.feeds.name} ({len(self.turns)} of every {self.modulus} {self.unit})"

    def __call__(self) -> Iterator[Record]:
        """Yield dictionaries of inputs and labels by name, those of the wanted turns."""
        first = 0
        for batch in self.feeds:
            arrays = record_of(batch, self.feeds.states)
            size = _units(self.feeds, batch)
            wanted = [i for i in range(size) if turn_of(first + i, self.modulus) in self.turns]
            first += size
            if len(wanted) == size:
                yield arrays
            elif wanted:
                yield {name: array[wanted] if np.ndim(array) else array for name, array in arrays.items()}


def _units(feeds: Feeds, batch: Batch) -> int:
    """The number of parts that a batch may be taken into."""
    fixed = feeds.reader.batching.exact and feeds.reader.batching.size > 1
    whole = fixed or any(array.ndim and len(array) != batch.size for array in batch.inputs.values())
    return 1 if whole else batch.size


def _first_units(feeds: Feeds, most: int) -> tuple[int, str]:
    """How many units the data holds, as far as `most`, and what they are; no more is read than that takes."""
    found, whole = 0, False
    for batch in feeds:
        units = _units(feeds, batch)
        whole = whole or units < batch.size
        found += units
        if found >= most:
            break
    return min(found, most), "batches" if whole else "samples"


def parts(feeds: Feeds) -> tuple[Subset, Subset, Subset, str]:
    """Return what calibrates, what chooses and what reports of one data set, and who does what, in words.

    Where there are too few samples for parts of their own, what reports has chosen too, or calibrated: the words say
    so.

    Raises:
        DataError: there is none at all, or it cannot be fed to the model.
    """
    found, unit = _first_units(feeds, _PARTS)
    one = unit.removesuffix("es") if unit == "batches" else unit.removesuffix("s")
    turns: dict[int, tuple[tuple[int, ...], ...]] = {
        1: ((0,), (0,), (0,)),
        2: ((0,), (1,), (1,)),
        3: ((0,), (1,), (2,)),
        4: ((0, 1), (2,), (3,)),
    }
    words = {
        1: f"the only {one} of {feeds.name} calibrates, chooses and reports; give 3 or more for parts of their own",
        2: f"of the two {unit} of {feeds.name} one calibrates, the other chooses and reports; give 3 or more for parts "
        "of their own",
        3: f"of the three {unit} of {feeds.name} one calibrates, one chooses, one reports",
        4: f"of four {unit} of {feeds.name} two calibrate, one chooses, one reports",
    }
    calibrating, choosing, reporting = subsets(feeds, found, *turns[found], unit=unit)
    return calibrating, choosing, reporting, words[found]


def evaluation_subsets(data: Feeds, other: Feeds, *, apart: bool = False) -> tuple[Subset, Subset, Subset, str]:
    """Return what calibrates, chooses and reports, and all in words, where evaluation data is given beside other data.

    `apart`: what calibrates does not choose, as far as there are samples for that.
    """
    first = next(iter(data), None)
    (calibrating,), (reporting,) = subsets(data, 1, (0,)), subsets(other, 1, (0,))
    if first is not None and first.labels:
        found, unit = _first_units(data, _PARTS) if apart else (0, "samples")
        if found == _PARTS:
            calibrating, choosing = subsets(data, _PARTS, (0, 1, 2), (3,), unit=unit)
            words = f"of four {unit} of {data.name} three calibrate and train, one chooses; {other.name} reports"
            return calibrating, choosing, reporting, words
        return calibrating, calibrating, reporting, f"{data.name} calibrates and chooses, {other.name} reports"
    found, unit = _first_units(other, 2)
    if found == 1:
        (both,) = subsets(other, 1, (0,))
        return (
            calibrating,
            both,
            both,
            f"{data.name} (no labels) calibrates; what there is of {other.name} chooses and reports",
        )
    choosing, reporting = subsets(other, 2, (0,), (1,), unit=unit)
    words = f"{data.name} (no labels) calibrates; of two {unit} of {other.name} one chooses, one reports"
    return calibrating, choosing, reporting, words


def subsets(feeds: Feeds, modulus: int, *turns: Sequence[int], unit: str = "samples") -> list[Subset]:
    """Return the parts of `feeds` that take these turns, one part for each of `turns`; `unit`: what takes turns."""
    return [Subset(feeds, modulus, tuple(turn), unit) for turn in turns]

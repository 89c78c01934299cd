"""The runs of a model that are kept with its statistics: what is chosen, verified and corrected without the data.

They are spread over all of the data: of its batches (or sequences) those are kept whose numbers, mixed, are the least.
So any part of the data knows which of its rows may be among them, whatever the others hold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

EXAMPLES = 64
"""At most so many, be they batches, or steps of sequences."""
BYTES = 16 * 2**20
"""What they may take together, where two of them take less."""
_FEW, _FEW_BYTES = 16, 3 * BYTES
"""The first of them may take more, where samples are large."""
_LEAST = 2
"""So many are kept however large they are: one chooses, the other reports."""
_STRIDE = 37
"""From one step of a sequence to the next: odd, so that all are met, and even steps lie as far apart as odd ones."""
_MASK = 2**64 - 1
Runs = tuple[dict[str, np.ndarray], ...]
"""The inputs of single runs of the model."""
_Run = TypeVar("_Run")


def candidates(steps: int, size: int) -> list[int]:
    """Return the steps of a sequence that may be kept, each in the middle of its share; `size`: the bytes of a step.

    There are as many as `EXAMPLES`, or as half of the room holds; sequences that are shorter repeat some.
    """
    count = max(1, min(EXAMPLES, BYTES // _LEAST // max(size, 1)))
    return spread(count, steps)


def spread(count: int, total: int) -> list[int]:
    """Return `count` numbers below `total`, each in the middle of its share; where there are fewer, some twice."""
    return [(2 * share + 1) * total // (2 * count) for share in range(count)]


@dataclass(frozen=True, slots=True)
class Row:
    """The runs that may be kept of a batch, which is one, or of a sequence: steps from all along it.

    start: the index of its first sample. size: bytes of all runs. runs: none where there was no room for them.
    """

    start: int
    size: int
    runs: Runs


def row_of(start: int, runs: Runs) -> Row:
    """Return the row of the runs of a batch, which is one, or of a sequence, in order."""
    return Row(start, sum(map(_size, {id(run): run for run in runs}.values())), runs)


def with_room(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return the rows that may become examples, in the order in which they do.

    Up to the first that finds no room left, which stays without its runs: what comes behind it finds none either,
    whatever is added. So the parts of the data may be added in any order.
    """
    taken = 0
    result: list[Row] = []
    for row in sorted(rows, key=lambda row: (_mixed(row.start), row.start))[:EXAMPLES]:
        taken += row.size
        fits = _fits(len(result), taken)
        result.append(row if fits else replace(row, runs=()))
        if not fits:
            break
    return tuple(result)


def joined(rows: Iterable[Row], row: Row) -> tuple[Row, ...]:
    """Return the rows and one more, as `with_room`, which then holds arrays of its own and no views of larger ones."""
    result = with_room((*rows, row))
    return tuple(replace(one, runs=tuple(map(_owned, one.runs))) if one is row else one for one in result)


def chosen(rows: Iterable[Row]) -> Runs:
    """Return the runs that become examples: each batch once, or steps of the sequences, which take turns."""
    kept = [row.runs for row in with_room(rows) if row.runs]
    result: list[dict[str, np.ndarray]] = []
    taken = 0
    for turn in range(EXAMPLES if kept else 0):
        # one further in each round, so that both halves have steps of each sequence
        of_all, of_one = divmod(turn, len(kept))
        which = (of_one + of_all) % len(kept)
        runs = kept[which]
        run = runs[(of_all + which) * _STRIDE % EXAMPLES * len(runs) // EXAMPLES]
        if any(run is other for other in result):
            continue
        taken += _size(run)
        if not _fits(len(result), taken):
            break
        result.append(run)
    return tuple(result)


def starts(rows: Iterable[Row], runs: Runs) -> tuple[int, ...]:
    """Return the index of the first sample of the batch or sequence that each run is of, which is one of the rows'."""
    known = {id(run): row.start for row in rows for run in row.runs}
    return tuple(known[id(run)] for run in runs)


def in_turns(given: Sequence[Runs]) -> Runs:
    """Return the examples of several calibrations, two of each in turn, so that both halves have some of each."""
    longest = max(map(len, given))
    runs = [run for i in range(0, longest, 2) for one in given for run in one[i : i + 2]]
    kept: list[dict[str, np.ndarray]] = []
    taken = 0
    for run in runs[:EXAMPLES]:
        taken += _size(run)
        if not _fits(len(kept), taken):
            break
        kept.append(run)
    return tuple(kept)


def halves(examples: Sequence[_Run]) -> tuple[tuple[_Run, ...], tuple[_Run, ...]]:
    """Return the examples that choose, and those that report what was chosen: every other one.

    A single example does both.
    """
    return tuple(examples[::2]), tuple(examples[1::2]) or tuple(examples)


def _fits(others: int, taken: int) -> bool:
    """Whether one more may be kept beside so many others, where all together take so many bytes."""
    return taken <= BYTES or others < _LEAST or (others < _FEW and taken <= _FEW_BYTES)


def _mixed(number: int) -> int:
    """Splitmix64: neighbours become far apart, two numbers never the same."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def _owned(run: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if all(array.base is None for array in run.values()):
        return run
    return {name: array.copy() for name, array in run.items()}


def _size(run: dict[str, np.ndarray]) -> int:
    return sum(_bytes(array) for array in run.values())


def _bytes(array: np.ndarray) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return sum(len(one) for one in array.reshape(-1).tolist())

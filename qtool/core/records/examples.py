"""The runs of a model that are kept with its statistics: what is chosen, verified and corrected without the data."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

EXAMPLES = 8
"""Of the first so many samples, be they batches or sequences."""
STEPS = 32
"""So many of all steps of sequences: a step holds less than a sample, and eight chose calibrators by chance."""
_BYTES = 8 * 2**20
Runs = tuple[dict[str, np.ndarray], ...]
"""The inputs of single runs of the model."""


def candidates(steps: int, size: int) -> list[int]:
    """Return the steps of a sequence that may be kept, each in the middle of its share; `size`: the bytes of a step.

    There are as many as `STEPS`, or as there is room for; sequences that are shorter repeat some.
    """
    count = max(1, min(STEPS, _BYTES // max(size, 1)))
    return [(2 * share + 1) * steps // (2 * count) for share in range(count)]


@dataclass(frozen=True, slots=True)
class Row:
    """The runs that may be kept of one of the first samples: a whole batch, or of a sequence steps from all along it.

    start: the index of its first sample. size: bytes of one run. runs: none where there was no room for them.
    """

    start: int
    size: int
    runs: Runs


def row_of(start: int, runs: Runs) -> Row:
    """Return the row of the runs of a batch, which is one, or of a sequence, in order."""
    return Row(start, _size(runs[0]), runs)


def with_room(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return the rows by their start, without the runs of those that find no room left; one always has some.

    What part of the rows is given makes no difference for the others: without runs there, without runs among all.
    """
    room = _BYTES
    result: list[Row] = []
    for row in sorted(rows, key=lambda row: row.start):
        result.append(row if not result or row.size <= room else replace(row, runs=()))
        room -= row.size
    return tuple(result)


def chosen(rows: Iterable[Row]) -> Runs:
    """Return the runs that become examples: each batch once, and at most `STEPS` steps.

    Those are the next share of a sequence each, the sequences taking turns.
    """
    kept = [row.runs for row in with_room(rows) if row.runs]
    chosen: list[dict[str, np.ndarray]] = []
    room = _BYTES
    for share in range(STEPS if kept else 0):
        runs = kept[share % len(kept)]
        run = runs[share * len(runs) // STEPS]
        if any(run is other for other in chosen):
            continue
        if not chosen or _size(run) <= room:
            chosen.append(run)
        room -= _size(run)
    return tuple(chosen)


def _size(run: dict[str, np.ndarray]) -> int:
    return sum(_bytes(array) for array in run.values())


def _bytes(array: np.ndarray) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return sum(len(one) for one in array.reshape(-1).tolist())

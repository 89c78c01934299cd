"""The runs of a model that are kept with its statistics: what is chosen, verified and corrected without the data."""

import numpy as np

EXAMPLES = 8
"""Of the first so many samples, be they batches or sequences."""
STEPS = 32
"""So many of all steps of sequences: a step holds less than a sample, and eight chose calibrators by chance."""
_BYTES = 8 * 2**20
Runs = tuple[dict[str, np.ndarray], ...]
"""The inputs of single runs of the model."""


def candidates(steps: int, size: int) -> list[int]:
    """The steps of a sequence that may be kept, each in the middle of its share; `size`: the bytes of a step.

    As many as `STEPS`, or as there is room for; sequences that are shorter repeat some.
    """
    count = max(1, min(STEPS, _BYTES // max(size, 1)))
    return [(2 * share + 1) * steps // (2 * count) for share in range(count)]


class Examples:
    """Chooses among the runs of the first samples: whole batches, or of sequences steps from all along them."""

    def __init__(self) -> None:
        self._rows: list[Runs] = []
        self._room = _BYTES

    def add(self, runs: Runs) -> None:
        """What may be kept of a batch, which is one run, or of a sequence, in order."""
        size = _size(runs[0])
        if not self._rows or size <= self._room:
            self._rows.append(runs)
        self._room -= size

    def chosen(self) -> Runs:
        """Each batch once; at most `STEPS` steps, the next share of a sequence each, the sequences taking turns."""
        chosen: list[dict[str, np.ndarray]] = []
        room = _BYTES
        for share in range(STEPS):
            row = self._rows[share % len(self._rows)]
            run = row[share * len(row) // STEPS]
            if any(run is other for other in chosen):
                continue
            if not chosen or _size(run) <= room:
                chosen.append(run)
            room -= _size(run)
        return tuple(chosen)


def _size(run: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in run.values())

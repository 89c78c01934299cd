"""The closeness of a model's outputs to float's: SQNR, cosine similarity, mean squared error.

Sums grow batch by batch, so memory does not depend on the number of samples.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from qtool.core.numerics.padding import Padding
from qtool.core.numerics.sqnr import OutputNoise, Parts, measured_outputs, unlike, worst
from qtool.evaluation.metrics.observation import Observation, rows


class Sqnr:
    """The signal to quantisation noise ratio of the worst output in dB; see `qtool.core.numerics.sqnr`.

    Of the outputs in `measured_outputs` that are none of `places`, and of one that has `parts` that of the worst of
    these. Identical outputs give inf; NaN or Inf unlike float's -inf. Padded positions, where `padding` finds them,
    count as neither signal nor noise.
    """

    def __init__(
        self, parts: Mapping[str, Parts] | None = None, places: Collection[str] = (), padding: Padding | None = None
    ) -> None:
        self._padding = padding or Padding("")
        self._parts = parts or {}
        self._places = places
        self._outputs: dict[str, OutputNoise] = {}

    def update(self, seen: Observation) -> None:
        """Add the signal and the noise of one batch, for each output."""
        for name in measured_outputs(seen.reference):
            if name in self._places:
                continue
            if name not in self._outputs:
                self._outputs[name] = OutputNoise(self._parts.get(name))
            pair = (seen.reference[name], seen.outputs[name])
            self._outputs[name].add(*(self._padding.blanked(name, array, seen.kept) for array in pair))

    def result(self) -> float:
        """Return the SQNR in dB of the worst output; NaN where none is measured, or one holds NaN unlike float's."""
        found = self.measured()
        return math.nan if found is None else found

    def measured(self) -> float | None:
        """Return the SQNR in dB of the worst output; None where none is measured."""
        return worst(db for _, db in self.by_output())

    def by_output(self) -> tuple[tuple[str, float | None], ...]:
        """Return each output's own SQNR in dB, in the float model's order; None where its shape was another."""
        clear = [(name, found, found.db_of_clear) for name, found in self._outputs.items()]
        return tuple((name, found.db if db is None else db) for name, found, db in clear)


class Mse:
    """The mean squared error: the mean of (float - q)^2 over every value of every output that can be compared.

    NaN and infinities that both have do not count; others make it infinite.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def update(self, seen: Observation) -> None:
        """Add the squared errors of one batch."""
        for name in _comparable(seen):
            reference, found = seen.reference[name], seen.outputs[name]
            self._sum += _squared_error(reference.astype(np.float64), found.astype(np.float64))
            self._count += reference.size

    def result(self) -> float:
        """Return the mean over all batches; NaN where nothing could be compared."""
        return self._sum / self._count if self._count else math.nan


class Cosine:
    """The cosine similarity of each sample's outputs with float's, averaged over samples and outputs.

    An output whose first axis is not the samples counts as one vector a batch. Two zero vectors have 1, one has 0; NaN
    and infinities that both have are left out, with others a vector has 0. Outputs that cannot be compared are left
    out.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0

    def update(self, seen: Observation) -> None:
        """Add the cosines of one batch."""
        for name in _comparable(seen):
            if seen.reference[name].size == 0:
                continue
            wanted, found = rows(seen.reference[name], seen.size), rows(seen.outputs[name], seen.size)
            self._sum += float(_cosines(wanted, found).mean()) * seen.size
            self._weight += seen.size

    def result(self) -> float:
        """Return the mean over all batches, from -1 to 1; NaN where nothing could be compared."""
        return self._sum / self._weight if self._weight else math.nan


def _comparable(seen: Observation) -> tuple[str, ...]:
    """The outputs of numbers that have the float model's shape."""
    return tuple(
        name
        for name, array in seen.reference.items()
        if array.dtype.kind in "fiub" and seen.outputs[name].shape == array.shape
    )


def _squared_error(wanted: np.ndarray, found: np.ndarray) -> float:
    if unlike(wanted, found).any():
        return math.inf
    finite = np.isfinite(wanted)
    with np.errstate(over="ignore"):
        error = found[finite] - wanted[finite]
        return float(np.vdot(error, error))


def _cosines(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    odd = ~np.isfinite(wanted)
    faulty = unlike(wanted, found).any(axis=1)
    same = ((wanted == found) | odd).all(axis=1) & ~faulty
    # scaled to 1, since squares may underflow; what both have that is not finite is left out
    wanted, found = _scaled(np.where(odd, 0.0, wanted)), _scaled(np.where(odd | ~np.isfinite(found), 0.0, found))
    dot = np.einsum("ij,ij->i", wanted, found)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    cosine = np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths != 0)
    cosine[same] = 1.0
    cosine[faulty] = 0.0
    return np.asarray(np.clip(cosine, -1.0, 1.0))


def _scaled(vectors: np.ndarray) -> np.ndarray:
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    return np.asarray(np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest != 0))

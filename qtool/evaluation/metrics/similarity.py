"""The closeness of a model's outputs to float's: SQNR, cosine similarity, mean squared error.

Sums are float64 and grow batch by batch, so memory does not depend on the number of samples.
"""

import math

import numpy as np

from qtool.evaluation.metrics.observation import Observation, rows


class Sqnr:
    """The signal to quantisation noise ratio in dB: 10 log10(sum(float^2) / sum((float - q)^2)) over all samples.

    `by_output` has it for each output, `result` over all outputs together. Identical outputs give inf. A
    value that is infinite in float counts as no signal where the candidate has it too, and as infinite noise
    where it does not.
    """

    def __init__(self) -> None:
        self._signal: dict[str, float] = {}
        self._noise: dict[str, float] = {}

    def update(self, seen: Observation) -> None:
        """Add the signal and the noise of one batch, for each output."""
        for name, reference in seen.reference.items():
            wanted = reference.astype(np.float64)
            noise = _squared_error(wanted, seen.outputs[name].astype(np.float64))
            wanted[np.isinf(wanted)] = 0.0
            signal = float(np.vdot(wanted, wanted))
            self._signal[name] = self._signal.get(name, 0.0) + signal
            self._noise[name] = self._noise.get(name, 0.0) + noise

    def result(self) -> float:
        """Return the SQNR in dB of all outputs together; inf where nothing differs."""
        return _decibels(sum(self._signal.values()), sum(self._noise.values()))

    def by_output(self) -> tuple[tuple[str, float], ...]:
        """Return each output's own SQNR in dB, in the float model's order."""
        return tuple((name, _decibels(self._signal[name], self._noise[name])) for name in self._signal)


class Mse:
    """The mean squared error: the mean of (float - q)^2 over every value of every output."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def update(self, seen: Observation) -> None:
        """Add the squared errors of one batch."""
        for name, reference in seen.reference.items():
            self._sum += _squared_error(reference.astype(np.float64), seen.outputs[name].astype(np.float64))
            self._count += reference.size

    def result(self) -> float:
        """Return the mean over all batches; 0 where outputs hold no values."""
        return self._sum / self._count if self._count else 0.0


class Cosine:
    """The cosine similarity of each sample's outputs with float's, averaged over samples and outputs.

    An output whose first axis is not the samples counts as one vector a batch. Two zero vectors have 1, one
    has 0.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0

    def update(self, seen: Observation) -> None:
        """Add the cosines of one batch."""
        for name, reference in seen.reference.items():
            wanted, found = rows(reference, seen.size), rows(seen.outputs[name], seen.size)
            self._sum += float(_cosines(wanted, found).mean()) * seen.size
            self._weight += seen.size

    def result(self) -> float:
        """Return the mean over all batches, from -1 to 1."""
        return self._sum / self._weight


def _squared_error(wanted: np.ndarray, found: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        error = found - wanted
        if np.isinf(wanted).any():
            error[found == wanted] = 0.0
            error[np.isinf(wanted) & (found != wanted)] = np.inf
        return float(np.vdot(error, error))


def _cosines(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        dot = np.einsum("ij,ij->i", wanted, found)
        lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
        cosine = np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths != 0)
    cosine[(wanted == found).all(axis=1)] = 1.0
    return np.asarray(np.clip(cosine, -1.0, 1.0))


def _decibels(signal: float, noise: float) -> float:
    if math.isnan(noise) or math.isnan(signal):
        return math.nan
    if noise == 0:
        return math.inf
    if math.isinf(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)

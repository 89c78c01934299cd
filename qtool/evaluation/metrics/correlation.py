"""Correlation of one score a sample with labels that are real numbers: Pearson's r and Spearman's rho."""

import math
from array import array

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.heads import LABELS
from qtool.evaluation.metrics.observation import Observation, rows


class _Scored:
    """A reader of scores and labels.

    Raises:
        UsageError: at once, where no output has one value a sample.
        DataError: from `update`, where labels are missing, are no numbers, or not one a sample.
    """

    def __init__(self, output: str | None, metric: str) -> None:
        if output is None:
            raise UsageError(
                f"{arg('metric', metric)}: no output has one value a sample; use {arg('metric', 'sqnr')}, or a "
                "metric of your own"
            )
        self._output = output
        self._metric = metric

    def _read(self, seen: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Scores and labels, float64 [size]."""
        labels = seen.labels.get(LABELS)
        if labels is None:
            raise DataError(
                f"{arg('metric', self._metric)}: {arg('data')} has no labels; add an array 'labels', a number a sample"
            )
        if labels.shape not in {(seen.size,), (seen.size, 1)} or labels.dtype.kind not in "iubf":
            raise DataError(
                f"{arg('metric', self._metric)}: '{seen.labels_name}' in {arg('data')} is {labels.dtype} "
                f"{list(labels.shape)} for {amount(seen.size, 'sample')} from sample {seen.start}; "
                "give one number a sample"
            )
        wanted = labels.reshape(-1).astype(np.float64)
        if not np.isfinite(wanted).all():
            sample = seen.start + int(np.isfinite(wanted).argmin())
            raise DataError(
                f"{arg('metric', self._metric)}: the label of sample {sample} is {wanted[sample - seen.start]}; "
                f"correct it in {arg('data')}"
            )
        scores = rows(seen.outputs[self._output], seen.size)
        if scores.shape[1] != 1:
            raise DataError(
                f"{arg('metric', self._metric)}: output '{self._output}' has {scores.shape[1]} values for each "
                f"sample from sample {seen.start}; give a model with one value a sample"
            )
        return scores[:, 0], wanted

    def _refuse_constant(self) -> DataError:
        return DataError(f"{arg('metric', self._metric)}: all labels are the same; give data whose labels differ")


class Pearson(_Scored):
    """Pearson's correlation coefficient r of scores and labels.

    Its sums are merged batch by batch about their means, so that nothing cancels. 0 where all scores are the same, NaN
    where one is NaN or infinite. Source of the merging: Chan, Golub and LeVeque, Updating formulae and a pairwise
    algorithm for computing sample variances (1979).

    Raises:
        UsageError: at once, where no output has one value a sample.
        DataError: from `update`, where labels are missing, are no numbers, or not one a sample; from `result`, where
            all labels are the same.
    """

    def __init__(self, output: str | None) -> None:
        super().__init__(output, "pearson")
        self._samples = 0
        self._mean = np.zeros(2)
        self._products = np.zeros((2, 2))
        self._low = np.full(2, np.inf)
        self._high = np.full(2, -np.inf)

    def update(self, seen: Observation) -> None:
        """Add the scores and the labels of one batch to the sums. Raises `DataError`."""
        pairs = np.stack(self._read(seen))
        with np.errstate(invalid="ignore", over="ignore"):
            mean = pairs.mean(axis=1)
            centred = pairs - mean[:, None]
            shift, total = mean - self._mean, self._samples + seen.size
            weight = self._samples * seen.size / total
            self._products += centred @ centred.T + weight * np.outer(shift, shift)
            self._mean += shift * (seen.size / total)
        self._samples = total
        self._low, self._high = np.minimum(self._low, pairs.min(axis=1)), np.maximum(self._high, pairs.max(axis=1))

    def result(self) -> float:
        """Return r over all batches, from -1 to 1. Raises `DataError`."""
        if self._low[1] == self._high[1]:
            raise self._refuse_constant()
        if self._low[0] == self._high[0]:
            return 0.0
        return correlation(self._products)


class Spearman(_Scored):
    """Spearman's rho: Pearson's r of the ranks, equal values sharing the mean of theirs.

    0 where all scores are the same, NaN where one is NaN. Sixteen bytes a sample are kept: score and label.

    Raises:
        UsageError: at once, where no output has one value a sample.
        DataError: from `update`, where labels are missing, are no numbers, or not one a sample; from `result`, where
            all labels are the same.
    """

    def __init__(self, output: str | None) -> None:
        super().__init__(output, "spearman")
        self._kept = (array("d"), array("d"))

    def update(self, seen: Observation) -> None:
        """Keep the scores and the labels of one batch. Raises `DataError`."""
        for kept, values in zip(self._kept, self._read(seen), strict=True):
            kept.frombytes(values.tobytes())

    def result(self) -> float:
        """Return rho over all batches, from -1 to 1. Raises `DataError`."""
        scores, labels = (np.asarray(kept) for kept in self._kept)
        if (labels == labels[0]).all():
            raise self._refuse_constant()
        if np.isnan(scores).any():
            return math.nan
        if (scores == scores[0]).all():
            return 0.0
        ranks = np.stack([average_ranks(scores), average_ranks(labels)])
        centred = ranks - ranks.mean(axis=1, keepdims=True)
        return correlation(centred @ centred.T)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 1; equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def correlation(products: np.ndarray) -> float:
    """Return the correlation of two variables from their centred products [2, 2]; NaN where it has none."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = np.sqrt(products[0, 0]) * np.sqrt(products[1, 1])
        return float(np.clip(products[0, 1] / lengths, -1.0, 1.0))

"""Metrics with one class for each token, and checks of the labels of tokens."""

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.classes import Agreement, are_whole
from qtool.evaluation.metrics.heads import LABELS, ClassOutput, Heads, predictions, same_places
from qtool.evaluation.metrics.observation import Observation


class TokenAccuracy:
    """The share of tokens whose class has the highest score, among those whose label is 0 or more.

    Of equal scores the lower class counts; a token with NaN among its scores is wrong.

    Raises:
        DataError: from `update`, where labels are missing, of another shape, or no class of the model; from `result`,
            where no label is 0 or more.
    """

    def __init__(self, output: ClassOutput) -> None:
        self._output = output
        self._right = 0
        self._tokens = 0

    def update(self, seen: Observation) -> None:
        """Count the tokens of one batch that are right. Raises `DataError`."""
        scores = seen.outputs[self._output.name]
        shape = scores.shape if self._output.holds_class else scores.shape[:-1]
        labels = token_labels(seen, self._output, "token_accuracy")
        if not same_places(shape, labels.shape):
            raise DataError(
                f"{arg('metric', 'token_accuracy')}: '{seen.labels_name}' in {arg('data')} has shape "
                f"{list(labels.shape)} from sample {seen.start}, output "
                f"'{self._output.name}' has {list(scores.shape)}; give a label for every token, -1 where there "
                "is none"
            )
        found, bad = predictions(scores, self._output)
        wanted = labels.reshape(-1)
        self._right += int(((found == wanted) & ~bad & (wanted >= 0)).sum())
        self._tokens += int((wanted >= 0).sum())

    def result(self) -> float:
        """Return the share of labelled tokens that were right, from 0 to 1. Raises `DataError`."""
        if not self._tokens:
            raise DataError(f"{arg('metric', 'token_accuracy')}: no label is 0 or more; give the class of some token")
        return self._right / self._tokens


class TokenAgreement(Agreement):
    """The share of tokens for which a model predicts the class that float does.

    Raises:
        DataError: from `result`, where there is no token, or a single column is no probability.
    """

    def result(self) -> float:
        """Return the share of tokens that agree, from 0 to 1. Raises `DataError`."""
        found = super().result()
        if found is None:
            raise DataError(
                f"{arg('metric', 'token_agreement')}: there are no tokens, or their one column is no probability; use "
                f"{arg('metric', 'sqnr')}"
            )
        return found


def require_tokens(heads: Heads, metric: str) -> ClassOutput:
    """Return the output that says a class for each token. Raises `UsageError` where there is none."""
    if heads.tokens is None:
        raise UsageError(
            f"{arg('metric', metric)}: no output has the shape [N, T, classes]; use {arg('metric', 'sqnr')}, or a "
            "metric of your own"
        )
    return heads.tokens


def token_labels(seen: Observation, output: ClassOutput, metric: str) -> np.ndarray:
    """Return the labels of each sample's tokens, int64 [size, ...], negative where there is none.

    Raises:
        DataError: there are none, they are not one row a sample, or one is no class of the output.
    """
    array = seen.labels.get(LABELS)
    if array is None:
        raise DataError(
            f"{arg('metric', metric)}: {arg('data')} has no labels; add an array 'labels' of classes, -1 where there "
            "is no token"
        )
    if array.ndim < 2 or len(array) != seen.size:
        raise DataError(
            f"{arg('metric', metric)}: '{seen.labels_name}' in {arg('data')} has shape {list(array.shape)} for "
            f"{amount(seen.size, 'sample')} from sample {seen.start}; it must hold a row of tokens a sample"
        )
    if not are_whole(array):
        raise DataError(
            f"{arg('metric', metric)}: '{seen.labels_name}' in {arg('data')} are not whole numbers ({array.dtype}); "
            "give classes"
        )
    labels = array.astype(np.int64)
    if output.classes is not None and (labels >= output.classes).any():
        sample = int(np.argwhere(labels >= output.classes)[0, 0])
        raise DataError(
            f"{arg('metric', metric)}: label {labels[sample].max()} of sample {seen.start + sample} is no class of "
            f"output '{output.name}', which has {output.classes} (0 to {output.classes - 1}); correct the labels in "
            f"{arg('data')}"
        )
    return labels

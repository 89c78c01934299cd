"""The class that a model gives each sample: top-k accuracy, agreement with float, and checks of class labels."""

from collections import Counter

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.records.evaluation import ConfusedClasses, Confusion
from qtool.core.text import amount
from qtool.evaluation.metrics.heads import (
    LABELS,
    ClassOutput,
    check_columns,
    counted,
    has_columns,
    one_hot_classes,
    predictions,
)
from qtool.evaluation.metrics.observation import Observation, rows

_MOST_PAIRS = 50
"""Pairs of classes that a `Confusion` lists."""
_ALTERNATIVE = f"use {arg('metric', 'sqnr')}, or a metric of your own as file.py:FUNCTION"


class TopK:
    """The share of samples whose label is among the `k` highest scores.

    Of equal scores the lower class comes first. A sample with NaN among its scores counts as wrong.

    Raises:
        DataError: from `update`, where labels are missing, of another length, or no class of the model.
    """

    def __init__(self, k: int, output: ClassOutput) -> None:
        self._k = k
        self._output = output
        self._right = 0
        self._samples = 0

    def update(self, seen: Observation) -> None:
        """Count the samples of one batch that are right. Raises `DataError`."""
        labels = class_labels(seen, self._output, f"top{self._k}")
        check_columns(seen.outputs[self._output.name], self._output)
        scores = rows(seen.outputs[self._output.name], seen.size)
        if self._output.columns == 1:
            right = predictions(scores, self._output)[0] == labels
        else:
            right = _rank(scores, labels) < self._k
        self._right += int((right & ~np.isnan(scores).any(axis=1)).sum())
        self._samples += seen.size

    def result(self) -> float:
        """Return the share of samples that were right, from 0 to 1."""
        return self._right / self._samples


class Agreement:
    """The share of samples for which a model predicts the same class as float does; of tokens, where it has these.

    Tokens with a negative label are left out. NaN in both is the same, NaN in one alone is not. None where it has no
    meaning: there is no token; the length of a sample differs; or float's values are no class scores. A single column
    is read as a probability, which lies in [0, 1].

    Args:
        output: where the classes are.
        likely: whether nothing but their shape tells the columns from a measurement; then they count only where float
            has scores of both signs, and predicts more than one class.
    """

    def __init__(self, output: ClassOutput, *, likely: bool = False) -> None:
        self._output = output
        self._same = 0
        self._counted = 0
        self._means_classes = True
        self._likely = likely
        self._signs: set[bool] = set()
        self._classes: set[int] = set()
        self._pairs: Counter[tuple[str, str]] = Counter()

    def update(self, seen: Observation) -> None:
        """Count the samples or tokens of one batch for which float's class is predicted."""
        output = self._output
        wanted, found = seen.reference[output.name], seen.outputs[output.name]
        labels = seen.labels.get(LABELS)
        # labels that are real numbers are what a regression is held against
        regression = labels is not None and labels.dtype.kind == "f" and not are_whole(labels)
        self._means_classes &= has_columns(wanted, output) and not regression
        if output.columns == 1 and not output.holds_class:
            known = wanted[~np.isnan(wanted)]
            self._means_classes &= bool(((known >= 0) & (known <= 1)).all())
        if not self._means_classes:
            return
        if found.shape != wanted.shape:
            self._counted += wanted.size // output.columns
            return
        if wanted.dtype.kind in "OSUb":
            same = wanted == found
            self._same, self._counted = self._same + int(same.sum()), self._counted + same.size
            self._note(wanted[~same], found[~same])
            return
        (expected, odd), (said, bad) = predictions(wanted, output), predictions(found, output)
        if self._likely:
            self._signs.update(np.unique(wanted < 0).tolist())
            self._classes.update(np.unique(expected).tolist())
        same = (expected == said) & (odd | ~bad)
        other = ~same & ~odd & ~bad
        labelled = counted(seen.labels, found, self._output)
        if labelled is not None:
            same, other = same[labelled], other & labelled
        self._note(expected[other], said[other])
        self._same += int(same.sum())
        self._counted += same.size

    def result(self) -> float | None:
        """Return the share for which float's class was predicted, from 0 to 1; None where it has no meaning."""
        if self._likely and (len(self._signs) < 2 or len(self._classes) < 2):
            return None
        return self._same / self._counted if self._means_classes and self._counted else None

    def confusion(self) -> Confusion | None:
        """Return which classes were predicted where float predicts another; None where `result` is None."""
        if self.result() is None:
            return None
        ranked = sorted(self._pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        pairs = tuple(ConfusedClasses(*names, count) for names, count in ranked[:_MOST_PAIRS])
        return Confusion(self._counted, pairs, sum(count for _, count in ranked[_MOST_PAIRS:]))

    def _note(self, wanted: np.ndarray, found: np.ndarray) -> None:
        self._pairs.update(zip(map(str, wanted.ravel().tolist()), map(str, found.ravel().tolist()), strict=True))


def require_class_output(output: ClassOutput | None, metric: str, k: int = 1) -> ClassOutput:
    """Return `output`, if there is one that says the `k` best classes.

    Raises:
        UsageError: no output has the shape of class scores, or top-`k` would be right whatever the model
            says.
    """
    if output is None:
        raise UsageError(
            f"{arg('metric', metric)}: no output has the shape of class scores [N, classes]; {_ALTERNATIVE}"
        )
    if k > 1 and output.columns <= k:
        classes = amount(output.columns, "column")
        raise UsageError(
            f"{arg('metric', metric)}: output '{output.name}' has {classes}, so it means nothing here; use "
            f"{arg('metric', 'top1')}"
        )
    return output


def class_labels(seen: Observation, output: ClassOutput, metric: str) -> np.ndarray:
    """Return the class of each sample, int64 [size]. Raises `DataError` naming what is wrong with the labels."""
    array = seen.labels.get(LABELS)
    if array is None:
        found = f"; it has {', '.join(sorted(seen.labels))}" if seen.labels else ""
        raise DataError(
            f"{arg('metric', metric)}: {arg('data')} has no labels{found}; add an array 'labels' (.npz), or "
            "sub-folders or a "
            f"labels.csv (images), or {_ALTERNATIVE}"
        )
    one_hot = one_hot_classes(array, output.columns) if len(array) == seen.size else None
    if one_hot is not None:
        return one_hot
    if array.shape not in {(seen.size,), (seen.size, 1)}:
        raise DataError(
            f"{arg('metric', metric)}: '{seen.labels_name}' in {arg('data')} has shape {array.shape} for "
            f"{amount(seen.size, 'sample')} from sample {seen.start}; it must hold one class a sample, or "
            f"{_ALTERNATIVE}"
        )
    if not are_whole(array):
        raise DataError(
            f"{arg('metric', metric)}: '{seen.labels_name}' in {arg('data')} are not whole numbers ({array.dtype}); "
            f"give class numbers from 0, use {arg('metric', 'pearson')} where they are scores, or {_ALTERNATIVE}"
        )
    labels = array.reshape(-1).astype(np.int64)
    _check_range(labels, seen, output, metric)
    return labels


def are_whole(labels: np.ndarray) -> bool:
    """Return whether labels are whole numbers that int64 holds, in whatever type."""
    if labels.dtype.kind != "f":
        return labels.dtype.kind in "iub"
    return bool(np.all((labels == np.floor(labels)) & (np.abs(labels.astype(np.float64)) < 2**63)))


def _check_range(labels: np.ndarray, seen: Observation, output: ClassOutput, metric: str) -> None:
    if output.classes is None:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= output.classes))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{arg('metric', metric)}: label {labels[first]} of sample {seen.start + first} is no class of output "
            f"'{output.name}', which has {output.classes} (0 to {output.classes - 1}); correct the "
            f"labels in {arg('data')}"
        )


def _rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label's, int [samples]."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1))

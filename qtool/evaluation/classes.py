"""Class scores: which output holds them, what a model predicts, top-k accuracy, agreement with float.

An output holds class scores if its first axis is the samples and at most one other axis is longer than 1:
[N, C], [N, C, 1, 1], [N, 1], [N]. It is the first output of the model, or the first one that fits. One
floating-point column is a binary score: class 1 above 0.5. An integer output of one column is the predicted
class itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.observation import Observation, rows

THRESHOLD = 0.5
LABELS = "labels"
_ALTERNATIVE = "use --metric sqnr, or a metric of your own as file.py:FUNCTION"


@dataclass(frozen=True, slots=True)
class ClassOutput:
    """The output that holds class scores: its name, its columns, and whether it holds the class itself."""

    name: str
    columns: int
    holds_class: bool

    @property
    def classes(self) -> int | None:
        """How many classes there are; None where the model gives the class itself."""
        if self.holds_class:
            return None
        return max(self.columns, 2)


def find_class_output(outputs: Mapping[str, np.ndarray], size: int) -> ClassOutput | None:
    """The first output that has the shape of class scores for `size` samples, or None."""
    for name, output in outputs.items():
        long_axes = sum(length > 1 for length in output.shape[1:])
        if output.ndim and output.shape[0] == size and output.size and long_axes <= 1:
            columns = output.size // size
            return ClassOutput(name, columns, columns == 1 and output.dtype.kind in "iub")
    return None


class TopK:
    """The share of samples whose label is among the `k` highest scores; of equal scores the lower class comes
    first.

    A sample with NaN among its scores counts as wrong.

    Raises:
        DataError: from `update`, where labels are missing, of another length, or no class of the model.
    """

    def __init__(self, k: int, output: ClassOutput) -> None:
        self._k = k
        self._output = output
        self._right = 0
        self._samples = 0

    def update(self, seen: Observation) -> None:
        labels = class_labels(seen, self._output, f"top{self._k}")
        scores = rows(seen.outputs[self._output.name], seen.size)
        if self._output.columns == 1:
            right = _predictions(scores, self._output) == labels
        else:
            right = _rank(scores, labels) < self._k
        self._right += int((right & ~np.isnan(scores).any(axis=1)).sum())
        self._samples += seen.size

    def result(self) -> float:
        return self._right / self._samples


class Agreement:
    """The share of samples for which a model predicts the same class as float does.

    For a regression with several columns that is the share whose largest column is the same one. A single
    column is read as a probability; where float leaves [0, 1] it is none, and the agreement is None.
    """

    def __init__(self, output: ClassOutput) -> None:
        self._output = output
        self._same = 0
        self._samples = 0
        self._probability = True

    def update(self, seen: Observation) -> None:
        wanted = rows(seen.reference[self._output.name], seen.size)
        found = rows(seen.outputs[self._output.name], seen.size)
        if self._output.columns == 1 and not self._output.holds_class:
            self._probability &= bool(((wanted >= 0) & (wanted <= 1)).all())
        same = _predictions(wanted, self._output) == _predictions(found, self._output)
        self._same += int((same & ~np.isnan(found).any(axis=1)).sum())
        self._samples += seen.size

    def result(self) -> float | None:
        return self._same / self._samples if self._probability else None


def require_class_output(output: ClassOutput | None, metric: str, k: int) -> ClassOutput:
    """`output`, if top-`k` accuracy can be told from it.

    Raises:
        UsageError: no output has the shape of class scores, or top-`k` would be right whatever the model
            says.
    """
    if output is None:
        raise UsageError(f"--metric {metric}: no output has the shape of class scores [N, classes]; {_ALTERNATIVE}")
    if k > 1 and output.columns <= k:
        classes = f"{output.columns} column(s)"
        raise UsageError(
            f"--metric {metric}: output '{output.name}' has {classes}, so it means nothing here; use --metric top1"
        )
    return output


def has_class_labels(labels: Mapping[str, np.ndarray], size: int) -> bool:
    """Whether the data has one class label a sample."""
    array = labels.get(LABELS)
    return array is not None and array.shape in {(size,), (size, 1)} and array.dtype.kind in "iubf"


def class_labels(seen: Observation, output: ClassOutput, metric: str) -> np.ndarray:
    """The class of each sample, int64 [size]. Raises `DataError` naming what is wrong with --data."""
    array = seen.labels.get(LABELS)
    if array is None:
        found = f"; it has {', '.join(sorted(seen.labels))}" if seen.labels else ""
        raise DataError(
            f"--metric {metric}: --data has no labels{found}; add an array 'labels' (.npz), or "
            "sub-folders or a "
            f"labels.csv (images), or {_ALTERNATIVE}"
        )
    if array.shape not in {(seen.size,), (seen.size, 1)}:
        raise DataError(
            f"--metric {metric}: 'labels' in --data has shape {array.shape} for {seen.size} "
            "sample(s) from sample "
            f"{seen.start}; it must hold one class a sample, or {_ALTERNATIVE}"
        )
    if array.dtype.kind not in "iubf" or not np.all(array == np.floor(array.astype(np.float64))):
        raise DataError(
            f"--metric {metric}: 'labels' in --data are not whole numbers ({array.dtype}); give "
            "class numbers "
            f"from 0, or {_ALTERNATIVE}"
        )
    labels = array.reshape(-1).astype(np.int64)
    _check_range(labels, seen, output, metric)
    return labels


def _check_range(labels: np.ndarray, seen: Observation, output: ClassOutput, metric: str) -> None:
    if output.classes is None:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= output.classes))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"--metric {metric}: label {labels[first]} of sample {seen.start + first} is no class of output "
            f"'{output.name}', which has {output.classes} (0 to {output.classes - 1}); correct the "
            "labels in --data"
        )


def _predictions(scores: np.ndarray, output: ClassOutput) -> np.ndarray:
    if output.holds_class:
        return scores[:, 0]
    if output.columns == 1:
        return scores[:, 0] > THRESHOLD
    return np.asarray(scores.argmax(axis=1))


def _rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label's, int [samples]."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1))

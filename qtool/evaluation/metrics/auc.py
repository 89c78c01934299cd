"""AUC: the area under the ROC curve of a binary classifier."""

import math
from array import array

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.classes import class_labels
from qtool.evaluation.metrics.heads import ClassOutput
from qtool.evaluation.metrics.observation import Observation, rows


class Auc:
    """The area under the ROC curve: the chance that a sample of class 1 has a higher score than one of class 0.

    Equal scores count half. That is the Mann-Whitney U statistic over the number of pairs. The score is the single
    column, or the second less the first: the order of softmax's probability, be they logits or probabilities. Eight
    bytes a sample are kept.

    Raises:
        UsageError: at once, where the output is no binary score.
        DataError: from `update` as for top1; from `result`, where all labels are of one class.
    """

    def __init__(self, output: ClassOutput) -> None:
        if output.columns > 2 or output.holds_class:
            what = "holds the class itself" if output.holds_class else f"has {amount(output.columns, 'column')}"
            raise UsageError(
                f"{arg('metric', 'auc')}: is for binary scores, but output '{output.name}' {what}; use "
                f"{arg('metric', 'f1')}"
            )
        self._output = output
        self._scores = (array("d"), array("d"))

    def update(self, seen: Observation) -> None:
        """Add the scores of one batch to those of their class. Raises `DataError`."""
        labels = class_labels(seen, self._output, "auc")
        scores = rows(seen.outputs[self._output.name], seen.size)
        with np.errstate(invalid="ignore"):
            score = scores[:, -1] - scores[:, 0] if self._output.columns == 2 else scores[:, 0]
        for one, kept in enumerate(self._scores):
            kept.frombytes(np.ascontiguousarray(score[labels == one]).tobytes())

    def result(self) -> float:
        """Return the area, from 0 to 1; NaN where a score is NaN. Raises `DataError`."""
        lower, upper = (np.asarray(kept) for kept in self._scores)
        if not (lower.size and upper.size):
            raise DataError(
                f"{arg('metric', 'auc')}: all labels are {int(upper.size > 0)}; give data with both classes"
            )
        if np.isnan(lower).any() or np.isnan(upper).any():
            return math.nan
        lower = np.sort(lower)
        below = np.searchsorted(lower, upper, "left").sum(dtype=np.int64)
        not_above = np.searchsorted(lower, upper, "right").sum(dtype=np.int64)
        return float(below + not_above) / (2 * lower.size * upper.size)

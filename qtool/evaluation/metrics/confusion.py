"""F1 and the Matthews correlation coefficient, from how often each class is the label, predicted, and right."""

import math
from collections import Counter

import numpy as np

from qtool.evaluation.metrics.classes import class_labels
from qtool.evaluation.metrics.heads import ClassOutput, predictions
from qtool.evaluation.metrics.observation import Observation

_NONE = -1
"""What a sample with NaN among its scores is predicted as: a class that no label is."""


class ClassCounts:
    """Counts of how often each class is the label, predicted, and right; memory grows only with the classes.

    Raises:
        DataError: from `update`, where labels are missing, of another length, or no class of the model.
    """

    def __init__(self, output: ClassOutput, metric: str) -> None:
        self._output = output
        self._metric = metric
        self.labels: Counter[int] = Counter()
        self.predicted: Counter[int] = Counter()
        self.right: Counter[int] = Counter()

    def update(self, seen: Observation) -> None:
        """Count the labels and the predictions of one batch. Raises `DataError`."""
        labels = class_labels(seen, self._output, self._metric)
        found, bad = predictions(seen.outputs[self._output.name], self._output)
        found[bad] = _NONE
        for counter, values in ((self.labels, labels), (self.predicted, found), (self.right, labels[labels == found])):
            classes, counts = np.unique(values, return_counts=True)
            counter.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))


class F1(ClassCounts):
    """The F1 score: of class 1 where there are two classes, else, and with `macro`, the mean over the classes.

    F1 = 2 right / (predicted + labels), 0 where a class is never right. The mean is over the classes that are some
    sample's label or prediction, as scikit-learn's f1_score(average="macro") has it. A model that gives the class
    itself counts as having two where no label is above 1.
    """

    def __init__(self, output: ClassOutput, metric: str, *, macro: bool) -> None:
        super().__init__(output, metric)
        self._macro = macro

    def result(self) -> float:
        """Return F1 over all batches, from 0 to 1."""
        classes = self._output.classes or max(2, max(self.labels) + 1)
        if classes == 2 and not self._macro:
            return self._of(1)
        seen = (self.labels.keys() | self.predicted.keys()) - {_NONE}
        return sum(self._of(one) for one in sorted(seen)) / len(seen) if seen else 0.0

    def _of(self, one: int) -> float:
        found = self.predicted[one] + self.labels[one]
        return 2 * self.right[one] / found if found else 0.0


class Matthews(ClassCounts):
    """The Matthews correlation coefficient; of more than two classes Gorodkin's R_K (2004, equation 8).

    0 where all labels, or all predictions, are of one class.
    """

    def result(self) -> float:
        """Return the coefficient over all batches, from -1 to 1."""
        samples = self.labels.total()
        together = sum(count * self.predicted[one] for one, count in self.labels.items())
        covariance = samples * self.right.total() - together
        labels, predicted = (
            samples**2 - sum(count**2 for count in counter.values()) for counter in (self.labels, self.predicted)
        )
        return covariance / math.sqrt(labels * predicted) if labels and predicted else 0.0

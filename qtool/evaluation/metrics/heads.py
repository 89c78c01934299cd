"""The outputs that predictions are read from, found by the shapes of the first batch and its labels.

Classes: the first output whose first axis is the samples and of whose other axes at most one is longer than 1:
[N, C], [N, C, 1, 1], [N, 1], [N]. Tokens: the first output [N, T, C], or of any rank where the labels have its shape
without the last axis; an integer output [N, T] holds the tokens themselves. A score: the first output with one value a
sample. One floating-point column is a binary score: class 1 above 0.5. An integer output of one column is the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

THRESHOLD = 0.5
LABELS = "labels"


@dataclass(frozen=True, slots=True)
class ClassOutput:
    """An output that says a class for each sample or token: name, columns, and whether it holds the class itself."""

    name: str
    columns: int
    holds_class: bool

    @property
    def classes(self) -> int | None:
        """The number of classes; None where the model gives the class itself."""
        if self.holds_class:
            return None
        return max(self.columns, 2)


@dataclass(frozen=True, slots=True)
class Heads:
    """The outputs that metrics read.

    classes: one class a sample. tokens: one class a token. score: the name of the output with one value a sample.
    token_labels: whether the labels are the tokens'.
    """

    classes: ClassOutput | None = None
    tokens: ClassOutput | None = None
    score: str | None = None
    token_labels: bool = False

    @property
    def predicted(self) -> ClassOutput | None:
        """The output whose predictions are compared with float's; None where no output says classes."""
        return self.tokens if self.token_labels or self.classes is None else self.classes


NO_HEADS = Heads()


def find_heads(
    outputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], size: int, *, in_steps: bool = False
) -> Heads:
    """Return the heads of a model whose first batch has these outputs and labels, for `size` samples.

    With `in_steps` a sample is a sequence of steps, its outputs are [size, steps, ...], and steps are the tokens.
    """
    tokens = _labelled_tokens(outputs, labels, size)
    if in_steps:
        tokens_found = tokens or _find_steps(outputs)
        return Heads(tokens=tokens_found, token_labels=tokens is not None)
    return Heads(
        classes=find_class_output(outputs, size),
        tokens=tokens or _find_tokens(outputs, size),
        score=next((name for name, output in outputs.items() if output.shape[:1] == (size,) == (output.size,)), None),
        token_labels=tokens is not None,
    )


def find_class_output(outputs: Mapping[str, np.ndarray], size: int) -> ClassOutput | None:
    """Return the first output that has the shape of class scores for `size` samples, or None."""
    for name, output in outputs.items():
        long_axes = sum(length > 1 for length in output.shape[1:])
        if output.ndim and output.shape[0] == size and output.size and long_axes <= 1:
            columns = output.size // size
            return ClassOutput(name, columns, columns == 1 and output.dtype.kind in "iub")
    return None


def one_hot_classes(array: np.ndarray, columns: int) -> np.ndarray | None:
    """Return the classes, int64 [N], that one-hot labels [N, columns] say; None for any other array."""
    if array.ndim != 2 or array.shape[1] != columns or columns < 2 or array.dtype.kind not in "iubf":
        return None
    ones = array == 1
    plain = bool((ones.sum(axis=1) == 1).all() and ((array == 0) | ones).all())
    return np.asarray(ones.argmax(axis=1), np.int64) if plain else None


def default_metric(heads: Heads, labels: Mapping[str, np.ndarray], size: int) -> str:
    """Return the name of the metric that the labels ask for: token_accuracy, top1, else sqnr."""
    if heads.token_labels:
        return "token_accuracy"
    array = labels.get(LABELS)
    labelled = array is not None and array.shape in {(size,), (size, 1)} and array.dtype.kind in "iubf"
    if array is not None and heads.classes is not None and len(array) == size:
        labelled = labelled or one_hot_classes(array, heads.classes.columns) is not None
    return "top1" if labelled and heads.classes is not None else "sqnr"


def predictions(array: np.ndarray, output: ClassOutput) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each sample or token, int64, and whether there is NaN among its scores, bool.

    Both are [samples or tokens], in order.
    """
    scores = array.reshape(-1, output.columns)
    bad = np.isnan(scores).any(axis=1) if scores.dtype.kind == "f" else np.zeros(len(scores), bool)
    if output.holds_class:
        return scores[:, 0].astype(np.int64), bad
    if output.columns == 1:
        return (scores[:, 0] > THRESHOLD).astype(np.int64), bad
    return np.asarray(scores.argmax(axis=1)), bad


def counted(labels: Mapping[str, np.ndarray], array: np.ndarray, output: ClassOutput) -> np.ndarray | None:
    """Return which of the predictions of `array` have a label, bool [tokens].

    None where the labels are not the tokens'.
    """
    wanted = labels.get(LABELS)
    shape = array.shape if output.holds_class else array.shape[:-1]
    if wanted is None or wanted.ndim < 2 or wanted.dtype.kind not in "iub" or wanted.shape != shape:
        return None
    return np.asarray(wanted.reshape(-1) >= 0)


def _labelled_tokens(
    outputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], size: int
) -> ClassOutput | None:
    wanted = labels.get(LABELS)
    if wanted is None or wanted.ndim < 2 or wanted.dtype.kind not in "iub" or len(wanted) != size:
        return None
    for name, output in outputs.items():
        if output.dtype.kind == "f" and output.shape[:-1] == wanted.shape and output.size:
            return ClassOutput(name, output.shape[-1], holds_class=False)
        if output.dtype.kind in "iu" and output.shape == wanted.shape and wanted[0].size > 1:
            return ClassOutput(name, 1, holds_class=True)
    return None


def _find_steps(outputs: Mapping[str, np.ndarray]) -> ClassOutput | None:
    for name, output in outputs.items():
        if output.dtype.kind == "f" and output.ndim == 3:
            return ClassOutput(name, output.shape[2], holds_class=False)
        if output.dtype.kind in "iub" and output.ndim == 2:
            return ClassOutput(name, 1, holds_class=True)
    return None


def _find_tokens(outputs: Mapping[str, np.ndarray], size: int) -> ClassOutput | None:
    for name, output in outputs.items():
        if output.dtype.kind == "f" and output.ndim == 3 and len(output) == size and output.shape[2] > 1:
            return ClassOutput(name, output.shape[2], holds_class=False)
        if output.dtype.kind in "iu" and output.ndim == 2 and len(output) == size and output.shape[1] > 1:
            return ClassOutput(name, 1, holds_class=True)
    return None

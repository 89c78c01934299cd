"""The outputs that predictions are read from, found by the shapes of the first batch and its labels.

Classes: the first output whose first axis is the samples and of whose other axes at most one is longer than 1:
[N, C], [N, C, 1, 1], [N, 1], [N]. Tokens: the first output [N, T, C], or of any rank where the labels have its shape
without the last axis; an integer output [N, T] holds the tokens themselves. A score: the first output with one value a
sample. One floating-point column is a binary score: class 1 above 0.5. An integer output of one column is the class.

Shape alone does not tell class scores from boxes, embeddings or other measurements, where the largest column means
nothing. Labels of classes do; without them agreement with float needs evidence, see `find_predicted`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.numerics.padding import Padding
from qtool.core.numerics.sqnr import Parts
from qtool.core.tensorspec import describe
from qtool.core.text import amount
from qtool.evaluation.decoding.user import DecodeSpec, decoder_name, resolve_decoder
from qtool.evaluation.metrics.detection import Detector
from qtool.feeds.boxes import BOXES, CROWD, MASKS
from qtool.feeds.matching import labels_called

THRESHOLD = 0.5
LABELS = "labels"
_NAMED = re.compile("logit|score|prob|class|label|softmax|predict|categor|cls", re.IGNORECASE)
_MEASURED = re.compile(
    "box|coord|landmark|keypoint|embed|feature|hidden|offset|angle|pose|regress|anchor|state|mask", re.IGNORECASE
)


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
    token_labels: whether the labels are the tokens'. predicted: the output whose predictions are compared with float's;
    likely: whether that is known by its shape alone, and its values must show that they are class scores. parts: of an
    output, those that differ in kind. places: outputs that say places or classes and nothing else. detector: finds
    boxes, where somebody says how the outputs become boxes. texts: the output of one string a sample.
    padding: where outputs hold padded positions. embedding: the output of one vector a sample.
    """

    classes: ClassOutput | None = None
    tokens: ClassOutput | None = None
    score: str | None = None
    token_labels: bool = False
    predicted: ClassOutput | None = None
    likely: bool = False
    parts: Mapping[str, Parts] = field(default_factory=dict)
    places: frozenset[str] = frozenset()
    detector: Detector | None = None
    texts: str | None = None
    padding: Padding | None = None
    embedding: str | None = None

    def with_places(self, places: frozenset[str]) -> "Heads":
        """Return the heads where the graph says that these outputs hold places or classes, whatever their type is."""

        def known(output: ClassOutput | None) -> ClassOutput | None:
            held = output is None or output.name not in places or output.columns > 1
            return output if output is None or held else ClassOutput(output.name, 1, holds_class=True)

        predicted = self.predicted
        if self.detector is None and places and (predicted is None or (self.likely and predicted.name in places)):
            predicted = ClassOutput(min(places), 1, holds_class=True)
        likely = self.likely and predicted == self.predicted
        found = known(predicted)
        return replace(self, classes=known(self.classes), predicted=found, likely=likely, places=places)


NO_HEADS = Heads()


def find_heads(
    outputs: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    size: int,
    *,
    in_steps: bool = False,
    decode: DecodeSpec | None = None,
) -> Heads:
    """Return the heads of a model whose first batch has these outputs and labels, for `size` samples.

    With `in_steps` a sample is a sequence of steps, its outputs are [size, steps, ...], and steps are the tokens. With
    `decode` the outputs are boxes, and say no classes of samples or tokens that could be compared with float's.

    Raises:
        UsageError: there is no such decoder, or there are steps, whose boxes are not decoded.
    """
    if decode is not None:
        if in_steps:
            raise UsageError(f"{arg('decode', decoder_name(decode))}: does not go with {arg('state')}; leave one out")
        return Heads(
            classes=find_class_output(outputs, size),
            tokens=_find_tokens(outputs, size),
            detector=Detector(resolve_decoder(decode)),
        )
    tokens = _labelled_tokens(outputs, labels, size)
    if in_steps:
        tokens_found = tokens or _find_steps(outputs)
        predicted, likely = (tokens, False) if tokens else find_predicted(outputs, labels, size, (_find_steps,))
        return Heads(tokens=tokens_found, token_labels=tokens is not None, predicted=predicted, likely=likely)
    by_sample, by_token = (lambda one: find_class_output(one, size)), (lambda one: _find_tokens(one, size))
    finders = (by_sample, by_token)
    numbers = {name: output for name, output in outputs.items() if _is_number(output)}
    predicted, likely = (tokens, False) if tokens else find_predicted(outputs, labels, size, finders)
    return Heads(
        classes=find_class_output(outputs, size),
        tokens=tokens or _find_tokens(outputs, size),
        score=next((name for name, array in numbers.items() if array.shape[:1] == (size,) == (array.size,)), None),
        token_labels=tokens is not None,
        predicted=predicted,
        likely=likely,
        texts=_find_texts(outputs, size),
        embedding=_find_embedding(outputs, size),
    )


def find_predicted(
    outputs: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    size: int,
    finders: Sequence[Callable[[Mapping[str, np.ndarray]], ClassOutput | None]],
) -> tuple[ClassOutput | None, bool]:
    """Return the first output whose predictions can be compared with float's, or None, and whether it is only likely.

    Strings, truth values and whole numbers are compared as they are. Real columns are class scores where the labels are
    classes, where they are probabilities (each row sums to 1) or logarithms of such, or where the output's name says
    so. One column is taken for a probability, and several columns a sample (never a token) are likely to be logits,
    unless the name or the labels say otherwise; `Agreement` looks at their values.

    Args:
        outputs: of the first batch, for `size` samples.
        labels: of the same samples.
        finders: find a class output by its shape alone, those tried first that come first.
    """
    of_classes = _labels_are_classes(labels, size)
    for index, finder in enumerate(finders):
        for name, output in outputs.items():
            found = finder({name: output})
            says = None if found is None else _says_classes(found, output, of_classes)
            if says or (says is None and found is not None and index == 0):
                return found, says is None
    words = next((name for name, output in outputs.items() if output.dtype.kind in "OSUb" and output.size), None)
    return None if words is None else ClassOutput(words, 1, holds_class=True), False


def _labels_are_classes(labels: Mapping[str, np.ndarray], size: int) -> bool | None:
    """None where there are no labels that say."""
    array = labels.get(LABELS)
    if array is None or array.dtype.kind not in "iubf" or array.shape not in {(size,), (size, 1)}:
        return None
    return bool(np.all(np.isfinite(array) & (array == np.floor(array)))) if array.dtype.kind == "f" else True


def _says_classes(found: ClassOutput, output: np.ndarray, of_classes: bool | None) -> bool | None:
    """Whether the output says classes; None where its shape alone does."""
    if found.holds_class or of_classes is not None:
        return found.holds_class or bool(of_classes)
    if output.dtype.kind != "f":
        return False
    named, measured = _NAMED.search(found.name), _MEASURED.search(found.name)
    if measured and not named:
        return False
    if "logit" in found.name.lower() or (not measured and (named or found.columns == 1)):
        return True
    return _are_probabilities(output.reshape(-1, found.columns)) or (False if measured else None)


def _are_probabilities(scores: np.ndarray) -> bool:
    """Whether each row sums to 1, or its exponentials do."""
    with np.errstate(over="ignore", invalid="ignore"):
        given = scores.astype(np.float64)
        for values in (given, np.exp(given)):
            if (values >= 0).all() and bool(np.allclose(values.sum(axis=1), 1.0, atol=1e-2)):
                return True
    return False


def _find_embedding(outputs: Mapping[str, np.ndarray], size: int) -> str | None:
    """The first output [N, width], one that is called so before others."""
    fitting = [
        n for n, o in outputs.items() if o.dtype.kind == "f" and o.ndim == 2 and len(o) == size and o.shape[1] > 1
    ]
    return next((name for name in fitting if "embed" in name.lower()), next(iter(fitting), None))


def _find_texts(outputs: Mapping[str, np.ndarray], size: int) -> str | None:
    return next((n for n, o in outputs.items() if o.dtype.kind in "OU" and o.shape in {(size,), (size, 1)}), None)


def _is_number(output: np.ndarray) -> bool:
    return output.dtype.kind in "fiub"


def find_class_output(outputs: Mapping[str, np.ndarray], size: int) -> ClassOutput | None:
    """Return the first output that has the shape of class scores for `size` samples, or None."""
    for name, output in outputs.items():
        long_axes = sum(length > 1 for length in output.shape[1:])
        if _is_number(output) and output.ndim and output.shape[0] == size and output.size and long_axes <= 1:
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
    """Return the name of the metric that the labels ask for: token_accuracy, top1, else sqnr.

    Where boxes are decoded it is map, or without labelled boxes box_agreement; of masks miou.

    Raises:
        UsageError: boxes lie beside pictures, and are not decoded.
    """
    if heads.detector is not None:
        return "map" if BOXES in labels else "box_agreement"
    if MASKS in labels:
        return "miou"
    if CROWD in labels:
        raise UsageError(f"{arg('labels')} are boxes; say how the outputs become boxes with {arg('decode')}")
    if heads.token_labels:
        return "token_accuracy"
    array = labels.get(LABELS)
    labelled = array is not None and array.shape in {(size,), (size, 1)} and array.dtype.kind in "iubf"
    if array is not None and heads.classes is not None and len(array) == size:
        labelled = labelled or one_hot_classes(array, heads.classes.columns) is not None
    return "top1" if labelled and heads.classes is not None else "sqnr"


def why_unlabelled(heads: Heads, labels: Mapping[str, np.ndarray]) -> str:
    """Return why `default_metric` may find none that compares with labels, and what to do.

    labels: what the data has beside the inputs, of the first batch.
    """
    if heads.detector is not None:
        return f"{arg('data')} has no labelled boxes; say where they are with {arg('labels')}"
    if not labels:
        return f"{arg('data')} has none; add an array 'labels' (.npz), or sub-folders or a labels.csv (images)"
    own = [name for name in labels if name != LABELS or labels_called(labels) == LABELS]
    found = ", ".join(f"'{name}' ({_sample(labels[name])} a sample)" for name in own)
    if heads.classes is None:
        return f"no output says a class a sample; say with {arg('metric')} how {found} is compared"
    return (
        f"{arg('data')} has no class a sample, but {found}; call the classes 'labels', or say with {arg('metric')} how "
        "it is compared"
    )


def _sample(array: np.ndarray) -> str:
    """A sample of it: its type, and its shape where it is more than one value."""
    kind = np.dtype(np.object_) if array.dtype.kind in "US" else array.dtype
    return describe(kind, array.shape[1:]).removesuffix(" []")


def predictions(array: np.ndarray, output: ClassOutput) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each sample or token, int64, and whether there is NaN among its scores, bool.

    Both are [samples or tokens], in order. NaN is no one's largest score.

    Raises:
        DataError: there are more or fewer columns than in the first batch.
    """
    check_columns(array, output)
    scores = array.reshape(-1, output.columns)
    bad = np.isnan(scores).any(axis=1) if scores.dtype.kind == "f" else np.zeros(len(scores), bool)
    if output.holds_class:
        return scores[:, 0].astype(np.int64), bad
    if output.columns == 1:
        return (scores[:, 0] > THRESHOLD).astype(np.int64), bad
    return np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1), bad


def check_columns(array: np.ndarray, output: ClassOutput) -> None:
    """Refuse an array with more or fewer columns than the output has in the first batch. Raises `DataError`."""
    if not has_columns(array, output):
        raise DataError(
            f"output '{output.name}' is {list(array.shape)} here, and has {amount(output.columns, 'column')} in the "
            f"first batch; its length differs from sample to sample, so it says no classes: use {arg('metric', 'sqnr')}"
        )


def has_columns(array: np.ndarray, output: ClassOutput) -> bool:
    """Return whether an array of the output has as many columns as that has in the first batch."""
    if output.columns == 1 or array.size == 0:
        return True
    return output.columns in (array.shape[-1], array.size // len(array))


def counted(labels: Mapping[str, np.ndarray], array: np.ndarray, output: ClassOutput) -> np.ndarray | None:
    """Return which of the predictions of `array` have a label, bool [tokens].

    None where the labels are not the tokens'.
    """
    wanted = labels.get(LABELS)
    shape = array.shape if output.holds_class else array.shape[:-1]
    if wanted is None or wanted.ndim < 2 or wanted.dtype.kind not in "iub" or not same_places(shape, wanted.shape):
        return None
    return np.asarray(wanted.reshape(-1) >= 0)


def same_places(shape: tuple[int, ...], labels: tuple[int, ...]) -> bool:
    """Return whether labels have a place for each of an output's, as steps of one token, [N, T, 1], have for [N, T]."""
    return shape == labels or (shape[:2] == labels[:2] and set(shape[2:]) | set(labels[2:]) == {1})


def _labelled_tokens(
    outputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], size: int
) -> ClassOutput | None:
    wanted = labels.get(LABELS)
    if wanted is None or wanted.ndim < 2 or wanted.dtype.kind not in "iub" or len(wanted) != size:
        return None
    for name, output in outputs.items():
        if output.dtype.kind == "f" and same_places(output.shape[:-1], wanted.shape) and output.size:
            return ClassOutput(name, output.shape[-1], holds_class=False)
        if output.dtype.kind in "iu" and same_places(output.shape, wanted.shape) and wanted[0].size > 1:
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

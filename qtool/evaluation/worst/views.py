"""The ways to judge and to show one sample of two models: boxes, masks, pictures that they make, classes.

A view gives each sample a score for both models, by the labels where there are any, else by float, and panels. How much
the model's score is below float's is by how much the sample is worse.
"""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.evaluation.decoding.boxes import Detections
from qtool.evaluation.decoding.user import AnyDecoder
from qtool.evaluation.metrics.classes import are_whole, class_labels
from qtool.evaluation.metrics.detection import Detector, certain, pairs
from qtool.evaluation.metrics.heads import LABELS, ClassOutput, Heads, predictions
from qtool.evaluation.metrics.observation import Observation, rows
from qtool.evaluation.metrics.pictures import default_peak, planes_of, target_pair
from qtool.evaluation.metrics.pixels import (
    PixelClasses,
    PixelOutput,
    find_pixel_output,
    labelled_masks,
    masks_at,
)
from qtool.evaluation.metrics.registry import Content, Metric
from qtool.evaluation.metrics.truths import Truth, labelled_boxes
from qtool.evaluation.worst.drawing import FLOAT, LABELLED, MODEL, Panel, Sheet
from qtool.feeds.boxes import BOXES, MASKS
from qtool.feeds.shown import Picture, to_bytes

_FLOAT, _LABELS = "float", "labels"
_CROWDED = 0.5
_OPAQUE = 0.5
_RED = (255, 40, 40)

Scores = tuple[float | None, float | None]


class View(Protocol):
    """A way to judge and show samples. measure: what the scores are, in words; score: their name, "" without any."""

    measure: str
    score: str

    def scores(self, exact: Observation, found: Observation) -> list[Scores]:
        """Return float's score and the model's for each sample of a batch; None where there is none."""

    def sheet(self, sample: int, exact: Observation, found: Observation, picture: Picture) -> Sheet:
        """Return what shows one sample of the batch: labels, what float says, what the model says."""


def sample_of(seen: Observation, sample: int) -> Observation:
    """Return one sample of a batch as a batch of its own; what has no axis of samples stays whole."""

    def cut(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: array[sample : sample + 1] if array.ndim and len(array) == seen.size else array
            for name, array in arrays.items()
        }

    shapes = {name: (1, *shape[1:]) for name, shape in seen.shapes.items()}
    return Observation(
        seen.model, cut(seen.outputs), cut(seen.reference), cut(seen.labels), seen.start + sample, 1, shapes
    )


class _BoxView:
    """2 pairs / (detections of both), of float with the labels and of the model with these; or with float.

    Without labels float's own score is 1.
    """

    def __init__(self, decoder: AnyDecoder, *, labelled: bool) -> None:
        self._labelled = labelled
        self._exact, self._found = Detector(decoder), Detector(decoder)
        others = "the labelled boxes" if labelled else "float's boxes"
        self.score = "box F1"
        self.measure = f"2 pairs / (boxes of both) with {others}, overlap 0.5, scores from 0.25"

    def scores(self, exact: Observation, found: Observation) -> list[Scores]:
        both = zip(self._exact.found(exact), self._found.found(found), strict=True)
        if not self._labelled:
            return [(1.0, _common(certain(model), certain(reference))) for reference, model in both]
        truths = labelled_boxes(exact, "map")
        return [
            (_right(reference, truth), _right(model, truth))
            for (reference, model), truth in zip(both, truths, strict=True)
        ]

    def sheet(self, sample: int, exact: Observation, found: Observation, picture: Picture) -> Sheet:
        sides = (
            (_FLOAT, FLOAT, self._exact.found(exact)[sample]),
            (found.model, MODEL, self._found.found(found)[sample]),
        )
        panels = [Panel(title, picture.pixels, color, _within(certain(one), picture)) for title, color, one in sides]
        if self._labelled:
            truth = _as_detections(labelled_boxes(exact, "map")[sample])
            panels.insert(0, Panel(_LABELS, picture.pixels, LABELLED, _within(truth, picture), scored=False))
        return Sheet(panels)


def _common(found: Detections, exact: Detections) -> float:
    count = len(found.scores) + len(exact.scores)
    return 2 * pairs(found, exact) / count if count else 1.0


def _right(found: Detections, truth: Truth) -> float:
    """The share that detections and labels have in common; what lies in a labelled crowd is neither right nor wrong."""
    shown = certain(found)
    free = np.ones(len(shown.scores), bool)
    areas = (shown.boxes[:, 2:] - shown.boxes[:, :2]).clip(0).prod(axis=1)
    for box, label in zip(truth.boxes[truth.crowd], truth.classes[truth.crowd], strict=True):
        low, high = np.maximum(shown.boxes[:, :2], box[:2]), np.minimum(shown.boxes[:, 2:], box[2:])
        free &= ((high - low).clip(0).prod(axis=1) < _CROWDED * areas) | (shown.classes != label)
    return _common(shown.among(np.flatnonzero(free)), _as_detections(truth))


def _as_detections(truth: Truth) -> Detections:
    kept = ~truth.crowd
    return Detections(truth.boxes[kept], np.ones(int(kept.sum())), truth.classes[kept])


def _within(found: Detections, picture: Picture) -> Detections:
    """Boxes of the input as those of what is shown of it."""
    corner = (picture.columns.start, picture.rows.start) * 2
    height, width = picture.pixels.shape[:2]
    return replace(found, boxes=(found.boxes - corner).clip(0, (width, height, width, height)))


class _MaskView:
    """The mean intersection over union of each picture; without labels the share of pixels of one class in both."""

    def __init__(self, output: PixelOutput, metric: str, *, labelled: bool) -> None:
        self._output = output
        self._metric = metric
        self._labelled = labelled
        self.score = "miou" if labelled else "agreement"
        self.measure = "mean IoU of the picture" if labelled else "share of pixels of which both say one class"

    def scores(self, exact: Observation, found: Observation) -> list[Scores]:
        if self._labelled:
            return [(self._overlap(exact, i), self._overlap(found, i)) for i in range(exact.size)]
        said, other = self._said(exact), self._said(found)
        return [(1.0, float((a == b).mean()) if a.shape == b.shape else 0.0) for a, b in zip(said, other, strict=True)]

    def _overlap(self, seen: Observation, sample: int) -> float | None:
        counted = PixelClasses(self._metric, mean=True, output=self._output)
        counted.update(sample_of(seen, sample))
        try:
            return counted.result()
        except DataError:
            # no pixel of it is labelled
            return None

    def _said(self, seen: Observation) -> np.ndarray:
        return self._output.said(seen.outputs[self._output.name])

    def sheet(self, sample: int, exact: Observation, found: Observation, picture: Picture) -> Sheet:
        said, other = (_over(self._said(seen)[sample], picture) for seen in (exact, found))
        sides = [(_FLOAT, FLOAT, said), (found.model, MODEL, other)]
        if self._labelled:
            labels = _over(labelled_masks(exact, self._metric)[sample], picture)
            sides.insert(0, (_LABELS, LABELLED, labels))
        panels = [Panel(title, _colored(picture.pixels, mask), color) for title, color, mask in sides]
        grey = picture.pixels.mean(axis=2, keepdims=True) * (1 - _OPAQUE)
        odd = np.repeat(grey.astype(np.uint8), 3, axis=2)
        odd[said != other] = _RED
        return Sheet([*panels, Panel("differs", odd, _RED)])


def _over(mask: np.ndarray, picture: Picture) -> np.ndarray:
    """The classes of the pixels of what is shown."""
    return np.asarray(masks_at(mask[None], picture.size)[0][picture.rows, picture.columns])


def _colored(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture below the colours of its classes; class 0 and what has none are left as they are."""
    mixed = pixels.astype(np.float64)
    for number in np.unique(mask[mask > 0]).tolist():
        # hues a golden section apart, so that neighbours differ
        color = np.array(colorsys.hsv_to_rgb(number * 0.618034 % 1, 1, 1)) * 255
        mixed[mask == number] = mixed[mask == number] * (1 - _OPAQUE) + color * _OPAQUE
    return np.asarray(mixed.round(), np.uint8)


class _MadeView:
    """The metric of each picture by itself; without targets its SQNR alone says how far it is from float's."""

    def __init__(self, metric: Metric | None, heads: Heads, output: str | None = None) -> None:
        self._metric = metric
        self._heads = heads
        self._output = output
        self.score = metric.name if metric is not None else ""
        self.measure = f"{metric.name} of the picture" if metric is not None else "no labels: by SQNR alone"

    def scores(self, exact: Observation, found: Observation) -> list[Scores]:
        if self._metric is None:
            return [(None, None)] * exact.size
        return [(self._of(exact, i), self._of(found, i)) for i in range(exact.size)]

    def _of(self, seen: Observation, sample: int) -> float:
        assert self._metric is not None
        measured = self._metric.start(self._heads)
        measured.update(sample_of(seen, sample))
        return measured.result()

    def sheet(self, sample: int, exact: Observation, found: Observation, picture: Picture) -> Sheet:
        exact, found = sample_of(exact, sample), sample_of(found, sample)
        sides = [("input", (255, 255, 255), picture.pixels)]
        if self._metric is not None:
            target, said = target_pair(exact, self._metric.name)
            _, other = target_pair(found, self._metric.name)
            low, high = 0.0, default_peak(target)
            # of another peak that was said, as the values show
            high = max(high, float(target.max()))
            sides.append(("target", LABELLED, _picture(target[0], low, high)))
        else:
            assert self._output is not None
            said, other = exact.outputs[self._output], found.outputs[self._output]
            low, high = (float(end) for end in (np.nanmin(said), np.nanmax(said)))
        sides += [(_FLOAT, FLOAT, _picture(said[0], low, high)), (found.model, MODEL, _picture(other[0], low, high))]
        panels = [Panel(title, pixels, color) for title, color, pixels in sides]
        if said.shape != other.shape:
            return Sheet(panels)
        difference = np.abs(said[0].astype(np.float64) - other[0].astype(np.float64))
        most = float(np.nanmax(difference, initial=0.0))
        return Sheet([*panels, Panel(f"difference, white is {most:.3g}", _picture(difference, 0.0, most), _RED)])


def _picture(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 [height, width, 3] of a picture that a model makes; of other numbers of channels the first one is shown."""
    planes = planes_of(values)
    planes = planes if len(planes) == 3 else planes[:1]
    pixels = np.moveaxis(to_bytes(planes, low, high), 0, -1)
    return np.repeat(pixels, 3 // pixels.shape[2], axis=2)


class _ClassView:
    """1 where the label's class is said, else 0; without labels where float's is."""

    def __init__(self, output: ClassOutput, *, labelled: bool) -> None:
        self._output = output
        self._labelled = labelled
        self.score = "top1" if labelled else "agreement"
        self.measure = f"1 where the class is the {'label' if labelled else 'one that float says'}, else 0"

    def scores(self, exact: Observation, found: Observation) -> list[Scores]:
        (wanted, odd), (said, bad) = self._said(exact), self._said(found)
        if not self._labelled:
            return [(1.0, float(same)) for same in (wanted == said) & (odd | ~bad)]
        labels = class_labels(exact, self._output, "top1")
        return list(
            zip(
                ((wanted == labels) & ~odd).astype(float).tolist(),
                ((said == labels) & ~bad).astype(float).tolist(),
                strict=True,
            )
        )

    def _said(self, seen: Observation) -> tuple[np.ndarray, np.ndarray]:
        """The class of each sample, and whether its scores hold NaN."""
        return predictions(rows(seen.outputs[self._output.name], seen.size), self._output)

    def sheet(self, sample: int, exact: Observation, found: Observation, picture: Picture) -> Sheet:
        lines = [f"label {class_labels(exact, self._output, 'top1')[sample]}"] if self._labelled else []
        for title, seen in ((_FLOAT, exact), (found.model, found)):
            label = int(self._said(seen)[0][sample])
            scores = rows(seen.outputs[self._output.name], seen.size)[sample]
            score = "" if self._output.holds_class else f", score {scores[label if len(scores) > 1 else 0]:.4g}"
            lines.append(f"class {label}{score}: {title}")
        return Sheet([Panel("input", picture.pixels)], lines)


def find_view(metrics: Sequence[Metric], heads: Heads, exact: Observation, picture: Picture) -> View:
    """Return how the samples of a model are shown: as its metrics read them, else as its outputs look.

    Args:
        metrics: that are measured.
        heads: what its outputs are.
        exact: float's first batch.
        picture: the first one of that.

    Raises:
        UsageError: its outputs are nothing that can be shown.
    """
    ways: Mapping[Content, Callable[[Metric], View]] = {
        Content.MASKS: lambda metric: _labelled_masks(metric, exact),
        Content.PICTURES: lambda metric: _MadeView(metric, heads),
    }
    if heads.detector is not None:
        return _BoxView(heads.detector.decoder, labelled=BOXES in exact.labels)
    for metric in metrics:
        if metric.content is not None and metric.content in ways:
            return ways[metric.content](metric)
    classes = heads.classes
    if classes is not None:
        labels = exact.labels.get(LABELS)
        labelled = labels is not None and labels.size == exact.size and are_whole(labels)
        if labelled or heads.predicted == classes:
            return _ClassView(classes, labelled=labelled)
    return _by_shape(heads, exact, picture)


def _labelled_masks(metric: Metric, exact: Observation) -> View:
    output = find_pixel_output(exact, labelled_masks(exact, metric.name).shape, metric.name)
    return _MaskView(output, metric.name, labelled=True)


def _by_shape(heads: Heads, exact: Observation, picture: Picture) -> View:
    """Masks, or with one or three channels pictures, of the input's proportions."""
    try:
        output = find_pixel_output(exact, (exact.size, *picture.size), MASKS)
    except UsageError:
        found = ", ".join(f"'{name}' {list(array.shape)}" for name, array in exact.reference.items())
        raise UsageError(
            f"{arg('save_worst')}: draws boxes ({arg('decode')}), masks (miou, pixel_accuracy), pictures (psnr, ssim) "
            f"and classes (top1), and the outputs are none of these: {found}; say what they are by {arg('metric')} or "
            f"{arg('decode')}, or leave it out"
        ) from None
    made = exact.reference[output.name].dtype.kind == "f" and (output.axis is None or output.classes == 3)
    return _MadeView(None, heads, output.name) if made else _MaskView(output, MASKS, labelled=False)

"""Boxes against labelled boxes: COCO's mean average precision, and the agreement of detections with float's."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.extras import installed_by
from qtool.evaluation.decoding.boxes import Detections
from qtool.evaluation.decoding.user import AnyDecoder
from qtool.evaluation.metrics.observation import Observation, holds_nan
from qtool.evaluation.metrics.truths import Truth, labelled_boxes

COCO_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""Intersection over union from which a detection is right: .50, .55 ... .95."""
MOST_DETECTIONS = 100
"""Of a class in a picture that count."""
_CERTAIN, _SAME = 0.25, 0.5
"""The score from which a detection counts for agreement, and the overlap from which two are the same."""


class Detector:
    """A decoder that remembers what it found in the last batch, which several metrics of a model read."""

    def __init__(self, decoder: AnyDecoder) -> None:
        self.name = decoder.name
        self.decoder = decoder
        self._last: Observation | None = None
        self._found: list[Detections] = []
        self._classes: int | None = None

    def found(self, seen: Observation) -> list[Detections]:
        """Return the detections of each picture. Raises `UsageError` or `DataError` where there can be none."""
        if self._last is not seen:
            candidates = self.decoder.detections(seen)
            self._last, self._found, self._classes = seen, candidates.pictures, candidates.classes
        return self._found

    @property
    def classes(self) -> int | None:
        """The number of classes that the outputs of the last batch have; None where they do not tell."""
        return self._classes


class MeanAveragePrecision:
    """COCO's mean average precision, over all sizes of objects and at most 100 detections of a class in a picture.

    The mean over the classes that are labelled, and over `overlaps`, from 0 to 1. It is NaN from the first NaN in a
    model's outputs on that float's have not. Memory grows by 48 bytes a detection. Source: cocodataset.org, detection
    evaluation; computed by faster-coco-eval.

    Raises:
        UsageError: faster-coco-eval is not there; from `update`, where the outputs are unlike what is decoded.
        DataError: from `update` and `result`, where labels are missing or do not fit.
    """

    def __init__(self, name: str, detector: Detector, overlaps: Sequence[float]) -> None:
        _library(name)
        self._name = name
        self._detector = detector
        self._overlaps = overlaps
        self._truths: list[Truth] = []
        self._found: list[Detections] = []
        self._nan = False
        self._by_class: dict[str, float] = {}

    def update(self, seen: Observation) -> None:
        """Take the detections and the labels of one batch. Raises `UsageError` and `DataError`."""
        truths = labelled_boxes(seen, self._name)
        self._nan = self._nan or holds_nan(seen)
        if self._nan:
            return
        for index, (found, truth) in enumerate(zip(self._detector.found(seen), truths, strict=True)):
            known = self._detector.classes
            if known is not None and truth.classes.max(initial=0) >= known:
                raise DataError(
                    f"{arg('metric', self._name)}: label {truth.classes.max()} of sample {seen.start + index} is no "
                    f"class of {seen.model}, which by {arg('decode', self._detector.name)} has {known} (0 to "
                    f"{known - 1}); correct the labels in {arg('data')}, or label_offset or categories in "
                    f"{arg('preprocess')}"
                )
            self._truths.append(truth)
            self._found.append(_few_of_each(found))

    def result(self) -> float:
        """Return the mean average precision. Raises `DataError` where no picture has a labelled box."""
        if self._nan:
            return math.nan
        if 0 < max((truth.boxes.max(initial=0.0) for truth in self._truths), default=0.0) <= 1:
            raise DataError(
                f"{arg('metric', self._name)}: no labelled box in {arg('data')} reaches further than 1; give x1, y1, "
                "x2, y2 in pixels, not parts of the width and height"
            )
        found = average_precision(self._truths, self._found, self._overlaps)
        if not found:
            raise DataError(
                f"{arg('metric', self._name)}: no picture of {arg('data')} has a labelled box, so that nothing is to "
                "be found; give labels with boxes"
            )
        self._by_class = {str(label): value for label, value in found.items()}
        return float(np.mean(list(found.values())))

    def by_class(self) -> dict[str, float]:
        """Return the average precision of each labelled class, once `result` was asked for."""
        return self._by_class


class BoxAgreement:
    """The share of detections that a model and float have in common: 2 pairs / (detections of both).

    Those of a score of 0.25 and more. A pair is of one class and overlaps by half or more (intersection over union);
    each takes part once, those of the model by falling score. Where neither finds anything, nothing was compared.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._reference = Detector(detector.decoder)
        self._pairs = 0
        self._detections = 0
        self._nan = False

    def update(self, seen: Observation) -> None:
        """Count the detections of one batch. Raises `UsageError` and `DataError`."""
        self._nan = self._nan or holds_nan(seen)
        if self._nan:
            return
        wanted = Observation(
            seen.model, seen.reference, seen.reference, seen.labels, seen.start, seen.size, seen.shapes
        )
        for one, other in zip(self._detector.found(seen), self._reference.found(wanted), strict=True):
            found, exact = certain(one), certain(other)
            self._pairs += pairs(found, exact)
            self._detections += len(found.scores) + len(exact.scores)

    def result(self) -> float:
        """Return the share, from 0 to 1; NaN from the first NaN on that float has not.

        Raises:
            DataError: neither model finds anything.
        """
        if self._nan:
            return math.nan
        if not self._detections:
            raise DataError(
                f"{arg('metric', 'box_agreement')}: no model finds a box of a score of {_CERTAIN} or more in any "
                f"sample of {arg('data')}, so that there is nothing to compare; check {arg('preprocess')} and "
                f"{arg('decode')}, or give {arg('metric', 'sqnr')}"
            )
        return 2 * self._pairs / self._detections


def certain(found: Detections) -> Detections:
    """Return the detections of a score of 0.25 and more, the best of each class."""
    return _few_of_each(found.among(np.flatnonzero(found.scores >= _CERTAIN)))


def pairs(found: Detections, exact: Detections) -> int:
    """Return how many detections have one of the other's for themselves, those of the highest scores first.

    Both are of one class then, and overlap by half or more (intersection over union).
    """
    free = np.ones(len(exact.scores), bool)
    areas = _areas(exact.boxes)
    for index in np.argsort(-found.scores, kind="stable"):
        box = found.boxes[index]
        low, high = np.maximum(exact.boxes[:, :2], box[:2]), np.minimum(exact.boxes[:, 2:], box[2:])
        shared = (high - low).clip(0).prod(axis=1)
        equal = (exact.boxes == box).all(axis=1)
        overlaps = np.where(equal, 1.0, shared / np.maximum(areas + _areas(box) - shared, 1e-30))
        overlaps[~(free & (exact.classes == found.classes[index]))] = 0.0
        if overlaps.max(initial=0.0) >= _SAME:
            free[int(overlaps.argmax())] = False
    return int((~free).sum())


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1))


def _few_of_each(found: Detections) -> Detections:
    """The best detections of each class."""
    order = np.argsort(-found.scores, kind="stable")
    kept = np.sort(
        np.concatenate(
            [order[found.classes[order] == label][:MOST_DETECTIONS] for label in np.unique(found.classes)]
            or [np.empty(0, np.int64)]
        )
    )
    return found.among(kept)


def average_precision(
    truths: Sequence[Truth], found: Sequence[Detections], overlaps: Sequence[float]
) -> dict[int, float]:
    """Return the average precision of each class that has labelled boxes (other than crowds), from 0 to 1.

    Args:
        truths: of each picture.
        found: of the same pictures.
        overlaps: the mean is over these.
    """
    classes = np.unique(np.concatenate([truth.classes[~truth.crowd] for truth in truths] or [[]])).astype(int).tolist()
    rows: list[dict[str, Any]] = [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, one in enumerate(found)
        for box, score, label in zip(_from_corner(one.boxes), one.scores.tolist(), one.classes.tolist(), strict=True)
    ]
    if not classes or not rows:
        return dict.fromkeys(classes, 0.0)
    labels: list[dict[str, Any]] = [
        {"image_id": image, "category_id": label, "bbox": box, "iscrowd": int(crowd)}
        for image, one in enumerate(truths)
        for box, label, crowd in zip(_from_corner(one.boxes), one.classes.tolist(), one.crowd, strict=True)
    ]
    for number, label in enumerate(labels, 1):
        label.update(id=number, area=label["bbox"][2] * label["bbox"][3])
    api, evaluator = _library("map")
    known = sorted({row["category_id"] for row in (*rows, *labels)})
    truth = api()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(truths))],
        "annotations": labels,
        "categories": [{"id": label, "name": str(label)} for label in known],
        "info": {},
    }
    truth.createIndex()
    run = evaluator(truth, truth.loadRes(rows), "bbox")
    run.params.iouThrs = np.array(overlaps)
    run.params.areaRng, run.params.areaRngLbl = [[0.0, 1e15]], ["all"]
    run.params.maxDets = [MOST_DETECTIONS]
    run.params.catIds = classes
    run.evaluate()
    run.accumulate()
    # [overlaps, recalls, classes, areas, numbers of detections]
    precision = run.eval["precision"][:, :, :, 0, -1]
    return {label: float(precision[:, :, place].mean()) for place, label in enumerate(classes)}


def _from_corner(boxes: np.ndarray) -> list[list[float]]:
    """Corner, width and height, as COCO has boxes."""
    found: list[list[float]] = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
    return found


def _library(metric: str) -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UsageError(f"{arg('metric', metric)}: needs faster-coco-eval: {installed_by('detection')}") from error
    return COCO, COCOeval_faster

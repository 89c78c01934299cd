"""The decoders by name: how the raw outputs of a detector say boxes, and which of its boxes count.

Thresholds are those with which the published implementation of each evaluates mAP.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.decoding.boxes import Detections, best_of, corners
from qtool.evaluation.metrics.observation import Observation

_OWN = "or a function of your own as file.py:FUNCTION"
_STRIDES = (4, 8, 16, 32, 64, 128)
_PUBLISHED = 8
"""The first of YOLOX's own strides."""
_TENSORFLOW = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
_UNIT = 2.0
"""Boxes that do not reach further are of 0..1: none of a picture's lie within two pixels."""
_LOOSE = 0.05
"""By how much rounding may lift a probability out of 0..1."""


class Unlike(Exception):  # noqa: N818 - it says that a shape is another, and is caught where that is worded
    """The outputs have not the shape that a decoder reads. Its text says what is missing, or empty."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The detections that a decoder reads of a batch, for each picture.

    classes: how many the model knows; None where that cannot be told.
    """

    pictures: list[Detections]
    classes: int | None = None


@dataclass(frozen=True, slots=True)
class Decoder:
    """A row of the table.

    expects: the shapes of the outputs, in words. read: raises `Unlike`. score: boxes count above it. overlap: of a
    better box of the class, above which one is dropped; None where the model, or its training, sees to that. most:
    boxes a picture.
    """

    name: str
    expects: str
    read: Callable[["RawOutputs", float], Candidates]
    score: float = 0.0
    overlap: float | None = None
    most: int = 300

    def detections(self, seen: Observation) -> Candidates:
        """Return what a model finds in each picture of a batch.

        Raises:
            UsageError: the outputs are unlike what this decoder reads.
        """
        raw = RawOutputs(seen)
        try:
            found = self._read(raw, self.score)
        except Unlike as error:
            raise self._unlike(raw, str(error)) from error
        pictures = [best_of(one.finite(), self.overlap, self.most) for one in found.pictures]
        return Candidates(pictures, found.classes)

    def _read(self, raw: "RawOutputs", least: float) -> Candidates:
        # what is not finite is dealt with behind
        with np.errstate(over="ignore", invalid="ignore"):
            return self.read(raw, least)

    def _unlike(self, raw: "RawOutputs", why: str) -> UsageError:
        fitting = [name for name, other in DECODERS.items() if other is not self and other.fits(raw)]
        use = " or ".join(arg("decode", name) for name in fitting)
        found = ", ".join(f"'{name}' {list(array.shape)}" for name, array in raw.given.items())
        return UsageError(
            f"{arg('decode', self.name)}: {raw.model}: expected {self.expects}{why and f' ({why})'}; found {found}; "
            f"use {use or 'another decoder'}, {_OWN}"
        )

    def fits(self, raw: "RawOutputs") -> bool:
        """Return whether the outputs have the shape that this decoder reads."""
        try:
            self._read(raw, 1.0)
        except Unlike:
            return False
        return True


class RawOutputs:
    """The outputs of one batch, and what else decoding them takes; N is the number of pictures."""

    def __init__(self, seen: Observation) -> None:
        self.model = seen.model
        self.count = seen.size
        self.given = seen.outputs
        self.outputs = {name: array for name, array in seen.outputs.items() if array.dtype.kind in "fiub"}
        self._shapes = seen.shapes

    @property
    def picture(self) -> tuple[int, int]:
        """The height and width of the pictures that the model was fed. Raises `Unlike`."""
        for shape in self._shapes.values():
            if len(shape) == 4:
                last = shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
                return (shape[1], shape[2]) if last else (shape[2], shape[3])
        raise Unlike("the model has no input of pictures, from which boxes get their size")

    def floats(self, rank: int) -> dict[str, np.ndarray]:
        """Return the real outputs of a rank whose first axis is the pictures."""
        return {
            name: array
            for name, array in self.outputs.items()
            if array.dtype.kind == "f" and array.ndim == rank and array.shape[0] == self.count
        }

    def scaled(self, boxes: np.ndarray, *, upright: bool = False) -> np.ndarray:
        """Return boxes of 0..1, x before y or (`upright`) y before x, in pixels, float64."""
        height, width = self.picture
        boxes = boxes.astype(np.float64)
        if upright:
            boxes = boxes[..., [1, 0, 3, 2]]
        return boxes * (width, height, width, height)


def _one(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """The only array of those that fit."""
    if len(found) != 1:
        raise Unlike(f"{len(found)} outputs have such a shape" if found else "")
    return next(iter(found.values())).astype(np.float64)


def _each(boxes: np.ndarray, scores: np.ndarray, least: float, *, only_best: bool = False) -> Candidates:
    """Boxes [N, n, 4] with a score for every class [N, n, C]: a detection for each score, or only the best one."""
    pictures = []
    for corners_of, own in zip(boxes, scores, strict=True):
        if only_best:
            classes = own.argmax(axis=1) if own.size else np.zeros(len(own), np.int64)
            best = np.take_along_axis(own, classes[:, None], axis=1)[:, 0] if own.size else np.zeros(len(own))
            rows = np.flatnonzero(best > least)
            pictures.append(Detections(corners_of[rows], best[rows], classes[rows].astype(np.int64)))
        else:
            rows, classes = np.nonzero(own > least)
            pictures.append(Detections(corners_of[rows], own[rows, classes], classes.astype(np.int64)))
    return Candidates(pictures, scores.shape[2])


def _yolox(raw: RawOutputs, least: float) -> Candidates:
    """Centre and logarithmic size in cells, objectness, classes. Source: YOLOX, utils/demo_utils.py, boxes.py."""
    output = _one({name: a for name, a in raw.floats(3).items() if a.shape[2] > 5})
    cells, strides = _cells(raw.picture, output.shape[1])
    if output.shape[1] <= output.shape[2] and strides[0] != _PUBLISHED:
        raise Unlike("")
    centres, sizes = (output[..., :2] + cells) * strides, np.exp(output[..., 2:4]) * strides
    boxes = corners(np.concatenate([centres, sizes], axis=-1))
    return _each(boxes, output[..., 4:5] * output[..., 5:], least, only_best=True)


def _cells(picture: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The column and row of each cell [count, 2], and its stride [count, 1]; strides follow from the count."""
    for first in range(len(_STRIDES)):
        for stop in range(first + 1, len(_STRIDES) + 1):
            for up in (False, True):
                grids = [[-(-side // s) if up else side // s for side in picture] for s in _STRIDES[first:stop]]
                if count and sum(rows * columns for rows, columns in grids) == count:
                    cells = [np.stack(np.meshgrid(range(w), range(h)), -1).reshape(-1, 2) for h, w in grids]
                    strides = [np.full((h * w, 1), s) for s, (h, w) in zip(_STRIDES[first:], grids, strict=False)]
                    return np.concatenate(cells), np.concatenate(strides)
    boxes = amount(count, "box is the cell", "boxes are the cells")
    raise Unlike(f"{boxes} of no strides for pictures of {picture[0]} x {picture[1]}")


def _yolov5(raw: RawOutputs, least: float) -> Candidates:
    """Centre and size in pixels, objectness, classes. Source: YOLOv5, utils/general.py, val.py."""
    output = _one(
        {name: a for name, a in raw.floats(3).items() if a.shape[2] > 5 and not _turned(a.shape[2], a.shape[1])}
    )
    output = output[..., : output.shape[2] - _coefficients(raw, output.shape[2] - 6)]
    return _each(corners(output[..., :4]), output[..., 4:5] * output[..., 5:], least)


def _yolov8(raw: RawOutputs, least: float) -> Candidates:
    """Centre and size in pixels, classes; boxes along the last axis. Source: ultralytics, utils/ops.py (nms.py)."""
    output = _one(
        {name: a for name, a in raw.floats(3).items() if a.shape[1] > 4 and not _turned(a.shape[1], a.shape[2])}
    )
    output = output[:, : output.shape[1] - _coefficients(raw, output.shape[1] - 5)].swapaxes(1, 2)
    return _each(corners(output[..., :4]), output[..., 4:], least)


def _turned(columns: int, boxes: int) -> bool:
    """Whether the axes are more likely the other way round, boxes along that of the columns."""
    return boxes >= 5 and columns > 2 * boxes


def _coefficients(raw: RawOutputs, most: int) -> int:
    """How many columns are of masks: as many as the one output of prototypes [N, k, h, w] has, where there is one."""
    prototypes = [array.shape[1] for array in raw.floats(4).values()]
    return prototypes[0] if len(prototypes) == 1 and prototypes[0] <= most else 0


def _yolo_nms(raw: RawOutputs, least: float) -> Candidates:
    """Rows that the model has chosen: x1, y1, x2, y2, score, class; or picture, x1, y1, x2, y2, class, score.

    Source: ultralytics (nms=True, YOLOv10), YOLOv7 (end2end).
    """
    batched = {name: a for name, a in raw.floats(3).items() if a.shape[2] == 6}
    if batched:
        output = _one(batched)
        return Candidates([_rows(one, least) for one in output])
    output = _one({name: a for name, a in raw.outputs.items() if a.ndim == 2 and a.shape[1] == 7})
    return Candidates([_rows(output[output[:, 0] == i][:, [1, 2, 3, 4, 6, 5]], least) for i in range(raw.count)])


def _rows(rows: np.ndarray, least: float) -> Detections:
    rows = rows[rows[:, 4] > least]
    return Detections(rows[:, :4], rows[:, 4], _whole(rows[:, 5]))


def _whole(classes: np.ndarray) -> np.ndarray:
    """Classes that may be stored as real numbers; -1, which is no class, for what is no number."""
    return np.where(np.isfinite(classes), np.rint(np.nan_to_num(classes)), -1).astype(np.int64)


def _boxes_and_scores(raw: RawOutputs) -> tuple[np.ndarray, np.ndarray]:
    """The output [N, n, 4] and the one [N, n, C] beside it."""
    found = raw.floats(3)
    boxes = {name: a for name, a in found.items() if a.shape[2] == 4}
    if len(boxes) > 1:
        boxes = {name: a for name, a in boxes.items() if _named(name, ("box", "loc", "reg"))}
    where = _one(boxes)
    scores = _one({name: a for name, a in found.items() if name not in boxes and a.shape[2] > 1})
    if scores.shape[:2] != where.shape[:2]:
        raise Unlike("boxes and scores are not of one number")
    return where, scores


def _named(name: str, words: Iterable[str]) -> bool:
    return any(word in name.lower() for word in words)


def _softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _ssd(raw: RawOutputs, least: float) -> Candidates:
    """Corners of 0..1, and scores of which class 0 is the background, probabilities or logits.

    Source: SSD (Liu et al., 2016), section 2.2 and 3; pytorch-ssd, whose models give decoded boxes.
    """
    boxes, scores = _boxes_and_scores(raw)
    if ((scores < -_LOOSE) | (scores > 1 + _LOOSE)).any():
        scores = _softmax(scores)
    return _each(_in_pixels(raw, boxes), scores[..., 1:], least)


def _in_pixels(raw: RawOutputs, boxes: np.ndarray, *, upright: bool = False) -> np.ndarray:
    finite = boxes[np.isfinite(boxes)]
    unit = np.abs(finite).max(initial=0.0) <= _UNIT
    return raw.scaled(boxes, upright=upright) if unit or upright else boxes.astype(np.float64)


def _detr(raw: RawOutputs, least: float) -> Candidates:
    """Centre and size of 0..1, and logits of which the last is no object. Source: DETR, models/detr.py, PostProcess."""
    boxes, logits = _boxes_and_scores(raw)
    return _each(corners(raw.scaled(boxes)), _softmax(logits)[..., :-1], least, only_best=True)


def _ready(raw: RawOutputs, least: float) -> Candidates:
    """Boxes, scores and classes that the model has chosen; TensorFlow's `detection_boxes` have y before x, of 0..1.

    Source: torchvision's detectors, TensorRT's EfficientNMS, TensorFlow's object detection API.
    """
    outputs = {n: a for n, a in raw.outputs.items() if n.partition(":")[0] in _TENSORFLOW}
    if _TENSORFLOW[0] not in {name.partition(":")[0] for name in outputs}:
        outputs = raw.outputs
    boxes = {n: a for n, a in outputs.items() if a.ndim >= 2 and a.shape[-1] == 4 and a.dtype.kind == "f"}
    batched = {n: a for n, a in boxes.items() if a.ndim == 3 and len(a) == raw.count}
    boxes = batched or {n: a for n, a in boxes.items() if a.ndim == 2 and raw.count == 1}
    where = _one(boxes)
    name = next(iter(boxes))
    where = where if where.ndim == 3 else where[None]
    beside: dict[str, np.ndarray] = {}
    counts: np.ndarray | None = None
    for other, array in outputs.items():
        if other != name and array.size == where.shape[0] * where.shape[1] and not _named(other, ("num", "count")):
            beside[other] = array.reshape(where.shape[:2])
        elif other != name and array.size == raw.count:
            counts = _whole(array.reshape(-1))
    classes, scores = _classes_and_scores(beside)
    where = _in_pixels(raw, where, upright=name.partition(":")[0] == _TENSORFLOW[0])
    pictures = []
    for index, (corners_of, own, said) in enumerate(zip(where, scores, classes, strict=True)):
        there = np.arange(len(own)) < (len(own) if counts is None else counts[index])
        rows = np.flatnonzero((own > least) & there)
        pictures.append(Detections(corners_of[rows], own[rows], said[rows]))
    return Candidates(pictures)


def _classes_and_scores(beside: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Which of two outputs says classes: whole numbers, else by its name; a single one is scores of one class."""
    whole = [name for name, array in beside.items() if array.dtype.kind in "iu"]
    named = [name for name in beside if _named(name, ("class", "label")) and not _named(name, ("score", "prob"))]
    said = whole if len(whole) == 1 else named
    scored = [name for name in beside if name not in said]
    if len(scored) != 1 or len(said) > 1:
        have = amount(len(beside), "output has", "outputs have")
        raise Unlike(f"{have} one number a box; scores and classes are told by type or name")
    scores = beside[scored[0]].astype(np.float64)
    return _whole(beside[said[0]]) if said else np.zeros(scores.shape, np.int64), scores


DECODERS = {
    row.name: row
    for row in (
        Decoder("yolox", "one output [N, cells, 5 + classes]", _yolox, 0.01, 0.65),
        Decoder("yolov5", "one output [N, boxes, 5 + classes]", _yolov5, 0.001, 0.6),
        Decoder("yolov8", "one output [N, 4 + classes, boxes]", _yolov8, 0.001, 0.7),
        Decoder("yolo-nms", "one output [N, n, 6], or [n, 7] with the picture first", _yolo_nms),
        Decoder("ssd", "outputs [N, boxes, 4] and [N, boxes, 1 + classes]", _ssd, 0.01, 0.45, 200),
        Decoder("detr", "outputs [N, queries, 4] and [N, queries, classes + 1]", _detr),
        Decoder("boxes", "outputs [N, n, 4], scores [N, n] and classes [N, n]", _ready),
    )
}
"""In the order of the documentation."""

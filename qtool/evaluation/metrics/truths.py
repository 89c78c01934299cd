"""The labelled boxes of a batch, checked: what a detector should find."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.observation import Observation
from qtool.feeds.boxes import BOXES, CLASSES, CROWD
from qtool.feeds.geometry import NOTHING
from qtool.feeds.matching import LABELS


@dataclass(frozen=True, slots=True)
class Truth:
    """The labelled boxes of a picture: x1, y1, x2, y2 [n, 4], classes [n], and whether each stands for a crowd [n]."""

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


def labelled_boxes(seen: Observation, metric: str) -> list[Truth]:
    """Return the labelled boxes of each sample. Raises `DataError`, which names what is wrong with the labels."""
    about = arg("metric", metric)
    boxes = seen.labels.get(BOXES)
    if boxes is None:
        found = f"; it has {', '.join(sorted(seen.labels))}" if seen.labels else ""
        raise DataError(
            f"{about}: {arg('data')} has no boxes{found}; add arrays 'boxes' [samples, most, 4] and 'classes' "
            f"[samples, most], {NOTHING} where there is none, or of pictures {arg('labels')} with a COCO .json or YOLO "
            ".txt files"
        )
    if boxes.shape[-1:] != (4,) or boxes.dtype.kind not in "iuf":
        raise _unfit(about, boxes, seen)
    numbers = _by_name(seen.labels, boxes)
    if boxes.ndim == 2:
        # of one sample without its axis, or one box a sample
        axis = 0 if seen.size == 1 else 1
        boxes = np.expand_dims(boxes, axis)
        numbers = {name: np.expand_dims(array, axis) if array.ndim == 1 else array for name, array in numbers.items()}
    if boxes.ndim != 3 or len(boxes) != seen.size:
        raise _unfit(about, boxes, seen)
    for name, array in numbers.items():
        if array.shape != boxes.shape[:2] or array.dtype.kind not in "iubf":
            raise DataError(
                f"{about}: '{name}' in {arg('data')} is {array.dtype} {list(array.shape)} from sample {seen.start}, "
                f"and 'boxes' is {list(boxes.shape)}; give one number a box"
            )
    crowds = numbers.get(CROWD, np.zeros(boxes.shape[:2], bool)).astype(bool)
    return [
        _truth(f"of sample {seen.start + i}", about, *one)
        for i, one in enumerate(zip(boxes, numbers[CLASSES], crowds, strict=True))
    ]


def _unfit(about: str, boxes: np.ndarray, seen: Observation) -> DataError:
    return DataError(
        f"{about}: 'boxes' in {arg('data')} is {boxes.dtype} {list(boxes.shape)} for {amount(seen.size, 'sample')} "
        f"from sample {seen.start}; give x1, y1, x2, y2 in pixels [samples, most, 4]"
    )


def _by_name(labels: Mapping[str, np.ndarray], boxes: np.ndarray) -> dict[str, np.ndarray]:
    """The classes, and the crowds where there are any; without classes a box that has an area is of class 0."""
    classes = labels.get(CLASSES, labels.get(LABELS))
    if classes is None:
        classes = np.where((boxes[..., 2:] > boxes[..., :2]).all(axis=-1), 0, NOTHING)
    crowd = labels.get(CROWD, labels.get("iscrowd"))
    return {CLASSES: classes} if crowd is None else {CLASSES: classes, CROWD: crowd}


def _truth(where: str, about: str, boxes: np.ndarray, classes: np.ndarray, crowd: np.ndarray) -> Truth:
    boxes, classes = boxes.astype(np.float64), classes.astype(np.float64)
    if not (classes == np.floor(classes)).all() or np.abs(classes).max(initial=0) >= 2**31:
        raise DataError(
            f"{about}: the classes of the boxes {where} are no whole numbers; give numbers from 0, {NOTHING} where "
            "there is no box"
        )
    there = classes >= 0
    wrong = there & ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1))
    if wrong.any():
        raise DataError(
            f"{about}: the box {boxes[int(wrong.argmax())].tolist()} {where} is none; give x1, y1, x2, y2 in pixels, "
            f"and the class {NOTHING} where there is no box"
        )
    return Truth(boxes[there], classes[there].astype(np.int64), crowd[there])

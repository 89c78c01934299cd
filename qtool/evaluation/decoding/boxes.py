"""Boxes that a detector finds in a picture, and the suppression of those that overlap better ones."""

from dataclasses import dataclass

import numpy as np

MOST_CANDIDATES = 30_000
"""Of a picture that take part in suppression, those of the highest scores. Source: ultralytics, max_nms."""

_FAR = 1e6
"""Pixels; where boxes end that reach to infinity."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The boxes of one picture: x1, y1, x2, y2 in pixels of the input [n, 4], scores [n], classes, int64 [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def among(self, kept: np.ndarray) -> "Detections":
        """Return the detections with these indices."""
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept])

    def finite(self) -> "Detections":
        """Return the detections that have a score, their boxes with ends that lie somewhere and in order."""
        found = self.among(np.flatnonzero(~np.isnan(self.scores)))
        boxes = np.nan_to_num(found.boxes.astype(np.float64)).clip(-_FAR, _FAR)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        return Detections(boxes, found.scores.astype(np.float64), found.classes)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Return boxes given as centre x, centre y, width, height [..., 4] as x1, y1, x2, y2."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def best_of(found: Detections, overlap: float | None, most: int) -> Detections:
    """Return what is left of detections, by falling score: of two of a class that overlap, the better one.

    Of equal scores the first comes first. Source: non-maximum suppression a class, as torchvision.ops.batched_nms.

    Args:
        found: the candidates.
        overlap: boxes go whose intersection over union with a better one is more than this; None lets all stay.
        most: how many may be left.
    """
    order = np.argsort(-found.scores, kind="stable")
    if overlap is None:
        return found.among(order[:most])
    found = found.among(order[:MOST_CANDIDATES])
    boxes, classes = found.boxes, found.classes
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    by_class = {int(c): np.flatnonzero(classes == c) for c in np.unique(classes)}
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == most:
            break
        same = by_class[int(classes[index])]
        rest = same[np.searchsorted(same, index) + 1 :]
        rest = rest[alive[rest]]
        by_class[int(classes[index])] = rest
        low = np.maximum(boxes[rest, :2], boxes[index, :2])
        high = np.minimum(boxes[rest, 2:], boxes[index, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        # boxes without an area overlap nothing
        alive[rest[shared > overlap * (areas[rest] + areas[index] - shared)]] = False
    return found.among(np.array(kept, np.int64))

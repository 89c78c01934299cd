"""The class that a model gives each pixel against masks: mean intersection over union, and pixel accuracy."""

import math
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.classes import are_whole
from qtool.evaluation.metrics.heads import LABELS, THRESHOLD
from qtool.evaluation.metrics.observation import Observation
from qtool.feeds.boxes import MASKS, VOID
from qtool.feeds.geometry import NOTHING

_LOOSE = 0.05
"""By how much rounding may lift a probability out of 0..1."""


@dataclass(frozen=True, slots=True)
class PixelOutput:
    """The output that says the class of each pixel, and how.

    axis: of the classes; None where the pixels hold the class itself, or the score of class 1 (`threshold`). classes:
    how many there are; None where the model gives the class itself.
    """

    name: str
    axis: int | None
    classes: int | None
    threshold: float | None = None

    def said(self, output: np.ndarray) -> np.ndarray:
        """Return the class of each pixel, int64 [N, height, width]; `NOTHING` where a score is NaN."""
        if self.axis is not None:
            odd = np.isnan(output).any(axis=self.axis) if output.dtype.kind == "f" else np.zeros((), bool)
            return np.where(odd, NOTHING, output.argmax(axis=self.axis))
        flat = output.reshape(len(output), *_squeezed(output))
        if self.threshold is None:
            known = np.isfinite(flat)
            return np.where(known, np.where(known, flat, 0).astype(np.int64), NOTHING)
        return np.where(np.isnan(flat), NOTHING, flat > self.threshold).astype(np.int64)


def _squeezed(output: np.ndarray) -> tuple[int, int]:
    """Height and width of an output [N, height, width], or with an axis of one channel."""
    sides = output.shape[1:]
    if len(sides) == 3:
        sides = sides[1:] if sides[0] == 1 else sides[:2]
    return sides[0], sides[1]


class PixelClasses:
    """Counts which class is said of the pixels of which; the metric is read off at the end.

    Negative classes in a mask stand for none, as 255 does, unless the model has a class 255. Of two classes 255 is
    class 1 where no pixel is called 1. An output of other size than the masks is compared at its own pixels, with the
    nearest of the mask. A pixel with NaN among its scores is wrong. `output`: where it is known already.

    Raises:
        UsageError: from `update`: no output says classes of pixels.
        DataError: from `update` and `result`: masks are missing or do not fit.
    """

    def __init__(self, name: str, *, mean: bool, output: PixelOutput | None = None) -> None:
        self._name = name
        self._mean = mean
        self._output = output
        self._counts: dict[tuple[int, int], int] = {}
        self._by_class: dict[str, float] = {}

    def update(self, seen: Observation) -> None:
        """Count the pixels of one batch. Raises `UsageError` and `DataError`."""
        masks = labelled_masks(seen, self._name)
        if self._output is None:
            self._output = find_pixel_output(seen, masks.shape, self._name)
        output = seen.outputs[self._output.name]
        said = self._output.said(output)
        masks = masks_at(masks, said.shape[1:])
        classes = self._output.classes
        wrong = (masks >= (classes or math.inf)) & (masks != VOID)
        if wrong.any():
            sample = int(wrong.reshape(len(masks), -1).any(axis=1).argmax())
            raise DataError(
                f"{arg('metric', self._name)}: class {masks[wrong][0]} in the mask of sample {seen.start + sample} is "
                f"no class of output '{self._output.name}', which has {classes} (0 to {(classes or 0) - 1}); correct "
                f"the masks in {arg('data')}, or label_offset in {arg('preprocess')}"
            )
        there = masks >= 0
        pairs = np.stack([masks[there], said[there]]).reshape(2, -1)
        codes, counts = np.unique((pairs[0] << 32) + (pairs[1] - NOTHING), return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            key = (code >> 32, (code & 0xFFFFFFFF) + NOTHING)
            self._counts[key] = self._counts.get(key, 0) + count

    def result(self) -> float:
        """Return the metric, from 0 to 1. Raises `DataError` where no pixel has a class."""
        counts = self._counted()
        total = sum(counts.values())
        if not total:
            raise DataError(
                f"{arg('metric', self._name)}: no pixel of the masks in {arg('data')} has a class; give masks"
            )
        if not self._mean:
            return sum(count for (label, said), count in counts.items() if label == said) / total
        for one in sorted({one for pair in counts for one in pair if one != NOTHING}):
            union = sum(count for pair, count in counts.items() if one in pair)
            self._by_class[str(one)] = counts.get((one, one), 0) / union
        return float(np.mean(list(self._by_class.values())))

    def by_class(self) -> dict[str, float]:
        """Return the intersection over union of each class, once `result` was asked for; empty for the accuracy."""
        return self._by_class

    def _counted(self) -> dict[tuple[int, int], int]:
        """The counts with what 255 stands for."""
        classes = None if self._output is None else self._output.classes
        labels = {label for label, _ in self._counts}
        if classes == 2 and VOID in labels and 1 not in labels:
            return {(1 if label == VOID else label, said): n for (label, said), n in self._counts.items()}
        if classes is not None and classes > VOID:
            return self._counts
        return {pair: n for pair, n in self._counts.items() if pair[0] != VOID}


def labelled_masks(seen: Observation, metric: str) -> np.ndarray:
    """Return the class of each pixel, int64 [N, height, width]. Raises `DataError` where there are no such labels."""
    named = [seen.labels[name] for name in (MASKS, "mask", LABELS) if name in seen.labels]
    masks = named[0] if named else None
    about = arg("metric", metric)
    if masks is None or masks.ndim < 2 or (masks is seen.labels.get(LABELS) and masks.ndim < 3):
        raise DataError(
            f"{about}: {arg('data')} has no masks; add an array 'masks' [samples, height, width] (.npz), or of "
            f"pictures {arg('labels')} with a folder of masks named like the pictures"
        )
    if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):
        masks = masks.reshape(len(masks), *_squeezed(masks))
    if masks.ndim == 2 and seen.size == 1:
        masks = masks[None]
    if masks.ndim != 3 or len(masks) != seen.size or not (masks.size and are_whole(masks)):
        raise DataError(
            f"{about}: the masks in {arg('data')} are {masks.dtype} {list(masks.shape)} for "
            f"{amount(seen.size, 'sample')} from sample {seen.start}; give whole numbers [samples, height, width]"
        )
    return masks.astype(np.int64)


def masks_at(masks: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return masks [N, height, width] at the centres of the pixels of another size."""
    for axis, (have, want) in enumerate(zip(masks.shape[1:], size, strict=True), 1):
        if have != want:
            masks = masks.take(((np.arange(want) + 0.5) * (have / want)).astype(np.int64), axis=axis)
    return masks


def find_pixel_output(seen: Observation, masks: tuple[int, ...], metric: str) -> PixelOutput:
    """Return the first output of float that says a class for each pixel.

    Classes are the axis behind the samples, or the last one, whichever leaves the proportions of the masks; whole
    numbers without such an axis are the classes. One real channel is the score of class 1: of a probability above 0.5,
    and where a value lies outside of 0..1 a logit, above 0.

    Raises:
        UsageError: there is none.
    """
    for name, output in seen.reference.items():
        if output.dtype.kind not in "fiub" or output.ndim not in (3, 4) or len(output) != seen.size or not output.size:
            continue
        single = output.ndim == 3 or 1 in (output.shape[1], output.shape[3])
        if single and _proportional(_squeezed(output), masks[1:]):
            if output.dtype.kind != "f":
                return PixelOutput(name, None, None)
            known = output[np.isfinite(output)]
            logits = bool(((known < -_LOOSE) | (known > 1 + _LOOSE)).any())
            return PixelOutput(name, None, 2, 0.0 if logits else THRESHOLD)
        for axis in (1, 3) if output.ndim == 4 and output.dtype.kind == "f" else ():
            sides = [side for place, side in enumerate(output.shape) if place not in (0, axis)]
            if _proportional((sides[0], sides[1]), masks[1:]):
                return PixelOutput(name, axis, output.shape[axis])
    found = ", ".join(f"'{name}' {list(array.shape)}" for name, array in seen.reference.items())
    raise UsageError(
        f"{arg('metric', metric)}: no output says classes of pixels for masks of {list(masks)}; expected "
        f"[N, classes, height, width], [N, height, width, classes] or [N, height, width]; found {found}; use another "
        "metric, or one of your own as file.py:FUNCTION"
    )


def _proportional(sides: tuple[int, int], masks: tuple[int, ...]) -> bool:
    """Whether an output is as the masks are, or a smaller or larger picture of the same proportions."""
    ratios = [side / of for side, of in zip(sides, masks, strict=True)]
    return sides == tuple(masks) or (min(sides) > 1 and max(ratios) <= 1.1 * min(ratios))

"""The decoders that a model's outputs may ask for, by their shapes: of a detector it is proposed how to compare it."""

from collections.abc import Mapping

import numpy as np

from qtool.evaluation.decoding.decoders import DECODERS, RawOutputs
from qtool.evaluation.metrics.observation import Observation

_FEW = 100
"""Rows of an output that may as well be the steps of a text, or the parts of a picture."""
_PICTURE = 4
_CHANNELS = (1, 3, 4)
_BY_ROWS = ("yolox", "yolov5", "yolov8")


def likely_decoders(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names of the decoders that read outputs of such shapes, of a model that takes pictures.

    inputs, outputs: of one batch.
    """
    picture = next((array for array in inputs.values() if _is_picture(array)), None)
    if picture is None or any(_are_steps(array, picture) for array in inputs.values()):
        return ()
    shapes = {name: array.shape for name, array in inputs.items()}
    raw = RawOutputs(Observation("", dict(outputs), dict(outputs), {}, 0, len(picture), shapes))
    found = [name for name, decoder in DECODERS.items() if decoder.fits(raw)]
    rows = raw.floats(3).values()
    other = max((max(array.shape) for array in rows), default=0) < _FEW or any(map(_are_chances, rows))
    return tuple(name for name in found if not (other and name in _BY_ROWS))


def _is_picture(array: np.ndarray) -> bool:
    """Whether it has 1, 3 or 4 channels, in front or at the end, and a height and a width."""
    if array.ndim != _PICTURE:
        return False
    _, first, *_, last = array.shape
    sides = array.shape[2:] if first in _CHANNELS else array.shape[1:3] if last in _CHANNELS else (1,)
    return bool(min(sides) > 1)


def _are_steps(array: np.ndarray, picture: np.ndarray) -> bool:
    """Whether an input holds the steps of a text, of which one of rank 4 is the mask."""
    if array.ndim == 2:
        return bool(array.shape[1] == picture.shape[-1])
    return bool(array.ndim == _PICTURE - 1 and array.dtype.kind == "f")


def _are_chances(output: np.ndarray) -> bool:
    """Whether the last axis holds the chances of classes, as of the characters of a text."""
    return bool(output.min() >= 0 and np.allclose(output.sum(-1), 1.0, atol=1e-2))

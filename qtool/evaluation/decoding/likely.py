"""The decoders that a model's outputs may ask for, by their shapes: of a detector it is proposed how to compare it."""

from collections.abc import Mapping

import numpy as np

from qtool.evaluation.decoding.decoders import DECODERS, RawOutputs
from qtool.evaluation.metrics.observation import Observation

_FEW = 100
"""Rows of an output that may as well be the steps of a text, or the parts of a picture."""
_BY_ROWS = ("yolox", "yolov5", "yolov8")


def likely_decoders(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the names of the decoders that read outputs of such shapes, of a model that takes pictures.

    inputs, outputs: of one batch.
    """
    picture = next((array for array in inputs.values() if array.ndim == 4), None)
    if picture is None:
        return ()
    shapes = {name: array.shape for name, array in inputs.items()}
    raw = RawOutputs(Observation("", dict(outputs), dict(outputs), {}, 0, len(picture), shapes))
    found = [name for name, decoder in DECODERS.items() if decoder.fits(raw)]
    rows = raw.floats(3).values()
    other = max((max(array.shape) for array in rows), default=0) < _FEW or any(map(_are_chances, rows))
    return tuple(name for name in found if not (other and name in _BY_ROWS))


def _are_chances(output: np.ndarray) -> bool:
    """Whether the last axis holds the chances of classes, as of the characters of a text."""
    return bool(output.min() >= 0 and np.allclose(output.sum(-1), 1.0, atol=1e-2))

"""Decoders that a user brings: `MODULE:FUNCTION` or `file.py:FUNCTION`, a function of the outputs of one batch.

It gets a dictionary of arrays, and returns for each picture `(boxes, scores, classes)`: x1, y1, x2, y2 in pixels of the
input [n, 4], numbers [n], whole numbers [n]. For a batch of one picture it may return these three alone.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount, meant
from qtool.evaluation.decoding.boxes import Detections
from qtool.evaluation.decoding.decoders import DECODERS, Candidates, Decoder
from qtool.evaluation.metrics.observation import Observation
from qtool.feeds import load_function, raised, refuse_to_stop

DecodeFunction = Callable[[dict[str, np.ndarray]], Any]
DecodeSpec = str | DecodeFunction
_WANTED = "return (boxes [n, 4], scores [n], classes [n]) for each picture"


class UserDecoder:
    """A decoder that runs a user's function.

    Raises:
        DataError: from `detections`, in one line that names the function: it raised something, or returned something
            else than boxes, scores and classes for each picture.
    """

    def __init__(self, function: DecodeFunction, name: str) -> None:
        self.name = name
        self._function = function

    def detections(self, seen: Observation) -> Candidates:
        """Return what the function finds in each picture of a batch. Raises `DataError`."""
        where = f"{arg('decode', self.name)}: on {seen.model}, sample {seen.start}"
        try:
            found = self._function(dict(seen.outputs))
        except BaseException as error:
            refuse_to_stop(error)
            raise DataError(f"{where}: {raised(error)}; correct the function") from error
        if not isinstance(found, list | tuple):
            raise DataError(f"{where}: gave a {type(found).__name__}; {_WANTED}")
        if seen.size == 1 and len(found) == 3:
            found = [found]
        if len(found) != seen.size:
            raise DataError(
                f"{where}: gave {amount(len(found), 'result')} for {amount(seen.size, 'picture')}; {_WANTED}"
            )
        return Candidates([_checked(where, one) for one in found])


AnyDecoder = Decoder | UserDecoder


def _checked(where: str, found: object) -> Detections:
    try:
        if not isinstance(found, Iterable):
            raise TypeError
        boxes, scores, classes = (np.asarray(part, np.float64) for part in found)
    except (TypeError, ValueError):
        raise DataError(f"{where}: gave something else than three arrays of numbers for a picture; {_WANTED}") from None
    if boxes.size == scores.size == classes.size == 0:
        boxes, scores, classes = boxes.reshape(0, 4), scores.reshape(0), classes.reshape(0)
    shapes = f"{list(boxes.shape)}, {list(scores.shape)} and {list(classes.shape)}"
    if boxes.shape != (scores.size, 4) or scores.ndim != 1 or classes.shape != scores.shape:
        raise DataError(f"{where}: gave arrays of shapes {shapes}; {_WANTED}")
    if not ((classes >= 0) & (classes == np.floor(classes)) & (classes < 2**31)).all():
        raise DataError(f"{where}: gave a class that is no whole number from 0; {_WANTED}")
    return Detections(boxes, scores, classes.astype(np.int64)).finite()


def decoder_name(spec: DecodeSpec) -> str:
    """Return what to call a decoder in messages: as it was given, a function by its own name."""
    return spec if isinstance(spec, str) else str(getattr(spec, "__name__", type(spec).__name__))


def resolve_decoder(spec: DecodeSpec) -> AnyDecoder:
    """Return the decoder of that name, or one that runs the function that `spec` names or is. Raises `UsageError`."""
    if not isinstance(spec, str):
        return UserDecoder(spec, decoder_name(spec))
    if spec in DECODERS:
        return DECODERS[spec]
    source, colon, name = spec.rpartition(":")
    if not (colon and source and name):
        known = ", ".join(DECODERS)
        raise UsageError(
            f"{arg('decode', spec)}: no such decoder{meant(spec, DECODERS)}; use {known}, or a function of your own as "
            "file.py:FUNCTION"
        )
    try:
        found = load_function(spec)
    except DataError as error:
        raise UsageError(f"{arg('decode')} {error.marked}") from error
    return UserDecoder(found, spec)

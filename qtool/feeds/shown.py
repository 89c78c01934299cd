"""The picture that a model was fed, to look at: normalisation, layout and padding undone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.tensorspec import InputSpec
from qtool.feeds.checks import quoted
from qtool.feeds.fitting import image_input
from qtool.feeds.geometry import Geometry
from qtool.feeds.pixels import Pixels
from qtool.feeds.preprocess import Preprocess

_CHANNELS = (1, 3)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of what a model was fed.

    pixels: uint8 [height, width, 3], RGB, without padding. rows, columns: of the input that it shows; size: the input's
    height and width. how: in words, what the pixels are.
    """

    pixels: np.ndarray
    rows: slice
    columns: slice
    size: tuple[int, int]
    how: str


class PictureInput:
    """The input of a model that takes pictures.

    Raises:
        UsageError: none can be a picture.
    """

    def __init__(self, inputs: Sequence[InputSpec], settings: Preprocess | None) -> None:
        self._pixels = Pixels(settings, image_input(inputs, settings)) if settings is not None else None
        self._inputs = [spec for spec in inputs if _may_be_picture(spec)]
        if self._pixels is None and not self._inputs:
            raise _no_picture([f"'{spec.name}' {list(spec.shape or ())}" for spec in inputs])

    def picture(self, sample: int, inputs: Mapping[str, np.ndarray], laid: Geometry | None) -> Picture:
        """Return the picture that a sample is.

        Args:
            sample: its place in the batch.
            inputs: the batch.
            laid: how its own picture came to lie in the input, where that is known.

        Raises:
            UsageError: no input, or more than one, is one of pictures.
        """
        if self._pixels is not None:
            pixels, how = self._pixels.undone(inputs[self._pixels.spec.name][sample]), "preprocessing undone"
        else:
            pixels, how = _stretched(self._only(inputs)[sample])
        height, width = size = pixels.shape[:2]
        rows, columns = slice(0, height), slice(0, width)
        if laid is not None and laid.outer == size:
            rows, columns = laid.inside
        return Picture(pixels[rows, columns], rows, columns, size, how)

    def _only(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        found = [name for name in (spec.name for spec in self._inputs) if _is_picture(inputs[name].shape)]
        if len(found) > 1:
            raise UsageError(
                f"{arg('save_worst')}: {quoted(found)} may all be pictures; set input_name in {arg('preprocess')}"
            )
        if not found:
            raise _no_picture([f"'{name}' {list(array.shape)}" for name, array in inputs.items()])
        return inputs[found[0]]


def _no_picture(found: Sequence[str]) -> UsageError:
    return UsageError(
        f"{arg('save_worst')}: draws what models of pictures say (boxes, masks, pictures, classes; map, miou, psnr, "
        f"top1), and no input is a picture [N, 1 or 3, height, width] or [N, height, width, 1 or 3]; found "
        f"{', '.join(found)}; leave it out"
    )


def _may_be_picture(spec: InputSpec) -> bool:
    shape = spec.shape
    if shape is None:
        return True
    return len(shape) == 4 and any(not isinstance(shape[axis], int) or shape[axis] in _CHANNELS for axis in (1, 3))


def _is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and (shape[1] in _CHANNELS or shape[3] in _CHANNELS)


def _stretched(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Pixels of an array that nobody says how to read, uint8 [height, width, 3], and what they are."""
    planes = values if values.shape[-1] in _CHANNELS and values.shape[0] not in _CHANNELS else values.transpose(1, 2, 0)
    how = "as they were fed"
    if planes.dtype != np.uint8:
        known = planes[np.isfinite(planes)].astype(np.float64)
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        planes, how = to_bytes(planes, low, high), f"stretched from {low:.4g} to {high:.4g}"
    return np.repeat(planes, 3 // planes.shape[2], axis=2), how


def to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return numbers as uint8, `low` and below (and NaN) as 0, `high` and above as 255."""
    span = (high - low) or 1.0
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / span
    return np.asarray(np.rint(scaled.clip(0.0, 1.0) * 255), np.uint8)

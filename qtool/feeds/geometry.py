"""The place of a picture in the model's input: how it is resized, cut and padded, and where its boxes go with it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.feeds.preprocess import MOST_PIXELS, PADDED, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

NOTHING = -1
"""The class of a box that is none, and of a pixel that no picture covers."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The place of a picture in the model's input; each pair is of height and width.

    picture: its own size. inner: to which it is resized. outer: the input's. offset: of the first row and column of the
    resized picture in the input; negative where they are cut off.
    """

    picture: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    @property
    def moves(self) -> bool:
        """Whether anything happens to the picture."""
        return self.picture != self.inner or self.inner != self.outer

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the input that show the picture."""
        spans = [
            slice(max(0, first), min(all_of, first + part))
            for first, part, all_of in zip(self.offset, self.inner, self.outer, strict=True)
        ]
        return spans[0], spans[1]

    @property
    def seen(self) -> tuple[slice, slice]:
        """The rows and columns of the resized picture that the input shows."""
        spans = [slice(s.start - o, s.stop - o) for s, o in zip(self.inside, self.offset, strict=True)]
        return spans[0], spans[1]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return boxes [..., 4] (x1, y1, x2, y2 in pixels of the picture) in pixels of the input, float64.

        What is cut off with the picture is cut off the boxes; one that is not seen at all has no area then.
        """
        (height, width), (inner_h, inner_w), (top, left) = self.picture, self.inner, self.offset
        moved = np.asarray(boxes, np.float64).reshape(*boxes.shape[:-1], 2, 2)
        moved = moved * (inner_w / width, inner_h / height) + (left, top)
        if min(self.offset) < 0:
            rows, columns = self.inside
            moved = np.clip(moved, (columns.start, rows.start), (columns.stop, rows.stop))
        return moved.reshape(boxes.shape)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Return classes [..., height, width] of the picture's pixels as those of the input's, int32.

        The nearest pixel's, as Pillow's NEAREST; `NOTHING` beside the picture.
        """
        whole = np.full((*mask.shape[:-2], *self.outer), NOTHING, np.int32)
        picked = mask
        for axis, (have, want, part) in enumerate(zip(self.picture, self.inner, self.seen, strict=True)):
            nearest = ((np.arange(want) + 0.5) * (have / want)).astype(np.int64).clip(0, have - 1)
            picked = picked.take(nearest[part], axis=mask.ndim - 2 + axis)
        whole[..., self.inside[0], self.inside[1]] = picked
        return whole


def geometry_of(settings: Preprocess, size: tuple[int, int] | None, picture: tuple[int, int]) -> Geometry:
    """Return how a picture of this height and width is laid into the input.

    Args:
        settings: say how.
        size: the input's height and width; None where neither the model nor the settings say it.
        picture: the picture's.
    """
    height, width = picture
    if size is None and settings.edges is not None:
        size = _by_edges(settings.edges, picture)
        return Geometry(picture, size, size)
    if size is None or picture == size:
        return Geometry(picture, picture, picture)
    if settings.resize == "stretch":
        return Geometry(picture, size, size)
    if settings.resize == "center-crop":
        cover_h, cover_w = (round(side / settings.crop) for side in size)
        if cover_w * height >= cover_h * width:
            inner = (cover_w * height // width, cover_w)
        else:
            inner = (cover_h, cover_h * width // height)
        return Geometry(picture, inner, size, (-round((inner[0] - size[0]) / 2), -round((inner[1] - size[1]) / 2)))
    ratio = min(size[0] / height, size[1] / width)
    if settings.resize == "pad":
        return Geometry(picture, (max(1, int(height * ratio)), max(1, int(width * ratio))), size)
    inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    top, left = (round((all_of - part) / 2 - 0.1) for all_of, part in zip(size, inner, strict=True))
    return Geometry(picture, inner, size, (top, left))


def _by_edges(edges: tuple[int, int], picture: tuple[int, int]) -> tuple[int, int]:
    """Source: DETR, datasets/transforms.py, get_size_with_aspect_ratio."""
    short, most = edges
    if max(picture) / min(picture) * short > most:
        short = max(1, round(most * min(picture) / max(picture)))
    height, width = picture
    if min(picture) == short:
        return picture
    return (int(short * height / width), short) if width < height else (short, int(short * width / height))


def laid(where: str, picture: "Image", geometry: Geometry, settings: Preprocess) -> np.ndarray:
    """Return a picture laid into the input, uint8 [height, width, 3] in RGB, or [height, width] in grey.

    Raises:
        DataError: it would take too much memory.
    """
    if not geometry.moves:
        return np.asarray(picture)
    inner_h, inner_w = geometry.inner
    if inner_h * inner_w > MOST_PIXELS:
        raise DataError(
            f"{where}: {picture.width} x {picture.height} pixels take too much memory with resize {settings.resize}; "
            "cut the picture, or use resize stretch"
        )
    pixels = _resized(picture, geometry, settings.interpolation)
    if geometry.inner == geometry.outer:
        return pixels
    rows, columns = geometry.seen
    if settings.resize not in PADDED:
        return pixels[rows, columns]
    pad = np.array(settings.pad or (0,), np.uint8)
    canvas = np.empty((*geometry.outer, *pixels.shape[2:]), np.uint8)
    # given in the model's order of channels
    canvas[...] = pad[0] if len(pad) == 1 else pad[::-1] if settings.color == "BGR" else pad
    canvas[geometry.inside] = pixels[rows, columns]
    return canvas


def _resized(picture: "Image", geometry: Geometry, interpolation: str) -> np.ndarray:
    from PIL.Image import Resampling

    if geometry.inner == geometry.picture:
        return np.asarray(picture)
    if interpolation == "linear":
        return _linear(np.asarray(picture), geometry.inner)
    height, width = geometry.inner
    way = Resampling.BICUBIC if interpolation == "bicubic" else Resampling.BILINEAR
    return np.asarray(picture.resize((width, height), way))


def _linear(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear between the four nearest pixels, whose centres lie at halves. Source: OpenCV's INTER_LINEAR."""
    values = pixels.astype(np.float32)
    for axis, (have, want) in enumerate(zip(pixels.shape, size, strict=False)):
        place = ((np.arange(want) + 0.5) * (have / want) - 0.5).clip(0, have - 1)
        first = place.astype(np.int64)
        share = (place - first).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1 - axis))
        low = values.take(first, axis=axis)
        high = values.take(np.minimum(first + 1, have - 1), axis=axis)
        values = low + (high - low) * share
    return np.asarray(np.floor(values + 0.5), np.uint8)


def check_sized(settings: Preprocess, size: tuple[int, int] | None) -> None:
    """Refuse padding to a size that nobody says. Raises `DataError`."""
    if settings.resize in PADDED and size is None and settings.edges is None:
        raise DataError(
            f"preprocess: resize {settings.resize} needs a size, and the model's is free; give {arg('preprocess')} a "
            'file with a size, such as {"preset": "yolo", "size": 640}'
        )

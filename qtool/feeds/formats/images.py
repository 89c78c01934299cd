"""A folder of pictures -> batches."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.feeds.batching import Chunk, Deferred, Reader
from qtool.feeds.checks import check_shape, quoted
from qtool.feeds.fitting import Fitter
from qtool.feeds.formats.listing import files_of, read_labels, subfolders_of
from qtool.feeds.matching import LABELS
from qtool.feeds.pixels import NO_PILLOW, Pixels
from qtool.feeds.preprocess import Preprocess

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def open_images(folder: Path, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open a folder of pictures, which are read as 8-bit RGB.

    A labels.csv (columns file, label) names the pictures, their order and their labels. Otherwise every
    picture in the folder and below is taken, and where all of them lie in two or more sub-folders the label
    is the index of the sub-folder, sorted by name as text (as torchvision's ImageFolder and Keras do).

    Raises:
        DataError: Pillow is missing, the model's input takes no images, or no preprocessing says how.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError(f"{folder}: reading images {NO_PILLOW}") from error
    pixels = _pixels(folder, fitter)
    pictures = read_labels(folder) or _labelled_by_folder(folder, files_of(folder, IMAGE_SUFFIXES, recurse=True))

    def load(path: Path, label: int | None) -> Chunk:
        values = pixels.apply(str(path), _decoded(path, pixels)[None])
        if pixels.spec.shape is not None:
            expected = (None, *pixels.spec.shape[1:])
            check_shape(str(path), "the image", values, expected, pixels.spec)
        labels = {} if label is None else fitter.shifted({LABELS: np.array([label], np.int64)})
        return Chunk({pixels.spec.name: values}, labels, 1, str(path))

    def read() -> Iterator[Deferred]:
        for path, label in pictures:
            yield Deferred(1, True, functools.partial(load, path, label), shape=pixels.size)

    return Reader(str(folder), read, available=len(pictures), batching=fitter.batching(batch_size, limit))


def _pixels(folder: Path, fitter: Fitter) -> Pixels:
    if len(fitter.inputs) > 1:
        raise DataError(
            f"{folder}: images feed one input, but the model has "
            f"{quoted(spec.name for spec in fitter.inputs)}; give a .npz with all of them, or MODULE:FUNCTION"
        )
    if fitter.pixels is not None:
        return fitter.pixels
    spec = fitter.inputs[0]
    if spec.dtype != np.uint8:
        raise DataError(
            f"{folder}: holds images, but the model's input '{spec.name}' takes {spec.dtype}; "
            f"say how to convert them with {arg('preprocess')}"
        )
    return Pixels(Preprocess(), spec)


def _labelled_by_folder(folder: Path, paths: list[Path]) -> list[tuple[Path, int | None]]:
    classes = {path.name: index for index, path in enumerate(subfolders_of(folder))}
    parts = [path.relative_to(folder).parts for path in paths]
    if len(classes) < 2 or any(len(part) == 1 for part in parts):
        return [(path, None) for path in paths]
    return [(path, classes[part[0]]) for path, part in zip(paths, parts, strict=True)]


def _decoded(path: Path, pixels: Pixels) -> np.ndarray:
    """uint8 (H, W, C) in the colour and the size of the model."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode[0] in "IF":
                raise DataError(f"{path}: has more than 8 bits a channel ({picture.mode}); convert it to 8 bits")
            if picture.mode == "P" and "transparency" in picture.info:
                return pixels.fitted(picture.convert("RGBA"))
            return pixels.fitted(picture)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(f" '{path}'", "")
        raise DataError(f"{path}: is damaged or no image ({reason}); replace it or remove it") from error

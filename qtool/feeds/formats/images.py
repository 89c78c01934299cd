"""A folder of pictures -> batches."""

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qtool.core.errors import DataError, QtoolError, arg
from qtool.core.reading import open_file
from qtool.feeds.batching import Chunk, Deferred, Reader
from qtool.feeds.checks import check_shape, quoted
from qtool.feeds.fitting import Fitter
from qtool.feeds.formats.listing import files_of, read_labels, subfolders_of
from qtool.feeds.matching import LABELS
from qtool.feeds.pixels import NO_PILLOW, Pixels
from qtool.feeds.preprocess import MOST_PIXELS, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF")
"""Of Pillow; others run programs, or have no place in a file of these names."""
_SETS = {"train", "training", "val", "valid", "validation", "eval", "dev", "test", "testing", "calib", "calibration"}
"""Names of folders that are parts of a data set, and no classes."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def open_images(folder: Path, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open a folder of pictures, which are read as 8-bit RGB.

    A labels.csv (columns file, label) names the pictures, their order and their labels. Otherwise every
    picture in the folder and below is taken, and where all of them lie in two or more sub-folders the label
    is the index of the sub-folder, sorted by name as text (as torchvision's ImageFolder and Keras do). A
    folder in which there is only another folder stands for that one, and folders called train and val are no
    classes.

    Raises:
        DataError: Pillow is missing, the model's input takes no images, no preprocessing says how, or the folder
            holds several labelled folders with the same classes.
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
        labels = {} if label is None else fitter.shifted(str(path), {LABELS: np.array([label], np.int64)})
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
    """Give the pictures the index of their sub-folder, if all lie in two or more, or in those of the only one.

    Raises:
        DataError: the sub-folders are no classes, but have the same classes in them.
    """
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return [(path, None) for path in paths]
    classes = {path.name: index for index, path in enumerate(subfolders_of(folder))}
    if len(classes) == 1:
        return _labelled_by_folder(folder / parts[0][0], paths)
    inner: dict[str, set[str]] = {}
    for part in parts:
        inner.setdefault(part[0], set()).update(part[1:-1][:1])
    same = set.intersection(*inner.values())
    sets = all(name.casefold() in _SETS for name in inner)
    if len(same) > 1 or (sets and same):
        raise DataError(
            f"{folder}: holds {quoted(sorted(inner))}, each with the sub-folders {quoted(sorted(same))}; give one of "
            f"them, such as {folder / parts[0][0]}"
        )
    if sets:
        return [(path, None) for path in paths]
    return [(path, classes[part[0]]) for path, part in zip(paths, parts, strict=True)]


def _decoded(path: Path, pixels: Pixels) -> np.ndarray:
    """uint8 (H, W, C) in the colour and the size of the model."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), open_file(path) as file:
            # of what is odd in a picture that can be read all the same
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as picture:
                _check_picture(path, picture)
                if picture.mode == "P" and "transparency" in picture.info:
                    return pixels.fitted(str(path), picture.convert("RGBA"))
                return pixels.fitted(str(path), picture)
    except (QtoolError, MemoryError):
        raise
    except OSError as error:
        known = f"not one of {', '.join(_FORMATS)}"
        reason = known if isinstance(error, UnidentifiedImageError) else error.strerror or _words(error)
        raise DataError(f"{path}: is damaged or no image ({reason}); replace it or remove it") from error
    except Exception as error:  # Pillow raises a dozen types on damaged pictures
        raise DataError(f"{path}: is damaged or no image ({_words(error)}); replace it or remove it") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_picture(path: Path, picture: "Image") -> None:
    """Refuse, before its pixels are read, a picture that is not what it seems."""
    if picture.mode[0] in "IF":
        raise DataError(f"{path}: has more than 8 bits a channel ({picture.mode}); convert it to 8 bits")
    if picture.width * picture.height > MOST_PIXELS:
        size = f"{picture.width} x {picture.height} pixels"
        raise DataError(f"{path}: has {size}, more than {MOST_PIXELS:,}; replace it by a smaller one")
    # a photograph of two cameras has its picture first, and another one behind it
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise DataError(f"{path}: is a film of {getattr(picture, 'n_frames', 1)} pictures; save the one that is meant")

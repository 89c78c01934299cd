"""A folder of pictures -> batches."""

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qtool.core.errors import DataError, QtoolError, arg
from qtool.core.reading import open_file
from qtool.core.text import amount
from qtool.feeds.batching import Chunk, Deferred, Place, Reader
from qtool.feeds.boxes import moved
from qtool.feeds.checks import check_shape, quoted
from qtool.feeds.fitting import Fitter
from qtool.feeds.formats.annotations import find_annotations
from qtool.feeds.formats.listing import files_of, read_labels, subfolders_of
from qtool.feeds.geometry import Geometry
from qtool.feeds.matching import LABELS
from qtool.feeds.pixels import NO_PILLOW, Pixels
from qtool.feeds.preprocess import MOST_PIXELS, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF")
"""Of Pillow; others run programs, or have no place in a file of these names."""
_SETS = {"train", "training", "val", "valid", "validation", "eval", "dev", "test", "testing", "calib", "calibration"}
"""Names of folders that are parts of a data set, and no classes."""
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_T = TypeVar("_T")
_NAMED = 3
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def open_images(folder: Path, fitter: Fitter, batch_size: int, limit: int | None) -> Reader:
    """Open a folder of pictures, which are read as 8-bit RGB, upright as EXIF says.

    A labels.csv (columns file, label) names the pictures, their order and their labels. Otherwise every
    picture in the folder and below is taken, and where all of them lie in two or more sub-folders the label
    is the index of the sub-folder, sorted by name as text (as torchvision's ImageFolder and Keras do). A
    folder in which there is only another folder stands for that one, and folders called train and val are no
    classes. Boxes and masks (`qtool.feeds.formats.annotations`) take the place of such labels where they are asked
    for.

    Raises:
        DataError: Pillow is missing, the model's input takes no images, no preprocessing says how, or the folder
            holds several labelled folders with the same classes.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError(f"{folder}: reading images {NO_PILLOW}") from error
    pixels = _pixels(folder, fitter)
    files = files_of(folder, IMAGE_SUFFIXES, recurse=True)
    annotated, notes = None, tuple[str, ...]()
    if fitter.annotations is not None:
        files = _beside_labels(fitter.annotations, folder, files)
        annotated = find_annotations(fitter.annotations, folder, files, pixels.settings.categories, _read_mask)
        notes = () if annotated is None else _left_out(folder, files, annotated.pictures)
    if annotated is None:
        pictures = read_labels(folder) or _labelled_by_folder(folder, files)
    else:
        pictures = [(path, None) for path in annotated.pictures]

    def load(path: Path, label: int | None) -> Chunk:
        values, geometry = _decoded(path, pixels)
        values = pixels.apply(str(path), values[None], geometry)
        if pixels.spec.shape is not None:
            expected = (None, *pixels.spec.shape[1:])
            check_shape(str(path), "the image", values, expected, pixels.spec)
        labels: dict[str, np.ndarray] = {} if label is None else {LABELS: np.array([label], np.int64)}
        if annotated is not None:
            labels = moved(annotated.load(path, geometry.picture), geometry)
        labels = fitter.shifted(str(path), labels)
        return Chunk({pixels.spec.name: values}, labels, 1, str(path), places=(Place(str(path), geometry),))

    def read() -> Iterator[Deferred]:
        for path, label in pictures:
            yield Deferred(1, True, functools.partial(load, path, label), shape=pixels.size)

    return Reader(str(folder), read, len(pictures), fitter.batching(batch_size, limit), notes)


def _beside_labels(labels: Path, folder: Path, files: list[Path]) -> list[Path]:
    """The pictures; what lies in the folder of labels is none."""
    if labels.is_dir() and labels.resolve() != folder.resolve():
        files = [path for path in files if not path.resolve().is_relative_to(labels.resolve())]
        if not files:
            raise DataError(f"{folder}: holds no pictures beside its labels; give the folder of the pictures")
    return files


def _left_out(folder: Path, files: Sequence[Path], labelled: Collection[Path]) -> tuple[str, ...]:
    """A line on the pictures that have no labels, where there are such."""
    known = set(labelled)
    others = [path.relative_to(folder).as_posix() for path in files if path not in known]
    if not others:
        return ()
    named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
    have = "has no labels and is" if len(others) == 1 else "have no labels and are"
    return (f"{folder}: {len(others)} of {amount(len(files), 'picture')} {have} left out: {named}",)


def _read_mask(path: Path) -> np.ndarray:
    """The class of each pixel, [height, width]: what a picture in grey or with a palette holds."""

    def values(picture: "Image") -> np.ndarray:
        if picture.mode not in _MASK_MODES:
            raise DataError(
                f"{path}: is a colour picture ({picture.mode}); save masks as 8-bit grey or with a palette, the class "
                "of each pixel as its value"
            )
        return np.asarray(picture)

    return _opened(path, values, most_bits=16)


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
    tops = {part[0] for part in parts}
    if len(tops) == 1 and (len(classes) == 1 or min(tops).casefold() in _SETS):
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


def _decoded(path: Path, pixels: Pixels) -> tuple[np.ndarray, Geometry]:
    """uint8 (H, W, C) in the colour and the size of the model, and how the picture lies in it."""

    def values(picture: "Image") -> tuple[np.ndarray, Geometry]:
        geometry = pixels.geometry((picture.height, picture.width))
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")
        return pixels.fitted(str(path), picture), geometry

    return _opened(path, values)


def _opened(path: Path, values: Callable[["Image"], _T], *, most_bits: int = 8) -> _T:
    """What `values` makes of the picture at a path; whatever Pillow raises is a `DataError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), open_file(path) as file:
            # of what is odd in a picture that can be read all the same
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as picture:
                _check_picture(path, picture, most_bits)
                _turn_upright(picture)
                return values(picture)
    except (QtoolError, MemoryError):
        raise
    except OSError as error:
        known = f"not one of {', '.join(_FORMATS)}"
        reason = known if isinstance(error, UnidentifiedImageError) else error.strerror or _words(error)
        raise DataError(f"{path}: is damaged or no image ({reason}); replace it or remove it") from error
    except Exception as error:  # Pillow raises a dozen types on damaged pictures
        raise DataError(f"{path}: is damaged or no image ({_words(error)}); replace it or remove it") from error


def _turn_upright(picture: "Image") -> None:
    """Turn a picture as its camera was held (EXIF), which labels and every viewer go by."""
    from PIL import ImageOps

    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except OSError:
        raise
    except Exception:  # what says how it was held is damaged, which the picture need not be
        picture.load()


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_picture(path: Path, picture: "Image", most_bits: int) -> None:
    """Refuse, before its pixels are read, a picture that is not what it seems."""
    if picture.mode[0] in "IF" and (most_bits == 8 or picture.mode[0] == "F"):
        raise DataError(f"{path}: has more than 8 bits a channel ({picture.mode}); convert it to 8 bits")
    if picture.width * picture.height > MOST_PIXELS:
        size = f"{picture.width} x {picture.height} pixels"
        raise DataError(f"{path}: has {size}, more than {MOST_PIXELS:,}; replace it by a smaller one")
    # a photograph of two cameras has its picture first, and another one behind it
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise DataError(f"{path}: is a film of {getattr(picture, 'n_frames', 1)} pictures; save the one that is meant")

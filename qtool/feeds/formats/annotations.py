"""Labels that lie beside a folder of pictures: COCO's annotations, YOLO's text files, or masks."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.reading import SETTINGS_LIMIT, read_text
from qtool.core.records.codec import parsed
from qtool.core.text import amount
from qtool.feeds.boxes import BOXES, CLASSES, CROWD, MASKS
from qtool.feeds.formats.listing import files_of
from qtool.feeds.geometry import NOTHING

AUTO = Path("auto")
"""Boxes where there are any: in text files beside the pictures or in `labels`, or in a .json that is named for them."""
_COCO_NAME = re.compile("annotation|coco|instances", re.IGNORECASE)
_ANNOTATIONS_LIMIT = 2**30
_TOLERANCE = 1e-3
_FAR = 1e9
"""No picture reaches as many pixels to a side."""
_MASK_SUFFIXES = (".png", ".bmp")
_FORMS = "a COCO .json, a folder of YOLO .txt files, or a folder of .png masks named like the pictures"

MaskReader = Callable[[Path], np.ndarray]
Loader = Callable[[Path, tuple[int, int]], dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Annotated:
    """The pictures that have labels, and a function that reads those of one, given its path, height and width."""

    pictures: list[Path]
    load: Loader


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The boxes of one picture, x1, y1, x2, y2 [n, 4], in pixels, or of 0..1 where `size` is None."""

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    size: tuple[int, int] | None = None


def find_annotations(
    labels: Path, folder: Path, pictures: Sequence[Path], categories: str, read_mask: MaskReader
) -> Annotated | None:
    """Return the labels of pictures, and which of them have any; None where `AUTO` finds nothing.

    Args:
        labels: the file or folder of labels, or `AUTO`.
        folder: the pictures' own.
        pictures: those in it.
        categories: "index" or "id": what becomes of a COCO category.
        read_mask: reads one mask, [height, width].

    Raises:
        DataError: there are no such labels, they are of none of the pictures, or a file is not what it should be.
    """
    if labels == AUTO:
        found = texts_beside(folder, pictures)
        if found:
            return _boxed({path: _yolo(file) for path, file in found.items()}, pictures)
        documents = coco_files(folder)
        return _coco(documents[0], folder, pictures, categories) if len(documents) == 1 else None
    if labels.suffix.lower() == ".json" or labels.is_file():
        return _coco(labels, folder, pictures, categories)
    if not labels.is_dir():
        raise DataError(f"{arg('labels', labels)}: does not exist; give {_FORMS}")
    texts, masks = (files_of(labels, kind, recurse=True) for kind in ((".txt",), _MASK_SUFFIXES))
    own = labels.resolve() == folder.resolve()
    if texts and (own or not masks):
        found = _named_like(labels, texts, folder, pictures)
        _check_some(found, labels, texts, pictures)
        return _boxed({path: _yolo(file) for path, file in found.items()}, pictures)
    if masks and not texts and not own:
        found = _named_like(labels, masks, folder, pictures)
        _check_some(found, labels, masks, pictures)
        return Annotated([path for path in pictures if path in found], functools.partial(_mask, found, read_mask))
    what = "both .txt and .png files" if texts else "no labels"
    raise DataError(f"{arg('labels', labels)}: holds {what}; give {_FORMS}")


def _check_some(found: Mapping[Path, Path], labels: Path, files: Sequence[Path], pictures: Sequence[Path]) -> None:
    if not found:
        raise DataError(
            f"{arg('labels', labels)}: none of its files is named like a picture (such as "
            f"{files[0].name}, and {pictures[0].name}); name them alike"
        )


def _named_like(labels: Path, files: Sequence[Path], folder: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """The file of each picture that has one: of its path below its folder, else of its name, also with `_mask`."""
    known = {file.relative_to(labels).with_suffix(""): file for file in files}
    found = {}
    for picture in pictures:
        inner = picture.relative_to(folder).with_suffix("")
        for name in (inner, inner.with_name(f"{inner.name}_mask"), Path(inner.name), Path(f"{inner.name}_mask")):
            if name in known:
                found[picture] = known[name]
                break
    return found


def coco_files(folder: Path) -> list[Path]:
    """Return the files directly in a folder that are called as COCO calls its labels. Raises `DataError`."""
    return [path for path in files_of(folder, (".json",)) if _COCO_NAME.search(path.name)]


def texts_beside(folder: Path, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Return the text file of each picture that has one: beside it, in `labels` beside `images` or in the folder."""
    found = {}
    for picture in pictures:
        inner = picture.relative_to(folder).with_suffix(".txt")
        places = [picture.with_suffix(".txt"), folder / "labels" / inner]
        parts = list(picture.absolute().with_suffix(".txt").parts)
        if "images" in parts:
            parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
            places.append(Path(*parts))
        there = next((place for place in places if place.is_file()), None)
        if there is not None:
            found[picture] = there
    return found


def _boxed(known: Mapping[Path, _Boxes], pictures: Sequence[Path]) -> Annotated:
    """All with as many boxes as the picture with most has, so that pictures can be stacked."""
    most = max((len(found.classes) for found in known.values()), default=0)
    none = _Boxes(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, bool))

    def load(path: Path, size: tuple[int, int]) -> dict[str, np.ndarray]:
        found = known.get(path, none)
        if found.size not in (None, size):
            raise DataError(
                f"{path}: is {size[1]} x {size[0]} pixels, and {found.size[1]} x {found.size[0]} by its annotations, "
                "so that boxes would lie elsewhere; give the annotations of these pictures"
            )
        labels = {
            BOXES: np.full((1, most, 4), 0.0),
            CLASSES: np.full((1, most), NOTHING, np.int64),
            CROWD: np.zeros((1, most), bool),
        }
        count = len(found.classes)
        scale = size if found.size is None else (1, 1)
        labels[BOXES][0, :count] = found.boxes * (scale[1], scale[0], scale[1], scale[0])
        labels[CLASSES][0, :count], labels[CROWD][0, :count] = found.classes, found.crowd
        return labels

    return Annotated(list(pictures), load)


def _mask(
    known: Mapping[Path, Path], read_mask: MaskReader, path: Path, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    mask = read_mask(known[path])
    if mask.shape != size:
        raise DataError(
            f"{known[path]}: is {mask.shape[1]} x {mask.shape[0]} pixels, and its picture {path.name} {size[1]} x "
            f"{size[0]}; give masks of the pictures' size"
        )
    return {MASKS: mask[None]}


def _yolo(path: Path) -> _Boxes:
    """Read a line a box: class, centre x and y, width and height of 0..1; or class and the corners of a polygon.

    Source: ultralytics, the YOLO detection and segmentation formats.
    """
    try:
        lines = read_text(path, SETTINGS_LIMIT).splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the labels") from error
    rows = [_yolo_row(f"{path}, line {number}", text.split()) for number, text in enumerate(lines, 1) if text.strip()]
    boxes = np.array([row[1:] for row in rows], np.float64).reshape(-1, 4)
    return _Boxes(boxes, np.array([row[0] for row in rows], np.int64), np.zeros(len(rows), bool))


def _yolo_row(where: str, words: Sequence[str]) -> tuple[float, ...]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: holds something else than numbers; write class, x, y, width and height") from error
    polygon = len(numbers) >= 7 and len(numbers) % 2 == 1
    if len(numbers) != 5 and not polygon:
        raise DataError(
            f"{where}: has {amount(len(numbers), 'number')}; write class, x, y, width and height, or a class and the "
            "corners of a polygon"
        )
    if not (numbers[0] >= 0 and float(numbers[0]).is_integer() and numbers[0] < 2**31):
        raise DataError(f"{where}: the class {words[0][:40]!r} is no whole number from 0; correct it")
    if not all(-_TOLERANCE <= x <= 1 + _TOLERANCE for x in numbers[1:]):
        raise DataError(f"{where}: a coordinate is not within 0 and 1; divide them by the picture's width and height")
    if polygon:
        xs, ys = numbers[1::2], numbers[2::2]
        return numbers[0], min(xs), min(ys), max(xs), max(ys)
    _, x, y, width, height = numbers
    return numbers[0], x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _coco(path: Path, folder: Path, pictures: Sequence[Path], categories: str) -> Annotated:
    """Read COCO's annotations, "images" by file name; the pictures that these do not list are left out.

    Source: cocodataset.org, data format, object detection.
    """
    document = _document(path)
    ids = sorted(_identified(path, document, "categories"))
    classes = {number: number if categories == "id" else place for place, number in enumerate(ids)}
    images = _identified(path, document, "images")
    listed: dict[str, Sequence[int]] = {}
    for number, image in images.items():
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: the image {number} has no file_name; correct the annotations")
        name = name.removeprefix("./")
        listed[name] = (*listed.get(name, ()), number)
    by_name: dict[str, Sequence[int]] = {}
    for whole, numbers in listed.items():
        by_name[Path(whole).name] = (*by_name.get(Path(whole).name, ()), *numbers)
    found: dict[Path, int] = {}
    for picture in pictures:
        for numbers in (listed.get(picture.relative_to(folder).as_posix(), ()), by_name.get(picture.name, ())):
            if len(numbers) == 1:
                found[picture] = numbers[0]
                break
    if not found:
        some = f"it lists {amount(len(images), 'image')}, such as {next(iter(listed))!r}" if listed else "it lists none"
        raise DataError(
            f"{path}: lists none of the pictures of {folder} (such as {pictures[0].name}; {some}); give the "
            "annotations of these pictures"
        )
    return _boxed(_coco_boxes(path, document, images, classes, found), [p for p in pictures if p in found])


def _coco_boxes(
    path: Path,
    document: Mapping[str, Any],
    images: Mapping[int, Any],
    classes: Mapping[int, int],
    found: dict[Path, int],
) -> dict[Path, _Boxes]:
    rows: dict[int, list[tuple[float, ...]]] = {number: [] for number in images}
    for place, annotation in enumerate(document["annotations"]):
        where = f"{path}: annotations[{place}]"
        if not isinstance(annotation, dict):
            raise DataError(f"{where} is no object; correct the annotations")
        image, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
        if not isinstance(image, int | str) or image not in rows:
            raise DataError(f"{where} is of image {str(image)[:40]}, which 'images' does not list; correct it")
        if not isinstance(category, int) or category not in classes:
            raise DataError(f"{where} has category {str(category)[:40]}, which 'categories' does not list; correct it")
        if not (isinstance(box, list) and len(box) == 4 and all(_is_place(x) for x in box) and min(box[2:]) >= 0):
            raise DataError(f"{where} has the bbox {str(box)[:80]}; give x, y, width and height in pixels")
        x, y, width, height = box
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(f"{where} has iscrowd {str(crowd)[:40]}; give 0 or 1")
        rows[image].append((classes[category], crowd, x, y, x + width, y + height))
    known = {}
    for picture, number in found.items():
        table = np.array(rows[number], np.float64).reshape(-1, 6)
        size = tuple(images[number].get(key) for key in ("height", "width"))
        sized = all(isinstance(side, int) and side > 0 for side in size)
        if not sized:
            raise DataError(f"{path}: the image {number} has no height and width; correct the annotations")
        known[picture] = _Boxes(table[:, 2:], table[:, 0].astype(np.int64), table[:, 1] > 0, size)
    return known


def _document(path: Path) -> dict[str, Any]:
    try:
        document = parsed(read_text(path, _ANNOTATIONS_LIMIT), strict=False)
    except FileNotFoundError as error:
        raise DataError(f"{arg('labels', path)}: does not exist; give {_FORMS}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give {_FORMS}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({' '.join(str(error).split())}); give {_FORMS}") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in lists):
        raise DataError(f"{path}: is no COCO annotations, which have the lists {', '.join(lists)}; give {_FORMS}")
    return document


def _identified(path: Path, document: Mapping[str, Any], what: str) -> dict[Any, dict[str, Any]]:
    """The entries of a list by their `id`, of which none may be there twice."""
    found: dict[Any, dict[str, Any]] = {}
    for place, entry in enumerate(document[what]):
        number = entry.get("id") if isinstance(entry, dict) else None
        whole = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31
        if not whole and not (what == "images" and isinstance(number, int | str)):
            raise DataError(f"{path}: {what}[{place}] has no id, a whole number from 0; correct the annotations")
        if number in found:
            raise DataError(f"{path}: {what} holds the id {str(number)[:40]} twice; correct the annotations")
        found[number] = entry
    return found


def _is_place(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR

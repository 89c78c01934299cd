"""The content of a folder: files in natural order, and the labels of a `labels.csv`."""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from qtool.core.errors import DataError

LABELS_FILE = "labels.csv"


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Return a key by which `2.npy` is sorted before `10.npy`."""
    text = path.as_posix()
    pieces = re.split(r"([0-9]+)", text.casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], text


def files_of(folder: Path, suffixes: tuple[str, ...], *, recurse: bool = False) -> list[Path]:
    """Return the files with one of the suffixes, in natural order, hidden ones left out.

    Raises:
        DataError: the folder cannot be read.
    """
    found = _walk(folder) if recurse else _entries(folder)
    matching = [path for path in found if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(matching, key=lambda path: natural_key(path.relative_to(folder)))


def subfolders_of(folder: Path) -> list[Path]:
    """Return the folders directly in `folder`, hidden ones left out, by name as text. Raises `DataError`."""
    return sorted((path for path in _entries(folder) if path.is_dir()), key=lambda path: path.name)


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check the folder") from error


def _walk(folder: Path) -> Iterator[Path]:
    for parent, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def read_labels(folder: Path) -> list[tuple[Path, int | None]] | None:
    """Return the rows of the folder's labels.csv, file and class index, in its order; None where there is none.

    Raises:
        DataError: a column is missing, a label is no whole number, or a file that it names does not exist.
    """
    table = folder / LABELS_FILE
    if not table.is_file():
        return None
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            if "file" not in columns or "label" not in columns:
                raise DataError(f"{table}: needs the columns 'file' and 'label'; found {', '.join(columns) or 'none'}")
            rows = [_labelled(table, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); save it as UTF-8 CSV") from error
    if not rows:
        raise DataError(f"{table}: lists no files; add a row a sample")
    return rows


def _labelled(table: Path, line: int, row: dict[str, str | None]) -> tuple[Path, int | None]:
    name, label = (row["file"] or "").strip(), (row["label"] or "").strip()
    path = table.parent / name
    if not name or not path.is_file():
        raise DataError(f"{table}, line {line}: the file '{name}' does not exist; correct the row or remove it")
    try:
        return path, int(label)
    except ValueError as error:
        raise DataError(
            f"{table}, line {line}: the label '{label}' is no whole number; give the index of the class"
        ) from error

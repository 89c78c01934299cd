"""The content of a folder: files in natural order, and the labels of a `labels.csv`."""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from qtool.core.errors import DataError
from qtool.core.reading import SETTINGS_LIMIT, read_lines

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
    if not os.path.lexists(table):
        return None
    inside = folder.resolve()
    try:
        reader = csv.DictReader(line.decode("utf-8-sig" if i == 0 else "utf-8") for i, line in _lines(table))
        columns = reader.fieldnames or []
        if "file" not in columns or "label" not in columns:
            raise DataError(f"{table}: needs the columns 'file' and 'label'; found {', '.join(columns) or 'none'}")
        rows = [_labelled(table, inside, reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8; save it as UTF-8 CSV") from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{table}: cannot be read ({reason}); save it as UTF-8 CSV") from error
    if not rows:
        raise DataError(f"{table}: lists no files; add a row a sample")
    return rows


def _lines(table: Path) -> Iterator[tuple[int, bytes]]:
    return enumerate(read_lines(table, SETTINGS_LIMIT))


def _labelled(table: Path, inside: Path, line: int, row: dict[str, str | None]) -> tuple[Path, int | None]:
    where = f"{table}, line {line}"
    name, label = (row["file"] or "").strip(), (row["label"] or "").strip()
    path = table.parent / name
    if not name or not path.is_file():
        raise DataError(f"{where}: the file {name[:200]!r} does not exist; correct the row or remove it")
    if not path.resolve().is_relative_to(inside):
        raise DataError(f"{where}: the file {name[:200]!r} lies outside of {table.parent}; copy it into this folder")
    try:
        number = int(label)
    except ValueError as error:
        raise DataError(f"{where}: the label {label[:40]!r} is no whole number; give the index of the class") from error
    if not -(2**63) <= number < 2**63:
        raise DataError(f"{where}: the label {label[:40]!r} does not fit into 64 bits; give the index of the class")
    return path, number

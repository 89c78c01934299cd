"""The place that data came from: what another process needs to open it too, and digests that tell data sets apart."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtool.core.errors import UsageError, arg
from qtool.core.reading import DOCUMENT_LIMIT, read_bytes
from qtool.core.records.merging import read_otherwise
from qtool.feeds.reading import Reading


@dataclass(frozen=True, slots=True)
class Source:
    """The way in which data was opened, as a value that can be sent; `qtool.feeds.open.open_source` opens it again.

    data: a path or `MODULE:FUNCTION`; None for data without a name. samples: how many were asked for, None for all.
    reading: the options of reading, checked. available: the number of samples that was found.
    """

    data: str | None
    samples: int | None
    batch_size: int
    reading: Reading
    available: int | None

    @classmethod
    def of(
        cls, data: object, samples: int | None, batch_size: int, reading: Reading, available: int | None
    ) -> "Source":
        """Make the source of `data`, whatever it is; a path in it becomes absolute."""
        name = _absolute(str(data)) if isinstance(data, str | Path) else None
        return cls(name, samples, batch_size, reading, available)

    @property
    def by_path(self) -> bool:
        """Whether other processes may open it too; functions are not run twice, which might not yield the same."""
        return self.data is not None and Path(self.data).exists()

    def settings(self) -> str:
        """Return a digest of what decides which samples make up which batch, wherever the data lies."""
        reading = self.reading
        tokenizer = "" if reading.tokenizer is None else _of_file(reading.tokenizer)
        parts = (self.samples, self.batch_size, self.available, reading.preprocess, tokenizer)
        return _digest(*map(repr, (*parts, reading.max_length, reading.trim, reading.mask, reading.states)))

    def read_by(self) -> tuple[tuple[str, str], ...]:
        """Return what was given of how data is read: digests of the preprocess and the tokenizer, and the others."""
        reading = self.reading
        given: dict[str, str | None] = {
            "preprocess": None if reading.preprocess is None else _digest(repr(reading.preprocess)),
            "tokenizer": None if reading.tokenizer is None else _of_file(reading.tokenizer),
            "max_length": None if reading.max_length is None else str(reading.max_length),
            "trim": reading.trim,
            "state": " ".join(map(str, reading.states)) or None,
        }
        return tuple(sorted((name, text) for name, text in given.items() if text is not None))

    def check_like(self, read_by: Sequence[tuple[str, str]], calibration: str) -> None:
        """Refuse data that is read otherwise than what calibrated; see `Statistics.read_by`. Raises `UsageError`."""
        for name in read_otherwise(dict(read_by), dict(self.read_by())):
            raise UsageError(f"{arg(name)}: {calibration} was calibrated with another one; give the same here")

    def origin(self, outputs: Iterable[Path] = ()) -> str | None:
        """Return a digest of the name, size and time of every file of the data; None where the data has no name.

        outputs: files that are none of the data, should they be in its folder.
        """
        if self.data is None:
            return None
        files = _files(Path(self.data.rpartition(":")[0] if not Path(self.data).exists() else self.data))
        written = {file.name: file.resolve() for file in outputs}
        stamps = [
            f"{file} {stat.st_size} {stat.st_mtime_ns}"
            for file in files
            if file.name not in written or file.resolve() != written[file.name]
            for stat in [file.stat()]
        ]
        return _digest(self.data, *stamps)


def same_data(one: object, other: object) -> bool:
    """Return whether two values for DATA are the same: one object, or one path or name."""
    named = isinstance(one, str | Path) and isinstance(other, str | Path)
    return one is other or (named and os.path.realpath(_absolute(str(one))) == os.path.realpath(_absolute(str(other))))


NOWHERE = Source(None, None, 1, Reading(), None)
"""The source of data that has no name."""


def _of_file(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, DOCUMENT_LIMIT)).hexdigest()


def _absolute(text: str) -> str:
    """Make a path, or that in `path/file.py:FUNCTION`, absolute; `MODULE:FUNCTION` stays as it is."""
    path, _, function = text.rpartition(":")
    if Path(text).exists():
        return str(Path(text).absolute())
    return f"{Path(path).absolute()}:{function}" if path.endswith(".py") else text


def _files(path: Path) -> list[Path]:
    """List the files at a path; hidden ones and links that lead nowhere are left out, as readers of folders do."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names if not name.startswith("."))
    return sorted(file for file in found if file.is_file())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

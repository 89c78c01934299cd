"""Data by name, so that another process can open it; and digests that tell data sets apart."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.feeds.batching import Feeds
from qtool.feeds.open import Data, open_feeds
from qtool.feeds.reading import Reading, ReadOptions


@dataclass(frozen=True, slots=True)
class Source:
    """What `open_feeds` was given, where it is a path or `MODULE:FUNCTION`; else `data` is None.

    available: the number of samples as it was where the data was opened first.
    """

    data: str | None
    samples: int | None
    batch_size: int
    reading: Reading
    available: int | None

    @classmethod
    def of(cls, data: Data, feeds: Feeds, samples: int | None, batch_size: int, reading: ReadOptions) -> "Source":
        """Of what was opened as `feeds`."""
        name = _absolute(str(data)) if isinstance(data, str | Path) else None
        return cls(name, samples, batch_size, Reading.of(reading), feeds.samples)

    @property
    def by_path(self) -> bool:
        """Whether other processes may open it too; functions are not run twice, which might not yield the same."""
        return self.data is not None and Path(self.data).exists()

    def open_here(self, inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> Feeds | None:
        """As it was opened first; None where this process does not find it, or another number of samples."""
        if self.data is None or not self.by_path:
            return None
        try:
            feeds = open_feeds(
                self.data,
                inputs,
                outputs=outputs,
                samples=self.samples,
                batch_size=self.batch_size,
                preprocess=self.reading.preprocess,
                tokenizer=self.reading.tokenizer,
                max_length=self.reading.max_length,
                trim=self.reading.trim,
                state=self.reading.states,
            )
        except DataError:
            return None
        return feeds if feeds.samples == self.available else None

    def settings(self) -> str:
        """A digest of what decides which samples make up which batch, wherever the data lies."""
        reading = self.reading
        tokenizer = "" if reading.tokenizer is None else hashlib.sha256(reading.tokenizer.read_bytes()).hexdigest()
        parts = (self.samples, self.batch_size, self.available, reading.preprocess, tokenizer)
        return _digest(*map(repr, (*parts, reading.max_length, reading.trim, reading.states)))

    def origin(self, outputs: Iterable[Path] = ()) -> str | None:
        """A digest of the name, size and time of every file of the data; None where it has no name.

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


NOWHERE = Source(None, None, 1, Reading(), None)
"""Of data that has no name."""


def _absolute(text: str) -> str:
    """Of a path or `path/file.py:FUNCTION`; `MODULE:FUNCTION` as it is."""
    path, _, function = text.rpartition(":")
    if Path(text).exists():
        return str(Path(text).absolute())
    return f"{Path(path).absolute()}:{function}" if path.endswith(".py") else text


def _files(path: Path) -> list[Path]:
    """Hidden ones and links that lead nowhere left out, as readers of folders do."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names if not name.startswith("."))
    return sorted(file for file in found if file.is_file())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

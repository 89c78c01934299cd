"""Models on their way to workers: by path where the worker sees the same file there, by content where not."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from qtool.core.scratch import drop_scratch, make_scratch
from qtool.graph.model_files import model_files

Content = dict[str, bytes]
"""Path within the model's folder -> bytes, the model first."""
_BLOCK = 1 << 20
_KEPT = 8
"""Models that were sent, in files of this process."""
_LOCK = threading.Lock()
_SENT: dict[str, Path] = {}
_SEEN: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file by its path, and the SHA-256 of it and its external data."""

    path: str
    digest: str

    @classmethod
    def of(cls, path: str | Path) -> "ModelFile":
        """Read a model file on this machine, and return its path with its digest. Raises `OSError` as reading does."""
        file = Path(path).absolute()
        return cls(str(file), _digest(file))

    def content(self) -> Content:
        """Read what has to be sent to others, on the machine that has the file."""
        files = model_files(self.path)
        folder = files[0].parent
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}

    def find(self, content: Content | None) -> Path | None:
        """Find the model on this machine, at its path or as it was once sent; None where it is not there.

        content: what was sent just now, None for nothing; it is kept for later.
        """
        file, key = Path(self.path), (self.path, self.digest)
        with _LOCK:
            if file.is_file() and (key in _SEEN or _digest(file) == self.digest):
                _SEEN.add(key)
                return file
            if self.digest not in _SENT and content is not None:
                while len(_SENT) >= _KEPT:
                    drop_scratch(_SENT.pop(next(iter(_SENT))).parent)
                _SENT[self.digest] = _stored(content)
            return _SENT.get(self.digest)


def _digest(model: Path) -> str:
    digest = hashlib.sha256()
    for file in model_files(model):
        digest.update(f"{file.stat().st_size} ".encode())
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _stored(content: Content) -> Path:
    """Write the files to a folder that lives as long as this process; returns the model's path."""
    folder = make_scratch()
    for name, data in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder / next(iter(content))

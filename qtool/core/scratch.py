"""Folders for temporary files, which are removed whatever happens, and whose errors name the folder and the remedy."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qtool.core.errors import ModelError, OutputError
from qtool.core.leftovers import left_over, lock_new

_NAME = "qtool-scratch-"
_BLOCK = 1 << 16
_folders: dict[Path, int] = {}
"""Those of this process, and what is open on them and holds their locks."""
_owner = os.getpid()


@contextmanager
def scratch_folder(size: int = 0) -> Iterator[Path]:
    """Yield a folder for temporary files, which is removed at the end of the block.

    size: bytes that the code of others will write there, whose errors do not say that there was no room.

    Raises:
        OutputError: temporary files cannot be written, or there is no room for them.
    """
    folder = make_scratch()
    try:
        yield folder
    except (OSError, ModelError, OutputError) as error:
        reason = _no_room(folder, size)
        if reason is None:
            raise
        raise _unusable(str(folder.parent), reason) from error
    finally:
        drop_scratch(folder)


def make_scratch() -> Path:
    """Make a folder for temporary files, which is there until `drop_scratch`; return its path. Raises `OutputError`."""
    parent = "the folder for temporary files"
    try:
        parent = tempfile.gettempdir()
        _sweep(Path(parent))
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_NAME, dir=parent))
            try:
                handle = os.open(folder, os.O_RDONLY) if os.name == "posix" else -1
            except FileNotFoundError:
                # another process has taken it for one that is left over
                continue
            _folders[folder] = handle
            if lock_new(folder, handle):
                return folder
            drop_scratch(folder)
    except OSError as error:
        raise _unusable(parent, error.strerror or str(error)) from error


def drop_scratch(folder: Path) -> None:
    """Remove a folder that `make_scratch` has made, and what is in it; what fails is tried once more."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    handle = _folders.pop(folder, -1)
    if handle >= 0:
        os.close(handle)


@atexit.register
def drop_all_scratch() -> None:
    """Remove all temporary files of this process."""
    for folder in list(_folders) if os.getpid() == _owner else ():
        drop_scratch(folder)


def _unusable(folder: str, reason: str) -> OutputError:
    return OutputError(
        f"{folder}: temporary files cannot be written there ({reason}); set TMPDIR to a folder that has room"
    )


def _no_room(folder: Path, size: int) -> str | None:
    """Why the folder cannot hold `size` bytes, once it is empty; None where it can."""
    try:
        for inner in folder.iterdir():
            shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
        with (folder / "room").open("wb") as stream:
            for _ in range(size // _BLOCK + 1):
                stream.write(bytes(_BLOCK))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _sweep(parent: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for path in left_over(parent, lambda entry: entry.name.startswith(_NAME) and entry.is_dir(follow_symlinks=False)):
        shutil.rmtree(path, ignore_errors=True)

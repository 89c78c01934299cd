"""Files that killed processes leave: each process locks its own, so that what nobody has locked is left over."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# on Windows what a killed process left stays
fcntl: Any = import_module("fcntl") if os.name == "posix" else None
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_swept: set[Path] = set()


def lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder for this process, and return whether it is.

    wait: for whoever has it; True is returned then even where the system has no locks.
    """
    if fcntl is None:
        return wait
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return wait
    return True


def lock_new(path: Path, handle: int) -> bool:
    """Lock a file or folder that was made just now, and return whether it is still there.

    Another process may have taken it for one that is left over, before it was locked.
    """
    lock(handle, wait=True)
    return handle < 0 or is_at(path, handle)


def is_at(path: Path, handle: int) -> bool:
    """Return whether a path names an open file or folder."""
    try:
        found, own = path.lstat(), os.fstat(handle)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def left_over(folder: Path, ours: Callable[[os.DirEntry[str]], bool]) -> Iterator[Path]:
    """Yield the paths in a folder that are `ours` and that no process has locked, each locked meanwhile.

    A process is given them once for a folder; none where the system has no locks.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if ours(entry):
                with suppress(OSError):
                    handle = os.open(entry.path, os.O_RDONLY | _CAREFULLY)
                    try:
                        if lock(handle):
                            yield Path(entry.path)
                    finally:
                        os.close(handle)

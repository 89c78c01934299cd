"""Outputs that are never half-written: made beside the target and renamed."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qtool.core.errors import OutputError
from qtool.core.recognition import tilde


def check_writable(path: str | Path) -> Path:
    """Refuse, before any work is done for it, an output that cannot be written; return its path.

    Raises:
        OutputError: the folder is missing or not writable, or the path is a folder or device.
    """
    target = Path(path)
    parent = target.parent
    try:
        is_folder = target.is_dir()
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another output") from error
    if is_folder:
        raise OutputError(f"{target}: is a folder; name a file")
    if target.exists() and not target.is_file():
        # a rename would put a file in the place of /dev/null
        raise OutputError(f"{target}: is a device or pipe; name a file")
    if not parent.is_dir():
        raise OutputError(f"{target}: the folder {parent} does not exist; create it first{tilde(path)}")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{target}: the folder {parent} is not writable; choose another output")
    return target


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds, remove it if not.

    An interrupt, an error or a full disk leaves what was at `path` before.

    Raises:
        OutputError: the file cannot be created or written.
    """
    target = check_writable(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another output") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another output") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def remove_unfinished(path: str | Path) -> None:
    """Remove the temporary files that an `atomic_output` of this path left when it was killed."""
    target = Path(path)
    for file in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        file.unlink(missing_ok=True)


@contextmanager
def atomic_pair(needed: str | Path, path: str | Path) -> Iterator[tuple[Path, Path]]:
    """Yield temporary paths for `needed` and `path`; rename both if the block succeeds, remove them if not.

    The file at `path` is of no use without the `needed` one. Both are renamed one right after the other; an error or
    interrupt between these takes the first one back.

    Raises:
        OutputError: a file cannot be created or written.
    """
    identity, old, begun = None, None, False
    try:
        with atomic_output(path) as second:
            identity = second.stat().st_ino
            with atomic_output(needed) as first:
                yield first, second
                old = _second_name(Path(needed))
                begun = True
    except BaseException:
        if begun and not (Path(path).exists() and Path(path).stat().st_ino == identity):
            if old is None:
                Path(needed).unlink(missing_ok=True)
            else:
                old.replace(needed)
        raise
    finally:
        if old is not None:
            old.unlink(missing_ok=True)


def _second_name(file: Path) -> Path | None:
    """Another name of the file beside it, so that it outlives a replacement; None where there is no such file."""
    if not file.exists():
        return None
    with tempfile.NamedTemporaryFile(prefix=f".{file.name}.", suffix=".old", dir=file.parent) as unused:
        name = Path(unused.name)
    try:
        os.link(file, name)
    except OSError:
        # a file system without links
        file.replace(name)
    return name


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically. Raises `OutputError`."""
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

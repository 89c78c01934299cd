"""Files that people give: regular ones only, and never more of one than its reader asks for.

Whatever reads a file of the user's opens it here, so that no pipe stops the process and no device fills it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

SETTINGS_LIMIT = 4 * 2**20
"""Bytes of a text that people write: a configuration, the settings of preprocessing."""
DOCUMENT_LIMIT = 256 * 2**20
"""Bytes of a text that programs write: a plan, an analysis, a tokenizer."""
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_file(path: str | Path) -> IO[bytes]:
    """Open a regular file to read its bytes; it never waits, as a pipe would.

    Raises:
        OSError: there is no such file, it may not be read, or it is a folder, pipe, socket or device, or a link to
            one. Its `strerror` says which.
    """
    try:
        # what only opening a device would do is not done
        _check_regular(Path(path).stat())
        return open(path, "rb", opener=_open_at_once)
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a null character") from error


def _open_at_once(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(handle))
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises `OSError`, also where it is larger."""
    with open_file(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB")
    return data


def read_text(path: str | Path, limit: int) -> str:
    """Read a regular file of at most `limit` bytes of UTF-8, with or without a byte order mark.

    Raises:
        OSError: it cannot be read, is larger, or is not UTF-8.
    """
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise OSError(errno.EILSEQ, "it is UTF-16, not UTF-8" if wide else "it is not UTF-8") from error


def read_lines(path: str | Path, limit: int) -> Iterator[bytes]:
    """Yield the lines of a regular file with their ends. Raises `OSError`, also for a line of over `limit` bytes."""
    with open_file(path) as stream:
        number = 0
        while line := stream.readline(limit + 1):
            number += 1
            if len(line) > limit:
                raise OSError(errno.EFBIG, f"line {number} is larger than {limit >> 20} MiB")
            yield line

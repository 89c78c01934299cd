"""Standard output and error: they may be closed, full, a pipe that nobody reads, or of ASCII only."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

import click

from qtool.core.errors import OutputError
from qtool.core.text import line


@dataclass(slots=True)
class _Streams:
    """The standard streams of this process.

    program: they are its own. closed: numbers of those that were closed when it began. document: where `print_document`
    writes, within `reserved_stdout`. reserved: behind it, the number of standard output, which is kept for documents.
    """

    program: bool = False
    closed: set[int] = field(default_factory=set)
    document: TextIO | None = None
    reserved: int | None = None


_streams = _Streams()


def prepare() -> None:
    """Make the standard streams of this process usable, whatever it was started with.

    A closed one becomes one that nobody reads: else the next file that is opened would get its number, and what is
    printed. What a stream's encoding does not have is escaped.
    """
    _streams.program = True
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            _streams.closed.add(number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_stdout() -> None:
    """Refuse to print a document where standard output is closed. Raises `OutputError`."""
    if 1 in _streams.closed:
        raise OutputError("standard output: is closed; name a file instead of -")


@contextmanager
def reserved_stdout(wanted: bool) -> Iterator[None]:
    """Keep standard output for `print_document`: whatever else is printed, by whomever, goes to standard error.

    A program that has printed a document prints nothing else until it ends. Yields nothing.
    """
    if not wanted:
        yield
        return
    check_stdout()
    before, own = sys.stdout, None
    if _is_real(before):
        before.flush()
        own = os.dup(1)
        os.dup2(2, 1)
        _streams.document = os.fdopen(own, "w", encoding="utf-8", closefd=False)
    else:
        _streams.document = before
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        _streams.document = None
        sys.stdout = before
        if own is not None:
            if _streams.program:
                _streams.reserved = own
            else:
                os.dup2(own, 1)
                os.close(own)


def print_late(text: str) -> None:
    """Write a document to standard output behind `reserved_stdout`, if that can be."""
    if _streams.reserved is None:
        say(text.rstrip("\n"))
        return
    with suppress(OSError, ValueError), os.fdopen(_streams.reserved, "w", encoding="utf-8", closefd=False) as stream:
        stream.write(text)


def _is_real(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError, AttributeError):
        return False


def print_document(text: str) -> None:
    """Write a document to standard output, within `reserved_stdout`. Raises `OutputError` where it does not get there.

    A reader that has gone away, such as `head`, has what it wanted.
    """
    stream = _streams.document
    assert stream is not None
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            _point_to_nothing(stream.fileno())
        if not _gone(error):
            raise _undelivered(error) from error


def say(text: str, *, needed: bool = False) -> str | None:
    """Print lines to standard output; return why they do not get there, None where they do or nobody reads them.

    needed: there is nothing else that the command has done. Raises `OutputError` then.
    """
    try:
        click.echo(text)
    except (OSError, ValueError) as error:
        _point_to_nothing(1)
        if _gone(error):
            return None
        if needed:
            raise _undelivered(error) from error
        return str(_undelivered(error, "what it should show is lost"))
    return None


def complain(text: str) -> None:
    """Print a line to standard error, which begins with `qtool: `; where that cannot be, the exit code says it all."""
    remark(f"qtool: {text}")


def warn(texts: Iterable[str]) -> None:
    """Print a line to standard error for each thing that is odd about the data."""
    for text in texts:
        remark(f"warning: {text}")


def remark(text: str) -> None:
    """Print a line to standard error, if that can be."""
    try:
        click.echo(line(text), err=True)
    except (OSError, ValueError):
        _point_to_nothing(2)


def _gone(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _undelivered(error: Exception, remedy: str = "give it a file or pipe that takes it") -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"standard output: cannot be written ({reason}); {remedy}")


def _point_to_nothing(number: int) -> None:
    """Let what is still buffered go nowhere, so that the end of the process does not fail on it."""
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)

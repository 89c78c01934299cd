"""The line on stderr and the exit code that stand for what went wrong."""

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from qtool import __version__
from qtool.cli import COMMANDS, debugging
from qtool.cli.outputs import what_was_written, write_failure
from qtool.cli.streams import complain
from qtool.core.errors import QtoolError, UnexpectedWorkerError
from qtool.core.process import TerminatedError, first_signal
from qtool.core.text import told

BAD, BUG = 2, 3


def ended(error: BaseException, words: Sequence[str]) -> int:
    """Tell of an error in one line on stderr; return the exit code that stands for it.

    words: of the command line.
    """
    try:
        if debugging(words):
            with contextlib.suppress(OSError, ValueError):
                click.echo("".join(_trace(error)), err=True, nl=False)
        return _told(error, words)
    except (KeyboardInterrupt, TerminatedError) as other:
        return stopped(getattr(other, "number", signal.SIGINT))
    except BaseException as other:
        # its text fails, or what is above does
        return _bug(other, words)


def stopped(number: int) -> int:
    """Tell in one line of the signal that stops the process; return the exit code, 128 and the signal's number."""
    if number == signal.SIGINT:
        # on a terminal the last line begins with ^C
        with contextlib.suppress(OSError, ValueError):
            click.echo(err=True)
        complain(f"interrupted; {what_was_written()}")
    else:
        complain(f"ended by {signal.Signals(number).name}; {what_was_written()}")
    return 128 + number


def _told(error: BaseException, words: Sequence[str]) -> int:
    signal_number = first_signal()
    if signal_number is not None:
        # whatever libraries make of it
        return stopped(signal_number)
    origin = error.__cause__ or error.__context__
    # pybind11 makes an ImportError of a signal while an extension is being imported
    signalled = origin if isinstance(error, ImportError) else error
    if isinstance(signalled, KeyboardInterrupt | TerminatedError):
        return stopped(getattr(signalled, "number", signal.SIGINT))
    if isinstance(error, UnexpectedWorkerError) and origin is not None:
        return _bug(origin, words, error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        with contextlib.suppress(OSError, ValueError):
            error.show()
    elif isinstance(error, QtoolError):
        _complain(BAD, _message(error, words))
    elif isinstance(error, click.ClickException):
        _complain(BAD, _usage(error))
    elif isinstance(error, MemoryError):
        _complain(BAD, f"out of memory; {_less_memory(words)}; {what_was_written()}")
    elif isinstance(error, OSError):
        # of the machine, such as a full disk: files of the user's are reported as QtoolError
        _complain(BAD, f"{error.filename or 'the system'}: {error.strerror or told(error)}; {what_was_written()}")
    else:
        return _bug(error, words)
    return BAD


def _complain(code: int, message: str) -> None:
    """Say it on stderr, and in the documents that were asked for."""
    complain(message)
    write_failure(code, message)


def _message(error: QtoolError, words: Sequence[str]) -> str:
    """The error's line, in the options of the command that was called."""
    from qtool.cli.group import command_of
    from qtool.cli.wording import worded

    called = _called(words)
    return worded(error, None if called is None else command_of(called), lambda: map(command_of, COMMANDS))


def _called(words: Sequence[str]) -> str | None:
    return next((word for word in words if word in COMMANDS), None)


def _usage(error: click.ClickException) -> str:
    """click's message, and where the right usage stands."""
    message = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.option_name == "--debug":
        return f"{message}; it stands before the command: qtool --debug COMMAND"
    if isinstance(error, click.NoSuchOption):
        message += _elsewhere(error.option_name, error.ctx)
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see `{context.command_path} --help`"


def _elsewhere(option: str, context: click.Context | None) -> str:
    """Which other commands have an option; "" where none has."""
    from qtool.cli.group import command_of

    own = None if context is None else context.info_name
    others = [name for name in COMMANDS if name != own and any(option in p.opts for p in command_of(name).params)]
    return f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""


def _less_memory(words: Sequence[str]) -> str:
    """What takes less memory, of what the command line can still change."""
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    less = [
        text
        for option, text in (
            ("--batch-size", "--batch-size 1"),
            ("--threads", "--threads 1"),
            ("--workers", "fewer --workers"),
            ("--memory", "less --memory"),
        )
        if option in given or (option == "--threads" and _called(words) == "sensitivity")
    ]
    return f"use {' or '.join(less)}" if less else "give the process more, since the model and one sample do not fit"


def _bug(error: BaseException, words: Sequence[str], traced: BaseException | None = None) -> int:
    """Say that it is a bug, and where the traceback is, of the error or of the one that it came in."""
    if debugging(words):
        where = "its traceback stands above"
    else:
        try:
            where = f"please report it with {_kept(traced or error, words)}"
        except OSError:
            where = "run `qtool --debug ...` again for its traceback"
    _complain(BUG, f"a bug of qtool: {told(error)}; {where}; {what_was_written()}")
    return BUG


def _kept(error: BaseException, words: Sequence[str]) -> str:
    """Write the traceback to a file in the temporary folder; returns its path."""
    handle, name = tempfile.mkstemp(prefix="qtool-bug-", suffix=".txt")
    os.close(handle)
    text = f"qtool {__version__}, Python {sys.version}, {sys.platform}\nqtool {shlex.join(words)}\n\n"
    Path(name).write_text(text + "".join(_trace(error)), encoding="utf-8", errors="backslashreplace")
    return name


def _trace(error: BaseException) -> list[str]:
    try:
        return traceback.format_exception(error)
    except BaseException:
        return [*traceback.format_tb(error.__traceback__), told(error), "\n"]

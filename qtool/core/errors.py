"""The types of what can go wrong. Every message is one line that names the file, tensor or node, and the remedy.

The command line turns any `QtoolError` into that line and exit code 2; nothing has been written then. A message names
an argument of a public function with `arg`: a caller of the function reads the argument's name, a user of the command
line the option's.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from qtool.core.text import line

_BEGIN, _BETWEEN, _END = "\x02", "\x1f", "\x03"
_NAMED = re.compile(r"\x02([a-z_]+)(?:\x1f([^\x02\x03\x1f]*)\x1f([01]))?\x03")
_OURS = str.maketrans("", "", _BEGIN + _BETWEEN + _END)


def arg(name: str, value: object = None) -> str:
    """Return the name of an argument of a public function, marked for `QtoolError`, with its value if one is given.

    `arg("shard", "1/2")` is read as `shard='1/2'` in Python and as `--shard 1/2` on the command line.
    """
    if value is None:
        return f"{_BEGIN}{name}{_END}"
    bare = isinstance(value, bool | int | float)
    text = (repr(value) if bare else str(value)).translate(_OURS)
    return f"{_BEGIN}{name}{_BETWEEN}{text}{_BETWEEN}{int(bare)}{_END}"


class QtoolError(Exception):
    """Base of everything qtool raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(line(_NAMED.sub(_in_python, message)))
        self._marked = message

    def __reduce__(self) -> tuple[type["QtoolError"], tuple[str]]:
        # the message as it was written: a worker's error is worded where it is shown
        return type(self), (self._marked,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    def marked(self) -> str:
        """The message as it was written, for the message of another `QtoolError` to quote."""
        return self._marked

    def worded(self, option: Callable[[str, str | None], str]) -> str:
        """Return the message, in which each argument is written as `option(name, value)`.

        The value is None where only the name is meant.
        """
        return line(_NAMED.sub(lambda found: option(found[1], found[2]), self.marked))


@contextmanager
def naming(**names: str) -> Iterator[None]:
    """Rename arguments in the messages of what is raised within; yields nothing. It decorates functions, too."""
    try:
        yield
    except QtoolError as error:
        own = _NAMED.sub(lambda found: found[0].replace(found[1], names.get(found[1], found[1]), 1), error.marked)
        QtoolError.__init__(error, own)
        raise


@contextmanager
def in_file(path: object, **keys: str) -> Iterator[None]:
    """Put keys of a file in the place of arguments in the messages of what is raised within; yields nothing."""

    def key(found: re.Match[str]) -> str:
        name, value, _ = found.groups()
        if name not in keys:
            return found[0]
        return keys[name] if value is None else f"{keys[name]} {value!r}"

    try:
        yield
    except QtoolError as error:
        own = _NAMED.sub(key, error.marked)
        if own != error.marked:
            QtoolError.__init__(error, f"{path}: {own}")
        raise


def _in_python(found: re.Match[str]) -> str:
    name, value, bare = found.groups()
    return name if value is None else f"{name}={value if bare == '1' else repr(value)}"


class UsageError(QtoolError):
    """An option, a configuration file or an argument makes no sense."""


class ModelError(QtoolError):
    """A file that is not a model, or a model that qtool must not touch."""


class NothingToQuantizeError(ModelError):
    """The model holds no operator that an integer kernel would run on this target."""


class AlreadyQuantizedError(ModelError):
    """The model already contains quantised operators."""


class DataError(QtoolError):
    """The calibration or evaluation data cannot be fed to the model."""


class CalibrationError(QtoolError):
    """A calibration file is unreadable, of another version, or of another model."""


class OutputError(QtoolError):
    """An output cannot be written."""


class VerificationError(QtoolError):
    """The quantised model would compute something else than planned."""


class LayerError(VerificationError):
    """Some layers would run or compute otherwise than planned, and may be planned in float. `layers`: name -> why."""

    def __init__(self, message: str, layers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.layers = layers or {}


class WorkerError(QtoolError):
    """Work that was given to another process or machine could not be done there."""


class UnexpectedWorkerError(WorkerError):
    """A worker raised what nothing raises on purpose: a bug, which the exception's cause tells of."""

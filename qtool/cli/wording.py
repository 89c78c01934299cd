"""The messages of the library, with the options of a command in the place of arguments of functions."""

import shlex
from collections.abc import Callable, Iterable, Iterator

import click

from qtool.core.errors import QtoolError

EXCEPTIONS = {"form": "--static, --dynamic or --weight-only"}
"""Arguments that no option has the name of."""


def worded(error: QtoolError, command: click.Command | None, others: Callable[[], Iterable[click.Command]]) -> str:
    """Return the message of an error, in which each argument is written as an option of the command line.

    The option is that of the command, or of the first of the others that has it.
    """

    def option(name: str, value: str | None) -> str:
        for one in _in_turn(command, others):
            found = option_of(one, name, value)
            if found is not None:
                return found
        return EXCEPTIONS.get(name, name) if value is None else f"{name} {value}"

    return error.worded(option)


def _in_turn(command: click.Command | None, others: Callable[[], Iterable[click.Command]]) -> Iterator[click.Command]:
    if command is not None:
        yield command
    yield from others()


def option_of(command: click.Command, name: str, value: str | None = None) -> str | None:
    """Return how a command writes an argument, or None where it does not have it.

    For include_ops that is `--include-op`, for form with the value dynamic `--dynamic`.
    """
    for parameter in command.params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")]
        if isinstance(parameter, click.Argument):
            if parameter.name == name:
                return _with_value(parameter.human_readable_name, value)
        elif name == parameter.name or name in (_identifier(flag) for flag in flags):
            return (
                flags[0] if isinstance(parameter, click.Option) and parameter.is_flag else _with_value(flags[0], value)
            )
    if value is not None and name in EXCEPTIONS:
        return option_of(command, _identifier(value))
    return None


def _identifier(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _with_value(option: str, value: str | None) -> str:
    return option if value is None else f"{option} {shlex.quote(value)}"

"""The parts of commands that write pages: `--html`, `--model-explorer`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.common import given
from qtool.cli.outputs import Outputs
from qtool.cli.wording import option_of
from qtool.report.html.documents import Document, calibration_document, made
from qtool.report.html.overlay import overlay as overlay_of
from qtool.report.html.page import page_of, require_jinja

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]


def html_option(function: _Function) -> _Function:
    """Add `--html FILE`; return the command, which takes it as `html_path`, None unless given."""

    def check(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            require_jinja()
        return value

    decorate: _Decorator[_Function] = click.option(
        "--html",
        "html_path",
        metavar="FILE",
        callback=check,
        help="Write a page with pictures, to be opened in a browser.",
    )
    return decorate(function)


def overlay_option(function: _Function) -> _Function:
    """Add `--model-explorer FILE`; return the command, which takes it as `overlay`, None unless given."""
    decorate: _Decorator[_Function] = click.option(
        "--model-explorer",
        "overlay",
        metavar="FILE",
        help="Write the SQNR of each node, else its time, for Model Explorer to colour nodes by.",
    )
    return decorate(function)


def write_page(
    context: click.Context,
    written: Outputs,
    path: str | None,
    contents: Sequence[Mapping[str, Any]],
    calibration: str | Path | None = None,
) -> None:
    """Write the page of a command that is about to end, where one is asked for.

    Args:
        context: of the command.
        written: its outputs.
        path: of the page; None where none is asked for.
        contents: documents, as `to_dict` gives them.
        calibration: the file of statistics that was read, if there was one.

    Raises:
        UsageError, OutputError: it cannot be made or written.
    """
    if path is None:
        return
    found = [made(content, f"qtool {context.info_name}") for content in contents]
    if calibration is not None:
        found.append(calibration_document(calibration, found))
    written.text(path, page_of(found, _options(context)))


def write_overlay(written: Outputs, path: str | None, documents: Sequence[Document]) -> None:
    """Write the overlay for Model Explorer, where one is asked for. Raises `UsageError` or `OutputError`."""
    if path is not None:
        written.json(path, overlay_of(documents))


def _options(context: click.Context) -> dict[str, str]:
    """What the command was given, by the names that a user knows."""
    names = [name for name in context.params if name in given(context)]
    values = {str(option_of(context.command, name)): context.params[name] for name in names}
    return {name: " ".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in values.items()}

"""The parts of commands that write pages: `--html`, `--model-explorer`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.bar import progress_bar
from qtool.cli.common import READING
from qtool.cli.outputs import Outputs, with_call
from qtool.cli.streams import warn
from qtool.core.errors import QtoolError
from qtool.core.files import write_text
from qtool.core.recognition import is_calibration
from qtool.core.records.codec import json_text
from qtool.core.records.statistics import load_statistics
from qtool.feeds import Data, ReadOptions
from qtool.inspection.calibration_file import inspect_calibration
from qtool.inspection.inspect import inspect_model
from qtool.report.html.documents import Document, load_document, made
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


def write_page(path: str | None, *contents: Mapping[str, Any]) -> None:
    """Write the page of the current command, where one is asked for; with its other outputs, if these are open.

    Args:
        path: of the page; None where none is asked for.
        contents: documents, as `to_dict` gives them, that of the command first.

    Raises:
        UsageError, OutputError: it cannot be made or written.
    """
    if path is not None:
        name = f"qtool {click.get_current_context().info_name}"
        own, *others = contents
        seen = [made(one, str(one.get("file") or one.get("model"))) for one in others]
        write_text(path, page_of([made(with_call(own), name), *seen]))


def looked_into(
    path: str | None,
    model: str | Path,
    float_model: str,
    data: Data | None,
    calibration: str | None,
    reading: ReadOptions,
) -> list[dict[str, Any]]:
    """Return what a page shows beside a new int8 model: its inspection, and that of the calibration file.

    A model that this machine does not run has none, and a line says so.

    Args:
        path: of the page; there is nothing to do where it is None.
        model, float_model: the int8 model, and what it is made of.
        data: that the command read; None: the examples of the calibration file, if there is one.
        calibration: the file that the command read, None where it read none.
        reading: how data is read.
    """
    if path is None:
        return []
    found = []
    try:
        # what calibration keeps is read already
        kept = None if data is not None or calibration is None else list(load_statistics(calibration).examples)
        options: Any = {} if data is None else {name: reading.get(name) for name in READING}
        with progress_bar(bool(click.get_current_context().params["quiet"])) as progress:
            seen = inspect_model(model, float_model, kept or data, latency=True, progress=progress, **options)
        found.append(seen.to_dict())
    except QtoolError as error:
        warn([f"the page has no map of {model}: {error}"])
    if calibration is not None:
        found.append(inspect_calibration(calibration).to_dict())
    return found


def documents_of(paths: Sequence[str]) -> list[Document]:
    """Return the documents of files: JSON of qtool's commands, plans, and calibration files, which are inspected.

    Raises:
        UsageError, CalibrationError: one cannot be read, or is something else.
    """
    return [
        made(inspect_calibration(path).to_dict(), path) if is_calibration(path) else load_document(path)
        for path in paths
    ]


def write_overlay(written: Outputs, path: str | None, documents: Sequence[Document]) -> None:
    """Write the overlay for Model Explorer, where one is asked for. Raises `UsageError` or `OutputError`."""
    if path is not None:
        written.text(path, json_text(overlay_of(documents)))

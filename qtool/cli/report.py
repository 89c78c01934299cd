"""`qtool report`: parse, read the documents, render."""

import click

from qtool.cli.bar import progress_bar
from qtool.cli.common import Command, quiet_option
from qtool.cli.config import config_option
from qtool.cli.html import documents_of, overlay_option, write_overlay
from qtool.cli.outputs import outputs, show
from qtool.core.text import amount
from qtool.report.html.page import page_of, require_jinja
from qtool.report.text import file_size


@click.command("report", cls=Command)
@click.argument("documents", metavar="JSON...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="The page, one HTML file.")
@overlay_option
@config_option
@quiet_option
def command(*, documents: tuple[str, ...], output: str, overlay: str | None, quiet: bool) -> None:
    """Make one page of what other commands wrote with --json, to be opened in a browser.

    \b
    Example:
      qtool report quantize.json eval.json model.calib -o report.html

    Documents of one model are joined. A calibration file adds the values of each tensor.
    """
    require_jinja()
    with outputs({"--output": output, "--model-explorer": overlay}) as written:
        with progress_bar(quiet, "reading and drawing"):
            found = documents_of(documents)
            text = page_of(found)
        written.text(output, text)
        write_overlay(written, overlay, found)
    if not quiet:
        show(f"{output}: {file_size(len(text.encode()))}, {amount(len(found), 'document')}; open it in a browser")

"""`qtool inspect`: parse, call `inspect_model`, render."""

import click

from qtool.cli.bar import progress_bar
from qtool.cli.common import Command, json_option, quiet_option, reading_options
from qtool.cli.config import config_option
from qtool.cli.html import html_option, overlay_option, write_overlay, write_page
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.cli.streams import remark
from qtool.core.errors import UsageError
from qtool.core.recognition import is_calibration
from qtool.core.records.results import Asked
from qtool.feeds import ReadOptions
from qtool.feeds.reading import as_given
from qtool.inspection.calibration_file import inspect_calibration
from qtool.inspection.inspect import inspect_model
from qtool.report.html.documents import made
from qtool.report.inspect import bad_line, inspection_text
from qtool.report.inspect_calibration import calibration_inspection_text
from qtool.report.inspect_float import float_text


@click.command("inspect", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option(
    "--float", "float_model", metavar="FLOAT", help="The float model that MODEL is made of: its errors and its speed."
)
@click.option(
    "--data",
    metavar="DATA",
    help="As in quantize; the first samples are run.  [default: inputs that are made up, and no errors]",
)
@click.option("--latency", is_flag=True, help="Time the model, and each node of it, in one thread.")
@reading_options
@click.option("-v", "--verbose", is_flag=True, help="Show all layers, or tensors of a calibration file.")
@json_option
@html_option
@overlay_option
@config_option
@quiet_option
def command(
    *,
    model: str,
    float_model: str | None,
    data: str | None,
    latency: bool,
    reading: ReadOptions,
    verbose: bool,
    json_path: str | None,
    html_path: str | None,
    overlay: str | None,
    quiet: bool,
) -> None:
    """Tell what a model of any maker is, what onnxruntime runs of it, what that costs, and what to do about it.

    \b
    Example:
      qtool inspect model.int8.onnx --float model.onnx --data images.npz --latency

    MODEL is a float model, or an int8 one of any maker: Q/DQ, QOperator, dynamic, weight-only; or a file of `qtool
    calibrate`, whose ranges are shown. Nothing of it is changed.
    """
    calibration = is_calibration(model)
    if calibration:
        options = {"float": float_model, "data": data, "latency": latency, "model_explorer": overlay, **reading}
        for name in (name for name, value in options.items() if value):
            raise UsageError(f"--{name.replace('_', '-')}: says nothing to a calibration file; leave it out")
    with outputs({"--json": json_path, "--html": html_path, "--model-explorer": overlay}) as written:
        bad = ""
        if calibration:
            ranges = inspect_calibration(model)
            text, document = calibration_inspection_text(ranges, every=verbose), ranges.to_dict()
        else:
            with progress_bar(quiet) as progress:
                found = inspect_model(model, float_model, data, latency=latency, progress=progress, **reading)
            asked = Asked(model, data, reading=as_given(reading))
            text = (
                float_text(found, asked, every=verbose)
                if found.kind == "float"
                else inspection_text(found, asked, every=verbose)
            )
            document, bad = found.to_dict(), bad_line(found, asked)
        if json_path is not None:
            written.json(json_path, document)
        write_page(html_path, document)
        write_overlay(written, overlay, [made(document, model)])
    if not quiet and json_path != STDOUT:
        show(text, needed=json_path is None and html_path is None)
    elif bad:
        remark(bad)

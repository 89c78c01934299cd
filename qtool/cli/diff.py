"""`qtool diff`: parse, call `diff`, render."""

import click

from qtool.cli.bar import progress_bar
from qtool.cli.common import Command, json_option, quiet_option, reading_options
from qtool.cli.config import config_option
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.cli.parameters import CALIBRATOR_METAVAR, OneCalibrator
from qtool.core.numerics.calibrators import Calibrator
from qtool.feeds import ReadOptions
from qtool.inspection.diff import diff
from qtool.report.diff import diff_text


@click.command("diff", cls=Command)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--data", metavar="DATA", help="Of models: also compare what they compute on it.")
@click.option("--latency", is_flag=True, help="Of models: also time both, side by side; needs no data.")
@click.option(
    "--calibrator",
    type=OneCalibrator(),
    metavar=CALIBRATOR_METAVAR,
    default="max",
    show_default=True,
    help="Of calibration files: what chooses the ranges that are compared.",
)
@reading_options
@click.option("-v", "--verbose", is_flag=True, help="Show all rows of the tables.")
@config_option
@json_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    a: str,
    b: str,
    data: str | None,
    latency: bool,
    calibrator: Calibrator | str,
    reading: ReadOptions,
    verbose: bool,
    json_path: str | None,
    quiet: bool,
) -> None:
    """Compare two int8 models, two calibration files, or two plans: what the second has otherwise.

    \b
    Example:
      qtool diff a.int8.onnx b.int8.onnx --latency

    Exits with 0 where nothing differs, and with 1 where something does.
    """
    with outputs({"--json": json_path}) as written:
        with progress_bar(quiet or json_path == STDOUT, "comparing"):
            result = diff(a, b, data, latency=latency, calibrator=calibrator, **reading)
        if json_path is not None:
            written.json(json_path, result.to_dict())
    if not quiet and json_path != STDOUT:
        show(diff_text(result, every=verbose), needed=json_path is None)
    if not result.same:
        context.exit(1)

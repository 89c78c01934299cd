"""`qtool merge`: parse, call `merge`, render."""

import click

from qtool.cli.common import Command, json_option, quiet_option
from qtool.cli.config import config_option
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.cli.streams import warn
from qtool.pipeline.calibration.calibrate import merge
from qtool.report.calibrate import calibrated_text


@click.command("merge", cls=Command)
@click.argument("calibrations", metavar="FILE...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="The calibration file.")
@config_option
@json_option
@quiet_option
def command(*, calibrations: tuple[str, ...], output: str, json_path: str | None, quiet: bool) -> None:
    """Add calibration files together: all shards of one calibration, or several of one model.

    \b
    Example:
      qtool merge 1.calib 2.calib -o model.calib

    Shards, made by `qtool calibrate --shard 1/2` and `--shard 2/2`, give the bytes of one calibration of everything.
    """
    with outputs({"--output": output, "--json": json_path}) as written:
        result = merge(calibrations, output)
        if json_path is not None:
            written.json(json_path, result.to_dict("merge"))
    if not quiet and json_path != STDOUT:
        show(calibrated_text(result))
    warn(result.warnings)

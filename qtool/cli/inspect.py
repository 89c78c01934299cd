"""`qtool inspect`: parse, call `inspect_model`, render."""

import click

from qtool.cli.common import Command, json_option, quiet_option, reading_options
from qtool.cli.config import config_option
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.feeds import ReadOptions
from qtool.inspection.inspect import inspect_model
from qtool.report.inspect import inspection_text


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
@json_option
@config_option
@quiet_option
def command(
    *,
    model: str,
    float_model: str | None,
    data: str | None,
    latency: bool,
    reading: ReadOptions,
    json_path: str | None,
    quiet: bool,
) -> None:
    """Say what a model of any maker is, what onnxruntime runs of it, what that costs, and what to do about it.

    \b
    Example:
      qtool inspect model.int8.onnx --float model.onnx --data images.npz --latency

    MODEL is a float model, or an int8 one of any maker: Q/DQ, QOperator, dynamic, weight-only. Nothing of it is
    changed.
    """
    with outputs({"--json": json_path}) as written:
        found = inspect_model(model, float_model, data, latency=latency, **reading)
        if json_path is not None:
            written.json(json_path, found.to_dict())
    if not quiet and json_path != STDOUT:
        show(inspection_text(found, data), needed=json_path is None)

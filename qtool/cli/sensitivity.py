"""`qtool sensitivity`: parse, call `sensitivity`, render."""

from concurrent.futures import Executor
from pathlib import Path

import click

from qtool.cli.bar import progress_bar
from qtool.cli.choices import (
    calibrator_option,
    correction_option,
    form_options,
    grid_options,
    selection_options,
    smoothing_option,
)
from qtool.cli.common import (
    Command,
    batch_size_option,
    data_option,
    executor_options,
    json_option,
    labelled_options,
    quiet_option,
    samples_option,
)
from qtool.cli.config import config_option
from qtool.cli.html import html_option, write_page
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.options import Correction, Form, Scheme
from qtool.core.records.sensitivity import VIEWS, View
from qtool.feeds import LabelledOptions
from qtool.inspection.calibration_file import inspect_calibration
from qtool.report.sensitivity import sensitivity_text
from qtool.tuning.sensitivity.analyze import MEMORY, sensitivity

_MIB = 2**20


@click.command("sensitivity", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option("--calibration", required=True, metavar="FILE", help="A file made by `qtool calibrate`.")
@data_option
@click.option(
    "--metric",
    metavar="METRIC",
    help="As in eval.  [default: token_accuracy or top1 with labels, else SQNR]",
)
@click.option(
    "--view",
    "views",
    type=click.Choice(["both", *VIEWS]),
    default="both",
    show_default=True,
    help="alone: one layer quantised; without: all layers but one, as `qtool quantize --exclude` leaves it out.",
)
@calibrator_option
@grid_options
@form_options(without_data=False)
@smoothing_option
@correction_option
@selection_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Keep every finished layer there, as JSON; the same command goes on from it where it was interrupted.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Print only the worst N layers; the JSON has all.  [default: all]",
)
@samples_option
@batch_size_option
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="T", help="Batches run side by side.  [default: all cores]"
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=MEMORY // _MIB,
    show_default=True,
    metavar="MIB",
    help="What kept activations may take; less costs only time.",
)
@executor_options
@labelled_options
@config_option
@json_option
@html_option
@quiet_option
def command(
    *,
    model: str,
    calibration: str,
    data: str,
    metric: str | None,
    decode: str | None,
    views: str,
    calibrator: Calibrator | str,
    scheme: str,
    granularity: str,
    target: str,
    form: Form | None,
    smoothing: Correction,
    bias_correction: Correction,
    include_ops: tuple[str, ...],
    exclude_ops: tuple[str, ...],
    exclude: tuple[str, ...],
    output: str | None,
    top: int | None,
    samples: int | None,
    batch_size: int,
    threads: int | None,
    memory: int,
    executor: Executor | None,
    reading: LabelledOptions,
    json_path: str | None,
    html_path: str | None,
    quiet: bool,
) -> None:
    """Rank the layers by what it costs to quantise them, one at a time, as onnxruntime executes it.

    \b
    Example:
      qtool sensitivity model.onnx --calibration model.calib --data labelled.npz -o sensitivity.json
    """
    if output == STDOUT:
        raise UsageError("--output -: is a file to go on from; use --json - to print the result")
    chosen: tuple[View, ...] = tuple(view for view in VIEWS if views in ("both", view))

    def stands() -> str | None:
        finished = f"what is finished stands in {output}, and the same command goes on"
        return None if output is None or not Path(output).exists() else finished

    with outputs({"--json": json_path, "--html": html_path}, growing={"--output": output}, stands=stands) as written:
        with progress_bar(quiet or json_path == STDOUT) as progress:
            result = sensitivity(
                model,
                data,
                calibration=calibration,
                metric=metric,
                decode=decode,
                calibrator=calibrator,
                scheme=Scheme(scheme, granularity, include_ops, exclude_ops, exclude),  # type: ignore[arg-type]
                form=form or "auto",
                smoothing=smoothing,
                target=target,
                bias_correction=bias_correction,
                views=chosen,
                samples=samples,
                batch_size=batch_size,
                threads=threads,
                memory=memory * _MIB,
                output=output,
                executor=executor,
                progress=progress,
                **reading,
            )
        if json_path is not None:
            written.json(json_path, result.to_dict())
        seen = [] if html_path is None else [inspect_calibration(calibration).to_dict()]
        write_page(html_path, result.to_dict(), *seen)
    if not quiet and json_path != STDOUT:
        shown = any(path is not None for path in (output, json_path, html_path))
        show(sensitivity_text(result, top), needed=not shown)

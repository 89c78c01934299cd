"""`qtool calibrate`: parse, call `calibrate`, render."""

from concurrent.futures import Executor

import click

from qtool.cli.bar import progress_bar
from qtool.cli.choices import fix_option
from qtool.cli.common import (
    Command,
    batch_size_option,
    beside,
    data_option,
    executor_options,
    json_option,
    mask_option,
    provider_option,
    quiet_option,
    reading_options,
    samples_option,
    threads_option,
)
from qtool.cli.config import config_option
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.cli.pipeline import CALIBRATE_TAKES, check_pipeline, pipeline_option, run_calibrate
from qtool.cli.streams import warn
from qtool.feeds import ReadOptions
from qtool.pipeline.calibration.calibrate import CHECKPOINT_S, calibrate, checkpoint_path
from qtool.report.calibrate import calibrated_text


@click.command("calibrate", cls=Command)
@click.argument("model", metavar="MODEL", required=False)
@pipeline_option
@data_option
@click.option("-o", "--output", metavar="FILE", help="The calibration file.  [default: MODEL with .calib]")
@samples_option
@batch_size_option
@threads_option
@provider_option
@executor_options
@click.option("--shard", metavar="K/N", help="Only the K-th of N parts of the data; `qtool merge` adds them together.")
@click.option(
    "--checkpoint",
    type=click.FloatRange(min=0.0),
    default=CHECKPOINT_S,
    show_default=True,
    metavar="SECONDS",
    help="How often to keep what is counted in FILE.checkpoint, from which the same command continues.",
)
@reading_options
@mask_option
@click.option("--equalize", is_flag=True, help="Rescale channels between layers first; quantize does the same then.")
@fix_option
@click.option("--absorb-biases", is_flag=True, help="Move what a channel never falls below into the next bias first.")
@config_option
@json_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    model: str | None,
    pipeline: str | None,
    data: str,
    output: str | None,
    samples: int | None,
    batch_size: int,
    threads: int,
    provider: str,
    executor: Executor | None,
    shard: str | None,
    checkpoint: float,
    reading: ReadOptions,
    equalize: bool,
    absorb_biases: bool,
    fix: tuple[str, ...],
    json_path: str | None,
    quiet: bool,
) -> None:
    """Collect the statistics of every activation in one streaming pass; they serve every calibrator and target.

    \b
    Example:
      qtool calibrate mobilenetv2.onnx --data images.npz -o mobilenetv2.calib

    With --pipeline each part of it is calibrated on what the float pipeline feeds it.
    """
    check_pipeline(context, CALIBRATE_TAKES, ("model",), pipeline)
    if pipeline is not None:
        run_calibrate(pipeline, data, reading, samples=samples, threads=threads, quiet=quiet)
        return
    assert model is not None, "click.MissingParameter otherwise"
    target = beside(model, ".calib") if output is None else output
    checkpoint_file = checkpoint_path(target)

    def stands() -> str | None:
        counted = f"what was counted stands in {checkpoint_file}, and the same command goes on"
        return counted if checkpoint_file.exists() else None

    with outputs(
        {"--output": target, "--json": json_path},
        growing={"the checkpoint of --output": str(checkpoint_file)},
        stands=stands,
    ) as written:
        with progress_bar(quiet or json_path == STDOUT) as progress:
            result = calibrate(
                model,
                data,
                target,
                samples=samples,
                batch_size=batch_size,
                threads=threads,
                provider=provider,
                executor=executor,
                shard=shard,
                checkpoint=checkpoint,
                equalize=equalize,
                absorb_biases=absorb_biases,
                fix=fix,
                progress=progress,
                **reading,
            )
        if json_path is not None:
            written.json(json_path, result.to_dict())
    if not quiet and json_path != STDOUT:
        show(calibrated_text(result))
    warn(result.warnings)

"""`qtool quantize`: parse, call `quantize`, render."""

import click

from qtool.cli.common import (
    READING,
    STDOUT,
    batch_size_option,
    beside,
    check_outputs,
    config_option,
    emit_json,
    json_option,
    progress_bar,
    provider_option,
    quiet_option,
    reading_options,
    samples_option,
    threads_option,
)
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import DEFAULT_PERCENTILE, METHODS, Calibrator
from qtool.core.records.options import CORRECTIONS, GRANULARITIES, SCHEMES, Correction, Form, Scheme
from qtool.feeds import ReadOptions
from qtool.quantization.candidates import GOALS, Goal
from qtool.quantization.quantize import quantize
from qtool.report.quantize import quantized_text
from qtool.targets.tables import NAMES


@click.command("quantize")
@click.argument("model", metavar="MODEL")
@click.option("--calibration", metavar="FILE", help="A file made by `qtool calibrate`.")
@click.option("--data", metavar="DATA", help="Calibrate with this first; see `qtool calibrate --help`.")
@click.option("-o", "--output", metavar="FILE", help="The int8 model.  [default: MODEL with .int8.onnx]")
@click.option(
    "--calibrator",
    type=click.Choice(["auto", *METHODS]),
    default="auto",
    show_default=True,
    help="How ranges are chosen; auto tries all on the samples kept with the statistics and takes the best.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(50.0, 100.0, min_open=True),
    metavar="P",
    help=f"For the percentile calibrator, which it implies.  [default: {DEFAULT_PERCENTILE}]",
)
@click.option("--dynamic", "form", flag_value="dynamic", help="Ranges are found in each run; needs no data.")
@click.option("--static", "form", flag_value="static", help="Calibrated ranges alone.")
@click.option("--weight-only", "form", flag_value="weight-only", help="8-bit weights, float arithmetic; no data.")
@click.option(
    "--smoothing",
    type=click.Choice(CORRECTIONS),
    default="auto",
    show_default=True,
    help="Migrate outliers of activations into weights (SmoothQuant); auto keeps it where it measures better.",
)
@click.option(
    "--optimize-for",
    type=click.Choice(GOALS),
    default="accuracy",
    show_default=True,
    help="latency: time the candidates on this machine, keep the fastest of those within 3 dB of the best.",
)
@click.option("--scheme", type=click.Choice(SCHEMES), default="affine", show_default=True, help="Grid of activations.")
@click.option(
    "--granularity",
    type=click.Choice(GRANULARITIES),
    default="per-channel",
    show_default=True,
    help="Of weights.",
)
@click.option("--target", type=click.Choice(NAMES), default="auto", show_default=True, help="Where it shall run.")
@click.option(
    "--bias-correction",
    type=click.Choice(CORRECTIONS),
    default="auto",
    show_default=True,
    help="Let biases take back the shift that rounding the weights makes; auto keeps it where it measures better.",
)
@click.option("--equalize", is_flag=True, help="With --data: rescale channels between layers first.")
@click.option("--absorb-biases", is_flag=True, help="With --data: move what a channel never falls below into a bias.")
@click.option("--include-op", "include_ops", multiple=True, metavar="OP", help="Quantise these operators alone.")
@click.option("--exclude-op", "exclude_ops", multiple=True, metavar="OP", help="Leave these operators in float.")
@click.option("--exclude", multiple=True, metavar="NAME-OR-GLOB", help="Leave these layers in float, as executed.")
@click.option("--save-plan", metavar="FILE", help="Write every scale, zero point and decision as JSON.")
@click.option("--plan", "plan_path", metavar="FILE", help="Apply this plan instead of making one; needs no data.")
@samples_option
@batch_size_option
@threads_option
@provider_option
@reading_options
@config_option
@json_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    model: str,
    calibration: str | None,
    data: str | None,
    output: str | None,
    calibrator: str,
    percentile: float | None,
    scheme: str,
    granularity: str,
    target: str,
    form: Form | None,
    smoothing: Correction,
    optimize_for: Goal,
    bias_correction: Correction,
    equalize: bool,
    absorb_biases: bool,
    include_ops: tuple[str, ...],
    exclude_ops: tuple[str, ...],
    exclude: tuple[str, ...],
    save_plan: str | None,
    plan_path: str | None,
    samples: int | None,
    batch_size: int,
    threads: int,
    provider: str,
    reading: ReadOptions,
    json_path: str | None,
    quiet: bool,
) -> None:
    """Write the int8 model, after proving what onnxruntime will run and that it computes what was planned.

    \b
    Example:
      qtool quantize mobilenetv2.onnx --calibration mobilenetv2.calib -o mobilenetv2.int8.onnx
    """
    result_path = output or beside(model, ".int8.onnx")
    inputs = {"MODEL": model, "--calibration": calibration, "--data": data, "--plan": plan_path}
    check_outputs(
        {"--output": result_path, "--save-plan": save_plan, "--json": json_path},
        {name: path for name, path in inputs.items() if path is not None},
    )
    _refuse_ignored(context, calibration=calibration, plan=plan_path, blind=calibration is None and data is None)
    with progress_bar(quiet or json_path == STDOUT) as progress:
        result = quantize(
            model,
            result_path,
            calibration=calibration,
            data=data,
            calibrator=_calibrator(calibrator, percentile),
            scheme=Scheme(scheme, granularity, include_ops, exclude_ops, exclude),  # type: ignore[arg-type]
            target=target,
            form=form or "auto",
            smoothing=smoothing,
            optimize_for=optimize_for,
            bias_correction=bias_correction,
            equalize=equalize,
            absorb_biases=absorb_biases,
            plan=plan_path,
            save_plan=save_plan,
            samples=samples,
            batch_size=batch_size,
            threads=threads,
            provider=provider,
            progress=progress,
            **reading,
        )
    if json_path is not None:
        emit_json(json_path, result.to_dict())
    if not quiet and json_path != STDOUT:
        click.echo(quantized_text(result))


def _calibrator(method: str, percentile: float | None) -> Calibrator | str:
    if percentile is None:
        return method
    if method not in ("auto", "percentile"):
        raise UsageError(f"--percentile {percentile:g} says nothing to --calibrator {method}; leave one of them out")
    return Calibrator("percentile", percentile)


def _refuse_ignored(context: click.Context, *, calibration: str | None, plan: str | None, blind: bool) -> None:
    """An option that would be accepted and ignored is an error."""
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) not in (click.core.ParameterSource.DEFAULT, None)
    }
    decided = {
        "calibrator",
        "percentile",
        "scheme",
        "granularity",
        "target",
        "form",
        "smoothing",
        "optimize_for",
        "bias_correction",
        "equalize",
        "absorb_biases",
        "include_ops",
        "exclude_ops",
        "exclude",
    }
    if plan is not None and (extra := given & decided):
        first = sorted(extra)[0]
        option = context.params["form"] if first == "form" else first.replace("_ops", "-op").replace("_", "-")
        raise UsageError(f"--{option} says nothing to --plan, which has decided it; leave one of them out")
    of_data = {"samples", "batch_size", "threads", "provider", "equalize", "absorb_biases", *READING}
    measured = {"calibrator", "percentile", "scheme", "bias_correction", "smoothing", "optimize_for"}
    if blind and (plan is not None or "form" in given) and (extra := given & (of_data | measured)):
        raise UsageError(
            f"--{sorted(extra)[0].replace('_', '-')} says nothing without data; give --data or --calibration"
        )
    if calibration is not None and (extra := given & {"samples", "batch_size", "threads", "provider", *READING}):
        raise UsageError(f"--{sorted(extra)[0].replace('_', '-')} needs --data; with --calibration no data is read")
    if "scheme" in given and context.params["scheme"] == "affine" and context.params["target"] == "tensorrt":
        raise UsageError("--scheme affine: target tensorrt has symmetric grids alone; leave it out")

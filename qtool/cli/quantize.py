"""`qtool quantize`: parse, call `quantize`, render."""

import click

from qtool.cli.bar import progress_bar
from qtool.cli.choices import (
    calibrator_option,
    check_grid,
    correction_option,
    fix_option,
    form_options,
    grid_options,
    refine_option,
    selection_options,
    smoothing_option,
)
from qtool.cli.common import (
    READING,
    Command,
    batch_size_option,
    beside,
    given,
    json_option,
    mask_option,
    provider_option,
    quiet_option,
    reading_options,
    samples_option,
    threads_option,
)
from qtool.cli.config import config_option
from qtool.cli.html import html_option, looked_into, write_page
from qtool.cli.outputs import STDOUT, outputs, show
from qtool.cli.parameters import Share
from qtool.cli.streams import remark, warn
from qtool.cli.wording import option_of
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.options import Correction, Form, Scheme
from qtool.core.records.recipe import ASKED
from qtool.feeds import ReadOptions
from qtool.quantization.quantize import quantize
from qtool.quantization.request import GOALS, Goal
from qtool.report.quantize import bad_verdict, quantized_text
from qtool.targets.tables import find_target


@click.command("quantize", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option("--calibration", metavar="FILE", help="A file made by `qtool calibrate`.")
@click.option("--data", metavar="DATA", help="Calibrate with this first; see `qtool calibrate --help`.")
@click.option("-o", "--output", metavar="FILE", help="The int8 model.  [default: MODEL with .int8.onnx]")
@calibrator_option
@form_options(without_data=True)
@smoothing_option
@click.option(
    "--optimize-for",
    type=click.Choice(GOALS),
    default="accuracy",
    show_default=True,
    help="accuracy: the best SQNR; what the target's table of times says is slower in integers stays float. latency: "
    "this machine's clock decides, among what is within 3 dB of the best. size: nothing stays float for speed.",
)
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Fail where the SQNR of the outputs is less; leave layers in float for it.  [default: 20, as a warning]",
)
@click.option(
    "--max-float-macs",
    type=Share(),
    metavar="SHARE",
    help="How much of the multiply-accumulates may stay in float for it.  [default: 10%]",
)
@click.option(
    "--no-partial",
    "partial",
    flag_value=False,
    type=bool,
    default=True,
    help="Leave no layer in float for accuracy.",
)
@grid_options
@correction_option
@refine_option
@click.option("--equalize", is_flag=True, help="With --data: rescale channels between layers first.")
@click.option("--absorb-biases", is_flag=True, help="With --data: move what a channel never falls below into a bias.")
@selection_options
@fix_option
@click.option("--save-plan", metavar="FILE", help="Write every scale, zero point and decision as JSON.")
@click.option("--plan", "plan_path", metavar="FILE", help="Apply this plan instead of making one; needs no data.")
@samples_option
@batch_size_option
@threads_option
@provider_option
@reading_options
@mask_option
@config_option
@json_option
@html_option
@click.option("-v", "--verbose", is_flag=True, help="Show what was tried, in a table.")
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    model: str,
    calibration: str | None,
    data: str | None,
    output: str | None,
    calibrator: Calibrator | str,
    scheme: str,
    granularity: str,
    target: str,
    form: Form | None,
    smoothing: Correction,
    optimize_for: Goal,
    min_sqnr: float | None,
    max_float_macs: float | None,
    partial: bool,
    bias_correction: Correction,
    refine: Correction,
    equalize: bool,
    absorb_biases: bool,
    include_ops: tuple[str, ...],
    exclude_ops: tuple[str, ...],
    exclude: tuple[str, ...],
    fix: tuple[str, ...],
    save_plan: str | None,
    plan_path: str | None,
    samples: int | None,
    batch_size: int,
    threads: int,
    provider: str,
    reading: ReadOptions,
    json_path: str | None,
    html_path: str | None,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the int8 model, after proving what onnxruntime will run and that it computes what was planned.

    \b
    Example:
      qtool quantize mobilenetv2.onnx --calibration mobilenetv2.calib -o mobilenetv2.int8.onnx

    Exits with 1 where --min-sqnr is asked for and missed; the model is written then too.
    """
    result_path = beside(model, ".int8.onnx") if output is None else output
    _refuse_ignored(context, form=form, calibration=calibration, data=data)
    with outputs(
        {"--output": result_path, "--save-plan": save_plan, "--json": json_path, "--html": html_path}
    ) as written:
        with progress_bar(quiet or json_path == STDOUT) as progress:
            result = quantize(
                model,
                result_path,
                calibration=calibration,
                data=data,
                calibrator=calibrator,
                scheme=Scheme(scheme, granularity, include_ops, exclude_ops, exclude),  # type: ignore[arg-type]
                fix=fix,
                target=target,
                form=form or "auto",
                smoothing=smoothing,
                optimize_for=optimize_for,
                min_sqnr=min_sqnr,
                max_float_macs=max_float_macs,
                partial=partial,
                bias_correction=bias_correction,
                refine=refine,
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
            written.json(json_path, result.to_dict())
    seen = looked_into(html_path, result_path, model, data, calibration, reading)
    write_page(html_path, result.to_dict(), *seen)
    verdict = result.verdict
    if not quiet and json_path != STDOUT:
        show(quantized_text(result, verbose=verbose))
    elif bad := bad_verdict(result):
        remark(bad)
    warn(result.warnings)
    if verdict is not None and verdict.failed:
        context.exit(1)


def _refuse_ignored(context: click.Context, *, form: Form | None, calibration: str | None, data: str | None) -> None:
    """An option that would be accepted and ignored is an error."""
    blind, planned = calibration is None and data is None, context.params["plan_path"] is not None
    check_grid(context, find_target(context.params["target"]))
    for applies, ignored, why in (
        (planned, _DECIDED, "says nothing to --plan, which has decided it; leave one of them out"),
        (
            blind and (planned or form is not None),
            _OF_DATA | _CALIBRATED | _MEASURED | _JUDGED,
            "says nothing without data; give --data or --calibration",
        ),
        (calibration is not None, _OF_DATA - _STEPS, "needs --data; with --calibration no data is read"),
        (
            form not in (None, "static"),
            _CALIBRATED,
            f"says nothing to --{form}, which has no calibrated ranges; leave one of them out",
        ),
    ):
        asked = given(context) & ignored
        if not planned and context.params["optimize_for"] == "size":
            # the target's table says what that leaves out, without any data
            asked -= {"optimize_for"}
        if applies and asked:
            raise UsageError(f"{option_of(context.command, min(asked))} {why}")


_STEPS = set(ASKED.values())
_OF_DATA = {"samples", "batch_size", "threads", "provider", *_STEPS, *READING}
_CALIBRATED = {"calibrator", "percentile", "scheme"}
_MEASURED = {"bias_correction", "smoothing", "refine", "optimize_for"}
_JUDGED = {"min_sqnr", "max_float_macs", "partial"}
_FORMS = {"dynamic", "static", "weight_only"}
_SELECTED = {"include_ops", "exclude_ops", "exclude"}
_DECIDED = {
    "fix",
    "max_float_macs",
    "partial",
    *_CALIBRATED,
    *_MEASURED,
    *_FORMS,
    *_SELECTED,
    *_STEPS,
    "granularity",
    "target",
}
"""What a plan has decided."""

"""`qtool quantize`: parse, call `quantize`, render."""

import click

from qtool.cli.bar import progress_bar
from qtool.cli.check import Checked, checked, checked_text, outcome
from qtool.cli.choices import (
    block_options,
    calibrator_option,
    check_grid,
    correction_option,
    fix_option,
    form_options,
    grid_options,
    refine_option,
    selection_options,
    smoothing_option,
    warn_of_target,
)
from qtool.cli.common import (
    LABELLED,
    READING,
    Command,
    batch_size_option,
    beside,
    given,
    json_option,
    junit_option,
    labelled_options,
    mask_option,
    provider_option,
    quiet_option,
    samples_option,
    threads_option,
)
from qtool.cli.config import config_option
from qtool.cli.gates import LimitOptions, limit_options
from qtool.cli.html import html_option, looked_into, write_page
from qtool.cli.outputs import STDOUT, outputs, show, taken, typed
from qtool.cli.parameters import Drop, Share
from qtool.cli.streams import remark, warn
from qtool.cli.wording import option_of
from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.evaluation import MaxDrop
from qtool.core.records.options import Bits, Correction, Form, Rounding, Scheme, Written
from qtool.core.records.recipe import ASKED
from qtool.core.records.results import Quantized
from qtool.feeds import LabelledOptions
from qtool.quantization.quantize import quantize
from qtool.quantization.request import GOALS, Goal
from qtool.report.junit import quantized_junit
from qtool.report.quantize import bad_verdict, check_lines, failed_lines, quantized_text, slow_verdict
from qtool.targets.tables import find_target


@click.command("quantize", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option("--calibration", metavar="FILE", help="A file made by `qtool calibrate`.")
@click.option("--data", metavar="DATA", help="Calibrate with this first; see `qtool calibrate --help`.")
@click.option("-o", "--output", metavar="FILE", help="The int8 model.  [default: MODEL with .int8.onnx]")
@calibrator_option
@form_options(without_data=True)
@block_options
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
@limit_options
@click.option(
    "--max-drop",
    type=Drop(),
    metavar="DROP",
    help="With labelled --data: fail where the metric gets worse by more: 1% of float's value, or 0.01 in its unit.",
)
@click.option("--metric", metavar="METRIC", help="Of --max-drop, as in eval.  [default: as there]")
@click.option(
    "--max-float-macs",
    type=Share(),
    metavar="SHARE",
    help="How much of the multiply-accumulates may stay in float for it.  [default: 10%, more where float is as fast]",
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
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing: fail where the output that is there is not what these inputs and options give.",
)
@click.option("--save-plan", metavar="FILE", help="Write every scale, zero point and decision as JSON.")
@click.option("--plan", "plan_path", metavar="FILE", help="Apply this plan instead of making one; needs no data.")
@samples_option
@batch_size_option
@threads_option
@provider_option
@labelled_options
@mask_option
@config_option
@json_option
@junit_option
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
    weights: Bits | None,
    block: int | None,
    rounding: Rounding | None,
    weight_format: Written | None,
    smoothing: Correction,
    optimize_for: Goal,
    min_sqnr: float | None,
    limits: LimitOptions,
    max_drop: MaxDrop | None,
    metric: str | None,
    decode: str | None,
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
    check: bool,
    save_plan: str | None,
    plan_path: str | None,
    samples: int | None,
    batch_size: int,
    threads: int,
    provider: str,
    reading: LabelledOptions,
    json_path: str | None,
    junit_path: str | None,
    html_path: str | None,
    verbose: bool,
    quiet: bool,
) -> None:
    """Write the int8 model, after proving what onnxruntime will run and that it computes what was planned.

    \b
    Example:
      qtool quantize mobilenetv2.onnx --calibration mobilenetv2.calib -o mobilenetv2.int8.onnx

    Exits with 1 where a gate (--max-drop, --max-size, --min-...) is missed; the model is written then too.
    """
    result_path = beside(model, ".int8.onnx") if output is None else output
    chosen = form or (None if weights is None else "weight-only")
    _refuse_ignored(context, form=chosen, calibration=calibration, data=data)
    paths = {"--output": None if check else result_path, "--save-plan": save_plan, "--html": html_path}
    if check:
        _refuse_unchecked(optimize_for, save_plan=save_plan, html=html_path)
    paths |= {"--json": json_path, "--junit": junit_path}
    silent = quiet or STDOUT in paths.values()
    with outputs(paths) as written:
        with progress_bar(silent) as progress:

            def make(path: str) -> Quantized:
                return quantize(
                    model,
                    path,
                    calibration=calibration,
                    data=data,
                    calibrator=calibrator,
                    scheme=Scheme(scheme, granularity, include_ops, exclude_ops, exclude),  # type: ignore[arg-type]
                    fix=fix,
                    target=target,
                    form=form or "auto",
                    weights=weights,
                    block=block,
                    rounding=rounding,
                    weight_format=weight_format,
                    smoothing=smoothing,
                    optimize_for=optimize_for,
                    min_sqnr=min_sqnr,
                    **limits,
                    max_drop=max_drop,
                    metric=metric,
                    decode=decode,
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

            found = checked(result_path, make) if check else None
            result = make(result_path) if found is None else found.result
        if json_path is not None:
            written.json(json_path, (result if found is None else found.difference).to_dict())
        if junit_path is not None:
            written.text(junit_path, quantized_junit(result, taken(), None if found is None else outcome(found)))
    if not check:
        seen = looked_into(html_path, result_path, model, data, calibration, reading)
        write_page(html_path, result.to_dict(), *seen)
    _tell(result, found, silent=silent, verbose=verbose)
    if plan_path is None:
        warn_of_target(context, find_target(target))
    if not result.passed or (found is not None and not found.difference.same):
        context.exit(1)


def _tell(result: Quantized, found: Checked | None, *, silent: bool, verbose: bool) -> None:
    """Print the result; where nothing may be printed, what is wrong with it goes to stderr."""
    if found is not None:
        said = checked_text(found, verbose=verbose)
        if not silent:
            show("\n".join([said, *check_lines(result, typed())]))
        else:
            for one in ([] if found.difference.same else [said.splitlines()[0]]) + failed_lines(result, typed()):
                remark(one)
    elif not silent:
        show(quantized_text(result, verbose=verbose, typed=typed()))
    else:
        for one in filter(
            None, [bad_verdict(result, typed()), slow_verdict(result, typed()), *failed_lines(result, typed())]
        ):
            remark(one)
    warn(result.warnings)


def _refuse_unchecked(optimize_for: Goal, **given: str | None) -> None:
    """A file that would be written with the model says nothing to a check, and a clock something else each time."""
    if optimize_for == "latency":
        raise UsageError(
            f"{arg('optimize_for', optimize_for)}: lets this machine's clock decide, so that --check tells nothing; "
            "leave one out"
        )
    for name, path in given.items():
        if path is not None:
            raise UsageError(f"{arg(name)}: writes a file, and --check writes no model; leave one out")


def _refuse_ignored(context: click.Context, *, form: Form | None, calibration: str | None, data: str | None) -> None:
    """An option that would be accepted and ignored is an error."""
    blind, planned = calibration is None and data is None, context.params["plan_path"] is not None
    check_grid(context, find_target(context.params["target"]))
    # blocks have a grid of their own
    only, gridded = (form, set()) if context.params["weights"] is None else ("weights", {"scheme"})
    for applies, ignored, why in (
        (planned, _DECIDED, "says nothing to --plan, which has decided it; leave one of them out"),
        (
            blind and (planned or form is not None),
            (_OF_DATA | _CALIBRATED | _MEASURED | _JUDGED) - gridded,
            "says nothing without data; give --data or --calibration",
        ),
        (data is None, set(LABELLED), "needs --data with labels; give that instead, or ask `qtool eval` for it"),
        (calibration is not None, _OF_DATA - _STEPS, "needs --data; with --calibration no data is read"),
        (
            form not in (None, "static"),
            _CALIBRATED - gridded,
            f"says nothing to --{only}, which has no calibrated ranges; leave one of them out",
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
_JUDGED = {"min_sqnr", "min_agreement", "min_speedup", "max_float_macs", "partial"}
_FORMS = {"dynamic", "static", "weight_only"}
_BLOCKS = {"weights", "block", "rounding", "weight_format"}
_SELECTED = {"include_ops", "exclude_ops", "exclude"}
_DECIDED = {
    "fix",
    "max_float_macs",
    "partial",
    *_CALIBRATED,
    *_MEASURED,
    *_FORMS,
    *_BLOCKS,
    *_SELECTED,
    *_STEPS,
    "granularity",
    "target",
}
"""What a plan has decided."""

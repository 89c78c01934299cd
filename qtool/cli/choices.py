"""Options that choose how a model is quantised, shared by `quantize`, `sensitivity` and `tune`."""

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from qtool.cli.common import given, typed_options
from qtool.cli.parameters import CALIBRATOR_METAVAR, OneCalibrator
from qtool.cli.streams import warn
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import Calibrator, Percentile
from qtool.core.records.options import BITS, BLOCKS, CORRECTIONS, FORMS, GRANULARITIES, ROUNDINGS, SCHEMES, WRITTEN
from qtool.targets.rules import Target
from qtool.targets.tables import NAMES


def calibrator_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--calibrator` and `--percentile`; return the command.

    It takes them as one `calibrator`, "auto" by default.
    """

    @functools.wraps(function)
    def choosing(*args: Any, calibrator: Calibrator | str, percentile: float | None, **values: Any) -> Any:
        return function(*args, calibrator=_with_percentile(calibrator, percentile), **values)

    for option in (
        click.option(
            "--percentile",
            type=float,
            metavar="P",
            help=f"For the percentile calibrator, which it implies; in (50, 100].  [default: {Percentile().p}]",
        ),
        click.option(
            "--calibrator",
            type=OneCalibrator(),
            metavar=CALIBRATOR_METAVAR,
            default="auto",
            show_default=True,
            help="How ranges are chosen; auto tries several on samples kept with the statistics and takes the best.",
        ),
    ):
        choosing = option(choosing)
    return choosing


def _with_percentile(calibrator: Calibrator | str, percentile: float | None) -> Calibrator | str:
    """The two options as one; what is typed wins over what a configuration file says."""
    typed = typed_options(click.get_current_context())
    if percentile is None or ("calibrator" in typed and "percentile" not in typed and calibrator != Percentile.method):
        return calibrator if calibrator == "auto" else Calibrator.parse(calibrator)
    wanted = Percentile(percentile)
    loses = "percentile" in typed and "calibrator" not in typed
    if not loses and calibrator not in ("auto", Percentile.method, wanted):
        raise UsageError(
            f"--percentile {percentile:g} says nothing to --calibrator {calibrator}; leave one of them out"
        )
    return wanted


def grid_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--scheme`, `--granularity` and `--target`; return the command, which takes them under these names."""
    for option in (
        click.option(
            "--target", type=click.Choice(NAMES), default="auto", show_default=True, help="Where it shall run."
        ),
        click.option(
            "--granularity",
            type=click.Choice(GRANULARITIES),
            default="per-channel",
            show_default=True,
            help="Of weights.",
        ),
        click.option(
            "--scheme", type=click.Choice(SCHEMES), default="affine", show_default=True, help="Grid of activations."
        ),
    ):
        function = option(function)
    return function


def warn_of_target(context: click.Context, target: Target) -> None:
    """Tell, in a warning, that the machine of a pipeline decides what a model is for; the next one may be another.

    Pipelines say what they are by the variable CI, as those of GitHub and GitLab do. A command says it when it is
    done: one that is refused says only why.
    """
    if os.environ.get("CI", "").lower() in ("1", "true") and "target" not in given(context):
        warn([f"--target auto is {target.name} on this machine of the pipeline; pin it with --target {target.name}"])


def check_grid(context: click.Context, target: Target) -> None:
    """Refuse a grid that is asked for and that the target does not have."""
    if target.only_symmetric and context.params["scheme"] == "affine" and "scheme" in given(context):
        raise UsageError(f"--scheme affine: target {target.name} has only symmetric grids; leave it out")


def fix_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--fix`; return the command, which takes it as `fix`, a tuple of texts."""
    decorate: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
        "--fix",
        multiple=True,
        metavar="INPUT=VALUE",
        help="An input that always has this value, such as sr=16000; the int8 model is for no other.  May be repeated.",
    )
    return decorate(function)


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--include-op`, `--exclude-op` and `--exclude`; return the command.

    It takes them as `include_ops`, `exclude_ops` and `exclude`, each a tuple.
    """
    for option in (
        click.option(
            "--exclude",
            multiple=True,
            metavar="NAME-OR-GLOB",
            help="Leave these layers in float, as executed.  May be repeated.",
        ),
        click.option(
            "--exclude-op",
            "exclude_ops",
            multiple=True,
            metavar="OP",
            help="Leave these operators in float.  May be repeated.",
        ),
        click.option(
            "--include-op",
            "include_ops",
            multiple=True,
            metavar="OP",
            help="Quantise only these operators.  May be repeated.",
        ),
    ):
        function = option(function)
    return function


def smoothing_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--smoothing`; return the command, which takes it as `smoothing`, "auto" by default."""
    return click.option(
        "--smoothing",
        type=click.Choice(CORRECTIONS),
        default="auto",
        show_default=True,
        help="Migrate outliers of activations into weights (SmoothQuant); auto keeps it where it measures better.",
    )(function)


def correction_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--bias-correction`; return the command, which takes it as `bias_correction`, "auto" by default."""
    return click.option(
        "--bias-correction",
        type=click.Choice(CORRECTIONS),
        default="auto",
        show_default=True,
        help="Let biases take back the shift that rounding the weights makes; auto keeps it where it measures better.",
    )(function)


def refine_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--refine`; return the command, which takes it as `refine`, "auto" by default."""
    return click.option(
        "--refine",
        type=click.Choice(CORRECTIONS),
        default="auto",
        show_default=True,
        help="Round weights to what their layers compute (GPTQ); auto tries it where these have one scale a tensor or "
        "7 bits, and keeps what measures better.",
    )(function)


def block_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--weights`, `--block`, `--rounding` and `--weight-format`; return the command, which takes them so."""
    for option in (
        click.option(
            "--weight-format",
            type=click.Choice(WRITTEN),
            help="With --weights: onnxruntime's own operators, or DequantizeLinear of opset 21.  [default: qoperator]",
        ),
        click.option(
            "--rounding",
            type=click.Choice(ROUNDINGS),
            help="With --weights: nearest integers, searched scales, or these and GPTQ on data; auto takes what "
            "measures best, without data scales.  [default: auto]",
        ),
        click.option(
            "--block",
            type=int,
            metavar="N",
            help=f"With --weights: numbers that share a scale; {', '.join(map(str, BLOCKS))}.  [default: 32]",
        ),
        click.option(
            "--weights",
            type=click.Choice(BITS),
            help="Only weights, in blocks: of MatMul and Gemm, and tables; the rest in 8 bits; needs no data.",
        ),
    ):
        function = option(function)
    return function


def form_options(*, without_data: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds `--dynamic`, `--static` and `--weight-only` to a command.

    It takes them as one `form`, None without them. `without_data`: whether two of them let the command do without data.
    """
    free = "; needs no data" if without_data else ""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def choosing(*args: Any, **values: Any) -> Any:
            flags = {form: values.pop(form.replace("-", "_")) for form in FORMS}
            return function(*args, form=_one_form([form for form, on in flags.items() if on]), **values)

        for option in (
            click.option("--weight-only", is_flag=True, help=f"8-bit weights, float arithmetic{free}."),
            click.option("--static", is_flag=True, help="Only calibrated ranges."),
            click.option("--dynamic", is_flag=True, help=f"Ranges are found in each run{free}."),
        ):
            choosing = option(choosing)
        return choosing

    return decorate


def _one_form(asked: list[str]) -> str | None:
    """The form that is asked for; those of the command line win over those of a configuration file."""
    typed = typed_options(click.get_current_context())
    forms = [form for form in asked if form.replace("-", "_") in typed] or asked
    if len(forms) > 1:
        raise UsageError(f"{' and '.join(f'--{form}' for form in forms)} contradict each other; leave only one of them")
    return forms[0] if forms else None

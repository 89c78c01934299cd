"""`qtool tune`: parse, call `tune`, render."""

import re
from concurrent.futures import Executor
from pathlib import Path

import click

from qtool.cli.common import (
    STDOUT,
    Percent,
    check_outputs,
    config_option,
    data_option,
    emit_json,
    executor_options,
    json_option,
    progress_bar,
    provider_option,
    quiet_option,
    reading_options,
    samples_option,
    threads_option,
)
from qtool.core.errors import UsageError
from qtool.core.numerics.calibrators import CANDIDATES, METHODS, Calibrator
from qtool.core.records.evaluation import MaxDrop
from qtool.core.records.options import GRANULARITIES, SCHEMES, Scheme
from qtool.core.records.tuning import Step
from qtool.feeds import ReadOptions
from qtool.report.tune import step_line, tuned_text
from qtool.targets.tables import NAMES, find_target, target_of
from qtool.tuning.tune import tune

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@click.command("tune")
@click.argument("model", metavar="MODEL")
@data_option
@click.option("--eval-data", metavar="DATA", help="Labelled data that reports.  [default: parts of --data]")
@click.option("--metric", metavar="METRIC", help="As in eval.  [default: as there; agreement without labels]")
@click.option("--max-drop", type=Percent(), default="1%", show_default=True, metavar="DROP", help="The target.")
@click.option("--min-sqnr", type=float, metavar="DB", help="Ask for this SQNR of the outputs as well.")
@click.option(
    "--calibrators",
    default=",".join(f"percentile:{c.percentile:g}" if c.method == "percentile" else c.method for c in CANDIDATES),
    show_default=True,
    metavar="LIST",
    help="What to try; percentile:P with its parameter.",
)
@click.option(
    "--max-float-macs",
    type=Percent(),
    default="10%",
    show_default=True,
    metavar="SHARE",
    help="How much of the multiply-accumulates may stay in float.",
)
@click.option(
    "--time-budget", metavar="TIME", help="90s, 30m or 2h; then the best found so far stands.  [default: none]"
)
@click.option("-o", "--output", metavar="FILE", help="The int8 model.  [default: MODEL with .int8.onnx]")
@click.option("--scheme", type=click.Choice(SCHEMES), default="affine", show_default=True, help="Grid of activations.")
@click.option(
    "--granularity", type=click.Choice(GRANULARITIES), default="per-channel", show_default=True, help="Of weights."
)
@click.option("--target", type=click.Choice(NAMES), default="auto", show_default=True, help="Where it shall run.")
@samples_option
@threads_option
@provider_option
@executor_options
@reading_options
@config_option
@json_option
@quiet_option
def command(
    *,
    model: str,
    data: str,
    eval_data: str | None,
    metric: str | None,
    max_drop: MaxDrop,
    min_sqnr: float | None,
    calibrators: str,
    max_float_macs: MaxDrop,
    time_budget: str | None,
    output: str | None,
    scheme: str,
    granularity: str,
    target: str,
    samples: int | None,
    threads: int,
    provider: str,
    executor: Executor | None,
    reading: ReadOptions,
    json_path: str | None,
    quiet: bool,
) -> int:
    """Find an int8 model within the target: try calibrators, mix ranges, leave the worst layers in float.

    \b
    Example:
      qtool tune mobilenetv2.onnx --data labelled.npz --max-drop 1% -o mobilenetv2.int8.onnx
    """
    source = click.get_current_context().get_parameter_source("scheme")
    runs_on = target_of(provider) or find_target(target)
    if runs_on.only_symmetric and scheme == "affine" and source is not click.core.ParameterSource.DEFAULT:
        raise UsageError(f"--scheme affine: target {runs_on.name} has only symmetric grids; leave it out")
    result_path = output or str(Path(model).with_suffix(".int8.onnx"))
    inputs = {"MODEL": model, "--data": data, "--eval-data": eval_data}
    check_outputs(
        {"--output": result_path, "--json": json_path},
        {name: path for name, path in inputs.items() if path is not None},
    )
    silent = quiet or json_path == STDOUT

    def tell(step: Step) -> None:
        if not silent:
            click.echo(step_line(step))

    with progress_bar(silent) as progress:
        result = tune(
            model,
            data,
            result_path,
            eval_data=eval_data,
            metric=metric,
            max_drop=max_drop,
            min_sqnr=min_sqnr,
            calibrators=_calibrators(calibrators),
            max_float_macs=max_float_macs.value,
            time_budget=_seconds(time_budget),
            scheme=Scheme(scheme, granularity),  # type: ignore[arg-type]
            target=target,
            samples=samples,
            threads=threads,
            provider=provider,
            executor=executor,
            tell=tell,
            progress=progress,
            **reading,
        )
    if json_path is not None:
        emit_json(json_path, result.to_dict())
    if not silent:
        click.echo(tuned_text(result))
    return 0 if result.met else 1


def _calibrators(text: str) -> tuple[Calibrator, ...]:
    """`max,percentile:99.99` -> calibrators. Raises `UsageError` for anything else."""
    result = []
    for word in text.split(","):
        method, _, parameter = word.strip().partition(":")
        try:
            if parameter and method != "percentile":
                raise ValueError(f"only percentile takes a parameter, not {method!r}")
            result.append(Calibrator("percentile", float(parameter)) if parameter else Calibrator(method))  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(
                f"--calibrators {word.strip()!r}: {error}; write some of {', '.join(METHODS)}, percentile:99.99"
            ) from error
    return tuple(dict.fromkeys(result))


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text)
    if found is None or float(found.group(1)) == 0.0:
        raise UsageError(f"--time-budget {text!r} is no time; write 90s, 30m or 2h")
    return float(found.group(1)) * _SECONDS[found.group(2)]

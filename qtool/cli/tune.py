"""`qtool tune`: parse, call `tune`, render."""

from concurrent.futures import Executor
from pathlib import Path

import click

from qtool.cli import since_start
from qtool.cli.bar import progress_bar
from qtool.cli.choices import (
    check_grid,
    fix_option,
    grid_options,
    refine_option,
    selection_options,
    warn_of_target,
)
from qtool.cli.common import (
    Command,
    beside,
    data_option,
    executor_options,
    json_option,
    labelled_options,
    mask_option,
    provider_option,
    quiet_option,
    samples_option,
)
from qtool.cli.config import config_option
from qtool.cli.html import html_option, looked_into, write_page
from qtool.cli.outputs import STDOUT, outputs, show, typed
from qtool.cli.parameters import Calibrators, Drop, Duration, Share
from qtool.cli.streams import remark, warn
from qtool.core.numerics.calibrators import CANDIDATES, Calibrator
from qtool.core.records.evaluation import MaxDrop
from qtool.core.records.options import Correction, Scheme
from qtool.core.records.tuning import Step
from qtool.feeds import LabelledOptions
from qtool.report.tune import missed_line, step_line, trail_heading, tuned_text
from qtool.targets.tables import find_target, target_of
from qtool.tuning.tune import tune

_LEAST_S = 0.001
"""A time budget that the start alone has used up."""


@click.command("tune", cls=Command)
@click.argument("model", metavar="MODEL")
@data_option
@click.option("--eval-data", metavar="DATA", help="Labelled data that reports.  [default: parts of --data]")
@click.option("--metric", metavar="METRIC", help="As in eval.  [default: as there; agreement without labels]")
@click.option(
    "--max-drop",
    type=Drop(),
    metavar="DROP",
    help="The target: what the metric may lose.  [default: 1%; none without labels beside --min-sqnr]",
)
@click.option("--min-sqnr", type=float, metavar="DB", help="Ask for this SQNR of the outputs as well.")
@click.option(
    "--calibrators",
    type=Calibrators(),
    default=",".join(str(calibrator).replace(" ", ":") for calibrator in CANDIDATES),
    show_default=True,
    metavar="LIST",
    help="What to try; percentile:P with its parameter.",
)
@click.option(
    "--max-float-macs",
    type=Share(),
    default="10%",
    show_default=True,
    metavar="SHARE",
    help="How much of the multiply-accumulates may stay in float.",
)
@click.option(
    "--time-budget",
    type=Duration(),
    metavar="TIME",
    help="90s, 30m or 2h; then the best found so far stands.  [default: none]",
)
@click.option("-o", "--output", metavar="FILE", help="The int8 model.  [default: MODEL with .int8.onnx]")
@click.option("--save-plan", metavar="FILE", help="Write the plan of the best model as JSON, for `quantize --plan`.")
@grid_options
@selection_options
@fix_option
@refine_option
@click.option(
    "--finetune",
    is_flag=True,
    help="Where the target is missed with all that, train the best plan (needs the extra finetune).",
)
@samples_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="T",
    help="How much is done side by side; the result is the same.  [default: all cores; 1 a worker]",
)
@provider_option
@executor_options
@labelled_options
@mask_option
@config_option
@json_option
@html_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    model: str,
    data: str,
    eval_data: str | None,
    metric: str | None,
    decode: str | None,
    max_drop: MaxDrop | None,
    min_sqnr: float | None,
    calibrators: tuple[Calibrator, ...],
    max_float_macs: float,
    time_budget: float | None,
    output: str | None,
    save_plan: str | None,
    scheme: str,
    granularity: str,
    target: str,
    include_ops: tuple[str, ...],
    exclude_ops: tuple[str, ...],
    exclude: tuple[str, ...],
    fix: tuple[str, ...],
    refine: Correction,
    finetune: bool,
    samples: int | None,
    threads: int | None,
    provider: str,
    executor: Executor | None,
    reading: LabelledOptions,
    json_path: str | None,
    html_path: str | None,
    quiet: bool,
) -> int:
    """Find an int8 model within the target: try calibrators, mix ranges, leave the worst layers in float.

    \b
    Example:
      qtool tune mobilenetv2.onnx --data labelled.npz --max-drop 1% -o mobilenetv2.int8.onnx
    """
    check_grid(context, target_of(provider) or find_target(target))
    result_path = beside(model, ".int8.onnx") if output is None else output
    silent = quiet or json_path == STDOUT

    begun = _identity(result_path)

    def stands() -> str | None:
        found = _identity(result_path)
        return f"the best model so far stands in {result_path}" if found not in (None, begun) else None

    with outputs(
        {"--json": json_path, "--html": html_path},
        growing={"--output": result_path, "--save-plan": save_plan},
        stands=stands,
        restored=(result_path, f"{result_path}.data", *([] if save_plan is None else [save_plan])),
    ) as written:
        with progress_bar(silent) as progress:
            told: list[Step] = []

            def tell(step: Step) -> None:
                if silent:
                    return
                if not told:
                    progress.write(trail_heading(step))
                told.append(step)
                progress.write(step_line(step))

            result = tune(
                model,
                data,
                result_path,
                eval_data=eval_data,
                metric=metric,
                decode=decode,
                max_drop=max_drop,
                min_sqnr=min_sqnr,
                calibrators=calibrators,
                max_float_macs=max_float_macs,
                time_budget=None if time_budget is None else max(time_budget - since_start(), _LEAST_S),
                scheme=Scheme(scheme, granularity, include_ops, exclude_ops, exclude),  # type: ignore[arg-type]
                fix=fix,
                refine=refine,
                finetune=finetune,
                target=target,
                save_plan=save_plan,
                samples=samples,
                threads=threads,
                provider=provider,
                executor=executor,
                tell=tell,
                progress=progress,
                **reading,
            )
        if json_path is not None:
            written.json(json_path, result.to_dict())
    seen = looked_into(html_path, result_path, model, data, None, reading)
    write_page(html_path, result.to_dict(), *seen)
    if not silent:
        show(tuned_text(result, typed()))
    elif not result.met:
        remark(missed_line(result))
    warn(result.evaluation.warnings)
    if target_of(provider) is None:
        warn_of_target(context, find_target(target))
    return 0 if result.met else 1


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a file from one that replaces it; None where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns

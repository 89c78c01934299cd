"""`qtool eval`: parse, call `evaluate`, render."""

from concurrent.futures import Executor
from typing import Any

import click

from qtool.cli.bar import progress_bar
from qtool.cli.common import (
    Command,
    batch_size_option,
    data_option,
    executor_options,
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
from qtool.cli.html import html_option, write_page
from qtool.cli.outputs import STDOUT, outputs, show, taken
from qtool.cli.parameters import Drop
from qtool.cli.pipeline import EVAL_TAKES, check_pipeline, pipeline_option
from qtool.cli.streams import remark, warn
from qtool.core.errors import UsageError
from qtool.core.records.evaluation import Evaluation, MaxDrop
from qtool.evaluation.evaluate import DEFAULT_LATENCY_RUNS, evaluate
from qtool.evaluation.limits import Limits
from qtool.evaluation.metrics.registry import NAMES
from qtool.evaluation.worst.keep import reserved_index
from qtool.feeds import LabelledOptions
from qtool.generation.together import evaluate_pipeline
from qtool.report.commands import word
from qtool.report.evaluation import (
    evaluation_markdown,
    evaluation_text,
    gate_line,
    nan_lines,
    quantized_lines,
    speed_lines,
)
from qtool.report.gates import Beside, beside_evaluation, failed_line, steps_after
from qtool.report.junit import evaluation_junit


@click.command("eval", cls=Command)
@click.argument("float_model", metavar="FLOAT", required=False)
@click.argument("candidates", metavar="CANDIDATE...", nargs=-1)
@pipeline_option
@data_option
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="METRIC",
    help=f"{', '.join(NAMES)}, MODULE:FUNCTION or file.py:FUNCTION; may be repeated.  "
    "[default: token_accuracy or top1 with labels, map with --decode, else sqnr]",
)
@click.option(
    "--max-drop",
    type=Drop(),
    metavar="DROP",
    help="Fail where a metric with labels gets worse by more: 1% of float's value, or 0.01 in its unit.",
)
@click.option("--min-sqnr", type=float, metavar="DB", help="Fail where the SQNR of the outputs is less.")
@limit_options
@samples_option
@batch_size_option
@labelled_options
@mask_option
@click.option(
    "--save-worst",
    type=(click.IntRange(min=1), str),
    metavar="N FOLDER",
    help="Draw what float and the models say of the N samples where they differ most: boxes, masks, pictures, classes.",
)
@click.option("--latency", is_flag=True, help="Time the models too, one sample a run, interleaved.")
@click.option(
    "--latency-runs",
    type=click.IntRange(min=1),
    default=DEFAULT_LATENCY_RUNS,
    show_default=True,
    metavar="N",
    help="Timed runs of each model.",
)
@threads_option
@provider_option
@executor_options
@json_option
@html_option
@junit_option
@click.option("--markdown", "markdown_path", metavar="FILE", help="Write the table as Markdown.")
@config_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    float_model: str | None,
    pipeline: str | None,
    candidates: tuple[str, ...],
    data: str,
    metrics: tuple[str, ...],
    decode: str | None,
    max_drop: MaxDrop | None,
    min_sqnr: float | None,
    limits: LimitOptions,
    samples: int | None,
    batch_size: int,
    reading: LabelledOptions,
    save_worst: tuple[int, str] | None,
    latency: bool,
    latency_runs: int,
    threads: int,
    provider: str,
    executor: Executor | None,
    json_path: str | None,
    html_path: str | None,
    junit_path: str | None,
    markdown_path: str | None,
    quiet: bool,
) -> None:
    """Compare the accuracy, size and latency of models with the float one.

    \b
    Example:
      qtool eval model.onnx model.int8.onnx --data labelled.npz --metric top1 --max-drop 1%

    Exits with 1 where a gate (--max-drop, --min-..., --max-size) fails. A metric of your own is a function (outputs,
    labels), two dictionaries of arrays, that returns a score for each sample or one for the batch; or a class
    with update(outputs, labels) and result(). Higher is better unless it has lower_is_better = True. With
    --pipeline several models and their loop are compared by what they say, in float and in int8.
    """
    check_pipeline(context, EVAL_TAKES, ("float_model", "candidates"), pipeline)
    if not latency and limits["min_speedup"] is None and "latency_runs" in given(context):
        raise UsageError("--latency-runs says nothing without --latency; give both, or neither")
    paths = {"--json": json_path, "--junit": junit_path, "--markdown": markdown_path, "--html": html_path}
    read = (data, reading.get("labels"))
    with reserved_index(save_worst, read, paths) as index, outputs(paths, replaced={"--save-worst": index}) as written:
        with progress_bar(quiet) as progress:
            shared: dict[str, Any] = {"metrics": metrics or None, "max_drop": max_drop, "samples": samples, **reading}
            shared |= {"threads": threads, "provider": provider, "progress": progress}
            if pipeline is not None:
                evaluation = evaluate_pipeline(pipeline, data, limits=Limits.of(**limits), **shared)
            else:
                assert float_model is not None, "click.MissingParameter otherwise"
                evaluation = evaluate(
                    float_model,
                    candidates,
                    data,
                    decode=decode,
                    min_sqnr=min_sqnr,
                    **limits,
                    batch_size=batch_size,
                    save_worst=save_worst,
                    latency=latency,
                    latency_runs=latency_runs,
                    executor=executor,
                    **shared,
                )
            # of a pipeline, the rows of its parts say which to look at
            beside = None if pipeline is not None else beside_evaluation(evaluation, _measured(decode, reading))
        if json_path is not None:
            written.json(json_path, evaluation.to_dict())
        written.text(junit_path, evaluation_junit(evaluation, taken()))
        after = [] if beside is None else steps_after(evaluation.gates, beside)
        written.text(markdown_path, evaluation_markdown(evaluation, after))
    # the pictures are in their place now
    write_page(html_path, evaluation.to_dict())
    if quiet or STDOUT in paths.values():
        _complain(evaluation, beside)
    else:
        show(evaluation_text(evaluation, after), needed=not evaluation.gates and not any(paths.values()))
    warn(evaluation.warnings)
    if not evaluation.passed:
        context.exit(1)


def _measured(decode: str | None, reading: LabelledOptions) -> str:
    """The options by which the metric is measured, with a space in front of each."""
    given = {"decode": decode, "labels": reading.get("labels")}
    return "".join(f" --{name} {word(str(value))}" for name, value in given.items() if value is not None)


def _complain(evaluation: Evaluation, beside: Beside | None) -> None:
    """Where the table is not printed, what is wrong goes to stderr."""
    gates = [gate for gate in evaluation.gates if not gate.passed]
    failed = [gate_line(gate) if beside is None else failed_line(gate, beside) for gate in gates]
    for text in quantized_lines(evaluation) + nan_lines(evaluation) + speed_lines(evaluation) + failed:
        remark(text)

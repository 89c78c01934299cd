"""`--pipeline` of `calibrate` and `eval`: all parts of a pipeline together."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from qtool.cli.bar import progress_bar
from qtool.cli.common import given
from qtool.cli.outputs import CALIBRATES, outputs, show
from qtool.cli.streams import warn
from qtool.core.errors import UsageError
from qtool.feeds import ReadOptions
from qtool.generation.description import read_description
from qtool.generation.together import calibrate_pipeline
from qtool.report.calibrate import calibrated_parts_text

_Function = TypeVar("_Function", bound=Callable[..., Any])
_SHARED = ("pipeline", "data", "samples", "threads", "preprocess", "tokenizer", "max_length", "trim", "quiet")
CALIBRATE_TAKES = _SHARED
EVAL_TAKES = (
    *_SHARED,
    "json_path",
    "metrics",
    "max_drop",
    "min_agreement",
    "max_size",
    "provider",
    "junit_path",
    "markdown_path",
)
_NAMED, _SAID = "whose file names the models", "which is judged by what its loop says; ask it of a part by itself"
_REASONS = {
    **dict.fromkeys(("model", "float_model", "candidates", "output"), _NAMED),
    **dict.fromkeys(("min_sqnr", "min_integer", "min_speedup", "latency", "latency_runs", "decode"), _SAID),
}
"""Why an option says nothing to a pipeline."""


def pipeline_option(function: _Function) -> _Function:
    """Add `--pipeline FILE`; return the command."""
    decorate: Callable[[_Function], _Function] = click.option(
        "--pipeline",
        metavar="FILE",
        help="A TOML file of several models and the loop that runs them, in the place of the models; see "
        "docs/generation.md.",
    )
    return decorate(function)


def check_pipeline(context: click.Context, takes: Sequence[str], needed: Sequence[str], pipeline: str | None) -> None:
    """Refuse models beside a pipeline, options that say nothing to it, and a command with neither.

    Raises:
        UsageError: models and a pipeline are given, or an option that a pipeline does not take.
        click.MissingParameter: neither is given.
    """
    by_name = {parameter.name: parameter for parameter in context.command.params}
    if pipeline is None:
        for name in needed:
            if not context.params.get(name):
                raise click.MissingParameter(ctx=context, param=by_name[name])
        return
    for name in given(context):
        if name not in takes and name != "config":
            option = by_name[name]
            said = option.opts[-1] if isinstance(option, click.Option) else option.make_metavar(context)
            why = _REASONS.get(str(name), "which runs its parts one sample at a time")
            raise UsageError(f"{said} does not go with --pipeline, {why}; leave one of them out")


def run_calibrate(
    pipeline: str, data: str, reading: ReadOptions, *, samples: int | None, threads: int, quiet: bool
) -> None:
    """Collect the statistics of each part, and print a line for each and what comes next."""
    parts = read_description(pipeline).parts
    written = {f"the calibration of part '{part.name}'": str(part.calibration) for part in parts}
    click.get_current_context().meta[CALIBRATES] = True
    with outputs(written), progress_bar(quiet) as progress:
        made = calibrate_pipeline(pipeline, data, samples=samples, threads=threads, progress=progress, **reading)
    if not quiet:
        found = [(part.name, part.float_model, made.get(part.name), part.int8_model) for part in parts]
        show(calibrated_parts_text(found, pipeline))
    warn([text for one in made.values() for text in one.warnings])

"""An evaluation as a text table and as Markdown."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qtool.core.records.evaluation import Evaluation, Gate, MetricInfo, MetricKind, ModelResult
from qtool.core.state import State, common_pattern
from qtool.core.text import amount, line
from qtool.report.commands import inspect_command
from qtool.report.text import ABSENT, aligned, by_output, decibels, file_size, in_markdown, markdown, number

_MOST_STATES = 3
"""So many are named one by one."""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[ModelResult], str]


def evaluation_text(evaluation: Evaluation, after: Sequence[str] = ()) -> str:
    """Return the table, a line on how it was taken, what is wrong with a model, and a line for each gate.

    after: the commands that come next, each a line more.
    """
    header, rows = _table(evaluation)
    return "\n".join([aligned(header, rows), "", *map(line, [setup_line(evaluation), *_notes(evaluation, after)])])


def evaluation_markdown(evaluation: Evaluation, after: Sequence[str] = ()) -> str:
    """Return an evaluation as Markdown: the table, then the lines of `evaluation_text`, and a line break."""
    header, rows = _table(evaluation)
    parts = [markdown(header, rows), in_markdown(setup_line(evaluation))]
    notes = [in_markdown(note) for note in _notes(evaluation, after)]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _notes(evaluation: Evaluation, after: Sequence[str]) -> list[str]:
    notes = (
        speed_lines(evaluation)
        + quantized_lines(evaluation)
        + node_lines(evaluation)
        + output_lines(evaluation)
        + nan_lines(evaluation)
    )
    notes += worst_lines(evaluation) + [gate_line(gate) for gate in evaluation.gates]
    return notes + [f"next: {step}" for step in after]


def _states(states: Sequence[str]) -> str:
    """States in words: many by the pattern that stands for them, or by their number."""
    if len(states) <= _MOST_STATES:
        return ", ".join(states)
    return common_pattern(map(State.parse, states)) or f"{states[0]} and {len(states) - 1} more"


def setup_line(evaluation: Evaluation) -> str:
    """Return the line that says the samples, the threads, and how the latency was taken."""
    steps = "" if evaluation.steps is None else f" of {amount(evaluation.steps, 'step')} in all"
    said = f"{evaluation.data}: {amount(evaluation.samples, 'sample')}{steps}, {amount(evaluation.threads, 'thread')}"
    if evaluation.provider != "cpu":
        said += f", provider {evaluation.provider}"
    if evaluation.states:
        said += f"; state fed back: {_states(evaluation.states)}"
    if evaluation.latency is not None:
        setup = evaluation.latency
        said += f"; latency: medians of {amount(setup.runs, 'interleaved run')}, batch {setup.batch}"
        reference = evaluation.float_model.latency
        if reference is not None and reference.p10_ms is not None:
            said += " (p10 to p90 in brackets); speed-up: float's median over the model's"
    return said


def gate_line(gate: Gate) -> str:
    """Return `PASS` or `FAIL`, then what was asked of which model, and what was found."""
    return f"{'PASS' if gate.passed else 'FAIL'} {gate.message}"


def metric_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each metric: what a single candidate has, what float has, and on what."""
    (model,), exact = evaluation.candidates, evaluation.float_model
    on = f"{amount(evaluation.samples, 'sample')} of {evaluation.data}"
    return [
        f"{score.metric} {number(score.value)}, float {number(exact.score(score.metric).value)}, on {on}"
        for score in model.scores
    ]


def quantized_lines(evaluation: Evaluation) -> list[str]:
    """Return a line where the float model is quantised itself, which all others are compared with; else none."""
    model = evaluation.float_model
    return [f"{model.name}: is quantised itself; the others are compared with it, not with float"] * model.quantized


def speed_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each candidate that is slower than float, or whose runs differ much; else none."""
    lines = []
    for model in evaluation.candidates:
        if model.latency is not None and model.latency.noisy:
            lines.append(f"{model.name}: the runs differ too much to say which is faster; repeat it on a quiet machine")
            continue
        if model.latency is not None and model.latency.speedup < 1.0:
            command = inspect_command(model.path, evaluation.float_model.path)
            lines.append(f"{model.name}: SLOWER than float; next: `{command}` tells why")
        if model.latency is not None and model.latency.rough:
            about = f"about {model.latency.speedup:.2g}x is all that they say"
            lines.append(f"{model.name}: the runs differ much, as on a busy machine; {about}, and times are too long")
    return lines


def node_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each model that did not run on the CPU: which nodes ran where, as far as is known."""
    models = (evaluation.float_model, *evaluation.candidates)
    return [
        f"{model.name}: nodes on {', '.join(f'{name} {count}' for name, count in model.nodes)}"
        for model in models
        if model.nodes
    ]


def output_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each candidate whose outputs have different SQNRs, and one for each that is not measured."""
    lines = []
    for model in evaluation.candidates:
        figures = dict(model.sqnr_db_by_output)
        each = by_output(figures)
        if each:
            lines.append(f"{model.name}: SQNR of each output in dB{each}")
        lines += [
            f"{model.name}: SQNR of output '{name}' not measured: another shape than float's, or no finite number"
            for name, db in figures.items()
            if db is None
        ]
    return lines


def nan_lines(evaluation: Evaluation) -> list[str]:
    """Return a line for each candidate whose outputs hold NaN or Inf unlike float's."""
    return [f"{model.name}: {model.nan}" for model in evaluation.candidates if model.nan is not None]


def worst_lines(evaluation: Evaluation) -> list[str]:
    """Return a line on the pictures of the worst samples, and one for each candidate on the worst of all; else none."""
    worst = evaluation.worst
    if worst is None:
        return []
    stretched = any(one.pixels.startswith("stretched") for one in worst.samples)
    doubt = "; without preprocessing their values are stretched to what can be seen" if stretched else ""
    lines = [
        f"{worst.folder}: {amount(len(worst.samples), 'picture')} of the worst samples, worst.json lists them{doubt}"
    ]
    for one in worst.samples:
        if one.rank == 1:
            name = "" if one.source is None else f" ({one.source})"
            scored = one.float_score is not None and one.score is not None
            said = f"{worst.score} {number(one.score)}, float {number(one.float_score)}; " if scored else ""
            lines.append(f"{one.model}: worst is sample {one.sample}{name}: {said}SQNR {decibels(one.sqnr_db)} dB")
    return lines


def _table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    columns = [_Column("model", lambda model: model.name)]
    for metric in evaluation.metrics:
        columns += _metric_columns(metric, alone=len(evaluation.metrics) == 1)
    if all(metric.name != "sqnr" for metric in evaluation.metrics):
        columns.append(_Column("SQNR dB", lambda model: decibels(model.sqnr_db)))
    if any(model.agreement is not None for model in evaluation.candidates):
        columns.append(
            _Column("agreement", lambda model: ABSENT if model.agreement is None else f"{model.agreement:.4f}")
        )
    columns.append(_Column("size", lambda model: file_size(model.size_bytes)))
    if evaluation.latency is not None:
        columns += [_Column("latency ms", _latency), _Column("speed-up", _speedup)]
    models = [evaluation.float_model, *evaluation.candidates]
    return [column.title for column in columns], [[column.cell(model) for column in columns] for model in models]


def _metric_columns(metric: MetricInfo, *, alone: bool) -> list[_Column]:
    name, digits = metric.name, 1 if metric.name == "sqnr" else 4

    def found(model: ModelResult) -> str:
        figure = model.score(name).value
        # of outputs that are sound, NaN says that there was nothing to measure
        unmeasured = math.isnan(figure) and metric.kind is MetricKind.SIMILARITY and model.nan is None
        # nor is float compared with itself
        itself = figure == math.inf and model.sqnr_db is None
        return number(None if unmeasured or itself else figure, digits)

    value = _Column("SQNR dB" if name == "sqnr" else name, found)
    if metric.kind is MetricKind.SIMILARITY:
        return [value]

    def drop(model: ModelResult) -> str:
        score = model.score(name)
        if score.drop is None:
            return ABSENT
        share = "" if score.relative_drop is None else f" ({100 * score.relative_drop:.2f}%)"
        return number(score.drop) + share

    return [value, _Column("drop" if alone else f"{name} drop", drop)]


def _latency(model: ModelResult) -> str:
    found = model.latency
    if found is None:
        return ABSENT
    spread = None not in (found.p10_ms, found.p90_ms)
    return number(found.median_ms, 3) + (f" ({number(found.p10_ms, 3)} to {number(found.p90_ms, 3)})" if spread else "")


def _speedup(model: ModelResult) -> str:
    return ABSENT if model.latency is None else f"{model.latency.speedup:.2f}x"

"""An inspection as text: the verdict and the next command first, then the layers, and what each finding costs."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from qtool.core.records.inspection import (
    BAD,
    FOR_LATENCY,
    REQUANTISE,
    TIME_IT,
    Finding,
    Grid,
    InspectedLayer,
    Inspection,
    Speed,
)
from qtool.core.records.results import Asked
from qtool.core.text import amount, line, rounded
from qtool.report.commands import data_text
from qtool.report.text import ABSENT, aligned, decibels, file_size, fitted

_NOTHING = Asked()
_ROWS = 60
_LITTLE = 0.01
"""Of the time: what costs less is told where all is wanted."""
_NAMED = 4


_SPARE = ("makes", "weight", "input", "op", "alone dB", "float ms", "share")
"""Columns that a terminal may have no room for, the first to go first."""
_Column = tuple[str, Callable[[InspectedLayer], str]]
_NARROW = ("int4", "uint4", "int2", "uint2")


def inspection_text(inspection: Inspection, asked: Asked = _NOTHING, *, every: bool = False) -> str:
    """Return the inspection of a quantised model as lines for a terminal.

    asked: what it was called with, for the next command. every: whether to show all layers, and not the first alone.
    """
    parts = [_head(inspection), inspection.verdict]
    if inspection.next:
        parts.append(f"next: {inspection.next}{_command(inspection, asked)}")
    parts += ["", *(f"  {row}" for row in _facts(inspection))]
    table = ["", *_layers(inspection, every=every)] if inspection.layers else []
    ends = []
    if inspection.findings:
        ends += ["", "what costs speed, accuracy or trust, the dearest first:"]
        shown = [one for one in inspection.findings if every or one.ms_share is None or one.ms_share >= _LITTLE]
        ends += [text for finding in shown for text in _finding(finding)]
        cheap = len(inspection.findings) - len(shown)
        ends += [f"  with -v: {cheap} more, of less than 1 % of the time each"] if cheap else []
    if inspection.not_measured:
        ends += ["", *(f"not measured: {text}" for text in inspection.not_measured)]
    return "\n".join([*map(line, parts), *table, *map(line, ends)])


def bad_line(inspection: Inspection, asked: Asked = _NOTHING) -> str:
    """Return what is bad in the verdict as a line by itself, with what comes next; "" where nothing is.

    asked: what it was called with, for the next command.
    """
    parts = [part for part in inspection.verdict.split("; ") if any(word in part for word in BAD)]
    if not parts:
        return ""
    after = f"; next: {inspection.next}" if inspection.next else ""
    command = _command(inspection, asked) if inspection.next and inspection.kind != "float" else ""
    return line(f"{inspection.model}: {'; '.join(parts)}{after}{command}")


def _head(inspection: Inspection) -> str:
    maker = f", by {inspection.maker}" if inspection.maker else ""
    form = f", {inspection.form}" if inspection.form not in ("", inspection.kind) else ""
    opset = inspection.opset.get("ai.onnx", 0)
    kind = f"{_kind(inspection)}{_wide(inspection)}"
    return f"{inspection.model}: {kind}{form}{maker}; opset {opset}, {file_size(inspection.bytes)}"


def _wide(inspection: Inspection) -> str:
    """Types of activations that are wider than those of the weights, in words; "" where there are none."""
    read = {layer.input.dtype for layer in inspection.layers if layer.input is not None}
    wide = sorted(read - {"int8", "uint8", ""})
    return f" with {' and '.join(wide)} activations" if wide and _kind(inspection) == inspection.kind else ""


def _kind(inspection: Inspection) -> str:
    """The narrowest type that the layers are quantised to; int8 where that is one of 8 bits, or where there is none.

    Weights of fewer than 8 bits beside some of 8 are named with these.
    """
    found = {grid.dtype for layer in inspection.layers for grid in (layer.input, layer.weight) if grid is not None}
    others = sorted(found - {"int8", "uint8", ""})
    if others and len(others) == len(found):
        return " and ".join(others)
    return " and ".join([*(kind for kind in others if kind in _NARROW), inspection.kind])


def _command(inspection: Inspection, asked: Asked) -> str:
    """The command for the next step; in front of it, in words, what it lacks that nobody has given."""
    timed = inspection.next == TIME_IT
    if not timed and REQUANTISE not in inspection.next:
        return ""
    source = inspection.float_model
    samples = [] if asked.data is not None else ["your samples as --data"]
    if source is None and not timed:
        return f": `qtool quantize`, with {' and '.join(['the float model that it is made of', *samples])}"
    lacks = ["the float model as --float"] * (source is None) + samples
    words = f", with {' and '.join(lacks)}" if lacks else ""
    data = "" if asked.data is None else f" {data_text(asked)}"
    floating = "" if source is None else f" {'--float ' if timed else ''}{shlex.quote(source)}"
    if timed:
        return f"{words}: qtool inspect {shlex.quote(inspection.model)}{floating}{data} --latency"
    output = shlex.quote(Path(inspection.model).with_suffix(".qtool.onnx").name)
    fast = " --optimize-for latency" if FOR_LATENCY in inspection.next else ""
    return f"{words}: qtool quantize{floating}{data}{fast} -o {output}"


def _facts(inspection: Inspection) -> list[str]:
    rows = []
    if inspection.speed is not None:
        rows.append(f"speed        {speed_line(inspection.speed, _kind(inspection))}")
    if inspection.inputs_from:
        rows.append(f"inputs       {inspection.inputs_from}")
    stored = ", ".join(f"{number:,} {dtype}" for dtype, number in list(inspection.parameters.items())[:_NAMED])
    if stored:
        rows.append(f"constants    {stored}")
    return rows


def speed_line(speed: Speed, kind: str) -> str:
    """Return the medians with their spread, the ratio as it follows from them, and how they were taken.

    kind: what the model is called beside float.
    """
    how = (
        f"{amount(speed.threads, 'thread')}, {amount(speed.rounds, 'round')} in shuffled order, p10 to p90 in brackets"
    )
    own = f"{_ms(speed.ms)}"
    if speed.float_ms is None or speed.speedup is None:
        return f"{own}{', too noisy to trust' if speed.noisy else ''}; {how}"
    ratio = f"float {_ms(speed.float_ms)} / {kind} {own} = {speed.speedup:.2f}x"
    if speed.noisy:
        return f"{ratio}, too noisy to say which is faster; {how}"
    rough = ", roughly: the rounds differ much" if speed.rough else ""
    return f"{ratio}{f': {kind} is SLOWER' if speed.speedup < 1 else ''}{rough}; {how}"


def _ms(spread: Sequence[float]) -> str:
    return f"{rounded(spread[0])} ms ({rounded(spread[1])} to {rounded(spread[2])})"


def _layers(inspection: Inspection, *, every: bool) -> list[str]:
    """The layers in order: all of them with all columns where `every` is wanted, else what fits a terminal."""
    columns: list[_Column] = [
        ("layer", lambda one: one.name),
        ("makes", lambda one: one.output),
        ("op", lambda one: one.op),
        ("share", lambda one: ABSENT if one.share is None else f"{100 * one.share:.1f} %"),
        ("planned", _planned),
        ("runs as", _runs),
        ("ms", lambda one: _time(one.ms)),
        ("float ms", lambda one: _time(one.float_ms)),
        ("SQNR dB", lambda one: decibels(one.sqnr_db)),
        ("alone dB", lambda one: decibels(one.alone_db)),
        ("input", lambda one: _grid(one.input)),
        ("weight", lambda one: one.weight.dtype if one.weight and not one.weight.scale else _grid(one.weight)),
    ]
    shown = inspection.layers if every else inspection.layers[:_ROWS]
    kept = [(title, cell) for title, cell in columns if any(cell(layer) != ABSENT for layer in shown)]
    table = [[cell(layer) for _, cell in kept] for layer in shown]
    left = [number for number, (title, _) in enumerate(kept) if title in ("layer", "makes", "op", "planned", "runs as")]
    titles = [title for title, _ in kept]
    if every:
        return [aligned(titles, table, left=left)]
    spare = [titles.index(title) for title in _SPARE if title in titles]
    text, narrowed = fitted(titles, table, left=left, names=0, spare=spare)
    more = len(inspection.layers) - len(shown)
    parts = [amount(more, "more layer")] if more else []
    parts += ["whole names and all columns"] if narrowed else []
    return [text, *([f"with -v: {', '.join(parts)}"] if parts else [])]


def _planned(layer: InspectedLayer) -> str:
    return planned_words(layer.planned, *("" if grid is None else grid.dtype for grid in (layer.input, layer.weight)))


def planned_words(planned: bool, read: str, weight: str) -> str:
    """Return what the file asks for of a layer: the type that it computes in, or that of its weight or input alone.

    read, weight: the types of their grids; "" where they have none.
    """
    if planned:
        return "int8" if read in ("", "int8", "uint8") else read
    halves = [f"{dtype} {what}" for dtype, what in ((read, "input"), (weight, "weight")) if dtype]
    return halves[0] if halves else "float"


def _runs(layer: InspectedLayer) -> str:
    if not layer.kernel:
        return "unknown"
    if not layer.integer:
        return f"{layer.kernel} (float)"
    return f"{layer.kernel} (8-bit blocks)" if layer.kernel == "MatMulNBits" else layer.kernel


def _time(ms: float | None) -> str:
    return ABSENT if ms is None else rounded(ms)


def _grid(grid: Grid | None) -> str:
    if grid is None:
        return ABSENT
    if not grid.scale:
        return f"{grid.dtype}, found in each run"
    if len(grid.scale) > 1:
        where = f"blocks of {grid.block}" if grid.block else f"axis {grid.axis}"
        return f"{grid.dtype}, {len(grid.scale)} scales, {where}"
    return f"{grid.dtype} {grid.scale[0]:.3g}, {grid.zero_point[0]}"


def _finding(finding: Finding) -> list[str]:
    taken = "" if finding.ms_share is None else f", {100 * finding.ms_share:.0f} % of the time"
    names = ", ".join(finding.where[:_NAMED])
    more = f" and {len(finding.where) - _NAMED} more" if len(finding.where) > _NAMED else ""
    lines = [f"  {finding.rule}: {finding.what}{taken}" + (f" ({names}{more})" if names else "")]
    lines.append(f"    because  {finding.cause}")
    if finding.remedy:
        lines.append(f"    remedy   {finding.remedy}")
    return lines

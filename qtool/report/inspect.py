"""An inspection as text: the verdict and the next command first, then the layers, and what each finding costs."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from qtool.core.records.inspection import (
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
from qtool.report.quantize import data_text
from qtool.report.text import ABSENT, aligned, decibels, file_size

_NOTHING = Asked()
_ROWS = 60
_NAMED = 4


_Column = tuple[str, Callable[[InspectedLayer], str]]


def inspection_text(inspection: Inspection, asked: Asked = _NOTHING, *, every: bool = False) -> str:
    """Return the inspection of a quantised model as lines for a terminal.

    asked: what it was called with, for the next command. every: whether to show all layers, and not the first alone.
    """
    parts = [_head(inspection), inspection.verdict]
    if inspection.next:
        parts.append(f"next: {inspection.next}{_command(inspection, asked)}")
    parts += ["", *(f"  {row}" for row in _facts(inspection))]
    table = ["", *_layers(inspection, len(inspection.layers) if every else _ROWS)] if inspection.layers else []
    ends = []
    if inspection.findings:
        ends += ["", "what costs speed, accuracy or trust, the dearest first:"]
        ends += [text for finding in inspection.findings for text in _finding(finding)]
    if inspection.not_measured:
        ends += ["", *(f"not measured: {text}" for text in inspection.not_measured)]
    return "\n".join([*map(line, parts), *table, *map(line, ends)])


def _head(inspection: Inspection) -> str:
    maker = f", by {inspection.maker}" if inspection.maker else ""
    form = f", {inspection.form}" if inspection.form not in ("", inspection.kind) else ""
    opset = inspection.opset.get("ai.onnx", 0)
    return f"{inspection.model}: {inspection.kind}{form}{maker}; opset {opset}, {file_size(inspection.bytes)}"


def _command(inspection: Inspection, asked: Asked) -> str:
    source = shlex.quote(inspection.float_model or "FLOAT.onnx")
    if inspection.next == TIME_IT:
        return f": qtool inspect {shlex.quote(inspection.model)} --float {source} {data_text(asked)} --latency"
    if REQUANTISE not in inspection.next:
        return ""
    output = shlex.quote(Path(inspection.model).with_suffix(".qtool.onnx").name)
    fast = " --optimize-for latency" if FOR_LATENCY in inspection.next else ""
    return f": qtool quantize {source} {data_text(asked)}{fast} -o {output}"


def _facts(inspection: Inspection) -> list[str]:
    rows = []
    if inspection.speed is not None:
        rows.append(f"speed        {speed_line(inspection.speed)}")
    if inspection.inputs_from:
        rows.append(f"inputs       {inspection.inputs_from}")
    stored = ", ".join(f"{number:,} {dtype}" for dtype, number in list(inspection.parameters.items())[:_NAMED])
    if stored:
        rows.append(f"constants    {stored}")
    return rows


def speed_line(speed: Speed) -> str:
    """Return the medians with their spread, the ratio as it follows from them, and how they were taken."""
    how = (
        f"{amount(speed.threads, 'thread')}, {amount(speed.rounds, 'round')} in shuffled order, p10 to p90 in brackets"
    )
    own = f"{_ms(speed.ms)}"
    if speed.float_ms is None or speed.speedup is None:
        return f"{own}; {how}{'; too noisy to trust' if speed.noisy else ''}"
    ratio = f"float {_ms(speed.float_ms)} / int8 {own} = {speed.speedup:.2f}x"
    if speed.noisy:
        return f"{ratio}, too noisy to say which is faster; {how}"
    return f"{ratio}{': int8 is SLOWER' if speed.speedup < 1 else ''}; {how}"


def _ms(spread: Sequence[float]) -> str:
    return f"{rounded(spread[0])} ms ({rounded(spread[1])} to {rounded(spread[2])})"


def _layers(inspection: Inspection, rows: int) -> list[str]:
    columns: list[_Column] = [
        ("layer", lambda one: one.name),
        ("makes", lambda one: one.output),
        ("op", lambda one: one.op),
        ("share", lambda one: ABSENT if one.share is None else f"{100 * one.share:.1f} %"),
        ("planned", lambda one: "int8" if one.planned else "float"),
        ("runs as", _runs),
        ("ms", lambda one: _time(one.ms)),
        ("float ms", lambda one: _time(one.float_ms)),
        ("SQNR dB", lambda one: decibels(one.sqnr_db)),
        ("alone dB", lambda one: decibels(one.alone_db)),
        ("input", lambda one: _grid(one.input)),
        ("weight", lambda one: _grid(one.weight)),
    ]
    shown = inspection.layers[:rows]
    kept = [(title, cell) for title, cell in columns if any(cell(layer) != ABSENT for layer in shown)]
    table = [[cell(layer) for _, cell in kept] for layer in shown]
    left = [number for number, (title, _) in enumerate(kept) if title in ("layer", "makes", "op", "planned", "runs as")]
    lines = [aligned([title for title, _ in kept], table, left=left)]
    if len(inspection.layers) > rows:
        lines.append(f"... and {len(inspection.layers) - rows} more layers; -v shows them all")
    return lines


def _runs(layer: InspectedLayer) -> str:
    if not layer.kernel:
        return "unknown"
    return layer.kernel if layer.integer else f"{layer.kernel} (float)"


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

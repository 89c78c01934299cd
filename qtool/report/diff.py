"""Differences of two files, as text."""

from collections.abc import Sequence

from qtool.core.records.difference import Difference, Range, RangeDifference
from qtool.core.text import amount, line, rounded
from qtool.report.text import ABSENT, aligned, decibels

_SHOWN = 20
"""Rows of a table, unless all are wanted."""


def diff_text(result: Difference, *, every: bool = False) -> str:
    """Return what differs: facts, and tables of layers, ranges and weights; `every`: with all of their rows."""
    parts = [line(_head(result)), *(line(f"  {fact}") for fact in result.facts)]
    if result.kernels:
        counts = ", ".join(f"{name} {one} -> {other}" for name, (one, other) in result.kernels.items())
        parts.append(line(f"  kernels: {counts}"))
    parts += _measured(result)
    layers = [[row.name, row.op, row.a or ABSENT, row.b or ABSENT] for row in result.layers]
    parts += _table(["layer", "op", "in A", "in B"], layers, left=(0, 1, 2, 3), every=every)
    parts += _table(
        ["tensor", "A", "B", "steps apart", *_moved_title(result), ""], _ranges(result), left=(0,), every=every
    )
    weights = [
        [
            row.layer,
            ABSENT if row.changed is None else f"{100 * row.changed:.3g} %",
            ABSENT if row.most is None else str(row.most),
            ABSENT if row.scales is None else f"{row.scales:.4g}x",
        ]
        for row in result.weights
    ]
    parts += _table(["weight of", "numbers that differ", "by at most", "scales"], weights, left=(0,), every=every)
    return "\n".join(part.rstrip() for part in parts)


def _head(result: Difference) -> str:
    names = f"A {result.a}, B {result.b}"
    if result.same:
        return f"{names}: the same {result.compared}, as far as is compared"
    layers = "" if result.compared == "calibration files" else f"{amount(len(result.layers), 'layer')}, "
    weights = f", {amount(len(result.weights), 'weight')}" if result.weights else ""
    alike = f"; {amount(result.alike, 'tensor' if not layers else 'layer')} alike"
    return f"{names}: {layers}{amount(len(result.ranges), 'range')}{weights} differ{alike}"


def _measured(result: Difference) -> list[str]:
    parts = []
    if result.outputs:
        figures = ", ".join(f"{name} {decibels(db)} dB" for name, db in result.outputs.items())
        parts.append(line(f"  outputs of B against A's, on {result.inputs_from}: {figures}"))
    speed = result.speed
    if speed is not None and speed.float_ms is not None and speed.speedup is not None:
        ratio = f"B is {'SLOWER: ' if speed.speedup < 1 else ''}{speed.speedup:.2f}x as fast"
        if speed.noisy:
            ratio = f"too noisy to say which is faster (about {speed.speedup:.2g}x)"
        how = f"medians of {amount(speed.rounds, 'shuffled round')}, one thread, p10 to p90 in brackets"
        how += "; roughly: the rounds differ much" if speed.rough and not speed.noisy else ""
        parts.append(line(f"  speed: A {_spread(speed.float_ms)} ms / B {_spread(speed.ms)} ms: {ratio}; {how}"))
    return parts + [line(f"  not measured: {why}") for why in result.not_measured]


def _spread(times: tuple[float, float, float]) -> str:
    return f"{rounded(times[0])} ({rounded(times[1])} to {rounded(times[2])})"


def _moved_title(result: Difference) -> list[str]:
    return ["values moved"] if result.compared == "calibration files" else []


def _ranges(result: Difference) -> list[list[str]]:
    moved = bool(_moved_title(result))
    return [[*_ends(row), *([_percent(row.moved)] if moved else []), row.what] for row in result.ranges]


def _ends(row: RangeDifference) -> list[str]:
    steps = ABSENT if row.steps is None else f"{row.steps:.1f}"
    return [row.tensor, _range(row.a), _range(row.b), steps]


def _range(given: Range | None) -> str:
    return ABSENT if given is None else f"{given[0]:.5g} to {given[1]:.5g}"


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.2f} %"


def _table(header: list[str], rows: Sequence[list[str]], *, left: tuple[int, ...], every: bool) -> list[str]:
    if not rows:
        return []
    shown = rows if every else rows[:_SHOWN]
    more = len(rows) - len(shown)
    filled = [column for column in range(len(header)) if any(row[column] for row in rows)]
    shown = [[row[column] for column in filled] for row in shown]
    flush = [number for number, column in enumerate(filled) if column in left or not header[column]]
    table = aligned([header[column] for column in filled], shown, left=flush)
    return ["", table, *([f"{more} more; all with -v"] if more else [])]

"""The tables of "Side by side": medians of ratios to the plain pass, a line a tool, and where qtool is behind."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.process import Outcome
from qtool.report.text import ABSENT, markdown


@dataclass(frozen=True, slots=True)
class Cost:
    """What making the model cost: times over the plain pass of the same round, and peak memory in MB."""

    cpu: float
    wall: float
    peak: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What was made: megabytes, layers in integer arithmetic of all, speed-up over float, SQNR in dB, metric."""

    size: float
    integer: int
    layers: int
    speedup: float
    sqnr: float | None
    metric: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """One tool. A tool may fail to make a model (no cost), or make one that does not run (cost, no quality)."""

    name: str
    cost: Cost | None
    quality: Quality | None
    failure: str | None = None


def interleaved(
    commands: Mapping[str, Callable[[], Outcome]], rounds: int, tell: Callable[[str, Outcome], None]
) -> dict[str, list[Outcome]]:
    """Every command once a round, in order; one that failed is not run again."""
    found: dict[str, list[Outcome]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, run in commands.items():
            if not any(outcome.failure for outcome in found[name]):
                found[name].append(run())
                tell(name, found[name][-1])
    return found


def cost(outcomes: Sequence[Outcome], unit: Sequence[Outcome]) -> Cost | None:
    """Medians over the rounds; None if a run failed."""
    if any(outcome.failure for outcome in outcomes):
        return None
    pairs = list(zip(outcomes, unit, strict=True))
    return Cost(
        statistics.median(own.cpu / plain.cpu for own, plain in pairs),
        statistics.median(own.wall / plain.wall for own, plain in pairs),
        statistics.median(own.peak_kib for own in outcomes) * 1024 / 1e6,
    )


_COST_HEADER = ["CPU work", "wall time", "peak MB"]
_HEADER = ["", *_COST_HEADER, "model MB", "integer layers", "speed-up", "SQNR dB", "metric"]


def table(lines: Sequence[Line]) -> str:
    """All columns, and below them the reasons of those that failed."""
    rows = [[_marked(line), *_cost_cells(line.cost), *_quality_cells(line.quality)] for line in lines]
    return "\n".join([markdown(_HEADER, rows), *_reasons(lines)])


def cost_table(lines: Sequence[Line]) -> str:
    """The columns of cost alone."""
    rows = [[_marked(line), *_cost_cells(line.cost)] for line in lines]
    return "\n".join([markdown(["", *_COST_HEADER], rows), *_reasons(lines)])


def _marked(line: Line) -> str:
    return line.name if line.failure is None else f"{line.name} (failed)"


def _reasons(lines: Sequence[Line]) -> list[str]:
    failed = [line for line in lines if line.failure is not None]
    return ["", *(f"- {line.name} failed: `{line.failure}`" for line in failed)] if failed else []


def _cost_cells(found: Cost | None) -> list[str]:
    if found is None:
        return [ABSENT] * 3
    return [f"{found.cpu:.2f}", f"{found.wall:.2f}", f"{found.peak:.0f}"]


def _quality_cells(found: Quality | None) -> list[str]:
    if found is None:
        return [ABSENT] * 5
    noise = ABSENT if found.sqnr is None else f"{found.sqnr:.1f}"
    metric = ABSENT if found.metric is None else f"{found.metric:.4f}"
    layers = f"{found.integer} of {found.layers}"
    return [f"{found.size:.3f}", layers, f"{found.speedup:.2f}", noise, metric]


@dataclass(frozen=True, slots=True)
class _Column:
    """A figure: the part of a `Line` and its field, how it is written, and whether more of it is better."""

    name: str
    part: str
    field: str
    form: str
    more: bool


_COLUMNS = (
    _Column("CPU work", "cost", "cpu", ".2f", more=False),
    _Column("wall time", "cost", "wall", ".2f", more=False),
    _Column("peak MB", "cost", "peak", ".0f", more=False),
    _Column("model MB", "quality", "size", ".3f", more=False),
    _Column("speed-up", "quality", "speedup", ".2f", more=True),
    _Column("SQNR dB", "quality", "sqnr", ".1f", more=True),
    _Column("metric", "quality", "metric", ".4f", more=True),
)


def ahead(own: Line, peers: Sequence[Line]) -> str:
    """One sentence: in which columns, as written, a peer is better than `own`, and the best of those peers."""
    wins = []
    for column in _COLUMNS:
        mine = _written(column, own)
        theirs = [(value, peer.name) for peer in peers if (value := _written(column, peer)) is not None]
        if mine is None or not theirs:
            continue
        best, name = max(theirs) if column.more else min(theirs)
        if best > mine if column.more else best < mine:
            wins.append(f"{column.name} ({name}: {best:{column.form}} against {mine:{column.form}})")
    return f"A peer is ahead of {own.name} in: {', '.join(wins)}." if wins else f"No peer is ahead of {own.name}."


def _written(column: _Column, line: Line) -> float | None:
    """The figure as the table shows it: a difference that it does not show is none."""
    value = getattr(getattr(line, column.part), column.field, None)
    return None if value is None else float(format(value, column.form))

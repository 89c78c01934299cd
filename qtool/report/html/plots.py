"""Pictures laid out: places across in percent, so that a picture fits any width and its letters stay of one size."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from qtool.report.html.blocks import WHOLE, Figure, Legend, Shape

_TICKS = 6
_LETTER = 13
"""The height of a letter with its room, in pixels."""
_DOT = 4
_HIGH = 180
"""The height of a picture with axes, in pixels, without the letters below."""
_BELOW = 34
_ROW = 34
_THIN = 0.004
"""The least width of a bin, as a share of the picture."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a plot, and what a pointer on it shows. large: it stands out."""

    x: float
    y: float
    title: str
    tone: str = "int"
    large: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A level that a plot shows as a line across, with its number at the axis."""

    y: float
    tone: str = "muted"


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: the words along it, what it reaches down and up to at least, and whether it is in percent."""

    words: str
    least: float | None = None
    most: float | None = None
    percent: bool = False


def ticks(low: float, high: float, most: int = _TICKS) -> list[float]:
    """Return round numbers from `low` to `high`, at equal distances, at most `most` + 1 of them or so."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) + 0.0 for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Return a number as a tick has it: four digits at most."""
    return f"{value:.4g}"


def plot(
    caption: str,
    label: str,
    dots: Sequence[Dot],
    axes: tuple[Axis, Axis],
    *,
    joined: bool = False,
    marks: Iterable[Mark] = (),
    legend: tuple[Legend, ...] = (),
) -> Figure:
    """Return a plot of points, of which each is `joined` to the next where that is asked for; at least one is needed.

    Args:
        caption, label: see `Figure`.
        dots: in the order in which they are joined.
        axes: across and up.
        marks: levels that are shown across; those that are far from all points are left out.
        legend: of the colours.
    """
    across, up = axes
    left, right = _ends([dot.x for dot in dots], across)
    bottom, top = _ends([dot.y for dot in dots], up)
    near = [mark for mark in marks if bottom - (top - bottom) * 0.6 <= mark.y <= top + (top - bottom) * 0.6]
    bottom, top = min([bottom, *(m.y for m in near)]), max([top, *(m.y for m in near)])
    bottom, top = bottom - 0.06 * (top - bottom), top + 0.06 * (top - bottom)

    def x(value: float) -> str:
        return _percent((value - left) / (right - left))

    def y(value: float) -> float:
        return round(_HIGH * (top - value) / (top - bottom), 1)

    shapes = [*_grid_up(up, (bottom, top), y, near), *_grid_across(across, left, right, x)]
    for mark in near:
        shapes.append(_line("0%", y(mark.y), "100%", y(mark.y), f"mark t-{mark.tone}"))
        shapes.append(_text(-6, y(mark.y) + 4, _tick(up, mark.y), "end strong"))
    if joined:
        shapes += [_line(x(a.x), y(a.y), x(b.x), y(b.y), "curve") for a, b in pairwise(dots)]
    shapes += [_dot(x(dot.x), y(dot.y), dot) for dot in dots]
    return Figure(caption, label, _HIGH + _BELOW, tuple(shapes), legend)


def ranked(
    caption: str, label: str, rows: Sequence[tuple[str, Dot]], axis: Axis, *, legend: tuple[Legend, ...] = ()
) -> Figure:
    """Return a line for each row with its name above it, and a point on it at the `x` of its dot; one row is needed.

    Args:
        caption, label: see `Figure`.
        rows: name and point, the first on top.
        axis: across.
        legend: of the colours.
    """
    left, right = _ends([dot.x for _, dot in rows], axis)
    left, right = left - 0.04 * (right - left), right + 0.04 * (right - left)

    def x(value: float) -> str:
        return _percent((value - left) / (right - left))

    bottom = _ROW * len(rows)
    shapes = [_line(x(value), 0, x(value), bottom + 4, "grid") for value in ticks(left, right)]
    for place, (name, dot) in enumerate(rows):
        y = _ROW * place + _ROW - 8
        shapes.append(_line("0%", y, "100%", y, "grid"))
        shapes.append(_dot(x(dot.x), y, dot))
        shapes.append(_text("0%", y - 10, name, "start halo strong" if dot.large else "start halo"))
    shapes += [_text(x(value), bottom + 18, _tick(axis, value), "middle") for value in ticks(left, right)]
    shapes.append(_text("100%", bottom + 34, axis.words, "end axis"))
    return Figure(caption, label, bottom + 38, tuple(shapes), legend)


def strip(caption: str, label: str, parts: Sequence[tuple[float, str, str]], legend: tuple[Legend, ...]) -> Figure:
    """Return one bar across, divided as (size, tone, title) say; sizes that are 0 take no room."""
    total = sum(size for size, _, _ in parts) or 1.0
    shapes, done = [], 0.0
    for size, tone, title in parts:
        if size > 0:
            shapes.append(_rect((done / total, size / total), (0.0, 28.0), f"part t-{tone}", title))
            done += size
    return Figure(caption, label, 30, tuple(shapes), legend, flush=True)


def histogram(
    label: str, ends: tuple[float, float], counts: Sequence[int], ranges: Sequence[tuple[str, float, float, str, bool]]
) -> Figure:
    """Return a histogram whose counts are on a logarithmic axis, and below it a line for each range.

    Args:
        label: see `Figure`.
        ends: the least and the greatest value.
        counts: of bins of one width between them.
        ranges: name, low, high, facts, and whether it is the one that is used.
    """
    low = min([ends[0], 0.0, *(one[1] for one in ranges)])
    high = max([ends[1], 0.0, *(one[2] for one in ranges)])
    high = high if high > low else low + 1.0
    tall, width = 110, (ends[1] - ends[0]) / len(counts)
    most = math.log10(max(counts) + 1) or 1.0

    def x(value: float) -> str:
        return _percent((value - low) / (high - low))

    shapes = []
    for decade in range(0, int(most) + 1, 1 if most < 5 else 2):
        y = round(tall * (1 - math.log10(10**decade + 1) / most), 1) if decade else tall
        if y >= 0:
            shapes += [_line("0%", y, "100%", y, "grid"), _text(-6, y + 4, _power(decade), "end")]
    for number, count in enumerate(counts):
        if count:
            up = round(tall * math.log10(count + 1) / most, 1)
            start = ends[0] + number * width
            share = max(width / (high - low), _THIN)
            words = f"{short(start)} to {short(start + width)}: {count:,}"
            shapes.append(_rect(((start - low) / (high - low), share), (round(tall - up, 1), up), "bin", words))
    for value in ticks(low, high, 4):
        shapes.append(_text(x(value), tall + 16, short(value), "middle"))
    down = tall + 34
    for name, start, end, facts, used in ranges:
        tone = "curve used" if used else "curve"
        shapes += [
            _line(x(start), down, x(end), down, tone),
            _line(x(start), down - 4, x(start), down + 4, tone),
            _line(x(end), down - 4, x(end), down + 4, tone),
            _text(
                "0%", down + 15, f"{name}: {short(start)} to {short(end)}{facts}", "start strong" if used else "start"
            ),
        ]
        down += 27
    return Figure("", label, down, tuple(shapes))


def _ends(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    low = min(values if axis.least is None else [*values, axis.least])
    high = max(values if axis.most is None else [*values, axis.most])
    if high > low:
        return low, high
    return low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)


def _grid_up(axis: Axis, ends: tuple[float, float], y: Callable[[float], Any], marks: Sequence[Mark]) -> list[Shape]:
    """Lines and numbers up the axis, but for those that would cover a mark's number."""
    shapes = [_text(-40, -10, axis.words, "start axis")]
    free = [value for value in ticks(*ends) if all(abs(y(value) - y(mark.y)) > _LETTER for mark in marks)]
    for value in free:
        shapes += [_line("0%", y(value), "100%", y(value), "grid"), _text(-6, y(value) + 4, _tick(axis, value), "end")]
    return shapes


def _grid_across(axis: Axis, left: float, right: float, x: Callable[[float], Any]) -> list[Shape]:
    shapes = [_text("100%", _HIGH + 32, axis.words, "end axis")]
    if axis.words and not axis.words.endswith("order of the network"):
        shapes += [_text(x(value), _HIGH + 16, _tick(axis, value), "middle") for value in ticks(left, right)]
    return shapes


def _tick(axis: Axis, value: float) -> str:
    return f"{short(100 * value)} %" if axis.percent else short(value)


def _power(decade: int) -> str:
    return str(10**decade) if decade < 4 else f"1e{decade}"


def _percent(share: float) -> str:
    return f"{WHOLE * share:.3f}%"


def _line(x1: str, y1: float, x2: str, y2: float, look: str) -> Shape:
    return Shape("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": look})


def _dot(x: str, y: float, dot: Dot) -> Shape:
    look = f"dot t-{dot.tone}"
    return Shape("circle", {"cx": x, "cy": y, "r": _DOT + 2 * dot.large, "class": look}, title=dot.title)


def _rect(across: tuple[float, float], down: tuple[float, float], look: str, title: str) -> Shape:
    """A box: where it begins and how far it reaches, across as shares of the width, down in pixels."""
    (x, width), (y, height) = across, down
    return Shape(
        "rect", {"x": _percent(x), "y": y, "width": _percent(width), "height": height, "class": look}, "", title
    )


def _text(x: str | float, y: float, words: str, look: str) -> Shape:
    return Shape("text", {"x": x, "y": y, "class": look}, words)

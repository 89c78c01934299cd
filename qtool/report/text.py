"""Plain text: aligned columns, and numbers as people read them."""

import math
import re
from collections.abc import Collection, Mapping, Sequence

from qtool.core.text import cell, line

ABSENT = "-"
_MARKS = re.compile(r"[\\`|*\[\]]")
WIDTH = 100
"""Characters of a line of a table that is to fit a terminal."""
_NAME, _SHORTEST = 28, 12
"""Characters that a column of names gets by leaving others out, and those that it gets anyhow."""
_NAMED = 5
"""Outputs that are named in a line."""
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Return a table with one line a row and two spaces between columns, without a final line break.

    What names hold is escaped and shortened, as `qtool.core.text.cell` does.

    The columns numbered in `left` are flush left, the others flush right, as numbers want it. Every row has a
    cell for each column of `header`.
    """
    table = [[cell(text) for text in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines: list[str] = []
    for row in table:
        cells = [
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def fitted(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int], names: int, spare: Sequence[int]
) -> tuple[str, bool]:
    """Return a table of at most `WIDTH` characters a line, and whether something of it was left out.

    Columns in `spare` are left out, the first of them first, until the column `names` has room; what is still too long
    there is shortened in the middle. The other arguments are those of `aligned`.
    """
    table = [[cell(text) for text in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    kept, waiting = list(range(len(header))), list(spare)

    def room() -> int:
        return WIDTH - sum(widths[column] + 2 for column in kept if column != names)

    while waiting and room() < min(widths[names], _NAME):
        kept.remove(waiting.pop(0))
    most = max(room(), _SHORTEST)
    cut = [[in_the_middle(row[column], most) if column == names else row[column] for column in kept] for row in table]
    flush = [number for number, column in enumerate(kept) if column in left]
    return aligned(cut[0], cut[1:], left=flush), len(kept) < len(header) or widths[names] > most


def in_the_middle(name: str, most: int) -> str:
    """Return a name in at most so many characters: of a longer one the beginning and, twice as much of it, the end."""
    if len(name) <= most:
        return name
    end = (most - 1) * 2 // 3
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Return a table in Markdown (GitHub's dialect), without a final line break.

    The arguments are those of `aligned`.
    """
    rule = [":--" if column in left else "--:" for column in range(len(header))]
    lines = [[in_markdown(cell(text)) for text in row] for row in (header, *rows)]
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def number(value: float | None, digits: int = 4) -> str:
    """Return `value` with `digits` decimals, in scientific notation where these would hide it; "-" for None."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return str(float(value))
    if value and not 10.0**-digits <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.{digits}f}"


def decibels(value: float | None, digits: int = 1) -> str:
    """Return decibels with `digits` decimals, however near to 0 they are; "-" for None."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def by_output(figures: Mapping[str, float | None]) -> str:
    """Return the SQNR of each of several outputs, in brackets and in front of it a space; nothing where all are alike.

    Outputs that were not measured are left out.
    """
    measured = {name: db for name, db in figures.items() if db is not None}
    shown = {name: f"{db:.1f}" for name, db in measured.items()}
    if len(set(shown.values())) < 2:
        return ""
    # NaN first, then the worst
    named = sorted(shown, key=lambda name: (not math.isnan(measured[name]), measured[name]))
    more = f", {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f" ({', '.join(f'{name} {shown[name]}' for name in named[:_NAMED])}{more})"


def file_size(size: int) -> str:
    """Return a size in bytes as text, in the largest unit that fits: 512 B, 307.1 KiB."""
    if size < 1024:
        return f"{size} B"
    power = min(int(math.log(size, 1024)), len(_UNITS))
    return f"{size / 1024**power:.1f} {_UNITS[power - 1]}"


def in_markdown(text: str) -> str:
    """Return a text as one line of Markdown that shows it as it is, also within a cell of a table."""
    return _MARKS.sub(r"\\\g<0>", line(text)).replace("<", "&lt;")

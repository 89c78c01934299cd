"""Numbers of documents as a page shows them: "inf" and "nan" are numbers there, null is "not measured"."""

import math
from collections.abc import Mapping
from typing import Any

from qtool.core.text import rounded
from qtool.report.html.blocks import Cell
from qtool.report.text import decibels, file_size, number
from qtool.report.words import GOOD_DB, POOR_DB

NOT_MEASURED = "not measured"


def real(value: Any) -> float | None:
    """Return a number of a document, infinite ones too; None where it is null or NaN."""
    if value is None or isinstance(value, bool):
        return None
    found = float(value)
    return None if math.isnan(found) else found


def finite(value: Any) -> float | None:
    """Return a number of a document where it is finite, else None."""
    found = real(value)
    return found if found is not None and math.isfinite(found) else None


def db_tone(value: float | None) -> str:
    """Return the tone of an SQNR."""
    if value is None:
        return "muted"
    return "good" if value >= GOOD_DB else "warn" if value >= POOR_DB else "bad"


def db_words(value: float | None) -> str:
    """Return what an SQNR of outputs means, in words."""
    if value is None:
        return NOT_MEASURED
    if value >= GOOD_DB:
        return f"good: {GOOD_DB:g} dB or more"
    return f"fair: {GOOD_DB:g} dB is good" if value >= POOR_DB else f"poor: below {POOR_DB:g} dB costs accuracy"


def db_cell(value: Any) -> Cell:
    """Return the cell of an SQNR in dB."""
    found = real(value)
    return Cell(
        decibels(found), -math.inf if found is None else found, tone=db_tone(found) if found is not None else ""
    )


def number_cell(value: Any, digits: int = 4) -> Cell:
    """Return the cell of a number."""
    found = real(value)
    return Cell(number(found, digits), -math.inf if found is None else found)


def ms_cell(value: float | None) -> Cell:
    """Return the cell of a time in ms."""
    return Cell("-", -1.0) if value is None else Cell(f"{value:.3f}", value)


def count_cell(value: int) -> Cell:
    """Return the cell of a whole number, with a comma at each thousand."""
    return Cell(f"{value:,}", float(value))


def share_cell(value: Any) -> Cell:
    """Return the cell of a share, 0 to 1, in percent."""
    found = real(value)
    if found is None:
        return Cell("-", -1.0)
    return Cell(f"{100 * found:.2f} %", found)


def ratio_cell(value: Any) -> Cell:
    """Return the cell of how many times as fast something is."""
    found = real(value)
    return Cell("-", -1.0) if found is None else Cell(f"{found:.2g}x", found)


def ratio_words(before: float, after: float, smaller: str, larger: str) -> str:
    """Return how many times `smaller` (or `larger`) `after` is than `before`; both are positive."""
    ratio = before / after
    return f"{ratio:.2f}x {smaller}" if ratio >= 1 else f"{1 / ratio:.2f}x {larger}"


def size_bars(rows: Mapping[str, float], unit: str) -> tuple[tuple[str, float, str], ...]:
    """Return the bars of a card: float's first, the others after it, each with its number."""
    most = max(rows.values()) or 1.0
    return tuple(
        (f"{name} {file_size(int(value)) if unit == 'B' else f'{rounded(value)} {unit}'}", value / most, tone)
        for (name, value), tone in zip(rows.items(), ["float", *["int"] * len(rows)], strict=False)
    )

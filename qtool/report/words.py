"""The words for figures, and the rows of a report: a label, and behind it a line for each thing that is said."""

import math
from collections.abc import Sequence

from qtool.core.text import line

GOOD_DB, POOR_DB = 30.0, 15.0
"""Above the first the outputs of most models decide as float's do; below the second most lose accuracy."""
SCALE = f"above {GOOD_DB:.0f} is good, below {POOR_DB:.0f} costs accuracy"
_LABEL = 12


def quality(db: float) -> str:
    """Return what an SQNR of outputs in dB means, in a word."""
    if db == math.inf:
        return "exact"
    return "good" if db >= GOOD_DB else "fair" if db >= POOR_DB else "poor"


def rows(label: str, *texts: str) -> list[str]:
    """Return a line for each text, the first with the label in front; none where there is no text."""
    return [line(f"  {'' if i else label:<{_LABEL}}{text}") for i, text in enumerate(texts)]


def listed(items: Sequence[str], most: int) -> list[str]:
    """Return the first items, and how many more there are."""
    return [*items[:most], *([f"and {len(items) - most} more"] if len(items) > most else [])]

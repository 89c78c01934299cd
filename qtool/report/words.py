"""The words for figures, and the rows of a report: a label, and behind it a line for each thing that is said."""

import math
import shlex
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


def again(typed: Sequence[str], *options: str, without: str = "") -> str:
    """Return a command line with other options, as a shell takes it.

    typed: its words, as they were typed, behind the name of the program. options: words that are added, an option and
    its value where it has one; what was typed for that is left out. without: an option with a value that is left out.
    """
    gone = {word for word in (options[0] if len(options) > 1 else "", without) if word}
    kept, words = [], iter(typed)
    for word in words:
        if word in gone:
            next(words, None)
        elif word.partition("=")[0] not in gone and word not in options:
            kept.append(word)
    return shlex.join(["qtool", *kept, *options])

"""The words for figures, and the rows of a report: a label, and behind it a line for each thing that is said."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from qtool.core.records.verification import percent
from qtool.core.text import amount, line

GOOD_DB, POOR_DB = 30.0, 15.0
"""Above the first the outputs of most models decide as float's do; below the second most lose accuracy."""
SCALE = f"above {GOOD_DB:.0f} is good, below {POOR_DB:.0f} costs accuracy"
HARDLY = "HARDLY QUANTISED"
_HARDLY = 0.1
"""Of the multiply-accumulates: where less is in 8 bits, the accuracy is nearly float's own."""
_LABEL = 12


def quality(db: float) -> str:
    """Return what an SQNR of outputs in dB means, in a word."""
    if db == math.inf:
        return "exact"
    return "good" if db >= GOOD_DB else "fair" if db >= POOR_DB else "poor"


def hardly_quantised(
    layers: int, integer: int, share: float | None, floats: Mapping[str, str], stored: Iterable[str]
) -> tuple[str, ...]:
    """Return how little of a model is in 8 bits, and why most of the rest is not; nothing where it is enough.

    layers, integer: how many there are, and run in integers. share: of the multiply-accumulates, where it is known.
    floats: layer in float -> why. stored: nodes whose weights alone are in 8 bits, which is quantised too.
    """
    done = integer / layers if layers and share is None else share
    if not layers or done is None or done >= _HARDLY or not floats.keys().isdisjoint(stored):
        return ()
    found = f"{integer} of {amount(layers, 'layer')}, {percent(share)} of multiply-accumulates, in integers"
    if not floats:
        return (found,)
    # what tells apart layers of one reason comes behind a colon
    reasons = Counter(why.partition(":")[0] for why in floats.values())
    why, count = reasons.most_common(1)[0]
    return found, f"{count} of {amount(len(floats), 'layer')} in float: {why}"


def beyond_limit(share: float, limit: float | None) -> str:
    """Return why more than `limit` of the multiply-accumulates is left in float for accuracy; "" where it is not more.

    Where a share was asked for, it never is.
    """
    if limit is None or share <= limit:
        return ""
    usual = f"{100 * limit:.4g} %"
    return (
        f"more than the {usual} of the default, which counts no layer that is as fast in float and gives way where "
        f"the model stays faster than float by the target's times; --max-float-macs {usual.replace(' ', '')} keeps "
        "to it"
    )


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

"""Ranges mixed: neighbouring tensors take the calibrator's ranges that give the outputs the best SQNR.

One sweep over groups of tensors in graph order, the others held; a change is kept only where it measures better on the
examples, by a margin above their noise.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.plan import Plan
from qtool.pipeline.planning.planner import Ranges

MOST = 48
"""Plans that are measured, whatever the network."""
_MARGIN_DB = 0.02

Measure = Callable[[Sequence[Plan]], Sequence[float | None]]
"""The SQNR of the worst output with each of some plans, dB; None where there is none."""


def mix_ranges(
    start: Ranges,
    others: Mapping[str, Ranges],
    plan_by: Callable[[Ranges], Plan],
    measure: Measure,
    deadline: float,
    progress: Progress,
) -> tuple[Ranges, int]:
    """Return the ranges after the sweep, and how many tensors changed; it ends early at `deadline` (time.monotonic)."""
    ranges = dict(start)
    best = loudness(measure([plan_by(ranges)])[0])
    groups = _groups(list(start), max(1, MOST // max(1, len(others) - 1)))
    for done, tensors in enumerate(groups):
        progress("mix ranges", done, len(groups))
        if time.monotonic() > deadline:
            break
        held = tuple(ranges[tensor] for tensor in tensors)
        found = dict.fromkeys(tuple(other[tensor] for tensor in tensors) for other in others.values())
        candidates = [{**ranges, **dict(zip(tensors, new, strict=True))} for new in found if new != held]
        figures = measure([plan_by(candidate) for candidate in candidates]) if candidates else []
        for candidate, figure in zip(candidates, figures, strict=True):
            if loudness(figure) > best + _MARGIN_DB:
                best, ranges = loudness(figure), candidate
    return ranges, sum(ranges[tensor] != start[tensor] for tensor in start)


def _groups(tensors: Sequence[str], most: int) -> list[Sequence[str]]:
    """Neighbours together, in groups that differ by one in size at most."""
    count = min(most, len(tensors))
    cuts = [len(tensors) * i // max(1, count) for i in range(count + 1)]
    return [tensors[a:b] for a, b in pairwise(cuts)]

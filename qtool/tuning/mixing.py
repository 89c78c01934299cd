"""Ranges mixed per tensor: each tensor takes the calibrator's range that gives the outputs the best SQNR.

One sweep over the tensors in graph order, the others held; a change is kept only where it measures better on the
examples, by a margin above their noise.
"""

import time
from collections.abc import Callable, Mapping

from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.plan import Plan
from qtool.pipeline.planning.planner import Ranges
from qtool.quantization.scoring import Scorer

_MARGIN_DB = 0.02


def mix_ranges(
    start: Ranges,
    others: Mapping[str, Ranges],
    plan_by: Callable[[Ranges], Plan],
    scorer: Scorer,
    deadline: float,
    progress: Progress,
) -> tuple[Ranges, int]:
    """Return the ranges after the sweep, and how many tensors changed; it ends early at `deadline` (time.monotonic)."""
    ranges, changed = dict(start), 0
    best = loudness(scorer.sqnr_db(plan_by(ranges)))
    for done, tensor in enumerate(start):
        progress("mix ranges", done, len(start))
        found = None
        for candidate in dict.fromkeys(other[tensor] for other in others.values()):
            if candidate == ranges[tensor] or time.monotonic() > deadline:
                continue
            figure = loudness(scorer.sqnr_db(plan_by({**ranges, tensor: candidate})))
            if figure > best + _MARGIN_DB:
                best, found = figure, candidate
        if found is not None:
            ranges[tensor] = found
            changed += 1
    return ranges, changed

"""The timing of what is written beside the float model: a fraction of a second, on the examples."""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.errors import DataError, ModelError
from qtool.core.records.evaluation import Latency
from qtool.core.records.plan import Plan
from qtool.core.records.timing import Timing
from qtool.core.text import rounded
from qtool.evaluation.latency import measure_speed
from qtool.graph import shapes
from qtool.graph.edit import Model
from qtool.graph.serialized import Serialized
from qtool.pipeline.planning.speed import slower_than_float
from qtool.pipeline.verify.original import Original
from qtool.runtime.session import Session
from qtool.targets.costs import costs_of
from qtool.targets.tables import find_target

_SECONDS = 0.6
_ROUNDS = 100
_NAMED = 3


def timed(original: Original, prepared: Model, plan: Plan, proven: Serialized, *, blind: bool) -> Timing:
    """Time the model that a plan makes beside the model as it came; return what was found, or why nothing was.

    `blind`: the examples are made up.
    """
    here = find_target("auto")
    if plan.target != here.name:
        return Timing(absent=f"target {plan.target} is not this machine's, {here.name}")
    if blind or not original.examples:
        return Timing(absent="no data was given" if blind else original.absent)
    try:
        sessions = [
            original.session(),
            Session(proven, config=here.session, name="the quantised model"),
        ]
        found, rounds = measure_speed(sessions, original.examples, _SECONDS, _ROUNDS)
    except (ModelError, DataError) as error:
        return Timing(absent=str(error))
    floating, int8 = found
    causes = () if int8.speedup > 1.0 else _causes(prepared, plan, original.examples)
    return Timing(
        int8.speedup,
        int8.median_ms,
        floating.median_ms,
        rounds,
        causes,
        int8_spread_ms=_spread(int8),
        float_spread_ms=_spread(floating),
        noisy=int8.noisy,
    )


def _spread(found: Latency) -> tuple[float, float] | None:
    return None if found.p10_ms is None or found.p90_ms is None else (found.p10_ms, found.p90_ms)


def _causes(prepared: Model, plan: Plan, examples: Sequence[Mapping[str, np.ndarray]]) -> tuple[str, ...]:
    costs = costs_of(plan.target)
    if costs is None:
        return ()
    known = shapes.known_shapes(prepared, {name: array.shape for name, array in examples[0].items()})
    rows = slower_than_float(prepared, plan.integer, known, costs)
    return tuple(
        f"{plan.integer[name][0]} {name} takes {rounded(integer / 1000)} us, float {rounded(floating / 1000)}"
        for name, integer, floating in rows[:_NAMED]
    )

"""The search for what is faster in float by this machine's clock: regions chosen by a profile, and measured whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from qtool.core.errors import NothingToQuantizeError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.plan import Plan
from qtool.evaluation.latency import measure_speed
from qtool.graph import edit, model_io
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.planning.speed import faster_by_clock
from qtool.pipeline.rewrite.static import rewrite
from qtool.quantization.graphs import FloatGraph
from qtool.runtime.profile import node_times
from qtool.runtime.session import Session
from qtool.targets.rules import Target

AS_PLANNED, NOTHING, PROFILE = "", "nothing in float for speed", "float by profile"
_PROFILE_SECONDS, _SECONDS, _ROUNDS = 2.0, 6.0, 200
_DOUBTS = (1.0, 1.2, 0.8)
"""How many times as long float is taken to last as the profile says: kernels take other times in other company."""
_WORTH = 1.02
_SINGLE = 3
"""How many of the nodes that lose most in integers are also tried in float by themselves, and together."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedPlan:
    """A plan that leaves something else in float, and the median of one run in milliseconds."""

    label: str
    planner: Planner
    plan: Plan
    latency_ms: float


def by_clock(
    graph: FloatGraph, planner: Planner, calibrator: Calibrator, plan: Plan, target: Target
) -> list[TimedPlan]:
    """Return the plan as it is and others that leave more or less in float, measured side by side, the fastest first.

    They are: nothing left in float for speed; the regions that are faster in float by onnxruntime's profile of both
    forms; and the few nodes that lose most by it, one by one and together. The plan itself comes first where no other
    is faster by more than two per cent.
    """
    variants = [(AS_PLANNED, planner, plan)]
    known = {frozenset(plan.integer)}
    for label, other in _planners(graph, planner, calibrator, target):
        try:
            found = other.plan(calibrator, corrected=bool(plan.shifts), refined=bool(plan.refined))
        except NothingToQuantizeError:
            continue
        if frozenset(found.integer) not in known:
            known.add(frozenset(found.integer))
            variants.append((label, other, found))
    sessions = [Session(_serialized(graph, one), config=target.session, name="a candidate") for *_, one in variants]
    times, _ = measure_speed(sessions, graph.statistics.examples, _SECONDS, _ROUNDS)
    timed = [TimedPlan(*one, latency.median_ms) for one, latency in zip(variants, times, strict=True)]
    gains = [
        time.speedup / (1.0 if one.label == AS_PLANNED else _WORTH) for one, time in zip(timed, times, strict=True)
    ]
    return [timed[i] for i in sorted(range(len(timed)), key=lambda i: -gains[i])]


def _planners(
    graph: FloatGraph, planner: Planner, calibrator: Calibrator, target: Target
) -> Iterator[tuple[str, Planner]]:
    def anew(**changes: Any) -> Planner:
        return replace(planner, memo=replace(planner.memo, amendments={}), **changes)

    everything = anew(speed=None)
    yield NOTHING, everything
    plan = everything.plan(calibrator, corrected=False)
    examples = graph.statistics.examples
    integer = node_times(_serialized(graph, plan), examples, target.session, _PROFILE_SECONDS)
    floating = node_times(model_io.serialize(graph.model), examples, None, _PROFILE_SECONDS)
    measured = {}
    for node in graph.model.graph:
        name = str(node.name)
        if name in plan.integer and name in integer:
            ends = [name, str(node.outputs[0].name)]
            follower = edit.single_consumer(node.outputs[0])
            if follower is not None and edit.is_main_op(follower, "Relu", "Clip"):
                ends += [str(follower.name), str(follower.outputs[0].name)]
            # what is fused into another one takes no time of its own
            measured[name] = (integer[name], sum(floating.get(end, 0.0) for end in dict.fromkeys(ends)))
    for doubt in _DOUBTS:
        yield PROFILE, anew(speed=graph.speed(target, measured, doubt))
    # what a border costs depends on what it fuses with, so that only a run of the whole tells
    worst = sorted((name for name, (own, exact) in measured.items() if own > exact), key=lambda n: _lost(measured[n]))
    worst = worst[-_SINGLE:][::-1]
    for names in (*([name] for name in worst), *(worst[:count] for count in range(2, len(worst) + 1))):
        why = {name: faster_by_clock(*measured[name]) for name in names}
        yield PROFILE, anew(speed=lambda _, why=why: why)


def _lost(times: tuple[float, float]) -> float:
    return times[0] - times[1]


def _serialized(graph: FloatGraph, plan: Plan) -> Any:
    return model_io.consume(rewrite(graph.model, plan, graph.memo.weights))

"""Which form layers take: calibrated ranges (static), ranges of each run (dynamic), with outliers migrated or not.

Every candidate is measured as onnxruntime executes it, on the examples that the statistics keep. What candidates have
in common is found once: one pass of the float graph (`survey`) serves smoothing, bias correction, the choice of dynamic
layers and the comparison, and the integers of weights are kept as long as their graph is (`WeightMemo`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qtool.core.errors import UsageError
from qtool.core.plan import Plan
from qtool.core.progress import Progress
from qtool.core.ranges import Calibrator
from qtool.core.results import Trial
from qtool.core.scheme import CORRECTIONS, FORMS, Correction, Form, Scheme
from qtool.core.statistics import Statistics
from qtool.evaluation.latency import measure_latency
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.recovery.smoothing import token_layers
from qtool.runtime.session import Session
from qtool.stages.choose import choose
from qtool.stages.place import place
from qtool.stages.plan import make_plan
from qtool.stages.prepare import Prepared
from qtool.stages.rewrite import rewrite
from qtool.stages.verify.original import Original
from qtool.targets.rules import Target
from qtool.tuning.first import corrected, try_plans
from qtool.tuning.graph_forms import Graph, migrated, surveyed
from qtool.tuning.mixed_forms import better_dynamic
from qtool.tuning.yardstick import Yardstick

Goal = Literal["accuracy", "latency"]
GOALS: tuple[Goal, ...] = ("accuracy", "latency")
_ROUNDS = 15
_WITHIN_DB = 3.0
"""What comes close: for latency, a candidate may have this much less SQNR than the best."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a plan is made for.

    form: that of all layers; None lets measurements choose. calibrators: what to try, one or several.
    smoothing: whether outliers are migrated into weights; auto where it measures better.
    goal: what decides between candidates.

    Raises:
        UsageError: an unknown value.
    """

    scheme: Scheme
    target: Target
    form: Form | None
    calibrators: tuple[Calibrator, ...]
    correction: Correction
    smoothing: Correction
    goal: Goal
    progress: Progress

    def __post_init__(self) -> None:
        named: dict[str, tuple[str, tuple[str, ...]]] = {
            "bias correction": (self.correction, CORRECTIONS),
            "smoothing": (self.smoothing, CORRECTIONS),
            "goal": (self.goal, GOALS),
            "form": (self.form or "static", FORMS),
        }
        for what, (value, known) in named.items():
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}; choose one of {', '.join(known)}")


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    graph: Graph
    plan: Plan
    trial: Trial


def best_plan(
    prepared: Prepared, statistics: Statistics, job: Job, original: Original
) -> tuple[Prepared, Plan, tuple[Trial, ...]]:
    """The graph, its plan, and what was tried, best first (nothing to try: nothing).

    Raises:
        NothingToQuantizeError: no layer has an integer form on the target.
    """
    base = _surveyed(prepared, statistics, job, original)
    schemes = _schemes(base.prepared, job)
    form, scheme = next(iter(schemes.items()))
    graphs = _graphs(base, scheme, job)
    plans = _plans(graphs[0], scheme, job, job.calibrators)
    if len(schemes) == len(graphs) == len(plans) == 1 and job.correction != "auto":
        return graphs[0].prepared, plans[0][1], ()
    assert base.seen is not None
    yardstick = Yardstick(base.model, statistics.examples, job.target.session, base.seen.outputs)
    tries = {form: plans}
    if "dynamic" in schemes:
        # calibrators matter little where layers find their own ranges
        tries["dynamic"] = _plans(graphs[0], schemes["dynamic"], job, job.calibrators[:1])
    found = _tried(graphs[0], tries, job, yardstick)
    for graph in graphs[1:]:
        found[0].graph.memo.integers.clear()
        # what is best on one graph is tried on the other, and dynamic layers where that comes close
        best = _best(found, form)
        other = _tried(graph, {form: _plans(graph, scheme, job, (best.trial.calibrator,))}, job, yardstick)
        if "dynamic" in schemes and other[0].trial.sqnr_db > best.trial.sqnr_db - _WITHIN_DB:
            other += _tried(
                graph, {"dynamic": _plans(graph, schemes["dynamic"], job, job.calibrators[:1])}, job, yardstick
            )
        found += other
        graph.memo.integers.clear()
    if len(schemes) > 1:
        best = _best(found, form)
        found += _tried(best.graph, {"mixed": _mixed(best, scheme, job)}, job, yardstick)
    best = _best(found)
    if job.correction == "auto" and best.plan.shifts:
        bare = (best.trial.calibrator, replace(best.plan, shifts=()))
        found += _tried(best.graph, {best.trial.form: [bare]}, job, yardstick)
    return _ranked(found, job)


def _surveyed(prepared: Prepared, statistics: Statistics, job: Job, original: Original) -> Graph:
    if statistics.samples == 0:
        return Graph(prepared, statistics, None)
    smooths = bool(statistics.channels) and job.smoothing != "off" and job.target.on_cpu
    needed, biases = smooths or len(job.calibrators) > 1, job.correction != "off"
    return surveyed(prepared, statistics, original, soften=job.target.on_cpu, biases=biases, needed=needed)


def _schemes(prepared: Prepared, job: Job) -> dict[str, Scheme]:
    """Label -> scheme. Layers without a static kernel are dynamic where nothing else was asked for."""
    if job.form is not None:
        return {job.form: replace(job.scheme, form=job.form)}
    always = recurrent_layers(prepared.model, job.target)
    result = {"static": replace(job.scheme, dynamic=always)}
    tokens = token_layers(prepared.model) if job.target.rules["MatMul"].dynamic else ()
    if tokens and len(job.calibrators) > 1:
        result["dynamic"] = replace(job.scheme, dynamic=(*always, *tokens))
    return result


def recurrent_layers(model: Model, target: Target) -> tuple[str, ...]:
    """The layers that have a dynamic kernel on the target and no static one, in graph order."""
    rules = {op for op, rule in target.rules.items() if rule.dynamic and not rule.static}
    return tuple(str(node.name) for node in model.graph if node.op_type in rules)


def _graphs(base: Graph, scheme: Scheme, job: Job) -> list[Graph]:
    """The graphs to try: with outliers migrated, as it is."""
    if job.smoothing == "off" or not job.target.on_cpu:
        return [base]
    found = migrated(base, tuple(place(base.model, job.target, scheme, name=base.prepared.name).integer))
    if found is None:
        return [base]
    return [found] if job.smoothing == "on" else [found, base]


def _plans(graph: Graph, scheme: Scheme, job: Job, calibrators: Sequence[Calibrator]) -> list[tuple[Calibrator, Plan]]:
    """A plan by each calibrator, with biases corrected unless that is off; one where no range is calibrated."""
    placement = place(graph.model, job.target, scheme, name=graph.prepared.name)
    chosen = calibrators if placement.sites else calibrators[:1]
    plans = [
        make_plan(
            graph.model,
            placement,
            choose(placement, graph.statistics, calibrator, graph.chosen),
            digest=graph.prepared.digest,
            target=job.target,
            scheme=scheme,
            calibrator=calibrator,
            memo=graph.memo,
        )
        for calibrator in chosen
    ]
    plans = [replace(plan, preparation=graph.prepared.preparation) for plan in plans]
    if job.correction != "off" and graph.seen is not None:
        plans = corrected(graph.model, plans, graph.seen.means, graph.memo)
    return list(zip(chosen, plans, strict=True))


def _tried(
    graph: Graph, tries: Mapping[str, Sequence[tuple[Calibrator, Plan]]], job: Job, yardstick: Yardstick
) -> list[_Candidate]:
    """The plans of one graph by their form, measured."""
    forms = [form for form, plans in tries.items() for _ in plans]
    plans = [pair for pairs in tries.values() for pair in pairs]
    tried = try_plans(graph.model, plans, yardstick, graph.memo, job.progress)
    return [
        _Candidate(graph, plan, replace(trial, form=form, smoothed=graph.smoothed))
        for form, (trial, plan) in zip(forms, tried, strict=True)
    ]


def _mixed(best: _Candidate, scheme: Scheme, job: Job) -> list[tuple[Calibrator, Plan]]:
    """A static candidate with those layers dynamic that are better so; nothing where that is none or all."""
    graph, calibrator = best.graph, best.trial.calibrator
    assert graph.seen is not None
    placement = place(graph.model, job.target, scheme, name=graph.prepared.name)
    ranges, tokens = choose(placement, graph.statistics, calibrator, graph.chosen), token_layers(graph.model)
    names = better_dynamic(graph.model, placement, ranges, tokens, graph.statistics, graph.seen.channels)
    if len(names) in (0, len(tokens)):
        return []
    return _plans(graph, replace(scheme, dynamic=(*scheme.dynamic, *names)), job, (calibrator,))


def _best(found: Sequence[_Candidate], form: str | None = None) -> _Candidate:
    """By SQNR; of equal ones the first."""
    return max((c for c in found if form in (None, c.trial.form)), key=lambda c: c.trial.sqnr_db)


def _ranked(found: Sequence[_Candidate], job: Job) -> tuple[Prepared, Plan, tuple[Trial, ...]]:
    """The chosen candidate, and all trials: first the best of each kind, from the chosen one on, then the others."""
    kinds = dict.fromkeys((c.trial.form, c.trial.smoothed) for c in found)
    finalists = [_best([c for c in found if (c.trial.form, c.trial.smoothed) == kind]) for kind in kinds]
    others = sorted((c for c in found if c not in finalists), key=lambda c: -c.trial.sqnr_db)
    finalists = _chosen(finalists, job)
    best = finalists[0]
    return best.graph.prepared, best.plan, tuple(c.trial for c in (*finalists, *others))


def _chosen(finalists: Sequence[_Candidate], job: Job) -> list[_Candidate]:
    """The candidates, best first: by SQNR, or by latency among those within `_WITHIN_DB` of the best."""
    ranked = sorted(finalists, key=lambda c: -c.trial.sqnr_db)
    if job.goal == "accuracy":
        return ranked
    sessions = [
        Session(model_io.consume(rewrite(c.graph.model, c.plan)), config=job.target.session, name="a candidate")
        for c in ranked
    ]
    timed = measure_latency(sessions, ranked[0].graph.statistics.examples[0], _ROUNDS, job.progress)
    ranked = [replace(c, trial=replace(c.trial, latency_ms=t.median_ms)) for c, t in zip(ranked, timed, strict=True)]
    enough = ranked[0].trial.sqnr_db - _WITHIN_DB
    return sorted(ranked, key=lambda c: (c.trial.sqnr_db < enough, c.trial.latency_ms))

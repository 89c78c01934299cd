"""Which form layers take: calibrated ranges (static), ranges of each run (dynamic), with outliers migrated or not.

Every candidate is measured as onnxruntime executes it, on the examples that the statistics keep. What candidates have
in common is found once: one pass of the float graph (`observe_examples`) serves smoothing, bias correction, the choice
of dynamic layers and the comparison, and the integers of weights are kept as long as their graph is (`WeightMemo`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.progress import Progress
from qtool.core.records.options import CORRECTIONS, FORMS, Correction, Form, Scheme
from qtool.core.records.plan import Plan
from qtool.core.records.results import Trial
from qtool.core.records.statistics import Statistics
from qtool.evaluation.latency import measure_latency
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.plan import make_plan
from qtool.pipeline.planning.ranges import choose
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.smoothing import token_layers
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.original import Original
from qtool.quantization.graphs import FloatForm, migrated, surveyed
from qtool.quantization.mixed import better_dynamic
from qtool.quantization.scoring import Scorer
from qtool.quantization.trials import corrected, try_plans
from qtool.runtime.session import Session
from qtool.targets.rules import Target

Goal = Literal["accuracy", "latency"]
GOALS: tuple[Goal, ...] = ("accuracy", "latency")
_ROUNDS = 15
_WITHIN_DB = 3.0
"""What comes close: for latency, a candidate may have this much less SQNR than the best."""


@dataclass(frozen=True, slots=True)
class Request:
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
        if self.form not in (None, "static") and not any(rule.stored for rule in self.target.rules.values()):
            raise UsageError(
                f"{arg('form', self.form)}: target {self.target.name} has only layers with calibrated ranges; leave "
                "one of them out"
            )
        if self.smoothing == "on" and not self.target.on_cpu:
            raise UsageError(
                f"{arg('smoothing', 'on')}: is for targets on the CPU, not {self.target.name}; leave it out"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    graph: FloatForm
    plan: Plan
    trial: Trial


def best_plan(
    prepared: Prepared, statistics: Statistics, request: Request, original: Original
) -> tuple[Prepared, Plan, tuple[Trial, ...]]:
    """The graph, its plan, and what was tried, best first (nothing to try: nothing).

    Raises:
        NothingToQuantizeError: no layer has an integer form on the target.
    """
    base = _surveyed(prepared, statistics, request, original)
    schemes = _schemes(base.prepared, request)
    form, scheme = next(iter(schemes.items()))
    graphs = _graphs(base, scheme, request)
    plans = _plans(graphs[0], scheme, request, request.calibrators)
    if len(schemes) == len(graphs) == len(plans) == 1 and request.correction != "auto":
        return graphs[0].prepared, plans[0][1], ()
    assert base.seen is not None
    scorer = Scorer(base.model, statistics.examples, request.target.session, base.seen.outputs)
    tries = {form: plans}
    if "dynamic" in schemes:
        # calibrators matter little where layers find their own ranges
        tries["dynamic"] = _plans(graphs[0], schemes["dynamic"], request, request.calibrators[:1])
    found = _tried(graphs[0], tries, request, scorer)
    for graph in graphs[1:]:
        found[0].graph.memo.integers.clear()
        # what is best on one graph is tried on the other, and dynamic layers where that comes close
        best = _best(found, form)
        other = _tried(graph, {form: _plans(graph, scheme, request, (best.trial.calibrator,))}, request, scorer)
        if "dynamic" in schemes and other[0].trial.sqnr_db > best.trial.sqnr_db - _WITHIN_DB:
            other += _tried(
                graph, {"dynamic": _plans(graph, schemes["dynamic"], request, request.calibrators[:1])}, request, scorer
            )
        found += other
        graph.memo.integers.clear()
    if len(schemes) > 1:
        best = _best(found, form)
        found += _tried(best.graph, {"mixed": _mixed(best, scheme, request)}, request, scorer)
    best = _best(found)
    if request.correction == "auto" and best.plan.shifts:
        bare = (best.trial.calibrator, replace(best.plan, shifts=()))
        found += _tried(best.graph, {best.trial.form: [bare]}, request, scorer)
    return _ranked(found, request)


def _surveyed(prepared: Prepared, statistics: Statistics, request: Request, original: Original) -> FloatForm:
    if statistics.samples == 0:
        return FloatForm(prepared, statistics, None)
    smooths = bool(statistics.channels) and request.smoothing != "off" and request.target.on_cpu
    needed, biases = smooths or len(request.calibrators) > 1, request.correction != "off"
    return surveyed(prepared, statistics, original, soften=request.target.on_cpu, biases=biases, needed=needed)


def _schemes(prepared: Prepared, request: Request) -> dict[str, Scheme]:
    """Label -> scheme. Layers without a static kernel are dynamic where nothing else was asked for."""
    if request.form is not None:
        return {request.form: replace(request.scheme, form=request.form)}
    always = recurrent_layers(prepared.model, request.target)
    result = {"static": replace(request.scheme, dynamic=always)}
    tokens = token_layers(prepared.model) if request.target.rules["MatMul"].dynamic else ()
    if tokens and len(request.calibrators) > 1:
        result["dynamic"] = replace(request.scheme, dynamic=(*always, *tokens))
    return result


def recurrent_layers(model: Model, target: Target) -> tuple[str, ...]:
    """The layers that have a dynamic kernel on the target and no static one, in graph order."""
    rules = {op for op, rule in target.rules.items() if rule.dynamic and not rule.static}
    return tuple(str(node.name) for node in model.graph if node.op_type in rules)


def _graphs(base: FloatForm, scheme: Scheme, request: Request) -> list[FloatForm]:
    """The graphs to try: with outliers migrated, as it is."""
    if request.smoothing == "off" or not request.target.on_cpu:
        return [base]
    found = migrated(base, tuple(place(base.model, request.target, scheme, name=base.prepared.name).integer))
    if found is None:
        return [base]
    return [found] if request.smoothing == "on" else [found, base]


def _plans(
    graph: FloatForm, scheme: Scheme, request: Request, calibrators: Sequence[Calibrator]
) -> list[tuple[Calibrator, Plan]]:
    """A plan by each calibrator, with biases corrected unless that is off; one where no range is calibrated."""
    placement = place(graph.model, request.target, scheme, name=graph.prepared.name)
    chosen = calibrators if placement.sites else calibrators[:1]
    plans = [
        make_plan(
            graph.model,
            placement,
            choose(placement, graph.statistics, calibrator, graph.chosen),
            digest=graph.prepared.digest,
            target=request.target,
            scheme=scheme,
            calibrator=calibrator,
            memo=graph.memo,
        )
        for calibrator in chosen
    ]
    plans = [replace(plan, recipe=graph.prepared.recipe) for plan in plans]
    if request.correction != "off" and graph.seen is not None:
        plans = corrected(graph.model, plans, graph.seen.means, graph.memo)
    return list(zip(chosen, plans, strict=True))


def _tried(
    graph: FloatForm, tries: Mapping[str, Sequence[tuple[Calibrator, Plan]]], request: Request, scorer: Scorer
) -> list[_Candidate]:
    """The plans of one graph by their form, measured."""
    forms = [form for form, plans in tries.items() for _ in plans]
    plans = [pair for pairs in tries.values() for pair in pairs]
    tried = try_plans(graph.model, plans, scorer, graph.memo, request.progress)
    return [
        _Candidate(graph, plan, replace(trial, form=form, smoothed=graph.smoothed))
        for form, (trial, plan) in zip(forms, tried, strict=True)
    ]


def _mixed(best: _Candidate, scheme: Scheme, request: Request) -> list[tuple[Calibrator, Plan]]:
    """A static candidate with those layers dynamic that are better so; nothing where that is none or all."""
    graph, calibrator = best.graph, best.trial.calibrator
    assert graph.seen is not None
    placement = place(graph.model, request.target, scheme, name=graph.prepared.name)
    ranges, tokens = choose(placement, graph.statistics, calibrator, graph.chosen), token_layers(graph.model)
    names = better_dynamic(graph.model, placement, ranges, tokens, graph.statistics, graph.seen.channels)
    if len(names) in (0, len(tokens)):
        return []
    return _plans(graph, replace(scheme, dynamic=(*scheme.dynamic, *names)), request, (calibrator,))


def _best(found: Sequence[_Candidate], form: str | None = None) -> _Candidate:
    """By SQNR; of equal ones the first."""
    return max((c for c in found if form in (None, c.trial.form)), key=lambda c: c.trial.sqnr_db)


def _ranked(found: Sequence[_Candidate], request: Request) -> tuple[Prepared, Plan, tuple[Trial, ...]]:
    """The chosen candidate, and all trials: first the best of each kind, from the chosen one on, then the others."""
    kinds = dict.fromkeys((c.trial.form, c.trial.smoothed) for c in found)
    finalists = [_best([c for c in found if (c.trial.form, c.trial.smoothed) == kind]) for kind in kinds]
    others = sorted((c for c in found if c not in finalists), key=lambda c: -c.trial.sqnr_db)
    finalists = _chosen(finalists, request)
    best = finalists[0]
    return best.graph.prepared, best.plan, tuple(c.trial for c in (*finalists, *others))


def _chosen(finalists: Sequence[_Candidate], request: Request) -> list[_Candidate]:
    """The candidates, best first: by SQNR, or by latency among those within `_WITHIN_DB` of the best."""
    ranked = sorted(finalists, key=lambda c: -c.trial.sqnr_db)
    if request.goal == "accuracy":
        return ranked
    sessions = [
        Session(model_io.consume(rewrite(c.graph.model, c.plan)), config=request.target.session, name="a candidate")
        for c in ranked
    ]
    timed = measure_latency(sessions, ranked[0].graph.statistics.examples[0], _ROUNDS, request.progress)
    ranked = [replace(c, trial=replace(c.trial, latency_ms=t.median_ms)) for c, t in zip(ranked, timed, strict=True)]
    enough = ranked[0].trial.sqnr_db - _WITHIN_DB
    return sorted(ranked, key=lambda c: (c.trial.sqnr_db < enough, c.trial.latency_ms))

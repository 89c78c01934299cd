"""Which form layers take: calibrated ranges (static), ranges of each run (dynamic), with outliers migrated or not.

Every candidate is measured as onnxruntime executes it, on the examples that the statistics keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

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
from qtool.recovery.refining import smoothed, softened
from qtool.recovery.smoothing import token_layers
from qtool.runtime.session import Session
from qtool.stages.choose import choose
from qtool.stages.place import place
from qtool.stages.plan import make_plan
from qtool.stages.prepare import Prepared
from qtool.stages.rewrite import rewrite
from qtool.targets.rules import Target
from qtool.tuning.first import first_plan
from qtool.tuning.mixed_forms import better_dynamic
from qtool.tuning.yardstick import Yardstick

Goal = Literal["accuracy", "latency"]
GOALS: tuple[Goal, ...] = ("accuracy", "latency")
_ROUNDS = 15
_WITHIN_DB = 3.0
"""For latency, a candidate may have this much less SQNR than the best."""


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


@dataclass(frozen=True, slots=True)
class _Candidate:
    prepared: Prepared
    plan: Plan
    trial: Trial


def best_plan(prepared: Prepared, statistics: Statistics, job: Job) -> tuple[Prepared, Plan, tuple[Trial, ...]]:
    """The graph, its plan, and what was tried, best first (nothing to try: nothing).

    Raises:
        NothingToQuantizeError: no layer has an integer form on the target.
    """
    seen = job.target.on_cpu and statistics.samples > 0
    base = softened(prepared, statistics.examples) if seen else prepared
    schemes = _schemes(base, job)
    graphs = _graphs(base, statistics, next(iter(schemes.values())), job)
    if len(schemes) == len(graphs) == 1:
        ((ready, known),) = graphs
        plan, trials = _first(ready, known, next(iter(schemes.values())), job, None)
        return ready, plan, trials
    yardstick = Yardstick(base.model, statistics.examples, job.target.session)
    found: list[_Candidate] = []
    tried: list[Trial] = []
    for i, ((label, scheme), (ready, known)) in enumerate(product(schemes.items(), graphs)):
        job.progress("try forms", i, len(schemes) * len(graphs))
        # calibrators matter little where layers find their own ranges; what is best on one graph is tried on the other
        if label == "dynamic":
            calibrators = job.calibrators[:1]
        elif i % len(graphs) == 0:
            calibrators = job.calibrators
        else:
            calibrators = (found[-1].trial.calibrator,)
        plan, trials = _first(ready, known, scheme, replace(job, calibrators=calibrators), yardstick)
        smooth = ready.preparation.smoothing != base.preparation.smoothing
        named = [replace(t, form=label, smoothed=smooth) for t in trials]
        found.append(_Candidate(ready, plan, named[0]))
        tried += named
    if len(schemes) > 1:
        mixed = _mixed(found, schemes["static"], graphs, job, yardstick)
        found += mixed
        tried += [c.trial for c in mixed]
    chosen = _chosen(found, statistics.examples, job)
    order = sorted((t for t in tried if t not in [c.trial for c in chosen]), key=lambda t: -t.sqnr_db)
    best = chosen[0]
    return best.prepared, best.plan, (*(c.trial for c in chosen), *order)


def _mixed(
    found: Sequence[_Candidate],
    scheme: Scheme,
    graphs: Sequence[tuple[Prepared, Statistics]],
    job: Job,
    yardstick: Yardstick,
) -> list[_Candidate]:
    """The best static candidate with those layers dynamic that are better so; nothing where that is none or all."""
    best = max((c for c in found if c.trial.form == "static"), key=lambda c: c.trial.sqnr_db)
    ready, known = next(pair for pair in graphs if pair[0] is best.prepared)
    placement = place(ready.model, job.target, scheme, name=ready.name)
    ranges, tokens = choose(placement, known, best.trial.calibrator), token_layers(ready.model)
    names = better_dynamic(ready.model, placement, ranges, tokens, known.examples)
    if len(names) in (0, len(tokens)):
        return []
    one = replace(job, calibrators=(best.trial.calibrator,))
    plan, trials = _first(ready, known, replace(scheme, dynamic=(*scheme.dynamic, *names)), one, yardstick)
    return [_Candidate(ready, plan, replace(trials[0], form="mixed", smoothed=best.trial.smoothed))]


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


def _graphs(base: Prepared, statistics: Statistics, scheme: Scheme, job: Job) -> list[tuple[Prepared, Statistics]]:
    """The graphs to try with their statistics: as it is, with its outliers migrated."""
    plain = (base, statistics)
    if job.smoothing == "off" or not job.target.on_cpu:
        return [plain]
    layers = place(base.model, job.target, scheme, name=base.name).integer
    found = smoothed(base, statistics, tuple(layers))
    if found is None:
        return [plain]
    return [found] if job.smoothing == "on" else [found, plain]


def _first(
    prepared: Prepared, statistics: Statistics, scheme: Scheme, job: Job, yardstick: Yardstick | None
) -> tuple[Plan, tuple[Trial, ...]]:
    placement = place(prepared.model, job.target, scheme, name=prepared.name)

    def plan_by(calibrator: Calibrator) -> Plan:
        plan = make_plan(
            prepared.model,
            placement,
            choose(placement, statistics, calibrator),
            digest=prepared.digest,
            target=job.target,
            scheme=scheme,
            calibrator=calibrator,
        )
        return replace(plan, preparation=prepared.preparation)

    config, examples = job.target.session, statistics.examples
    calibrators = job.calibrators if placement.sites else job.calibrators[:1]
    return first_plan(prepared.model, plan_by, calibrators, job.correction, examples, config, job.progress, yardstick)


def _chosen(found: Sequence[_Candidate], examples: Sequence[Mapping[str, np.ndarray]], job: Job) -> list[_Candidate]:
    """The candidates, best first: by SQNR, or by latency among those within `_WITHIN_DB` of the best."""
    ranked = sorted(found, key=lambda c: -c.trial.sqnr_db)
    if job.goal == "accuracy":
        return ranked
    sessions = [
        Session(model_io.consume(rewrite(c.prepared.model, c.plan)), config=job.target.session, name="a candidate")
        for c in ranked
    ]
    timed = measure_latency(sessions, examples[0], _ROUNDS, job.progress)
    ranked = [replace(c, trial=replace(c.trial, latency_ms=t.median_ms)) for c, t in zip(ranked, timed, strict=True)]
    enough = ranked[0].trial.sqnr_db - _WITHIN_DB
    return sorted(ranked, key=lambda c: (c.trial.sqnr_db < enough, c.trial.latency_ms))

"""The search for the best plan: which layers have calibrated ranges, which those of each run, and on which float graph.

Every candidate is measured as onnxruntime executes it, on the examples that the statistics keep. What candidates have
in common is found once: one pass of the float graph (`observe_examples`) serves smoothing, bias correction, the choice
of dynamic layers and the comparison, and the integers of weights are kept as long as their graph is (`WeightMemo`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.core.errors import NothingToQuantizeError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.options import Scheme
from qtool.core.records.plan import Plan
from qtool.core.records.results import Trial
from qtool.core.records.statistics import Statistics
from qtool.evaluation.latency import measure_latency
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.planning.selection import static_scheme
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.smoothing import token_layers
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.original import Original
from qtool.quantization.graphs import FloatGraph, migrated, observed_graph
from qtool.quantization.mixed import better_dynamic
from qtool.quantization.request import Request
from qtool.quantization.scoring import Scorer
from qtool.runtime.session import Session
from qtool.targets.rules import Target

_ROUNDS = 15
_WITHIN_DB = 3.0
"""What comes close: for latency, a candidate may have this much less SQNR than the best."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A plan and where it comes from; `trial` says how it measured, None where there was nothing to compare it with."""

    graph: FloatGraph
    planner: Planner
    calibrator: Calibrator
    plan: Plan
    trial: Trial | None = None

    @property
    def sqnr_db(self) -> float:
        """The SQNR of the outputs on the examples, in dB, -inf where they have none; the candidate must have run."""
        assert self.trial is not None
        return loudness(self.trial.sqnr_db)

    def leaving(self, floating: Collection[str], *, settled: bool = True) -> Plan:
        """Return the candidate's plan with some layers (names of nodes) in float; the ranges of the others stay.

        `settled`: see `Planner.plan`.

        Raises:
            ModelError: see `make_plan`.
        """
        if not floating:
            return self.plan
        return self.planner.plan(self.calibrator, floating=floating, corrected=bool(self.plan.shifts), settled=settled)

    def rejecting(self, layers: Mapping[str, str]) -> "Candidate":
        """Return the candidate with layers (name -> why) in float, planned again; it was not measured."""
        self.planner.reject(layers)
        plan = self.planner.plan(self.calibrator, corrected=bool(self.plan.shifts))
        return replace(self, plan=plan)


def best_plan(
    prepared: Prepared, statistics: Statistics, request: Request, original: Original
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Return the best candidate, and what was tried, best first (nothing to try: nothing).

    Raises:
        NothingToQuantizeError: no layer has an integer form on the target.
    """
    base = _observed(prepared, statistics, request, original)
    planners = _planners(base, request)
    form = next(iter(planners))
    graphs = _graphs(base, planners[form], request)
    first = _candidates(graphs[0], planners[form].scheme, request, request.calibrators)
    if len(planners) == len(graphs) == len(first) == 1 and request.correction != "auto":
        return first[0], ()
    assert base.seen is not None
    scorer = Scorer(base.model, statistics.examples, request.target.session, base.seen.outputs)
    tries = {form: first}
    # beside the form that was asked for there is none
    both = len(planners) > 1
    if both:
        # calibrators matter little where layers find their own ranges
        tries["dynamic"] = _possible(graphs[0], planners["dynamic"].scheme, request, request.calibrators[:1])
    found = _tried(tries, request, scorer)
    for graph in graphs[1:]:
        found[0].graph.memo.weights.integers.clear()
        # what is best on one graph is tried on the other, and dynamic layers where that comes close
        best = _best(found, form)
        same = _possible(graph, planners[form].scheme, request, (best.calibrator,))
        other = _tried({form: same}, request, scorer)
        if both and other and other[0].sqnr_db > best.sqnr_db - _WITHIN_DB:
            dynamic = _possible(graph, planners["dynamic"].scheme, request, request.calibrators[:1])
            other += _tried({"dynamic": dynamic}, request, scorer)
        found += other
        graph.memo.weights.integers.clear()
    if both:
        best = _best(found, form)
        scheme = mixed_scheme(best.graph, planners[form].scheme, request.target, best.calibrator)
        if scheme is not None:
            mixed = _possible(best.graph, scheme, request, (best.calibrator,))
            found += _tried({"mixed": mixed}, request, scorer)
    best = _best(found)
    if request.correction == "auto" and best.plan.shifts:
        assert best.trial is not None
        found += _tried({best.trial.form: [replace(best, plan=replace(best.plan, shifts=()))]}, request, scorer)
    return _ranked(found, request)


def _observed(prepared: Prepared, statistics: Statistics, request: Request, original: Original) -> FloatGraph:
    if statistics.samples == 0:
        return FloatGraph(prepared, statistics, None)
    smooths = bool(statistics.channels) and request.smoothing != "off" and request.target.on_cpu
    needed, biases = smooths or len(request.calibrators) > 1, request.correction != "off"
    return observed_graph(prepared, statistics, original, soften=request.target.on_cpu, biases=biases, needed=needed)


def _planners(graph: FloatGraph, request: Request) -> dict[str, Planner]:
    """By label. With one calibrator, or one form, that was asked for, there is one."""
    if request.form is not None:
        schemes: dict[str, Scheme] = {request.form: replace(request.scheme, form=request.form)}
    else:
        schemes = schemes_by_form(graph.model, request.target, request.scheme)
        if len(request.calibrators) == 1:
            schemes.pop("dynamic", None)
    return {label: _planner(graph, scheme, request) for label, scheme in schemes.items()}


def _planner(graph: FloatGraph, scheme: Scheme, request: Request) -> Planner:
    """Where a form or a calibrator is asked for, no layer takes another form by itself."""
    return graph.planner(request.target, scheme, dynamic=request.form is None and len(request.calibrators) > 1)


def schemes_by_form(model: Model, target: Target, scheme: Scheme) -> dict[str, Scheme]:
    """Return what is to be tried where no form is asked for: static, and dynamic where layers over tokens allow it.

    Layers without a kernel for calibrated ranges, as LSTM, are dynamic in both.
    """
    static = static_scheme(model, target, scheme)
    result = {"static": static}
    tokens = _token_layers(model, target)
    if tokens:
        result["dynamic"] = replace(scheme, dynamic=(*static.dynamic, *tokens))
    return result


def mixed_scheme(graph: FloatGraph, scheme: Scheme, target: Target, calibrator: Calibrator) -> Scheme | None:
    """Return the static `scheme` with those layers dynamic that are better so; None where that is none of them, or all.

    What is clipped by the calibrator's ranges, and what each example would have had, decides: see `better_dynamic`.
    """
    assert graph.seen is not None
    planner, tokens = graph.planner(target, scheme, dynamic=True), _token_layers(graph.model, target)
    placement, ranges = planner.placement(), planner.ranges(calibrator)
    names = better_dynamic(graph.model, placement, ranges, tokens, graph.statistics, graph.seen.channels)
    return replace(scheme, dynamic=(*scheme.dynamic, *names)) if len(names) not in (0, len(tokens)) else None


def _token_layers(model: Model, target: Target) -> tuple[str, ...]:
    rule = target.rules.get("MatMul")
    return token_layers(model) if rule is not None and rule.dynamic else ()


def _graphs(base: FloatGraph, planner: Planner, request: Request) -> list[FloatGraph]:
    """The graphs to try: with outliers migrated, as it is."""
    if request.smoothing == "off" or not request.target.on_cpu:
        return [base]
    found = migrated(base, tuple(planner.placement().integer))
    if found is None:
        return [base]
    return [found] if request.smoothing == "on" else [found, base]


def _candidates(
    graph: FloatGraph, scheme: Scheme, request: Request, calibrators: Sequence[Calibrator]
) -> list[Candidate]:
    """One by each calibrator, with biases corrected unless that is off; one where no range is calibrated."""
    planner = _planner(graph, scheme, request)
    chosen = calibrators if planner.placement().sites else calibrators[:1]
    corrected = request.correction != "off" and graph.seen is not None
    return [Candidate(graph, planner, c, planner.plan(c, corrected=corrected)) for c in chosen]


def _possible(
    graph: FloatGraph, scheme: Scheme, request: Request, calibrators: Sequence[Calibrator]
) -> list[Candidate]:
    """The same of a form that need not be: none where onnxruntime runs no layer of it in integers."""
    try:
        return _candidates(graph, scheme, request, calibrators)
    except NothingToQuantizeError:
        return []


def _tried(tries: dict[str, list[Candidate]], request: Request, scorer: Scorer) -> list[Candidate]:
    """The candidates of one graph by their form, measured, in their order."""
    named = [(form, candidate) for form, candidates in tries.items() for candidate in candidates]
    if not named:
        return []
    graph, result = named[0][1].graph, []
    figures = scorer.compare([candidate.plan for _, candidate in named], graph.model, graph.memo.weights)
    for (form, candidate), figure in zip(named, figures, strict=True):
        trial = Trial(candidate.calibrator, bool(candidate.plan.shifts), figure, form=form, smoothed=graph.smoothed)
        result.append(replace(candidate, trial=trial))
        request.progress("try", len(result), len(named))
    return result


def _best(found: Sequence[Candidate], form: str | None = None) -> Candidate:
    """By SQNR; of equal ones the first."""
    return max((c for c in found if c.trial is not None and form in (None, c.trial.form)), key=lambda c: c.sqnr_db)


def _ranked(found: Sequence[Candidate], request: Request) -> tuple[Candidate, tuple[Trial, ...]]:
    """The chosen candidate, and all trials: first the best of each kind, from the chosen one on, then the others."""

    def kind(candidate: Candidate) -> tuple[str, bool]:
        assert candidate.trial is not None
        return candidate.trial.form, candidate.trial.smoothed

    finalists = [_best([c for c in found if kind(c) == wanted]) for wanted in dict.fromkeys(map(kind, found))]
    others = sorted((c for c in found if c not in finalists), key=lambda c: -c.sqnr_db)
    finalists = _chosen(finalists, request)
    return finalists[0], tuple(c.trial for c in (*finalists, *others) if c.trial is not None)


def _chosen(finalists: Sequence[Candidate], request: Request) -> list[Candidate]:
    """The candidates, best first: by SQNR, or by latency among those within `_WITHIN_DB` of the best."""
    ranked = sorted(finalists, key=lambda c: -c.sqnr_db)
    if request.goal == "accuracy":
        return ranked
    sessions = [
        Session(model_io.consume(rewrite(c.graph.model, c.plan)), config=request.target.session, name="a candidate")
        for c in ranked
    ]
    timed = measure_latency(sessions, ranked[0].graph.statistics.examples[0], _ROUNDS, request.progress)
    enough = ranked[0].sqnr_db - _WITHIN_DB
    pairs = zip(ranked, (t.median_ms for t in timed), strict=True)
    timed_ = [replace(c, trial=replace(c.trial, latency_ms=ms)) for c, ms in pairs if c.trial is not None]
    return sorted(timed_, key=lambda c: (c.sqnr_db < enough, c.trial.latency_ms if c.trial else 0.0))

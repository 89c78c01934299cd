"""The search for the best plan: which layers have calibrated ranges, which those of each run, and on which float graph.

Every candidate is measured as onnxruntime executes it, on the examples that the statistics keep. What candidates have
in common is found once: one pass of the float graph (`observe_examples`) serves smoothing, bias correction, the choice
of dynamic layers and the comparison, and the integers of weights are kept as long as their graph is (`WeightMemo`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qtool.core.errors import NothingToQuantizeError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.examples import spread
from qtool.core.records.options import Scheme
from qtool.core.records.results import Trial
from qtool.core.records.statistics import Statistics
from qtool.evaluation.latency import measure_latency
from qtool.graph import model_io
from qtool.graph.bodies import levels
from qtool.graph.edit import Model
from qtool.pipeline.planning.apart import APART
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.planning.selection import static_scheme
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.smoothing import token_layers
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.original import Original
from qtool.quantization.by_clock import AS_PLANNED, by_clock
from qtool.quantization.candidate import Candidate
from qtool.quantization.graphs import FloatGraph, migrated, observed_graph
from qtool.quantization.mixed import better_dynamic
from qtool.quantization.refining import refining_may_gain
from qtool.quantization.request import Request
from qtool.quantization.scoring import KEPT, Scorer, content
from qtool.runtime.session import Session
from qtool.targets.rules import Target

_ROUNDS = 15
_WITHIN_DB = 3.0
"""What comes close: for latency, a candidate may have this much less SQNR than the best."""
_CHEAP = 10**11
"""Multiply-accumulates that the search may take before it measures all candidates on a few examples, the best on all.

A number of them and not of seconds, so that every machine searches alike.
"""
_TIME_PER_DB, _SILENT_DB = 0.02, 20.0
"""The share of the time that one dB of the outputs may take; less than so many dB below 0 are no gain any more."""
_FEW = 4
"""On how many examples candidates are measured at least."""


def best_plan(
    prepared: Prepared, statistics: Statistics, request: Request, original: Original
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Return the best candidate, and what was tried, best first (nothing to try: nothing).

    Raises:
        NothingToQuantizeError: no layer has an integer form on the target.
    """
    base = replace(_observed(prepared, statistics, request, original), everything=request.goal == "size")
    planners = _planners(base, request)
    form = next(iter(planners))
    graphs = _graphs(base, planners[form], request)
    first = _candidates(graphs[0], planners[form].scheme, request, request.calibrators)
    both = len(planners) > 1
    if not both and len(graphs) == len(first) == 1 and request.goal != "latency":
        return _worth_apart(first[0], request), ()
    assert base.seen is not None
    examples, outputs = statistics.examples, base.seen.outputs
    few = _affordable(base.seen.macs, len(examples), len(graphs) * (len(first) + 2 * both))
    picked, thrifty = spread(few, len(examples)), few < len(examples)
    order = [*picked, *(n for n in range(len(examples)) if n not in picked)]
    ordered, exact = [examples[n] for n in order], [outputs[n] for n in order]
    scorer = Scorer(base.model, ordered, request.target.session, exact)
    found: list[Candidate] = []
    here = planners
    for graph in graphs:
        static, same = planners[form].scheme, first
        if found and thrifty:
            # what lost on one graph is not tried on the next
            best = _best(found)
            same = _alike(_possible(graph, static, request, (best.calibrator,)), best)
            here = planners if _form(best) != form else {form: planners[form]}
        elif graph is not graphs[0]:
            same = _possible(graph, static, request, request.calibrators)
        found += _on_graph(graph, same, here, request, scorer, few, thrifty=thrifty)
    sketched: list[Candidate] = []
    if thrifty:
        finalists = _finalists(found, request)
        sketched = sorted((c for c in found if c not in finalists), key=lambda c: -c.sqnr_db)
        found = _tried_again(finalists, request, scorer, len(examples))
        scorer.forget()
    if both:
        best = _best([c for c in (*found, *sketched) if c.trial is not None and c.trial.form == form])
        scheme = mixed_scheme(best.graph, planners[form].scheme, request.target, best.calibrator)
        mixed = [] if scheme is None else _possible(best.graph, scheme, request, (best.calibrator,))
        mixed = _alike(mixed, best) if thrifty else mixed
        found += _tried({"mixed": mixed}, request, scorer, len(examples))
    chosen, trials = _ranked(found, sketched, request)
    chosen = _worth_apart(chosen, request, scorer)
    trials = tuple(one for one in (chosen.trial, *trials[1:]) if one is not None)
    for graph in graphs:
        if graph is not chosen.graph:
            graph.memo.weights.integers.clear()
    if request.goal == "latency" and request.target.on_cpu:
        return _hastened(chosen, trials, request, scorer)
    return chosen, trials


def _worth_apart(chosen: Candidate, request: Request, scorer: Scorer | None = None) -> Candidate:
    """The candidate, or the same with its Concats' parts joined, where keeping these apart takes more than it gains.

    What it takes is by the target's table, in shares of the time; what it gains is measured.
    """
    joined, graph = chosen.joined(), chosen.graph
    divider = None if joined is None else graph.divider(request.target, joined.planner.placement())
    if joined is None or divider is None:
        return chosen
    whole = divider.time(())
    share = divider.time([name for name, why in chosen.plan.skipped.items() if why == APART]) / whole - 1.0
    if share < _TIME_PER_DB:
        return chosen
    scorer = scorer or Scorer(graph.model, graph.statistics.examples, request.target.session)
    apart, figure = scorer.compare([chosen.plan, joined.plan], graph.model, graph.memo.weights)
    if share <= _TIME_PER_DB * (loudness(apart) - max(loudness(figure), -_SILENT_DB)):
        return chosen
    return replace(joined, trial=None if joined.trial is None else replace(joined.trial, sqnr_db=figure))


def _hastened(
    chosen: Candidate, trials: tuple[Trial, ...], request: Request, scorer: Scorer
) -> tuple[Candidate, tuple[Trial, ...]]:
    """The candidate with more or less in float, as this machine's clock says; it comes first among the trials."""
    graph = chosen.graph
    variants = by_clock(graph, chosen.planner, chosen.calibrator, chosen.plan, request.target)
    tried = []
    for variant in variants:
        assert chosen.trial is not None
        figure = chosen.trial.sqnr_db
        if variant.label != AS_PLANNED:
            figure = scorer.sqnr_db(variant.plan, graph.model, graph.memo.weights)
        trial = replace(chosen.trial, sqnr_db=figure, latency_ms=variant.latency_ms, floats=variant.label)
        tried.append(replace(chosen, planner=variant.planner, plan=variant.plan, trial=trial))
    least = max(one.sqnr_db for one in tried) - _WITHIN_DB
    best = next(one for one in tried if one.sqnr_db >= least)
    shown = [best, *(one for one in tried if one is not best)]
    return best, (*(one.trial for one in shown if one.trial is not None), *trials[1:])


def _on_graph(
    graph: FloatGraph, same: list[Candidate], planners: Mapping[str, Planner], request: Request, scorer: Scorer,
    samples: int, *, thrifty: bool,
) -> list[Candidate]:  # fmt: skip
    """Those of the first planner's form, measured, and dynamic ones beside them where there is a planner for that."""
    form = next(iter(planners))
    found = (_in_turn if thrifty else _tried)({form: same}, request, scorer, samples)
    if len(planners) > 1:
        # where layers find their own ranges, calibrators matter to the others alone
        best = [_best(found).calibrator] if found else []
        calibrators = tuple(best if best and thrifty else dict.fromkeys((request.calibrators[0], *best)))
        dynamic = _possible(graph, planners["dynamic"].scheme, request, calibrators)
        if best and thrifty:
            dynamic = _alike(dynamic, _best(found))
        found += _tried({"dynamic": dynamic}, request, scorer, samples)
    return found


def _form(candidate: Candidate) -> str:
    assert candidate.trial is not None
    return candidate.trial.form


def _in_turn(tries: dict[str, list[Candidate]], request: Request, scorer: Scorer, samples: int) -> list[Candidate]:
    """The calibrators, measured with biases corrected, and the best of them without, as long as that is better.

    Correction takes back what rounding the weights shifts, which no calibrator has a part in; so all pairs say little
    more.
    """
    ((form, candidates),) = tries.items()
    corrected = [c for c in candidates if c.plan.shifts]
    found = _tried({form: corrected or candidates}, request, scorer, samples)
    for best in sorted(found, key=lambda c: -c.sqnr_db) if corrected else ():
        plain = [c for c in candidates if _way(c) == (best.calibrator, False, bool(best.plan.refined))]
        other = _tried({form: plain}, request, scorer, samples)
        found += other
        if not other or other[0].sqnr_db <= best.sqnr_db:
            break
    return found


def _alike(candidates: Sequence[Candidate], best: Candidate) -> list[Candidate]:
    """Those by the calibrator of `best`, corrected and refined or not as there; all, where that is none of them."""
    return [c for c in candidates if _way(c) == _way(best)] or list(candidates)


def _affordable(macs: int, examples: int, candidates: int) -> int:
    """How many of the examples, which take so many multiply-accumulates together, all candidates are measured on."""
    if macs * candidates <= _CHEAP:
        return examples
    return min(examples, max(_FEW, int(_CHEAP / (macs / examples * candidates))))


def _observed(prepared: Prepared, statistics: Statistics, request: Request, original: Original) -> FloatGraph:
    if statistics.samples == 0:
        return FloatGraph(prepared, statistics, None)
    smooths = bool(statistics.channels) and request.smoothing != "off" and request.target.on_cpu
    coarse = request.target.saturates or request.scheme.granularity == "per-tensor"
    refines = request.refinement == "on" or (request.refinement == "auto" and coarse)
    needed = smooths or refines or len(request.calibrators) > 1 or request.goal == "latency"
    biases = request.correction != "off"
    hasten = request.target if request.target.on_cpu else None
    return observed_graph(prepared, statistics, original, hasten=hasten, biases=biases, needed=needed)


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
    tokens = [name for level in levels(model) for name in _token_layers(level, target)]
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
    """By each calibrator, with biases corrected and not, as asked for; by one where no range is calibrated."""
    planner = _planner(graph, scheme, request)
    chosen = calibrators if planner.placement().sites else calibrators[:1]
    corrected = request.correction != "off" and graph.seen is not None
    found = [Candidate(graph, planner, c, planner.plan(c, corrected=corrected)) for c in chosen]
    refined = _refined(found, request) if graph.seen is not None else []
    if request.refinement == "on" and refined:
        return refined
    if request.correction == "auto":
        found += [replace(c, plan=replace(c.plan, shifts=())) for c in found if c.plan.shifts]
    return [*found, *refined]


def _refined(found: Sequence[Candidate], request: Request) -> list[Candidate]:
    """The candidates with weights rounded to what their layers compute, where that is asked for or may matter."""
    if request.refinement == "off" or (
        request.refinement == "auto"
        and not any(refining_may_gain(c.graph.model, c.plan, len(c.graph.statistics.examples)) for c in found)
    ):
        return []
    corrects = request.correction != "off"
    tried = [replace(c, plan=c.planner.plan(c.calibrator, corrected=corrects, refined=True)) for c in found]
    return [c for c in tried if c.plan.refined]


def _possible(
    graph: FloatGraph, scheme: Scheme, request: Request, calibrators: Sequence[Calibrator]
) -> list[Candidate]:
    """The same of a form that need not be: none where onnxruntime runs no layer of it in integers."""
    try:
        return _candidates(graph, scheme, request, calibrators)
    except NothingToQuantizeError:
        return []


def _tried(tries: dict[str, list[Candidate]], request: Request, scorer: Scorer, samples: int) -> list[Candidate]:
    """The candidates of one graph by their form, measured on so many samples, in their order."""
    named = [(form, candidate) for form, candidates in tries.items() for candidate in candidates]
    if not named:
        return []
    graph, result = named[0][1].graph, []
    # calibrators may agree in all ranges
    unique = {content(candidate.plan): candidate.plan for _, candidate in named}
    first = samples if samples < scorer.samples else None
    compared = scorer.compare(list(unique.values()), graph.model, graph.memo.weights, first=first)
    figures = dict(zip(unique, compared, strict=True))
    for form, candidate in named:
        trial = Trial(
            candidate.calibrator, bool(candidate.plan.shifts), figures[content(candidate.plan)], form=form,
            smoothed=graph.smoothed, samples=samples, refined=candidate.plan.refined,
        )  # fmt: skip
        result.append(replace(candidate, trial=trial))
        request.progress("try", len(result), len(named))
    return result


def _way(candidate: Candidate) -> tuple[Calibrator, bool, bool]:
    """How its plan was made, on whatever graph."""
    return candidate.calibrator, bool(candidate.plan.shifts), bool(candidate.plan.refined)


def _tried_again(found: Sequence[Candidate], request: Request, scorer: Scorer, samples: int) -> list[Candidate]:
    """The candidates, measured again, graph by graph."""
    result = []
    for graph in dict.fromkeys(candidate.graph for candidate in found):
        tries: dict[str, list[Candidate]] = {}
        for candidate in found:
            if candidate.graph is graph and candidate.trial is not None:
                tries.setdefault(candidate.trial.form, []).append(candidate)
        result += _tried(tries, request, scorer, samples)
    return result


def _finalists(found: Sequence[Candidate], request: Request) -> list[Candidate]:
    """The best few; for latency also the best of each kind."""
    ranked = sorted(found, key=lambda c: -c.sqnr_db)
    different = {(c.graph, content(c.plan)): c for c in reversed(ranked)}
    kept = [c for c in ranked if different[c.graph, content(c.plan)] is c][:KEPT]
    return kept if request.goal != "latency" else [c for c in ranked if c in kept or c in _best_of_each(found)]


def _best_of_each(found: Sequence[Candidate]) -> list[Candidate]:
    """The best of each form and graph, in the order in which these were tried first."""
    kinds: dict[tuple[str, bool], list[Candidate]] = {}
    for candidate in found:
        if candidate.trial is not None:
            kinds.setdefault((candidate.trial.form, candidate.trial.smoothed), []).append(candidate)
    return [_best(same) for same in kinds.values()]


def _best(found: Sequence[Candidate]) -> Candidate:
    """By SQNR; of equal ones the first."""
    return max(found, key=lambda c: c.sqnr_db)


def _ranked(
    found: Sequence[Candidate], sketched: Sequence[Candidate], request: Request
) -> tuple[Candidate, tuple[Trial, ...]]:
    """The chosen candidate, and all trials: first the best of each kind, from the chosen one on, then the others.

    `sketched`: what was measured on fewer samples alone.
    """
    finalists = _best_of_each(found)
    others = [*sorted((c for c in found if c not in finalists), key=lambda c: -c.sqnr_db), *sketched]
    finalists = _chosen(finalists, request)
    return finalists[0], tuple(c.trial for c in (*finalists, *others) if c.trial is not None)


def _chosen(finalists: Sequence[Candidate], request: Request) -> list[Candidate]:
    """The candidates, best first: by SQNR, or by latency among those within `_WITHIN_DB` of the best."""
    ranked = sorted(finalists, key=lambda c: -c.sqnr_db)
    if request.goal != "latency":
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

"""`tune`: the paper's workflow end to end, from a float model and data to the best int8 model found."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import CANDIDATES, Calibrator, listed_calibrators
from qtool.core.progress import Progress, silent
from qtool.core.records.evaluation import MaxDrop, MetricInfo, MetricKind
from qtool.core.records.options import Names, Scheme, share
from qtool.core.records.recipe import ABSORB_BIASES, ASKED, EQUALIZE
from qtool.core.records.tuning import Step, Tuned
from qtool.core.scratch import scratch_folder
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import evaluate, probe, with_boxes
from qtool.evaluation.gates import check_gates, check_max_drop
from qtool.evaluation.metrics.registry import MetricSpec, check_decode, resolve_metric
from qtool.feeds import Data, Feeds, LabelledOptions, open_for_model
from qtool.feeds.reading import unlabelled
from qtool.feeds.source import same_data
from qtool.graph import model_io
from qtool.pipeline.calibration.advice import advising
from qtool.pipeline.calibration.run import count_prepared
from qtool.pipeline.calibration.tensors import CalibratedTensors, find_tensors
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.selection import static_scheme
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.prepare.fixed_inputs import Fixing, parse_fixed
from qtool.pipeline.verify.original import Original
from qtool.quantization.candidates import mixed_scheme, schemes_by_form
from qtool.quantization.graphs import FloatGraph, migrated, observed_graph
from qtool.quantization.halves import halved
from qtool.runtime.providers import find_provider
from qtool.targets.rules import Target
from qtool.targets.tables import find_target, target_of
from qtool.tuning.budget import Budget, Portion
from qtool.tuning.judge import Aim, Judge
from qtool.tuning.search import Attempt, Search
from qtool.tuning.split import Subset, evaluation_subsets, parts, subsets

PathLike = str | Path


@checked_types
def tune(
    model: PathLike,
    data: Data,
    output: PathLike,
    *,
    eval_data: Data | None = None,
    metric: MetricSpec | None = None,
    decode: DecodeSpec | None = None,
    max_drop: MaxDrop | str | float | None = None,
    min_sqnr: float | None = None,
    calibrators: Calibrator | str | Sequence[Calibrator | str] = CANDIDATES,
    max_float_macs: float | str = 0.1,
    time_budget: float | None = None,
    scheme: Scheme | None = None,
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    fix: Fixing = (),
    target: str = "auto",
    samples: int | None = None,
    threads: int = 1,
    provider: str = "cpu",
    executor: Executor | None = None,
    tell: Callable[[Step], None] | None = None,
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Tuned:
    """Search for the best int8 model by the paper's workflow, and return what was tried and found.

    Calibrates once, tries plans, and leaves in float what has to be. The best model so far is on disk from the first
    trial on, also when this is interrupted or out of time.

    Args:
        model, data, scheme, include_ops, exclude_ops, exclude, fix, target, samples, threads, reading: as in
            `calibrate` and `quantize`; `labels` in `reading` are those of `eval_data`, where that is given.
        output: where the best model goes.
        eval_data: labelled data that reports, while `data` calibrates and chooses; where `data` has no labels, every
            other sample of `eval_data` chooses and the others report. None: of four samples of `data` two calibrate,
            one chooses, one reports.
        metric: what to hold, as in `evaluate`; None without labels is agreement with the float model.
        decode: how the outputs become boxes, as in `evaluate`; without labelled boxes box_agreement is held.
        max_drop: of that metric, "1%" of float's value or 0.01 in its unit. None is 1%, and without labels, where
            `min_sqnr` is given, nothing.
        min_sqnr: asked for as well, in dB.
        calibrators: what to try; also as a text such as "max,percentile:99.9".
        max_float_macs: the share of multiply-accumulates that may stay in float, 0 to 1 or "10%".
        time_budget: seconds, or None. It is kept from the first round to the last evaluation, for which room is left:
            where it is short, less of the data calibrates, chooses and reports (at least one sample each), and what is
            not tried is in `Tuned.untried`.
        provider: where the float model is calibrated, and every model judged: cpu, cuda or tensorrt, which alone runs
            target tensorrt and is then what `auto` means. What ranks, and the verification, run on the CPU.
        executor: where data is calibrated, models are judged and layers are ranked; see `calibrate`.
        tell: is told of every model that was tried.

    Raises:
        UsageError, ModelError, DataError, OutputError, VerificationError: as their names say.
    """
    budget = Budget(time_budget)
    compute = Compute(threads, provider, executor, budget.watched(progress))
    tried = listed_calibrators(calibrators)
    drop = None if max_drop is None else MaxDrop.parse(max_drop)
    aim = Aim(metric, drop, min_sqnr, _float_macs(max_float_macs), decode)
    _check_aim(aim)
    runs_on = _measurable(target, provider)
    if eval_data is not None and same_data(data, eval_data):
        raise UsageError(
            f"{arg('eval_data')} is {arg('data')}, so that what chooses would report; leave {arg('eval_data')} out: "
            "other samples report then"
        )
    model_io.check_output(output, model)
    wanted = (scheme or Scheme()).selecting(include_ops, exclude_ops, exclude)
    prepared = prepare(model_io.load(model), parse_fixed(fix))
    plain = reading if eval_data is None else unlabelled(reading)
    with advising(prepared, lambda: open_for_model(prepared.model, data, samples=samples, **plain)):
        placed = static_scheme(prepared.model, runs_on, wanted)
        place(prepared.model, runs_on, placed, name=prepared.name, folded=prepared.folded)
        tensors = find_tensors(prepared)
    parts = _split(prepared, data, eval_data, samples, with_boxes(decode, reading), budget)
    _check_data(model, aim, parts, provider)
    with scratch_folder() as folder:
        starts = _Starts(Path(model), prepared, tensors, runs_on, wanted, aim, parts, folder, budget, compute)
        search = Search(starts.attempts(), Path(output), budget, tell or (lambda _: None), compute.progress)
        stopped = search.complete(tried)
        evaluation = evaluate(
            model,
            [output],
            parts.reporting,
            metrics=None if metric is None else [metric],
            decode=decode,
            threads=threads,
            provider=provider,
            executor=executor,
            progress=progress,
            state=parts.feeds.states,
        )
    best, plan, proof = search.found()
    found = evaluation.candidates[0]
    missed, complete = aim.misses(found), parts.reporting.cut is None
    if best.float_macs > aim.max_float_macs:
        most = f"asked at most {100 * aim.max_float_macs:.4g} %"
        missed = (*missed, f"{100 * best.float_macs:.1f} % of multiply-accumulates in float, {most}")
    reached = aim.reached(found)
    return Tuned(
        output=Path(output),
        met=not missed and complete,
        best=best,
        steps=tuple(search.steps),
        stopped=stopped,
        untried=search.untried,
        split="; ".join((parts.words, *starts.cut())),
        metric=reached.name,
        max_drop=None if reached.drop is None else str(aim.max_drop),
        min_sqnr=min_sqnr,
        missed=missed,
        complete=complete,
        evaluation=evaluation,
        verification=proof,
        plan=plan,
    )


def _float_macs(given: float | str) -> float:
    try:
        return share(given)
    except UsageError as error:
        raise UsageError(f"{arg('max_float_macs')}: {error.marked}") from error


def _check_aim(aim: Aim) -> None:
    """Refuse a target that every model meets, or none can be measured by. Raises `UsageError`."""
    check_gates((), None, aim.min_sqnr)
    found = None if aim.metric is None else resolve_metric(aim.metric)
    check_decode(() if found is None else (found,), aim.decode)
    chosen = None if found is None else found.info
    if chosen is None or chosen.kind is MetricKind.SIMILARITY:
        # of what stands in for it, the share of equal predictions; the metrics by default have the same bounds
        chosen = MetricInfo("what is measured", MetricKind.ACCURACY, lower_is_better=False, worst=0.0)
    check_max_drop(chosen, aim.max_drop)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The data by what it is for. feeds: what calibrates, which is `calibrating` where that is a part of more.

    words: who does what.
    """

    feeds: Feeds
    calibrating: Portion
    choosing: Portion
    reporting: Portion
    words: str


def _split(
    prepared: Prepared,
    data: Data,
    eval_data: Data | None,
    samples: int | None,
    reading: LabelledOptions,
    budget: Budget,
) -> _Parts:
    plain = reading if eval_data is None else unlabelled(reading)
    feeds = open_for_model(prepared.model, data, samples=samples, **plain)
    if eval_data is not None:
        other = open_for_model(prepared.model, eval_data, samples=samples, **reading)
        (calibrating,) = subsets(feeds, 1, (0,))
        choosing, reporting, words = evaluation_subsets(feeds, other)
    else:
        calibrating, choosing, reporting, words = parts(feeds)
    budget.ratio = _ratio(choosing, reporting)
    timed = Portion(calibrating, budget.part)
    return _Parts(
        # all of it is read as it is, and where workers can, by them
        open_for_model(prepared.model, timed, state=feeds.states) if eval_data is None or budget.seconds else feeds,
        timed,
        Portion(choosing, budget.part),
        Portion(reporting, lambda: budget.end),
        words,
    )


def _ratio(choosing: Subset, reporting: Subset) -> float | None:
    if choosing.feeds is reporting.feeds:
        return len(reporting.turns) / len(choosing.turns)
    known = (choosing.feeds.samples, reporting.feeds.samples)
    return None if None in known else (known[1] or 0) / (known[0] or 1)


def _check_data(model: PathLike, aim: Aim, parts: _Parts, provider: str) -> None:
    """Run the float model on a sample that chooses and on one that reports, so that what they lack is said at once."""
    for records in (parts.choosing.records, parts.reporting.records):
        aim.check(probe(model, records, aim.metric, aim.decode, provider=provider, state=parts.feeds.states))


@dataclass(slots=True)
class _Starts:
    """What `tune` starts from: the float graphs that `quantize` tries, and those with channels rescaled between layers.

    Each is calibrated when it is first wanted.
    """

    model: Path
    prepared: Prepared
    tensors: CalibratedTensors
    target: Target
    scheme: Scheme
    aim: Aim
    parts: _Parts
    folder: Path
    budget: Budget
    compute: Compute
    originals: dict[tuple[str, ...], Original] = field(default_factory=dict)
    judges: list[Judge] = field(default_factory=list)
    known: dict[tuple[str, ...], FloatGraph | None] = field(default_factory=dict)

    def attempts(self) -> list[Attempt]:
        """In the order in which they are tried: what mostly serves first."""
        result = []
        for label, graph in (("smoothed, ", self._smoothed), ("", self._plain)):
            result += [
                Attempt(label, self._by_form(graph, "static")),
                Attempt(f"{label}dynamic, ", self._by_form(graph, "dynamic"), every=False),
                Attempt(f"{label}mixed, ", self._mixed(graph), every=False),
            ]
        for label, steps in (("equalised", (EQUALIZE,)), ("equalised and biases absorbed", (EQUALIZE, ABSORB_BIASES))):
            result.append(Attempt(f"{label}, ", self._by_form(functools.partial(self._stepped, *steps), "static")))
        return result

    def _by_form(self, graph: Callable[[], FloatGraph | None], form: str) -> Callable[[Calibrator], Judge | None]:
        def make(_: Calibrator) -> Judge | None:
            found = graph()
            scheme = None if found is None else schemes_by_form(found.model, self.target, self.scheme).get(form)
            return None if found is None or scheme is None else self._judge(found, scheme)

        return make

    def _mixed(self, graph: Callable[[], FloatGraph | None]) -> Callable[[Calibrator], Judge | None]:
        def make(calibrator: Calibrator) -> Judge | None:
            found = graph()
            if found is None:
                return None
            schemes = schemes_by_form(found.model, self.target, self.scheme)
            if "dynamic" not in schemes:
                return None
            scheme = mixed_scheme(found, schemes["static"], self.target, calibrator)
            return None if scheme is None else self._judge(found, scheme)

        return make

    def _plain(self) -> FloatGraph:
        found = self._calibrated()
        assert found is not None
        return found

    def _smoothed(self) -> FloatGraph | None:
        base = self._plain()
        if not self.target.on_cpu:
            return None
        static = schemes_by_form(base.model, self.target, self.scheme)["static"]
        if ("smoothed",) not in self.known:
            integer = base.planner(self.target, static, dynamic=True).placement().integer
            self.known["smoothed",] = migrated(base, tuple(integer))
        return self.known["smoothed",]

    def _stepped(self, *steps: str) -> FloatGraph | None:
        found = self._calibrated(*steps)
        assert found is not None
        return None if found.prepared.recipe.idle else found

    def _calibrated(self, *steps: str) -> FloatGraph | None:
        if steps not in self.known:
            prepared, statistics = count_prepared(self.prepared, steps, self.parts.feeds, self.tensors, self.compute)
            half = halved(prepared, statistics)
            self.originals[steps] = Original(self.model, prepared.widened, half.reporting)
            original = replace(self.originals[steps], examples=half.few)
            soften = self.target.on_cpu and not steps
            self.known[steps] = observed_graph(
                prepared, half.choosing, original, soften=soften, biases=True, needed=True
            )
        return self.known[steps]

    def _judge(self, graph: FloatGraph, scheme: Scheme) -> Judge:
        judge = Judge(
            self.model,
            graph.planner(self.target, scheme, dynamic=True),
            # what masks are made mild of and outliers migrated in has the examples of the graph as it came
            self.originals[tuple(step for step in graph.prepared.recipe.steps if step in ASKED)],
            self.aim,
            self.parts.choosing,
            self.folder,
            self.budget,
            self.compute,
            self.parts.feeds.states,
        )
        self.judges.append(judge)
        return judge

    def cut(self) -> Iterator[str]:
        """Yield how much of the data the time budget let calibrate and choose, where that is not all of it."""
        graph = self.known.get(())
        if self.parts.calibrating.cut is not None and graph is not None:
            yield f"the time budget let only {_samples(graph.statistics.samples)} calibrate"
        chosen = [judge.samples for judge in self.judges if judge.samples is not None]
        if self.parts.choosing.cut is not None and chosen:
            yield f"the time budget let only {_samples(chosen[-1])} choose"


def _samples(count: int) -> str:
    return f"{count} sample{'' if count == 1 else 's'}"


def _measurable(target: str, provider: str) -> Target:
    """The target of that name, which the provider must run as it will be run."""
    find_provider(provider)
    own = target_of(provider)
    runs_on = own if own is not None and target == "auto" else find_target(target)
    if own is not None and runs_on.on_cpu:
        raise UsageError(f"target {runs_on.name} is not for provider {provider}, where tuning measures; leave one out")
    if own is None and not runs_on.on_cpu:
        raise UsageError(
            f"target {runs_on.name} does not run on this machine, where tuning measures; choose another, or "
            f"{arg('provider', runs_on.provider)}"
        )
    return runs_on

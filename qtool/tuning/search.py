"""tune: the paper's workflow. Every calibrator; ranges mixed per tensor; then the worst layers left in float.

Source: the paper, section 6 (post-training quantisation, sensitivity analysis, partial quantisation).
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from qtool.core.errors import ModelError, VerificationError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.progress import Progress
from qtool.core.records.options import Correction
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import FLOAT, TRAINED
from qtool.core.text import amount
from qtool.pipeline.planning.planner import Ranges
from qtool.quantization.refining import refining_may_gain
from qtool.quantization.scoring import Scorer
from qtool.tuning.budget import SPENT, OutOfTimeError
from qtool.tuning.floating import Floating
from qtool.tuning.judge import Judge
from qtool.tuning.mixing import mix_ranges
from qtool.tuning.ranking import Rank, UnrankedError, rank_by_sensitivity
from qtool.tuning.regions import regions_by_quantize
from qtool.tuning.start import Start
from qtool.tuning.trail import Trail
from qtool.tuning.trained import Train, UntrainedError

_MIXING_SHARE = 0.25
"""Of the time that is left."""
_EXAMPLES = 8
"""Batches that mixed ranges are measured on at most."""
_OTHERS = 3
"""Forms of the graph beside the best whose layers are left in float too."""
_MIXED = "ranges mixed"
_GRAPH = "another graph"
"""The name of what a form of the graph takes before its first plan: calibration, and a run over the examples."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A float graph and a form of its layers, to be tried.

    label: in front of what a step is called. make: the judge of its plans, None where the graph has nothing of this
    kind; it is told the calibrator that was best before. every: whether all calibrators matter, or that one is enough.
    """

    label: str
    make: Callable[[Calibrator], Judge | None]
    every: bool = True

    @property
    def name(self) -> str:
        """The label by itself."""
        return self.label.rstrip(", ") or "static"


@dataclass(slots=True)
class Search:
    """The rounds, each begun where those before have not found what the trail asks for.

    attempts: what to try, in this order, each made when its turn comes. refine: whether weights are rounded to what
    their layers compute; auto where that may pay. train: what trains the best plan in the end, None for nothing.
    stopped: why it ended before all was tried.
    """

    attempts: Sequence[Attempt]
    trail: Trail
    progress: Progress
    rank: Rank = rank_by_sensitivity
    refine: Correction = "off"
    train: Train | None = None
    stopped: str | None = None
    ended: bool = False
    _ahead: list[str] = field(default_factory=list)
    _left: Iterator[None] = field(default_factory=lambda: iter(()))
    _floating: Floating | None = None

    @property
    def needed(self) -> float | None:
        """The share of multiply-accumulates that would have to stay in float, where more than may; see `Floating`."""
        return None if self._floating is None else self._floating.needed

    def complete(self, calibrators: Sequence[Calibrator]) -> None:
        """Search until the target is met or all is tried; the best model so far is on disk then.

        Raises:
            KeyboardInterrupt: there is none yet.
            ModelError, VerificationError: no plan at all gave a model; of the first one that did not.
        """
        self._left = self._rounds(calibrators)
        self._advance()

    def go_on(self, demand_db: float) -> None:
        """Search on, since what met the target on the choosing data missed it elsewhere: ask for this SQNR as well."""
        try:
            self.trail.demand(demand_db)
        except OutOfTimeError:
            self.stopped, self.ended = _OUT_OF_TIME, True
            return
        if not self.trail.met:
            self._advance()

    def _advance(self) -> None:
        try:
            for _ in self._left:
                if self.trail.met:
                    return
        except OutOfTimeError:
            self.trail.untried.update(dict.fromkeys(self._ahead, SPENT))
            self.stopped = _OUT_OF_TIME
        except UnrankedError as error:
            self.stopped = f"no layer is left in float, since {error}"
        except KeyboardInterrupt:
            if self.trail.best is None:
                raise
            self.stopped = "interrupted"
        self.ended = True

    def _rounds(self, calibrators: Sequence[Calibrator]) -> Iterator[None]:
        """Yield after each round; the last one trains, also where those before have had the time that they may have."""
        if self.train is None:
            yield from self._searched(calibrators)
            return
        try:
            yield from self._searched(calibrators)
        except OutOfTimeError:
            self.trail.untried.update(dict.fromkeys(self._ahead, SPENT))
        except UnrankedError as error:
            self.trail.untried[FLOAT] = str(error)
        self.trail.budget.reserved = 0.0
        self._trained(self.train)
        yield

    def _trained(self, train: Train) -> None:
        """Try the best plan of those that can be trained, trained."""
        best = self.trail.trainable()
        if best is None:
            self.trail.untried[TRAINED] = "no plan has layers with calibrated ranges"
            return
        what, tried = best
        try:
            plan = train(what, tried.judge, tried.plan)
        except UntrainedError as error:
            self.trail.untried[TRAINED] = str(error)
            return
        self.trail.try_all(tried.judge, {f"{what}, finetuned": lambda: plan}, tried.floating)

    def _searched(self, calibrators: Sequence[Calibrator]) -> Iterator[None]:
        """Yield after each round before."""
        trail = self.trail
        start, calibrator = None, calibrators[0]
        firsts: list[Start] = []
        beside: Sequence[Start] = ()
        self._ahead = [*(attempt.name for attempt in self.attempts), _MIXED, FLOAT]
        for attempt in self.attempts:
            before = trail.best
            starts = self._attempt(attempt, calibrators, calibrator)
            if not starts:
                continue
            if attempt.every:
                calibrator = starts[0].calibrator
            firsts.append(starts[0])
            if start is None or trail.best is not before:
                start, *beside = starts
            yield
        if start is None:
            assert trail.failure is not None
            raise trail.failure
        try:
            start = self._mix(start, calibrators)
        except (ModelError, VerificationError) as error:
            trail.skip(_MIXED, error)
        self._ahead.remove(_MIXED)
        yield
        others = [one for one in firsts if one.judge is not start.judge][:_OTHERS]
        regions = functools.partial(regions_by_quantize, calibrators=calibrators, progress=self.progress)
        self._floating = Floating(trail, start, beside, self.rank, self.progress, others=others, regions=regions)
        yield from self._floating.rounds()

    def _attempt(self, attempt: Attempt, calibrators: Sequence[Calibrator], best: Calibrator) -> list[Start]:
        """What the first round over one form of the graph tries, the best first; nothing where none works."""
        self.trail.budget.check()
        chosen = calibrators if attempt.every else (best,)
        judge = None
        try:
            with self.trail.budget.work(_GRAPH):
                judge = attempt.make(best)
                if judge is not None and not judge.planner.placement().sites:
                    chosen = chosen[:1]
        except (ModelError, VerificationError) as error:
            self.trail.skip(attempt.name, error)
        self._ahead.remove(attempt.name)
        return [] if judge is None else self._first_round(judge, attempt, chosen)

    def _first_round(self, judge: Judge, attempt: Attempt, calibrators: Sequence[Calibrator]) -> list[Start]:
        """Every calibrator, with bias correction and without, and refined; one where no range is calibrated."""
        ways = [
            Start(judge, attempt.label, calibrator, corrected, refined=refined)
            for calibrator in calibrators
            for corrected, refined in ((True, True), (True, False), (False, False))
            if not refined or self.refines(judge, calibrator)
        ]
        starts = {f"{start.label}{start.calibrator}{start.way}": start for start in ways}
        first = self.trail.try_all(judge, {what: start.plan for what, start in starts.items()})
        return [] if first is None else [starts.pop(first.what), *starts.values()]

    def refines(self, judge: Judge, calibrator: Calibrator) -> bool:
        """Return whether refined weights are tried with the ranges of a calibrator."""
        planner = judge.planner
        if self.refine == "off" or planner.scheme.form == "dynamic":
            return False
        try:
            plan = planner.plan(calibrator)
        except (ModelError, VerificationError):
            # the trail says so
            return False
        return bool(plan.weights) and (
            self.refine == "on" or refining_may_gain(judge.model, plan, len(planner.statistics.examples))
        )

    def _mix(self, start: Start, calibrators: Sequence[Calibrator]) -> Start:
        judge, planner, trail = start.judge, start.judge.planner, self.trail
        others = {str(c): planner.ranges(c) for c in calibrators if planner.placement().sites}
        examples = planner.statistics.examples
        scorer = Scorer(judge.model, examples[:: -(-len(examples) // _EXAMPLES)], planner.target.session)

        def plan_by(ranges: Ranges) -> Plan:
            return replace(start, mixed=ranges).plan()

        def measure(plans: Sequence[Plan]) -> list[float | None]:
            return list(scorer.compare(plans, judge.model, planner.memo.weights))

        deadline = time.monotonic() + trail.budget.left * _MIXING_SHARE
        mixed, changed = mix_ranges(start.ranges, others, plan_by, measure, deadline, self.progress)
        if not changed:
            return start
        before = trail.best
        what = f"{start.label}{start.calibrator}, ranges of {amount(changed, 'tensor')} mixed"
        trail.try_all(judge, {what: lambda: plan_by(mixed)})
        return replace(start, mixed=mixed) if trail.best is not before else start


_OUT_OF_TIME = "the time budget is used up"

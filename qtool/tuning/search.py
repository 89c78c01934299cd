"""tune: the paper's workflow. Every calibrator; ranges mixed per tensor; then the worst layers left in float.

Source: the paper, section 6 (post-training quantisation, sensitivity analysis, partial quantisation).
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qtool.core.errors import LayerError, ModelError, VerificationError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.core.text import amount
from qtool.pipeline.planning.planner import Ranges
from qtool.quantization.scoring import Scorer
from qtool.tuning.budget import SPENT, Budget, OutOfTimeError
from qtool.tuning.judge import Judge
from qtool.tuning.mixing import mix_ranges
from qtool.tuning.ranking import Rank, UnrankedError, rank_by_sensitivity

Tell = Callable[[Step], None]
_MIXING_SHARE = 0.25
"""Of the time that is left."""
_ROUNDS = 4
_SHOWN = 3
"""Layers that are named in a line."""
_MIXED, _FLOAT = "ranges mixed", "layers in float"
_Failure = ModelError | VerificationError
"""What makes one plan impossible, and not the whole search."""


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


@dataclass(frozen=True, slots=True)
class _Start:
    """Where to go on from: a plan of the first round. ranges: None are the calibrator's own."""

    judge: Judge
    label: str
    calibrator: Calibrator
    corrected: bool
    mixed: Ranges | None = None

    @property
    def ranges(self) -> Ranges:
        return self.judge.planner.ranges(self.calibrator) if self.mixed is None else self.mixed

    def plan(self, floating: Collection[str] = (), *, settled: bool = True) -> Plan:
        planner = self.judge.planner
        return planner.plan(
            self.calibrator, floating=floating, ranges=self.ranges, corrected=self.corrected, settled=settled
        )


@dataclass(slots=True)
class Search:
    """The trail, and the best so far, which is on disk.

    attempts: what to try, in this order, each made when its turn comes. untried: what was not tried, or could not be,
    and why.
    """

    attempts: Sequence[Attempt]
    output: Path
    budget: Budget
    tell: Tell
    progress: Progress
    rank: Rank = rank_by_sensitivity
    steps: list[Step] = field(default_factory=list)
    best: Step | None = None
    plan: Plan | None = None
    proof: Verification | None = None
    untried: dict[str, str] = field(default_factory=dict)
    floated: dict[frozenset[str], bool] = field(default_factory=dict)
    _ahead: list[str] = field(default_factory=list)
    _failure: _Failure | None = None

    def complete(self, calibrators: Sequence[Calibrator]) -> str | None:
        """Search until the target is met or all is tried; returns why it stopped before, or None.

        The best model so far is on disk then.

        Raises:
            KeyboardInterrupt: there is none yet.
            ModelError, VerificationError: no plan at all gave a model; of the first one that did not.
        """
        try:
            self._search(calibrators)
        except OutOfTimeError:
            self.untried.update(dict.fromkeys(self._ahead, SPENT))
            return "the time budget is used up"
        except UnrankedError as error:
            return f"no layer is left in float, since {error}"
        except KeyboardInterrupt:
            if self.best is None:
                raise
            return "interrupted"
        return None

    def found(self) -> tuple[Step, Plan, Verification]:
        """Return the best step so far, its plan and its proof; at least one plan must have been judged."""
        assert self.best is not None and self.plan is not None and self.proof is not None
        return self.best, self.plan, self.proof

    def _search(self, calibrators: Sequence[Calibrator]) -> None:
        start, calibrator = None, calibrators[0]
        self._ahead = [*(attempt.name for attempt in self.attempts), _MIXED, _FLOAT]
        for attempt in self.attempts:
            before = self.best
            found = self._attempt(attempt, calibrators, calibrator)
            if found is None:
                continue
            if attempt.every:
                calibrator = found.calibrator
            if start is None or self.best is not before:
                start = found
            if self._met():
                return
        if start is None:
            assert self._failure is not None
            raise self._failure
        try:
            start = self._mix(start, calibrators)
        except (ModelError, VerificationError) as error:
            self._skip(_MIXED, error)
        self._ahead.remove(_MIXED)
        if not self._met():
            self._leave_float(start)

    def _attempt(self, attempt: Attempt, calibrators: Sequence[Calibrator], best: Calibrator) -> _Start | None:
        """The best of the first round over one form of the graph; None where there is none, or none that works."""
        self.budget.check()
        chosen = calibrators if attempt.every else (best,)
        judge = None
        try:
            judge = attempt.make(best)
            if judge is not None and not judge.planner.placement().sites:
                chosen = chosen[:1]
        except (ModelError, VerificationError) as error:
            self._skip(attempt.name, error)
        self._ahead.remove(attempt.name)
        return None if judge is None else self._first_round(judge, attempt, chosen)

    def _first_round(self, judge: Judge, attempt: Attempt, calibrators: Sequence[Calibrator]) -> _Start | None:
        """Every calibrator, with bias correction and without; one where no range is calibrated."""
        starts = {
            f"{attempt.label}{calibrator}{', corrected' if corrected else ''}": _Start(
                judge, attempt.label, calibrator, corrected
            )
            for calibrator in calibrators
            for corrected in (True, False)
        }
        first = self._try(judge, {what: start.plan for what, start in starts.items()})
        return None if first is None else starts[first.what]

    def _met(self) -> bool:
        return self.best is not None and self.best.met

    def _try(
        self, judge: Judge, makes: Mapping[str, Callable[[], Plan]], floating: Collection[str] = ()
    ) -> Step | None:
        """Judge, remember, keep the best; returns the best of these, None where none could be judged.

        `makes`: plans that leave `floating`.

        Raises:
            OutOfTimeError: there is no time for all of them.
        """
        judged: list[Step] = []
        names = list(makes)
        while names:
            room = self.budget.room(len(names))
            if room == 0:
                self.untried.update(dict.fromkeys(names, SPENT))
                raise OutOfTimeError
            now, names = names[:room], names[room:]
            judged += self._judged(judge, {what: makes[what] for what in now}, floating)
        return min(judged, key=_key, default=None)

    def _judged(self, judge: Judge, makes: Mapping[str, Callable[[], Plan]], floating: Collection[str]) -> list[Step]:
        """The steps of what could be judged; what is better than all before is on disk."""
        plans: dict[str, Plan] = {}
        for what, make in makes.items():
            try:
                plans[what] = make()
            except (ModelError, VerificationError) as error:
                self._skip(what, error)
        if not plans:
            return []
        try:
            steps = judge.judge(plans)
        except (ModelError, VerificationError) as error:
            if len(plans) > 1:
                return [step for what in plans for step in self._judged(judge, {what: makes[what]}, floating)]
            self._skip(next(iter(plans)), error)
            return []
        result = []
        for what, step in steps.items():
            try:
                kept = self._kept(judge, step, plans[what], makes[what], floating)
            except (ModelError, VerificationError) as error:
                self._skip(what, error)
                continue
            self.steps.append(kept)
            self.tell(kept)
            result.append(kept)
        return result

    def _kept(self, judge: Judge, step: Step, plan: Plan, make: Callable[[], Plan], floating: Collection[str]) -> Step:
        """The step, proven and written if it is the best so far; layers that do not run as planned are planned again.

        Raises:
            ModelError, VerificationError: the model computes something else than planned all the same.
        """
        for again in reversed(range(_ROUNDS)):
            if self.best is not None and not better(step, self.best):
                return step
            try:
                self.proof = judge.write(plan, self.output)
            except LayerError as error:
                if not again or all(plan.skipped.get(name) == why for name, why in error.layers.items()):
                    raise
                judge.planner.reject(error.layers, floating)
                plan = make()
                step = judge.judge({step.what: plan})[step.what]
            else:
                self.best, self.plan = step, plan
                self.budget.binding = True
                return step
        raise AssertionError("the last round returns or raises")

    def _skip(self, what: str, error: _Failure) -> None:
        self.untried[what] = str(error)
        self._failure = self._failure or error

    def _mix(self, start: _Start, calibrators: Sequence[Calibrator]) -> _Start:
        judge, planner = start.judge, start.judge.planner
        others = {str(c): planner.ranges(c) for c in calibrators if planner.placement().sites}
        scorer = Scorer(judge.model, planner.statistics.examples, planner.target.session)

        def plan_by(ranges: Ranges) -> Plan:
            return replace(start, mixed=ranges).plan()

        deadline = time.monotonic() + self.budget.left * _MIXING_SHARE
        mixed, changed = mix_ranges(start.ranges, others, plan_by, scorer, deadline, self.progress)
        if not changed:
            return start
        before = self.best
        what = f"{start.label}{start.calibrator}, ranges of {amount(changed, 'tensor')} mixed"
        self._try(judge, {what: lambda: plan_by(mixed)})
        return replace(start, mixed=mixed) if self.best is not before else start

    def _leave_float(self, start: _Start) -> None:
        """The worst layers in float, as few as do it: by bisection, then each is tried in integers again."""
        judge = start.judge
        ranked = list(self.rank(judge, start.plan, self.progress))
        possible: list[str] = []
        shares: list[float] = []
        for layer in ranked[:-1]:
            share = self._share(start, [*possible, layer])
            if share is not None:
                possible.append(layer)
                shares.append(share)
        ranked = possible
        allowed = {n for n, share in enumerate(shares, 1) if share <= judge.aim.max_float_macs}
        few, many = 0, max(allowed, default=0)
        if many == 0:
            self.untried[_FLOAT] = _no_room(possible, shares, judge.aim.max_float_macs)
            return
        if not self._meets(start, ranked[:many]):
            return
        while many - few > 1:
            middle = (few + many) // 2
            if middle in allowed and self._meets(start, ranked[:middle]):
                many = middle
            else:
                few = middle
        kept = ranked[:many]
        for layer in sorted(kept, key=lambda name: -(judge.macs.get(name) or 0)):
            without = [name for name in kept if name != layer]
            if without and self._meets(start, without):
                kept = without

    def _share(self, start: _Start, layers: Sequence[str]) -> float | None:
        """The float share of multiply-accumulates with these layers in float; None where the last one cannot be."""
        self.budget.check()
        try:
            # as the tables say, without a look at what onnxruntime does
            return start.judge.float_share(start.plan(layers, settled=False))
        except (ModelError, VerificationError) as error:
            self._skip(self._floating(start, layers[-1:]), error)
            return None

    def _meets(self, start: _Start, layers: Sequence[str]) -> bool:
        key = frozenset(layers)
        if key not in self.floated:
            makes = {self._floating(start, layers): lambda: start.plan(layers)}
            step = self._try(start.judge, makes, layers)
            self.floated[key] = step is not None and step.met
        return self.floated[key]

    def _floating(self, start: _Start, layers: Sequence[str]) -> str:
        """What the step is called that leaves these layers in float: as no other one is."""
        taken = {step.what for step in self.steps} | set(self.untried)
        for shown in range(min(_SHOWN, len(layers)), len(layers) + 1):
            more = f" and {len(layers) - shown} more" if len(layers) > shown else ""
            name = f"{start.label}float: {', '.join(layers[:shown])}{more}"
            if name not in taken:
                break
        return name


def _no_room(ranked: Sequence[str], shares: Sequence[float], most: float) -> str:
    """Why no layer is left in float."""
    if not ranked:
        return "no layer can be, while another is quantised"
    return (
        f"the worst layer, {ranked[0]}, holds {100 * shares[0]:.1f} % of the multiply-accumulates, and "
        f"{100 * most:.4g} % may stay in float"
    )


def better(a: Step, b: Step) -> bool:
    """Return whether `a` is to be kept rather than `b`.

    The target first. Where both meet it: the least float, then SQNR, since on small sets drops within the target are
    noise. Where neither does: the smaller drop, then SQNR.
    """
    return _key(a) < _key(b)


def _key(step: Step) -> tuple[bool, float, float, float]:
    drop = 0.0 if step.drop is None else step.drop
    if step.met:
        return (False, step.float_macs, -loudness(step.sqnr_db), drop)
    return (True, drop, -loudness(step.sqnr_db), step.float_macs)

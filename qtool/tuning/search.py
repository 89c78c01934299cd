"""tune: the paper's workflow. Every calibrator; ranges mixed per tensor; then the worst layers left in float.

Source: the paper, section 6 (post-training quantisation, sensitivity analysis, partial quantisation).
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qtool.core.errors import LayerError, ModelError, NothingToQuantizeError
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.core.text import amount
from qtool.pipeline.planning.planner import Ranges
from qtool.quantization.scoring import Scorer
from qtool.tuning.judge import Judge
from qtool.tuning.mixing import mix_ranges
from qtool.tuning.ranking import Rank, UnrankedError, rank_by_sensitivity

Tell = Callable[[Step], None]
_MIXING_SHARE = 0.25
"""Of the time that is left."""
_ROUNDS = 4
_SHOWN = 3
"""Layers that are named in a line."""


class OutOfTimeError(Exception):
    """The time budget is used up; the best model found so far stands."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A float graph and a form of its layers, to be tried.

    label: in front of what a step is called. make: the judge of its plans, None where the graph has nothing of this
    kind; it is told the calibrator that was best before. every: whether all calibrators matter, or that one is enough.
    """

    label: str
    make: Callable[[Calibrator], Judge | None]
    every: bool = True


@dataclass(frozen=True, slots=True)
class _Start:
    """Where to go on from: the best plan of the first round."""

    judge: Judge
    label: str
    calibrator: Calibrator
    ranges: Ranges
    corrected: bool

    def plan(self, floating: Collection[str] = (), *, settled: bool = True) -> Plan:
        planner = self.judge.planner
        return planner.plan(
            self.calibrator, floating=floating, ranges=self.ranges, corrected=self.corrected, settled=settled
        )

    def possible(self, floating: Collection[str]) -> Plan | None:
        """The plan as the tables say, without a look at what onnxruntime does; None where a layer cannot be float."""
        try:
            return self.plan(floating, settled=False)
        except ModelError:
            return None


@dataclass(slots=True)
class Search:
    """The trail, and the best so far, which is on disk.

    attempts: what to try, in this order, each made when its turn comes. deadline: in time.monotonic.
    """

    attempts: Sequence[Attempt]
    output: Path
    deadline: float
    tell: Tell
    progress: Progress
    rank: Rank = rank_by_sensitivity
    steps: list[Step] = field(default_factory=list)
    best: Step | None = None
    plan: Plan | None = None
    proof: Verification | None = None
    floated: dict[frozenset[str], bool] = field(default_factory=dict)

    def complete(self, calibrators: Sequence[Calibrator]) -> str | None:
        """Search until the target is met or all is tried; returns why it stopped before, or None.

        The best model so far is on disk then. Raises `KeyboardInterrupt` where there is none yet.
        """
        try:
            self._search(calibrators)
        except OutOfTimeError:
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
        start, all_ranges, calibrator, nothing = None, {}, calibrators[0], None
        for attempt in self.attempts:
            before = self.best
            try:
                judge = attempt.make(calibrator)
                if judge is None:
                    continue
                found, ranges = self._first_round(judge, attempt, calibrators if attempt.every else (calibrator,))
            except NothingToQuantizeError as error:
                # of this kind onnxruntime runs nothing in integers
                nothing = error
                continue
            if attempt.every:
                calibrator = found.calibrator
            if start is None or self.best is not before:
                start, all_ranges = found, ranges
            if self._met():
                return
        if start is None:
            assert nothing is not None
            raise nothing
        start = self._mix(start, all_ranges)
        if not self._met():
            self._leave_float(start)

    def _first_round(
        self, judge: Judge, attempt: Attempt, calibrators: Sequence[Calibrator]
    ) -> tuple[_Start, dict[str, Ranges]]:
        """Every calibrator, with bias correction and without; one where no range is calibrated."""
        planner = judge.planner
        chosen = calibrators if planner.placement().sites else calibrators[:1]
        ranges = {calibrator: planner.ranges(calibrator) for calibrator in chosen}
        made: dict[str, _Start] = {}
        for calibrator, found in ranges.items():
            for corrected in (True, False):
                what = f"{attempt.label}{calibrator}{', corrected' if corrected else ''}"
                made[what] = _Start(judge, attempt.label, calibrator, found, corrected)
        first = self._try(judge, {what: start.plan for what, start in made.items()})
        return made[first], {str(c): r for c, r in ranges.items()}

    def _met(self) -> bool:
        return self.best is not None and self.best.met

    def _try(self, judge: Judge, makes: Mapping[str, Callable[[], Plan]], floating: Collection[str] = ()) -> str:
        """Judge, remember, keep the best; returns the name of the best of these. `makes`: plans that leave `floating`.

        Raises:
            VerificationError: a model that would be kept computes something else than planned.
        """
        if self.best is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError
        plans = {what: make() for what, make in makes.items()}
        judged = judge.judge(plans)
        for what in judged:
            for again in reversed(range(_ROUNDS)):
                try:
                    self._keep(judge, judged[what], plans[what])
                    break
                except LayerError as error:
                    if not again or all(plans[what].skipped.get(name) == why for name, why in error.layers.items()):
                        raise
                    judge.planner.reject(error.layers, floating)
                    plans[what] = makes[what]()
                    judged[what] = judge.judge({what: plans[what]})[what]
            self.steps.append(judged[what])
            self.tell(judged[what])
        return min(judged, key=lambda what: _key(judged[what]))

    def _keep(self, judge: Judge, step: Step, plan: Plan) -> None:
        """Prove and write the plan's model, if it is the best so far."""
        if self.best is None or better(step, self.best):
            self.proof = judge.write(plan, self.output)
            self.best, self.plan = step, plan

    def _mix(self, start: _Start, others: Mapping[str, Ranges]) -> _Start:
        judge, planner = start.judge, start.judge.planner
        scorer = Scorer(judge.model, judge.original.examples, planner.target.session)

        def plan_by(ranges: Ranges) -> Plan:
            return replace(start, ranges=ranges).plan()

        now = time.monotonic()
        deadline = now + (self.deadline - now) * _MIXING_SHARE
        mixed, changed = mix_ranges(start.ranges, others, plan_by, scorer, deadline, self.progress)
        if not changed:
            return start
        before = self.best
        what = f"{start.label}{start.calibrator}, ranges of {amount(changed, 'tensor')} mixed"
        self._try(judge, {what: lambda: plan_by(mixed)})
        return replace(start, ranges=mixed) if self.best is not before else start

    def _leave_float(self, start: _Start) -> None:
        """The worst layers in float, as few as do it: by bisection, then each is tried in integers again."""
        judge = start.judge
        measured = self.rank(judge, start.plan, self.progress)
        # what cannot be float without others is left as it is
        ranked = [layer for layer in measured if start.possible([layer])]
        plans = {n: start.possible(ranked[:n]) for n in range(1, min(len(ranked) + 1, len(measured)))}
        allowed = {n for n, plan in plans.items() if plan and judge.float_share(plan) <= judge.aim.max_float_macs}
        few, many = 0, max(allowed, default=0)
        if many == 0 or not self._meets(start, ranked[:many]):
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

    def _meets(self, start: _Start, layers: Sequence[str]) -> bool:
        shown = ", ".join(layers[:_SHOWN]) + (f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else "")
        key = frozenset(layers)
        if start.possible(layers) is None:
            return False
        if key not in self.floated:
            self._try(start.judge, {f"{start.label}float: {shown}": lambda: start.plan(layers)}, layers)
            self.floated[key] = self.steps[-1].met
        return self.floated[key]


def better(a: Step, b: Step) -> bool:
    """Return whether `a` is to be kept rather than `b`.

    The target first. Where both meet it: the least float, then SQNR, since on small sets drops within the target are
    noise. Where neither does: the smaller drop, then SQNR.
    """
    return _key(a) < _key(b)


def _key(step: Step) -> tuple[bool, float, float, float]:
    if step.met:
        return (False, step.float_macs, -loudness(step.sqnr_db), step.drop)
    return (True, step.drop, -loudness(step.sqnr_db), step.float_macs)

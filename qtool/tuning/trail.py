"""The models that tuning has tried, and the best of them, which is on disk."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.concurrency import side_by_side
from qtool.core.errors import LayerError, ModelError, VerificationError
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.tuning.budget import SPENT, Budget, OutOfTimeError
from qtool.tuning.judge import Judge

Tell = Callable[[Step], None]
Makes = Mapping[str, Callable[[], Plan]]
"""Plans by what their models are called, each made when its turn comes."""
Failure = ModelError | VerificationError
"""What makes one plan impossible, and not the whole search."""
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan that was judged, and how to make it again without more layers. floating: those that it leaves in float."""

    judge: Judge
    plan: Plan
    make: Callable[[], Plan]
    floating: Collection[str]


@dataclass(slots=True)
class Trail:
    """The steps in order, and the best so far, which is on disk.

    save_plan: where its plan goes. untried: what was not tried, or could not be, and why. demand_db: the SQNR of the
    outputs that is asked for beside the target, since what met the target on the choosing data missed it elsewhere.
    """

    output: Path
    save_plan: Path | None
    budget: Budget
    tell: Tell
    steps: list[Step] = field(default_factory=list)
    best: Step | None = None
    plan: Plan | None = None
    proof: Verification | None = None
    untried: dict[str, str] = field(default_factory=dict)
    demand_db: float = -math.inf
    failure: Failure | None = None
    _tried: dict[str, Tried] = field(default_factory=dict)

    def found(self) -> tuple[Step, Plan, Verification]:
        """Return the best step so far, its plan and its proof; at least one plan must have been judged."""
        assert self.best is not None and self.plan is not None and self.proof is not None
        return self.best, self.plan, self.proof

    @property
    def met(self) -> bool:
        """Whether the best so far meets the target, and what is asked for beside it."""
        return self.best is not None and self.enough(self.best)

    def enough(self, step: Step) -> bool:
        """Return whether a step meets the target, and what is asked for beside it."""
        return enough(step, self.demand_db)

    def demand(self, decibels: float) -> None:
        """Raise the SQNR that is asked for beside the target; the best of what was tried before is on disk then."""
        self.demand_db = decibels
        for step in sorted((step for step in self.steps if step.what in self._tried), key=self._key):
            if self.best is not None and not better(step, self.best, decibels):
                return
            if self._keep(step) is not None:
                return

    def trainable(self) -> tuple[str, Tried] | None:
        """Return the best of what was tried that has layers with calibrated ranges, and what it is called."""
        for step in sorted((step for step in self.steps if step.what in self._tried), key=self._key):
            if self._tried[step.what].plan.weights:
                return step.what, self._tried[step.what]
        return None

    def try_all(self, judge: Judge, makes: Makes, floating: Collection[str] = (), *, keep: bool = True) -> Step | None:
        """Judge plans that leave `floating` in float, keep the best, and return the best of these.

        None where none could be judged. `keep`: whether they may be kept.

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
            judged += self._judged(judge, {what: makes[what] for what in now}, floating, keep=keep)
        return min(judged, key=self._key, default=None)

    def skip(self, what: str, error: Failure) -> None:
        """Record that something could not be tried, and why."""
        self.untried[what] = str(error)
        self.failure = self.failure or error

    def _judged(self, judge: Judge, makes: Makes, floating: Collection[str], *, keep: bool) -> list[Step]:
        """The steps of what could be judged; the best of them is on disk if it is better than all before."""
        begun = time.monotonic()
        plans: dict[str, Plan] = {}
        for what, made in zip(makes, _made(list(makes.values())), strict=True):
            if isinstance(made, ModelError | VerificationError):
                self.skip(what, made)
            else:
                plans[what] = made
        if not plans:
            return []
        try:
            steps = judge.judge(plans)
        except (ModelError, VerificationError) as error:
            if len(plans) > 1:
                alone = ({what: makes[what]} for what in plans)
                return [step for one in alone for step in self._judged(judge, one, floating, keep=keep)]
            self.skip(next(iter(plans)), error)
            return []
        self.budget.tried(time.monotonic() - begun, 1 + len(plans))
        try:
            if keep:
                self._tried |= {what: Tried(judge, plan, makes[what], floating) for what, plan in plans.items()}
                steps = self._best_kept(steps)
        finally:
            for step in steps.values():
                self.steps.append(step)
                self.tell(step)
        return list(steps.values())

    def _best_kept(self, steps: Mapping[str, Step]) -> dict[str, Step]:
        """The steps without those that cannot be; proving takes long, so that it is done for the best of them alone."""
        result = dict(steps)
        for step in sorted(steps.values(), key=self._key):
            if self.best is not None and not better(step, self.best, self.demand_db):
                break
            kept = self._keep(step)
            if kept is None:
                del result[step.what]
                continue
            result[step.what] = kept
        return result

    def _keep(self, step: Step) -> Step | None:
        """The step, proven and written if it is the best so far; layers that do not run as planned are planned again.

        None where the model computes something else than planned all the same.
        """
        tried = self._tried[step.what]
        try:
            return self._kept(step, tried)
        except (ModelError, VerificationError) as error:
            self.skip(step.what, error)
            del self._tried[step.what]
            return None

    def _kept(self, step: Step, tried: Tried) -> Step:
        judge, plan = tried.judge, tried.plan
        for again in reversed(range(_ROUNDS)):
            if self.best is not None and not better(step, self.best, self.demand_db):
                return step
            try:
                written, self.proof = judge.write(plan, self.output, self.save_plan)
            except LayerError as error:
                if not again or all(plan.skipped.get(name) == why for name, why in error.layers.items()):
                    raise
                judge.planner.reject(error.layers, tried.floating)
                plan = tried.make()
                step = judge.judge({step.what: plan})[step.what]
            else:
                self.best, self.plan = step, written
                self.budget.binding = True
                return step
        raise AssertionError("the last round returns or raises")

    def _key(self, step: Step) -> tuple[int, float, float, float]:
        return _key(step, self.demand_db)


def _made(makes: Sequence[Callable[[], Plan]]) -> list[Plan | Failure]:
    """The plans, or why there is none; the first finds out what they share, the others are made side by side."""

    def made(make: Callable[[], Plan]) -> Plan | Failure:
        try:
            return make()
        except (ModelError, VerificationError) as error:
            return error

    return [*map(made, makes[:1]), *side_by_side(made, makes[1:])]


def enough(step: Step, demand_db: float) -> bool:
    """Return whether a step meets the target and has this SQNR too."""
    return step.met and (demand_db == -math.inf or loudness(step.sqnr_db) >= demand_db)


def better(a: Step, b: Step, demand_db: float = -math.inf) -> bool:
    """Return whether `a` is to be kept rather than `b`.

    The target first, and the SQNR that is asked for beside it. Where both have these: the least float, then SQNR, since
    on small sets drops within the target are noise. Where neither has: of those that meet the target the higher SQNR,
    else the smaller drop, then SQNR.
    """
    return _key(a, demand_db) < _key(b, demand_db)


def _key(step: Step, demand_db: float) -> tuple[int, float, float, float]:
    drop = 0.0 if step.drop is None else step.drop
    if enough(step, demand_db):
        return (0, step.float_macs, -loudness(step.sqnr_db), drop)
    if step.met:
        return (1, -loudness(step.sqnr_db), step.float_macs, drop)
    return (2, drop, -loudness(step.sqnr_db), step.float_macs)

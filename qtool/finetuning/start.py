"""The plan that a training begins with: a given one, or the best that `quantize` finds and that can be trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qtool.core.compute import Compute
from qtool.core.errors import NothingToQuantizeError, VerificationError
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import ABSORB_BIASES, EQUALIZE
from qtool.core.records.statistics import Statistics
from qtool.feeds import open_for_model
from qtool.finetuning.samples import Samples
from qtool.pipeline.calibration.run import count_prepared
from qtool.pipeline.calibration.tensors import find_tensors
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.steps import statistics_for
from qtool.pipeline.verify.original import Original
from qtool.quantization.decision import Decision, decide, mend, prove
from qtool.quantization.given import as_calibrated, given_plan
from qtool.quantization.halves import halved
from qtool.quantization.request import Request
from qtool.quantization.scoring import Scorer
from qtool.quantization.wanted import MAX_FLOAT_MACS, Wanted
from qtool.targets.tables import TARGETS

PathLike = str | Path
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Beginning:
    """The plan to begin with.

    dynamic: the better one that `quantize` would have taken, which has nothing to train. others: with weights that are
    rounded to what their layers compute, and of an equalised graph.
    """

    decision: Decision
    dynamic: Decision | None = None
    others: tuple[Decision, ...] = ()

    def better(self, choosing: Sequence[Arrays]) -> "Beginning":
        """Return the beginning with the plan, of its own and the others, that has most SQNR on those that choose.

        Raises:
            ModelError, DataError: the model does not run on them.
        """
        if not self.others:
            return self
        found = (self.decision, *self.others)
        # of equals the first
        best = max(found, key=lambda one: _figure(one, choosing))
        return replace(self, decision=best, others=())


def _figure(decision: Decision, choosing: Sequence[Arrays]) -> float:
    config = TARGETS[decision.plan.target].session
    return loudness(Scorer(decision.prepared.model, choosing, config).sqnr_db(decision.plan))


@dataclass(frozen=True, slots=True)
class Given:
    """The graph that a plan or statistics are for, with either; with neither, as it is prepared."""

    prepared: Prepared
    plan: Plan | None = None
    statistics: Statistics | None = None

    @classmethod
    def of(cls, prepared: Prepared, plan: PathLike | Plan | None, calibration: PathLike | Statistics | None) -> "Given":
        """Return what was given. Raises `UsageError`, `CalibrationError`: it is of another graph, or damaged."""
        if plan is not None:
            return cls(*given_plan(plan, prepared))
        if calibration is None:
            return cls(prepared)
        statistics = statistics_for(prepared, calibration)
        return cls(as_calibrated(prepared, statistics, ()), None, statistics)

    def beginning(self, training: Samples, request: Request, compute: Compute, *, partial: bool) -> Beginning:
        """Return the plan to begin with: without one or statistics, by those of the samples that train.

        These are counted of the equalised graph too then, with biases absorbed.

        Raises:
            ModelError, VerificationError: see `quantize`.
            DataError: the model does not run on the samples.
        """
        if self.plan is not None:
            return Beginning(Decision(self.prepared, self.plan))
        if self.statistics is not None:
            return find_beginning(self.prepared, self.statistics, request, partial=partial)
        prepared, statistics = calibrated_on(self.prepared, training, compute)
        found = find_beginning(prepared, statistics, request, partial=partial)
        even, statistics = calibrated_on(self.prepared, training, compute, (EQUALIZE, ABSORB_BIASES))
        if len(even.recipe.idle) == len(even.recipe.steps):
            return found
        try:
            other = find_beginning(even, statistics, request, partial=partial)
        except (NothingToQuantizeError, VerificationError):
            return found
        return replace(found, others=(*found.others, other.decision, *other.others))


def find_beginning(prepared: Prepared, statistics: Statistics, request: Request, *, partial: bool) -> Beginning:
    """Return the best plan that `quantize` finds; where that has dynamic layers alone, the best of static ones.

    Raises:
        ModelError, UsageError, VerificationError: see `quantize`.
    """
    half = halved(prepared, statistics)
    original = Original(prepared.path, prepared.widened, half.reporting)
    wanted = Wanted.of(None, MAX_FLOAT_MACS) if partial else None

    def best(request: Request) -> Decision:
        proven = prove(decide(prepared, half, request, original), original)
        return mend(proven, wanted, request, original).decision

    found = best(request)
    if found.plan.weights or not found.plan.dynamic:
        return Beginning(found, others=_refined(found, request, best))
    static = replace(request, form="static", scheme=replace(request.scheme, form="static"))
    try:
        beginning = best(static)
        return Beginning(beginning, found, _refined(beginning, static, best))
    except NothingToQuantizeError:
        # what is trained says that there is nothing to train
        return Beginning(found)


def _refined(found: Decision, request: Request, best: Callable[[Request], Decision]) -> tuple[Decision, ...]:
    """The best plan of those whose weights are rounded to what their layers compute, where there is one."""
    if found.plan.refined or not found.plan.weights:
        return ()
    try:
        refined = best(replace(request, form="static", refinement="on"))
    except (NothingToQuantizeError, VerificationError):
        return ()
    return (refined,) if refined.plan.refined else ()


def calibrated_on(
    prepared: Prepared, training: Samples, compute: Compute, steps: Sequence[str] = ()
) -> tuple[Prepared, Statistics]:
    """Return the graph after these steps, and its statistics of the samples that train.

    Raises:
        DataError: the model does not run on the samples.
    """

    def training_samples() -> Iterator[dict[str, np.ndarray]]:
        return (training[index] for index in range(len(training)))

    feeds = open_for_model(prepared.model, training_samples)
    return count_prepared(prepared, steps, feeds, find_tensors(prepared), compute)

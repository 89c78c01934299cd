"""The plan that a training begins with: a given one, or the best that `quantize` finds and that can be trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qtool.core.compute import Compute
from qtool.core.errors import NothingToQuantizeError, VerificationError
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.plan import Plan
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

    dynamic: the better one that `quantize` would have taken, which has nothing to train. refined: another one, whose
    weights are rounded to what their layers compute, or None.
    """

    decision: Decision
    dynamic: Decision | None = None
    refined: Decision | None = None

    def better(self, choosing: Sequence[Arrays]) -> "Beginning":
        """Return the beginning with the plan, of its own and the refined one, that has more SQNR on those that choose.

        Raises:
            ModelError, DataError: the model does not run on them.
        """
        if self.refined is None:
            return self
        figures = []
        for one in (self.decision, self.refined):
            config = TARGETS[one.plan.target].session
            figures.append(loudness(Scorer(one.prepared.model, choosing, config).sqnr_db(one.plan)))
        best = self.refined if figures[1] > figures[0] else self.decision
        return replace(self, decision=best, refined=None)


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

        Raises:
            ModelError, VerificationError: see `quantize`.
            DataError: the model does not run on the samples.
        """
        if self.plan is not None:
            return Beginning(Decision(self.prepared, self.plan))
        statistics = self.statistics or calibrated_on(self.prepared, training, compute)
        return find_beginning(self.prepared, statistics, request, partial=partial)


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
        return Beginning(found, refined=_refined(found, request, best))
    static = replace(request, form="static", scheme=replace(request.scheme, form="static"))
    try:
        beginning = best(static)
        return Beginning(beginning, found, _refined(beginning, static, best))
    except NothingToQuantizeError:
        # what is trained says that there is nothing to train
        return Beginning(found)


def _refined(found: Decision, request: Request, best: Callable[[Request], Decision]) -> Decision | None:
    """The best plan of those whose weights are rounded to what their layers compute; None where there is none."""
    if found.plan.refined or not found.plan.weights:
        return None
    try:
        refined = best(replace(request, form="static", refinement="on"))
    except (NothingToQuantizeError, VerificationError):
        return None
    return refined if refined.plan.refined else None


def calibrated_on(prepared: Prepared, training: Samples, compute: Compute) -> Statistics:
    """Return the statistics of the samples that train. Raises `DataError`: the model does not run on them."""

    def training_samples() -> Iterator[dict[str, np.ndarray]]:
        return (training[index] for index in range(len(training)))

    feeds = open_for_model(prepared.model, training_samples)
    return count_prepared(prepared, (), feeds, find_tensors(prepared), compute)[1]

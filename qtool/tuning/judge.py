"""Makes and judges plans for one model: everything that tuning varies, in one place."""

import glob
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.evaluation import Evaluation, MaxDrop, ModelResult
from qtool.core.records.options import Scheme
from qtool.core.records.plan import BiasShift, Plan, WeightPlan
from qtool.core.records.statistics import Statistics
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.core.state import State
from qtool.evaluation.evaluate import evaluate
from qtool.evaluation.metrics.registry import MetricSpec
from qtool.graph import external, model_io
from qtool.graph.model_files import model_files, model_size
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.plan import make_plan
from qtool.pipeline.planning.ranges import choose
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.pipeline.rewrite.static import rewrite, shift_biases
from qtool.pipeline.verify import verify
from qtool.pipeline.verify.macs import layer_macs
from qtool.pipeline.verify.original import Original
from qtool.targets.rules import Target
from qtool.tuning.split import Records

Ranges = Mapping[str, tuple[float, float]]
_AT_ONCE = 2**28
"""Bytes of models that are measured in one pass even where float is smaller."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What tuning aims at.

    metric: None is as in `evaluate`, and without labels agreement with the float model. max_drop: of that metric.
    min_sqnr: of the outputs, dB, or None. max_float_macs: the share of multiply-accumulates that may stay float.
    """

    metric: MetricSpec | None
    max_drop: MaxDrop
    min_sqnr: float | None
    max_float_macs: float

    def meets(self, result: ModelResult) -> bool:
        """Whether the drop, and the SQNR where one is asked for, are within the target."""
        loud = self.min_sqnr is None or _number(result.sqnr_db) >= self.min_sqnr
        return loud and self.drop(result) <= self.max_drop.value

    def drop(self, result: ModelResult) -> float:
        """In the terms of the target: relative or absolute; without labels, the share of other predictions; NaN is inf.

        Raises:
            UsageError: there are neither labels nor classes, and no SQNR is asked for.
        """
        score = result.scores[0]
        if score.drop is None and result.agreement is not None:
            return 1.0 - result.agreement
        if score.drop is None:
            if self.min_sqnr is None:
                raise UsageError(
                    f"there are neither labels nor class scores to aim at; give {arg('min_sqnr')} or {arg('metric')}"
                )
            return 0.0
        found = score.relative_drop if self.max_drop.relative else score.drop
        if found is None:
            found = 0.0 if score.drop <= 0 else math.inf
        return math.inf if math.isnan(found) else found


@dataclass(slots=True)
class Judge:
    """A prepared model with its statistics, and the data that chooses.

    source: the float model's path. folder: for candidates. choosing: the records that candidates are judged on.
    states: what is fed back there. provider, executor: where candidates are judged.
    """

    source: Path
    prepared: Prepared
    statistics: Statistics
    target: Target
    scheme: Scheme
    aim: Aim
    choosing: Records
    folder: Path
    threads: int
    states: tuple[State, ...] = ()
    provider: str = "cpu"
    executor: Executor | None = None
    macs: dict[str, int] = field(default_factory=dict)
    shifts: dict[tuple[WeightPlan, ...], tuple[BiasShift, ...]] = field(default_factory=dict)
    original: Original = field(init=False)

    def __post_init__(self) -> None:
        self.original = Original(self.source, self.prepared.widened, self.statistics.examples)

    def ranges(self, calibrator: Calibrator) -> Ranges:
        """Root tensor -> range, of the placement without exclusions."""
        placement = place(self.prepared.model, self.target, self.scheme, name=self.prepared.name)
        return choose(placement, self.statistics, calibrator)

    def plan(
        self, calibrator: Calibrator, ranges: Ranges, floating: Sequence[str] = (), *, corrected: bool = True
    ) -> Plan:
        """The plan with these ranges, the layers `floating` left in float, and the biases corrected."""
        scheme = replace(self.scheme, exclude=(*self.scheme.exclude, *map(glob.escape, floating)))
        placement = place(self.prepared.model, self.target, scheme, name=self.prepared.name)
        known = all(root in ranges for root in placement.calibrated)
        found = {} if known else choose(placement, self.statistics, calibrator)
        plan = make_plan(
            self.prepared.model,
            placement,
            {**found, **ranges},
            digest=self.prepared.digest,
            target=self.target,
            scheme=scheme,
            calibrator=calibrator,
        )
        plan = replace(plan, recipe=self.prepared.recipe)
        if not corrected:
            return plan
        if plan.weights not in self.shifts:
            self.shifts[plan.weights] = correct_biases(self.prepared.model, plan, self.statistics.examples).shifts
        return replace(plan, shifts=self.shifts[plan.weights])

    def judge(self, plans: Mapping[str, Plan]) -> dict[str, Step]:
        """Each plan's model on the choosing data, in one pass for as many as are together no larger than float."""
        steps: dict[str, Step] = {}
        waiting: dict[str, Path] = {}
        room = total = max(model_size(self.source), _AT_ONCE)

        def measure() -> None:
            found = self.evaluate(list(waiting.values()), self.choosing).candidates
            for (what, file), result in zip(waiting.items(), found, strict=True):
                steps[what] = self._step(what, plans[what], result)
                for part in model_files(file):
                    part.unlink()
            waiting.clear()
            external.let_go()

        for i, (what, plan) in enumerate(plans.items()):
            file = self.folder / f"candidate{i}.onnx"
            size = model_io.write(model_io.consume(rewrite(self.prepared.model, plan)), file)
            if waiting and size > room:
                measure()
                room = total
            waiting[what] = file
            room -= size
        measure()
        return steps

    def evaluate(self, files: Sequence[Path], records: Records) -> Evaluation:
        """Models beside float on some part of the data."""
        metrics = None if self.aim.metric is None else [self.aim.metric]
        return evaluate(
            self.source,
            files,
            records,
            metrics=metrics,
            threads=self.threads,
            provider=self.provider,
            executor=self.executor,
            state=self.states,
        )

    def _step(self, what: str, plan: Plan, result: ModelResult) -> Step:
        score = result.scores[0]
        drop = self.aim.drop(result)
        share = self.float_share(plan)
        floating = sum(layer not in plan.integer for layer in plan.layers)
        met = self.aim.meets(result) and share <= self.aim.max_float_macs
        return Step(what, score.value, drop, _number(result.sqnr_db), floating, share, met)

    def float_share(self, plan: Plan) -> float:
        """The share of multiply-accumulates in layers that the plan leaves in float."""
        if not self.macs:
            self.macs = layer_macs(self.prepared.model, plan.layers, self.statistics.examples[0])
        total = sum(self.macs.values())
        return sum(n for layer, n in self.macs.items() if layer not in plan.integer) / total if total else 0.0

    def write(self, plan: Plan, output: Path) -> Verification:
        """Verify, then write atomically."""
        data = model_io.consume(rewrite(self.prepared.model, plan))
        shifted = shift_biases(self.prepared.model, plan)
        proof = verify(self.original, self.prepared.model, shifted, data, plan, self.target)
        model_io.write(data, output)
        return proof


def _number(sqnr: float | None) -> float:
    return float("inf") if sqnr is None else sqnr

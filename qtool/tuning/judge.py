"""Judges plans by what tuning aims at: their models beside the float one, on the data that chooses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.compute import Compute
from qtool.core.errors import UsageError, arg
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.evaluation import Evaluation, MaxDrop, ModelResult
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.core.state import State
from qtool.evaluation.evaluate import evaluate
from qtool.evaluation.metrics.registry import MetricSpec
from qtool.graph import external, model_io
from qtool.graph.edit import Model
from qtool.graph.model_files import model_files, model_size
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify import verify
from qtool.pipeline.verify.macs import count_macs, known_total
from qtool.pipeline.verify.original import Original
from qtool.tuning.split import Records

_AT_ONCE = 2**28
"""Bytes of models that are measured in one pass even where float is smaller."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The target that tuning aims at.

    metric: None is as in `evaluate`, and without labels agreement with the float model. max_drop: of that metric.
    min_sqnr: of the worst output, dB, or None. max_float_macs: the share of multiply-accumulates that may stay float.
    """

    metric: MetricSpec | None
    max_drop: MaxDrop
    min_sqnr: float | None
    max_float_macs: float

    def meets(self, result: ModelResult) -> bool:
        """Return whether the drop, and the SQNR where one is asked for, are within the target.

        Raises:
            UsageError: an SQNR is asked for that cannot be measured.
        """
        if self.min_sqnr is not None and result.sqnr_db is None:
            raise UsageError(
                f"{arg('min_sqnr', self.min_sqnr)}: no output of numbers keeps its shape, so SQNR is not measured; "
                f"leave it out, or give {arg('metric')}"
            )
        loud = self.min_sqnr is None or (result.sqnr_db is not None and result.sqnr_db >= self.min_sqnr)
        return loud and self.drop(result) <= self.max_drop.value

    def drop(self, result: ModelResult) -> float:
        """Return the drop in the terms of the target, relative or absolute; inf where it is NaN.

        Without labels it is the share of predictions that differ from the float model's.

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
    """Judges plans of one float graph on data that chooses.

    source: the float model's path. folder: for candidates. choosing: the records that candidates are judged on.
    states: what is fed back there. compute: where and how candidates are judged.
    """

    source: Path
    planner: Planner
    original: Original
    aim: Aim
    choosing: Records
    folder: Path
    compute: Compute
    states: tuple[State, ...] = ()
    macs: dict[str, int | None] = field(default_factory=dict)
    possible: frozenset[str] = frozenset()

    @property
    def model(self) -> Model:
        """The float graph."""
        return self.planner.prepared.model

    def judge(self, plans: Mapping[str, Plan]) -> dict[str, Step]:
        """Measure each plan's model on the choosing data; return a step by name.

        One pass serves as many models as are together no larger than the float one.
        """
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
            size = model_io.write(rewritten(self.model, plan)[0], file)
            if waiting and size > room:
                measure()
                room = total
            waiting[what] = file
            room -= size
        measure()
        return steps

    def evaluate(self, files: Sequence[Path], records: Records) -> Evaluation:
        """Compare models with float on some part of the data, and return the evaluation."""
        metrics = None if self.aim.metric is None else [self.aim.metric]
        return evaluate(
            self.source,
            files,
            records,
            metrics=metrics,
            threads=self.compute.threads,
            provider=self.compute.provider,
            executor=self.compute.executor,
            state=self.states,
        )

    def _step(self, what: str, plan: Plan, result: ModelResult) -> Step:
        score = result.scores[0]
        drop = self.aim.drop(result)
        share = self.float_share(plan)
        floating = sum(layer in self.possible and layer not in plan.integer for layer in plan.layers)
        met = self.aim.meets(result) and share <= self.aim.max_float_macs
        sqnr = math.nan if result.sqnr_db is None else loudness(result.sqnr_db)
        return Step(what, score.value, drop, sqnr, floating, share, met)

    def float_share(self, plan: Plan) -> float:
        """Return the share of multiply-accumulates in layers that could be integer and that the plan leaves in float.

        From 0 to 1, of those of all layers of which they are known, so at most that of the whole. What the user
        excludes, or the target has no kernel for, is float whatever is tried: it does not count.
        """
        if not self.macs:
            self.macs = count_macs(self.model, self.original.examples[0])
            self.possible = frozenset(self.planner.placement().integer)
        total = known_total(self.macs)
        chosen = {layer: n for layer, n in self.macs.items() if layer in self.possible and layer not in plan.integer}
        return known_total(chosen) / total if total else 0.0

    def write(self, plan: Plan, output: Path) -> Verification:
        """Verify the plan's model, write it atomically, and return the proof."""
        data, shifted = rewritten(self.model, plan)
        proof = verify(self.original, self.model, shifted, data, plan, self.planner.target)
        model_io.write(data, output)
        return proof

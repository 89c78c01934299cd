"""Judges plans by what tuning aims at: their models beside the float one, on the data that chooses."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.compute import Compute
from qtool.core.errors import UsageError, arg
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.evaluation import Evaluation, MaxDrop, MetricKind, ModelResult
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.core.state import State
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import Probed, evaluate
from qtool.evaluation.gates import ROUNDING
from qtool.evaluation.metrics.registry import MetricSpec
from qtool.graph import external, model_io
from qtool.graph.edit import Model
from qtool.graph.model_files import model_files, model_size
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify import verify
from qtool.pipeline.verify.macs import count_macs, known_total
from qtool.pipeline.verify.original import Original
from qtool.tuning.budget import Budget
from qtool.tuning.split import Records

DEFAULT_DROP = MaxDrop(0.01, relative=True)
AGREEMENT = "agreement"
"""The share of predictions that are float's: the measure where there are no labels."""
_NOTHING = f"there are neither labels nor class scores to aim at; give {arg('min_sqnr')}, or labels and {arg('metric')}"
_NO_NUMBERS = f"there are neither labels, class scores nor numbers to aim at; give labels and {arg('metric')}"
_AT_ONCE = 2**28
"""Bytes of models that are measured in one pass even where float is smaller."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A model in the terms of the target.

    name: of the measure that is to be held: the metric, or `agreement` with float where there are no labels, or `sqnr`.
    value: of that measure. drop: of it, in the terms of the target, relative or absolute; inf where it is NaN, None
    where the measure cannot drop. sqnr_db: of the worst output; NaN where none is measured.
    """

    name: str
    value: float
    drop: float | None
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Aim:
    """The target that tuning aims at.

    metric: as in `evaluate`; without labels agreement with the float model. asked_drop: of that metric;
    None is 1 %, and nothing where there are no labels and an SQNR is asked for. min_sqnr: of the worst output, dB, or
    None. max_float_macs: the share of multiply-accumulates that may stay float.
    decode: as in `evaluate`.
    """

    metric: MetricSpec | None
    asked_drop: MaxDrop | None
    min_sqnr: float | None
    max_float_macs: float
    decode: DecodeSpec | None = None

    @property
    def max_drop(self) -> MaxDrop:
        """The drop that is asked for, where one is."""
        return self.asked_drop or DEFAULT_DROP

    def reached(self, result: ModelResult) -> Reached:
        """Return what a model reaches of the target; without labels a drop is the share of predictions that differ."""
        score = result.scores[0]
        sqnr = math.nan if result.sqnr_db is None else loudness(result.sqnr_db)
        stands_in = self.asked_drop is not None or self.min_sqnr is None
        if score.drop is None and result.agreement is not None and stands_in:
            return Reached(AGREEMENT, result.agreement, 1.0 - result.agreement, sqnr)
        if score.drop is None:
            return Reached(score.metric, score.value, None, sqnr)
        found = score.relative_drop if self.max_drop.relative else score.drop
        if found is None:
            found = 0.0 if score.drop <= 0 else math.inf
        return Reached(score.metric, score.value, math.inf if math.isnan(found) else found, sqnr)

    def misses(self, result: ModelResult) -> tuple[str, ...]:
        """Return a text for each part of the target that a model misses: what was found, and what was asked for.

        Raises:
            UsageError: an SQNR is asked for that cannot be measured, or there is nothing to aim at.
        """
        reached, missed = self.reached(result), []
        if self.min_sqnr is not None and result.sqnr_db is None:
            known = reached.drop is not None or result.agreement is not None
            raise self._no_sqnr("no output of numbers keeps its shape", known=known)
        if reached.drop is None and self.min_sqnr is None:
            raise UsageError(_NOTHING)
        if reached.drop is not None and not reached.drop <= self.max_drop.value + ROUNDING:
            drop = f"{100 * reached.drop:.2f} %" if self.max_drop.relative else f"{reached.drop:.4g}"
            missed.append(f"{reached.name} drop {drop}, asked at most {self.max_drop}")
        if self.min_sqnr is not None and not reached.sqnr_db >= self.min_sqnr:
            missed.append(
                f"SQNR {reached.sqnr_db:.1f} dB, asked at least {self.min_sqnr:.4g} dB "
                f"({self.min_sqnr - reached.sqnr_db:.1f} dB short)"
            )
        return tuple(missed)

    def check(self, found: Probed) -> None:
        """Refuse a target that cannot be measured.

        Raises:
            UsageError: there are neither labels nor classes, and no SQNR is asked for; or one is that no output has.
        """
        known = found.classes or found.metrics[0].kind is not MetricKind.SIMILARITY or found.metrics[0].share
        if self.min_sqnr is not None and not found.numbers:
            raise self._no_sqnr("no output holds numbers", known=known)
        if self.min_sqnr is None and not known:
            raise UsageError(_NOTHING if found.numbers else _NO_NUMBERS)

    def _no_sqnr(self, why: str, *, known: bool) -> UsageError:
        """`known`: whether there is something else to aim at."""
        remedy = "leave it out" if known else f"give labels and {arg('metric')} instead"
        return UsageError(f"{arg('min_sqnr', self.min_sqnr)}: {why}, so SQNR is not measured; {remedy}")


@dataclass(slots=True)
class Judge:
    """Judges plans of one float graph on data that chooses.

    source: the float model's path. folder: for candidates. choosing: the records that candidates are judged on.
    budget: is told what judging takes. states: what is fed back there. compute: where and how candidates are judged.
    samples: how many there are to choose on, once that is known.
    """

    source: Path
    planner: Planner
    original: Original
    aim: Aim
    choosing: Records
    folder: Path
    budget: Budget
    compute: Compute
    states: tuple[State, ...] = ()
    macs: dict[str, int | None] = field(default_factory=dict)
    possible: frozenset[str] = frozenset()
    samples: int | None = None

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
            begun = time.monotonic()
            found = self.evaluate(list(waiting.values()), self.choosing)
            self.budget.judged(time.monotonic() - begun, 1 + len(waiting))
            self.samples = found.samples
            for (what, file), result in zip(waiting.items(), found.candidates, strict=True):
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
            decode=self.aim.decode,
            threads=self.compute.threads,
            provider=self.compute.provider,
            executor=self.compute.executor,
            progress=self.compute.progress,
            state=self.states,
        )

    def _step(self, what: str, plan: Plan, result: ModelResult) -> Step:
        reached = self.aim.reached(result)
        share = self.float_share(plan)
        floating = sum(layer in self.possible and layer not in plan.integer for layer in plan.layers)
        return Step(
            what,
            reached.value,
            reached.drop,
            reached.sqnr_db,
            floating,
            share,
            met=not self.aim.misses(result) and share <= self.aim.max_float_macs,
            measured=reached.name,
            relative=self.aim.max_drop.relative,
        )

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

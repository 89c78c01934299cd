"""Judges plans by what tuning aims at: their models beside the float one, on the data that chooses."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from qtool.core.compute import Compute
from qtool.core.concurrency import in_order
from qtool.core.errors import VerificationError
from qtool.core.files import together
from qtool.core.records.doubts import notes, with_ranges
from qtool.core.records.evaluation import ModelResult
from qtool.core.records.plan import Plan
from qtool.core.records.tuning import Step
from qtool.core.records.verification import Verification
from qtool.evaluation.evaluate import compare
from qtool.evaluation.run import Reference
from qtool.feeds import ReadOptions
from qtool.graph import external, model_io
from qtool.graph.edit import Model
from qtool.graph.model_files import model_files, model_size
from qtool.graph.serialized import Serialized
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.planning.wider import with_wider_kernels
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify import verify
from qtool.pipeline.verify.macs import count_macs, known_total
from qtool.pipeline.verify.original import Original
from qtool.tuning.aim import Aim
from qtool.tuning.budget import PROOF, Budget
from qtool.tuning.split import Records

_AT_ONCE = 2**28
"""Bytes of models that are measured in one pass even where float is smaller."""


@dataclass(slots=True)
class Judge:
    """Judges plans of one float graph on data that chooses.

    source: the float model's path. folder: for candidates. choosing: the records that candidates are judged on.
    budget: is told what judging takes. reading: how that is read. compute: where and how candidates are judged.
    reference: of the float model, over the records. samples: how many there are to choose on, once that is known.
    """

    source: Path
    planner: Planner
    original: Original
    aim: Aim
    choosing: Records
    folder: Path
    budget: Budget
    compute: Compute
    reading: ReadOptions = field(default_factory=ReadOptions)
    reference: Reference | None = None
    macs: dict[str, int | None] = field(default_factory=dict)
    possible: frozenset[str] = frozenset()
    samples: int | None = None

    @property
    def model(self) -> Model:
        """The float graph."""
        return self.planner.prepared.model

    def judge(self, plans: Mapping[str, Plan]) -> dict[str, Step]:
        """Measure each plan's model on the choosing data; return a step by name.

        One pass serves as many models as are together no larger than the float one, or than 256 MiB.
        """
        steps: dict[str, Step] = {}
        waiting: dict[str, Path] = {}
        room = total = max(model_size(self.source), _AT_ONCE)
        threads, names = self.compute.threads if total == _AT_ONCE else 1, list(plans)
        with ThreadPoolExecutor(threads) as pool:
            for number, made in enumerate(in_order(pool, threads, self._made, plans.values())):
                file = self.folder / f"candidate{number}.onnx"
                size = model_io.write(made, file)
                if waiting and size > room:
                    steps |= self._measured(waiting, plans)
                    waiting, room = {}, total
                waiting[names[number]] = file
                room -= size
        return steps | self._measured(waiting, plans)

    def _made(self, plan: Plan) -> Serialized:
        return model_io.consume(rewrite(self.model, plan, self.planner.memo.weights))

    def _measured(self, files: Mapping[str, Path], plans: Mapping[str, Plan]) -> dict[str, Step]:
        begun = time.monotonic()
        found = compare(
            self.source,
            list(files.values()),
            self.choosing,
            self.aim.metric,
            self.aim.decode,
            self.compute,
            self.reading,
            self.reference,
        )
        self.budget.judged(time.monotonic() - begun, 1 + len(files))
        self.samples = found.samples
        for file in files.values():
            for part in model_files(file):
                part.unlink()
        external.let_go()
        steps = {what: self._step(what, plans[what], one) for what, one in zip(files, found.candidates, strict=True)}
        exact = found.float_model.scores[0]
        return {
            what: replace(
                step,
                exact=exact.value if step.measured == exact.metric and step.drop is not None else None,
                samples=found.samples,
                data=found.data,
            )
            for what, step in steps.items()
        }

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
            self.macs = count_macs(self.model, self.original.examples)
            self.possible = frozenset(self.planner.placement().integer)
        total = known_total(self.macs)
        chosen = {layer: n for layer, n in self.macs.items() if layer in self.possible and layer not in plan.integer}
        return known_total(chosen) / total if total else 0.0

    def share_of(self, layer: str) -> float:
        """Return the share of multiply-accumulates that one layer holds, once `float_share` was asked; 0 if unknown."""
        total = known_total(self.macs)
        return (self.macs.get(layer) or 0) / total if total else 0.0

    def write(self, plan: Plan, output: Path, save_plan: Path | None) -> tuple[Plan, Verification]:
        """Verify the plan's model, write it, and the plan where asked for, together; return what is written, and proof.

        Raises:
            OutOfTimeError: there is a model on disk, and no time for this.
            ModelError, VerificationError: see `verify`.
        """
        with self.budget.work(PROOF):
            plan = with_ranges(plan, self.planner.statistics, {str(v.name) for v in self.model.graph.inputs})
            plan, data, proof = self._proven(plan)
            with together(*([] if save_plan is None else [save_plan]), output):
                if save_plan is not None:
                    plan.save(save_plan)
                model_io.write(data.noting(notes(plan)), output)
        return plan, proof

    def _proven(self, plan: Plan) -> tuple[Plan, Serialized, Verification]:
        """The plan with wider convolutions where they are faster, its model and the proof; else as it is."""
        wide = with_wider_kernels(self.model, plan, self.original.examples[0], self.planner.memo.shapes)
        try:
            return (wide, *self._checked(wide))
        except VerificationError:
            if not wide.wider:
                raise
            return (plan, *self._checked(plan))

    def _checked(self, plan: Plan) -> tuple[Serialized, Verification]:
        data, shifted = rewritten(self.model, plan)
        return data, verify(self.original, self.model, shifted, data, plan, self.planner.target)

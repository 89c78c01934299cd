"""The last step of the workflow: the best plan so far trained, on what calibrates, within what is left of the time.

Source: the paper, figure 4 (calibrate, leave layers in float, then train).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.compute import Compute
from qtool.core.errors import DataError, ModelError, UsageError, VerificationError
from qtool.core.records.finetuning import TrainingStep
from qtool.core.records.plan import Plan
from qtool.feeds import Feeds, open_for_model
from qtool.finetuning.finetune import BATCH, EPOCHS, LEARNED
from qtool.finetuning.measure import Measure
from qtool.finetuning.samples import FEW, KEPT, Labelled, Parted, Samples
from qtool.tuning.aim import Aim
from qtool.tuning.budget import PROOF, SPENT, Budget
from qtool.tuning.judge import Judge
from qtool.tuning.shares import Shares

_SHARE, _LEAST_S = 0.6, 5.0
"""Of the time that is left, and the seconds that this must be: models are run over the data before and after."""
_LEAST = 2


class UntrainedError(Exception):
    """The reason why nothing was trained, or nothing was gained; the best plan before stands."""


Train = Callable[[str, Judge, Plan], Plan]
"""Of what a step is called, its judge and its plan: the plan that was trained. Raises `UntrainedError`."""


@dataclass(slots=True)
class Trainer:
    """Trains plans on what calibrates, chosen by what chooses.

    folder: for samples and models. done: how the last training went.
    """

    source: Path
    aim: Aim
    parts: Shares
    folder: Path
    budget: Budget
    compute: Compute
    done: TrainingStep | None = field(default=None)

    def __call__(self, what: str, judge: Judge, plan: Plan) -> Plan:
        """Return the trained plan of a step.

        Raises:
            UntrainedError: there is no time, nothing to learn from, nothing that can be trained, or nothing was gained.
        """
        if self.parts.feeds.states:
            raise UntrainedError("models that are fed their own outputs are not trained")
        if self.parts.calibrating.records == self.parts.choosing.records:
            raise UntrainedError("the samples that calibrate choose too; give more data")
        try:
            return self._trained(what, judge, plan)
        except (ModelError, DataError, UsageError, VerificationError) as error:
            raise UntrainedError(str(error)) from error

    def _trained(self, what: str, judge: Judge, plan: Plan) -> Plan:
        from qtool.finetuning.descent import Settings
        from qtool.finetuning.device import nearest_device
        from qtool.finetuning.work import Work

        with Samples(self.folder / "trained_on") as inputs, Samples(self.folder / "exact") as exact:
            for batch in self._opened(judge, self.parts.calibrating):
                inputs.add(dict(batch.inputs))
            choosing = Labelled(self.parts.choosing.__name__)
            for batch, _ in zip(self._opened(judge, self.parts.choosing), range(KEPT), strict=False):
                choosing.add(batch)
            if len(inputs) < _LEAST:
                raise UntrainedError("a single sample calibrates; give more data")
            few = f", which is few: {FEW} or more are worth more" if len(inputs) < FEW else ""
            words = f"{len(inputs)} that calibrate train{few}; {len(choosing)} that choose choose the best state"
            metric, measure = self.aim.metric, None
            if metric is not None:
                here = Compute(self.compute.threads)
                measure = Measure(self.source, judge.model, metric, self.aim.decode, self.folder, choosing, here)
            settings = Settings(EPOCHS, None, self._seconds(), BATCH, 1.0, 0)
            parted = Parted(choosing, Labelled(""), inputs, words)
            work = Work(
                judge.planner.prepared, plan, parted, LEARNED, settings, self.folder / "trained", False,
                self.compute.progress, measure, None, nearest_device(self.compute.provider),
            )  # fmt: skip
            done = work.run(exact, self.compute.threads)
        done.checkpoint.remove()
        self.done = TrainingStep(
            what, done.training.steps, done.seconds, done.kept, done.chosen_db, done.training.rounds, words
        )
        if not done.kept:
            raise UntrainedError("nothing was gained on the samples that choose, beyond their noise")
        return done.plan

    def _opened(self, judge: Judge, records: object) -> Feeds:
        return open_for_model(judge.model, records)  # type: ignore[arg-type]

    def _seconds(self) -> float | None:
        """How long training may take; None: until all epochs are done. Raises `UntrainedError`: no time at all."""
        budget = self.budget
        if budget.seconds is None:
            return None
        after = budget.longest.get(PROOF, 0.0) + 2.0 * (budget.per_model or 0.0)
        seconds = (budget.left - after) * _SHARE
        if seconds < _LEAST_S:
            raise UntrainedError(SPENT)
        return seconds

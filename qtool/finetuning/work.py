"""The training of one plan on one set of data, from the check of the arithmetic to the plan that is kept."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.finetuning import TorchAgreement
from qtool.core.records.plan import Plan
from qtool.finetuning.agreement import check_agreement
from qtool.finetuning.distillation import Teacher
from qtool.finetuning.samples import Parted, Samples, joined
from qtool.finetuning.student import Student
from qtool.finetuning.training import Settings, Training, TrainingCheckpoint
from qtool.pipeline.prepare import Prepared
from qtool.quantization.scoring import Scorer
from qtool.targets.tables import TARGETS

Arrays = Mapping[str, np.ndarray]
_AGREEING = 8
"""So many samples are run by torch and by onnxruntime before anything is trained."""
_SAME = 0.03
"""Noise of a batch against the same samples one by one, in units of the signal, that single steps may grow to."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a training.

    plan: what is kept, which is what was trained where `kept`. chosen_db: of the plan to begin with and of what was
    trained, as onnxruntime runs them on the samples that choose. resumed: whether an earlier run was gone on with.
    counts: of what is learned.
    """

    plan: Plan
    kept: bool
    chosen_db: tuple[float | None, float | None]
    training: Training
    checkpoint: TrainingCheckpoint
    seconds: float
    resumed: bool
    counts: dict[str, int]
    untrained: dict[str, str]
    agreement: TorchAgreement


@dataclass(frozen=True, slots=True)
class Work:
    """A training: of a plan for a prepared graph, on samples, of what is in `learn`.

    path: of the checkpoint. resume: whether to go on with it.
    """

    prepared: Prepared
    plan: Plan
    parted: Parted
    learn: Sequence[str]
    settings: Settings
    path: Path
    resume: bool
    progress: Progress

    def run(self, exact: Samples, threads: int) -> Done:
        """Run the training, and return its result.

        Args:
            exact: is added what the float model gives for the samples that train.
            threads: of torch.

        Raises:
            DataError, UsageError: there is nothing to learn from, or nothing that can be learned.
            CalibrationError, OutputError: the checkpoint is of another training, or cannot be written.
            VerificationError: torch computes something else than onnxruntime.
        """
        model, plan, parted, target = self.prepared.model, self.plan, self.parted, TARGETS[self.plan.target]
        with _threads(threads):
            teacher = Teacher.of(model, parted.choosing[0])
            if not teacher.targets:
                raise DataError("the model has no output in real numbers to learn from; it cannot be trained")
            student = Student(model, plan, target, self.learn, teacher.names, threads)
            counts = student.learned.counts()
            if not counts:
                why = "; ".join(dict.fromkeys(student.untrained.values())) or "no layer with weights is an integer one"
                raise UsageError(f"{arg('learn')}: nothing of it can be trained ({why}); use the model as it is")
            agreement = check_agreement(student, model, plan, target, parted.choosing[:_AGREEING])
            held_out = self._taught(teacher, exact)
            training = Training(
                student, teacher, parted.training, exact, held_out, self.settings,
                stackable=_stackable(student, teacher, parted.training), progress=self.progress,
            )  # fmt: skip
            checkpoint = self._checkpoint()
            resumed = self.resume and training.resume(checkpoint)
            begun = time.monotonic()
            training.run(checkpoint)
            seconds = time.monotonic() - begun
            trained = student.learned.planned(model)
            scorer = Scorer(model, parted.choosing, target.session)
            figures = scorer.sqnr_db(plan, model), scorer.sqnr_db(trained, model)
            kept = training.improved and _louder(figures)
        return Done(
            trained if kept else plan, kept, figures, training, checkpoint, seconds, resumed, counts,
            dict(student.untrained), agreement,
        )  # fmt: skip

    def _checkpoint(self) -> TrainingCheckpoint:
        """That of a training of this plan on this data in this way."""
        options = (self.settings.describe(), list(self.learn), self.parted.training.digest)
        return TrainingCheckpoint.of(self.path, *options, self.plan.to_dict())

    def _taught(self, teacher: Teacher, exact: Samples) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """The samples that choose with what the float model gives; what it gives for those that train, to a file."""
        training = self.parted.training
        for index in range(len(training)):
            made = teacher.run(training[index])
            teacher.measure(made)
            exact.add(made)
            self.progress("run the float model", index + 1, len(training))
        return [(dict(sample), teacher.run(sample)) for sample in self.parted.choosing]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stackable(student: Student, teacher: Teacher, training: Samples) -> bool:
    """Whether two samples run as one batch as each does by itself."""
    with torch.no_grad():
        alike = [i for i in range(len(training)) if training.shapes[i] == training.shapes[0]][:2]
        if len(alike) < 2 or any(array.ndim == 0 for array in training[0].values()):
            return False
        both = [training[i] for i in alike]
        single = [student.run(sample) for sample in both]
        try:
            made = student.run(joined(both))
        except DataError:
            return False
        wanted = {name: torch.cat([one[name] for one in single]) for name in teacher.names if single[0][name].ndim}
        if any(name not in wanted or made[name].shape != wanted[name].shape for name in teacher.names):
            return False
        return all(float(noise.max()) < _SAME for noise in teacher.noise(made, wanted))


def _louder(figures: tuple[float | None, float | None]) -> bool:
    before, after = figures
    return before is not None and after is not None and loudness(after) > loudness(before)

"""The training of one plan on one set of data, from the check of the arithmetic to the plan that is kept."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.finetuning import PairedGain, TorchAgreement
from qtool.core.records.plan import Plan
from qtool.finetuning.agreement import check_agreement
from qtool.finetuning.blockwise import BlockTraining, Means
from qtool.finetuning.descent import Settings
from qtool.finetuning.distillation import Teacher
from qtool.finetuning.gain import paired_gain
from qtool.finetuning.labels import LabelsLoss, find_labels_loss
from qtool.finetuning.loss_names import LossSpec, describe
from qtool.finetuning.measure import Measure
from qtool.finetuning.samples import KEPT, Parted, Samples, joined
from qtool.finetuning.student import Student
from qtool.finetuning.training import Training, TrainingCheckpoint
from qtool.finetuning.views import Views, picture_of
from qtool.graph import compose
from qtool.pipeline.prepare import Prepared
from qtool.quantization.scoring import Scorer
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS

Arrays = Mapping[str, np.ndarray]
_AGREEING = 8
"""So many samples are run by torch and by onnxruntime before anything is trained."""
_VIEWS = 8
"""Pictures that choose do so in so many views each, at most, and in `KEPT` in all: rounding differs in each view."""
_SAME = 0.03
"""Noise of a batch against the same samples one by one, in units of the signal, that single steps may grow to."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a training.

    plan: what is kept, which is what was trained where `kept`. gain: of what was trained, on the samples that choose,
    one by one; None where they have no figures of their own. chosen_db: of the plan to begin with and of what was
    trained, as onnxruntime runs them on the samples that choose. resumed: whether an earlier run was gone on with.
    counts: of what is learned. metric: the same two as `chosen_db`, by the metric that chooses, where there is one.
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
    gain: PairedGain | None = None
    metric: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A training: of a plan for a prepared graph, on samples, of what is in `learn`.

    path: of the checkpoint. resume: whether to go on with it. measure: of the metric that chooses, None for SQNR.
    labels_loss: the loss on labels, None for none. device: of torch. rounding: whether of weights only that is learned.
    folder: for what does not fit in memory.
    """

    prepared: Prepared
    plan: Plan
    parted: Parted
    learn: Sequence[str]
    settings: Settings
    path: Path
    resume: bool
    progress: Progress
    measure: Measure | None = None
    labels_loss: LossSpec | None = None
    device: str = "cpu"
    rounding: bool = False
    folder: Path = Path()

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
        with _computing(threads):
            teacher = Teacher.of(model, parted.choosing.inputs[0], self.device)
            if not teacher.targets:
                raise DataError("the model has no output in real numbers to learn from; it cannot be trained")
            labelled = self._labelled()
            student = Student(
                model, plan, target, self.learn, teacher.names, threads,
                also=() if labelled is None else labelled[0].reads, device=self.device, rounding=self.rounding,
            )  # fmt: skip
            counts = student.learned.counts()
            if not counts:
                raise UsageError(self._untrainable(student))
            agreement = check_agreement(student, model, plan, target, parted.choosing.inputs[:_AGREEING])
            self._taught(teacher, exact)
            choosing, each = self._choosing()
            scorer = Scorer(model, choosing, target.session)

            def judge() -> float | None:
                return scorer.sqnr_db(student.learned.planned(model), model)

            stackable = _stackable(student, teacher, parted.training)
            training = Training(
                student, teacher, parted.training, exact, judge, self.settings,
                self._by_block(student, stackable=stackable), stackable=stackable, progress=self.progress,
            )  # fmt: skip
            training.guide(self._measured(student), labelled)
            checkpoint = self._checkpoint()
            resumed = self.resume and training.resume(checkpoint)
            begun = time.monotonic()
            training.run(checkpoint)
            seconds = time.monotonic() - begun
            trained = student.learned.planned(model)
            figures = scorer.sqnr_db(plan, model), scorer.sqnr_db(trained, model)
            chosen = None if self.measure is None else (self.measure.chosen(plan), self.measure.chosen(trained))
            gain = self._gain(scorer, each, trained, chosen)
            kept = training.improved and self._gained(figures, chosen) and (gain is None or gain.sure)
        return Done(
            trained if kept else plan, kept, figures, training, checkpoint, seconds, resumed, counts,
            dict(student.untrained), agreement, gain, chosen,
        )  # fmt: skip

    def _by_block(self, student: Student, *, stackable: bool) -> Callable[[Callable[[], float]], BlockTraining] | None:
        if not self.settings.blocks:
            return None

        def made(judge: Callable[[], float]) -> BlockTraining:
            means = Means(
                self.prepared.model, self.parted.training, self.folder, self.settings, stackable, judge, self.progress
            )
            return BlockTraining(student, means)

        return made

    def _untrainable(self, student: Student) -> str:
        """Why nothing can be trained, and what to do."""
        if self.plan.dynamic and not self.plan.weights:
            return (
                f"{arg('plan')}: its layers are dynamic, which have no ranges to train; begin with "
                f"{arg('calibration')} and {arg('form', 'static')} instead"
            )
        why = "; ".join(dict.fromkeys(student.untrained.values())) or "no layer with weights is an integer one"
        return f"{arg('learn')}: nothing of it can be trained ({why}); use the model as it is"

    def _checkpoint(self) -> TrainingCheckpoint:
        """That of a training of this plan on this data in this way."""
        measured = None if self.measure is None else self.measure.info.name
        options = (
            self.settings.describe(), list(self.learn), self.parted.training.digest, measured,
            describe(self.labels_loss), self.device, self.rounding,
        )  # fmt: skip
        return TrainingCheckpoint.of(self.path, *options, self.plan.to_dict())

    def _taught(self, teacher: Teacher, exact: Samples) -> None:
        """Write what the float model gives for the samples that train to a file."""
        training = self.parted.training
        for index in range(len(training)):
            made = teacher.run(training[index])
            teacher.measure(made)
            exact.add(made)
            self.progress("run the float model", index + 1, len(training))
        if teacher.is_silent:
            raise DataError(
                "the outputs of the float model are zeros, or too faint for any scale, on all samples that train: "
                "there is no signal to learn; correct the data or the model"
            )

    def _labelled(self) -> tuple[LabelsLoss, Samples] | None:
        """The loss on labels, and these. Raises `UsageError`: they do not fit an output."""
        labels = self.parted.labels
        if self.labels_loss is None or labels is None:
            return None
        model, example = self.prepared.model, self.parted.training[0]
        names = (str(value.name) for value in model.graph.outputs)
        outputs = Session(compose.with_outputs(model, list(names)), name="the prepared model").run(example)
        return find_labels_loss(self.labels_loss, model, outputs, labels[0]), labels

    def _measured(self, student: Student) -> Callable[[], tuple[float, float]] | None:
        measure, model = self.measure, self.prepared.model
        if measure is None:
            return None

        def measured() -> tuple[float, float]:
            value = measure.chosen(student.learned.planned(model))
            return value, measure.worth(value)

        return measured

    def _choosing(self) -> tuple[Sequence[Arrays], int]:
        """What chooses by SQNR, and how many in a row are views of one sample."""
        inputs = self.parted.choosing.inputs
        each = min(_VIEWS, KEPT // len(inputs))
        if not self.settings.views or each < 2 or picture_of(inputs[0]) is None:
            return inputs, 1
        return Views(inputs, each, self.settings.seed), each

    def _gain(self, scorer: Scorer, each: int, trained: Plan, chosen: tuple[float, float] | None) -> PairedGain | None:
        """The gain of a plan, sample by sample: by the metric, but by SQNR where that is equal, or better by chance."""
        if self.measure is not None and chosen is not None and chosen[0] != chosen[1]:
            one, two = self.measure.by_sample([self.plan, trained])
            found = paired_gain(self.measure.info.name, one, two)
            if found is not None and found.sure:
                return found
        model = self.prepared.model
        before, after = (scorer.by_example(plan, model) for plan in (self.plan, trained))
        return paired_gain("SQNR", before, after, each=each)

    def _gained(self, figures: tuple[float | None, float | None], chosen: tuple[float, float] | None) -> bool:
        """Whether what was trained is better on the samples that choose: by the metric first, where one chooses."""
        if self.measure is None or chosen is None:
            return _louder(figures)
        before, after = map(self.measure.worth, chosen)
        return after > before or (after == before and _louder(figures))


@contextmanager
def _computing(threads: int) -> Iterator[None]:
    """So many threads; on a GPU as exactly as on the CPU, and the same again."""
    before, coarse = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            torch.backends.cuda.matmul.allow_tf32 = False
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = coarse
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

"""Training: first block by block, where asked, then end to end; judged after every round by samples held out.

End to end it is of everything first, then of biases alone from the best state on. Biases are few numbers, which a
hundred samples determine, while weights learn these by heart: docs/lab-notebook.md has what was measured.
"""

import functools
import hashlib
import io
import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qtool.core.errors import CalibrationError, arg
from qtool.core.files import atomic_output, remove_with_outputs
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.finetuning import Round, TrainedBlock
from qtool.finetuning.blockwise import BlockTraining
from qtool.finetuning.calls import tensor_of
from qtool.finetuning.descent import BIAS, ROUNDING, WEIGHT, Descent, Settings
from qtool.finetuning.distillation import Teacher
from qtool.finetuning.labels import LabelsLoss, balance
from qtool.finetuning.samples import Arrays, Samples, joined, shuffled
from qtool.finetuning.student import Student
from qtool.finetuning.views import picture_of, view

_PATIENCE = 0.4
"""The share of all rounds without a better state after which training ends."""
_LATE = 0.75
"""It ends so only behind this share of it: long steps cost some decibels first, which short ones give back and more."""
_TOGETHER, _FALLEN = 2 / 3, 1 / 3
"""The share of the training behind which biases alone are learned, and that where no state is better by then."""


@dataclass(slots=True)
class _State:
    """How far a training is. best, first: by `measure`, 0 where there is none.

    whole_from, whole_seconds: the step and the time with which training end to end begins, behind that of the blocks.
    alone_from: the share of it behind which biases alone are learned; None as long as everything is.
    """

    whole_from: int = 0
    whole_seconds: float = 0.0
    step: int = 0
    round: int = 0
    seconds: float = 0.0
    since_best: int = 0
    alone_from: float | None = None
    best_db: float = -math.inf
    best: float = -math.inf
    first: float = -math.inf
    rounds: list[Round] = field(default_factory=list)


class Training:
    """A training of what a student has to learn.

    Args:
        student: the int8 model, whose numbers are changed.
        teacher: the float model.
        inputs, exact: the samples that train, and what the teacher gives for them.
        judge: returns the SQNR in dB of the student as it is, on samples that are held out, as onnxruntime runs it;
            None where it has none.
        settings: the way of training.
        blocks: makes the training of blocks that comes first, of what judges the model; None where none does.
        stackable: whether samples may be run as one batch.
        progress: is told of every step.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        inputs: Samples,
        exact: Samples,
        judge: Callable[[], float | None],
        settings: Settings,
        blocks: Callable[[Callable[[], float]], BlockTraining] | None,
        *,
        stackable: bool,
        progress: Progress,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._inputs, self._exact, self._score = inputs, exact, judge
        self._settings, self._stackable, self._progress = settings, stackable, progress
        self._tensors = student.learned.named()
        self._per_round = -(-len(inputs) // settings.batch)
        self._total = settings.steps or settings.epochs * self._per_round
        self._state = _State()
        self._blocks = None if blocks is None else blocks(self.held_out_db)
        self._descent = Descent(self._tensors, student.learned, settings.rate, settings.rate)
        kinds = self._descent.kinds()
        # biases that stand behind a product as an Add of their own are in float
        staged = len(kinds) > 1 and ROUNDING not in kinds and 2 * kinds[BIAS] >= kinds[WEIGHT]
        self._staged, self._together = staged, _TOGETHER if staged else 1.0
        self._best = self._copy()
        self._measure: Callable[[], tuple[float, float]] | None = None
        self._labelled: tuple[LabelsLoss, Samples] | None = None
        self._weight = 0.0

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The figures after each round; the first are those before any step."""
        return tuple(self._state.rounds)

    @property
    def improved(self) -> bool:
        """Whether a state is better than that before any step, on the samples that are held out."""
        state = self._state
        return (state.best, state.best_db) > (state.first, state.rounds[0].held_out_db)

    @property
    def blocks(self) -> tuple[TrainedBlock, ...]:
        """The blocks that were trained first, in their order."""
        return () if self._blocks is None else tuple(self._blocks.done)

    @property
    def steps(self) -> int:
        """The number of steps that were taken."""
        return self._state.step

    def run(self, checkpoint: "TrainingCheckpoint") -> None:
        """Run all steps, or until nothing gets better, and leave the best state in the student.

        Raises:
            OutputError: the checkpoint cannot be written.
        """
        state = self._state
        if not state.rounds:
            self._judge(None)
        self._descent.rate = self._settings.rate_at(state.rounds[0].held_out_db)
        begun = time.monotonic() - state.seconds
        if self._blocks is not None and state.step == 0:
            self._train_blocks(self._blocks, begun, checkpoint)
        while not self._ended():
            losses = []
            random = np.random.default_rng([self._settings.seed, state.round])
            for batch in shuffled(self._inputs.shapes, self._settings.batch, random):
                state.seconds = time.monotonic() - begun
                if self._progressed() >= 1.0:
                    break
                losses.append(self._step(batch))
                self._progress("train", min(state.step, self._total), self._total)
            state.round += 1
            self._judge(float(np.mean(losses)) if losses else None)
            state.seconds = time.monotonic() - begun
            checkpoint.save(self._saved())
        self._restore(self._best)

    def guide(
        self, measure: Callable[[], tuple[float, float]] | None, labelled: tuple[LabelsLoss, Samples] | None
    ) -> None:
        """Let a metric choose, and labels join the loss; before anything is trained.

        Args:
            measure: gives the metric of the student as it is, and as a figure of which more is better; SQNR decides
                where that is equal. None: SQNR chooses.
            labelled: a loss on labels, and these beside the samples that train; None for none.

        Raises:
            DataError: the loss has none, or no gradient.
        """
        self._measure, self._labelled = measure, labelled
        if labelled is not None:
            self._weight = self._balanced()

    def _train_blocks(self, blocks: BlockTraining, begun: float, checkpoint: "TrainingCheckpoint") -> None:
        """Spend half of the training on blocks; a step of every block counts as one."""
        state, seconds = self._state, self._settings.seconds

        def save() -> None:
            state.seconds = time.monotonic() - begun
            checkpoint.save(self._saved())

        steps = max(1, self._total // 2)
        rate = self._descent.rate
        blocks.run(rate, steps, None if seconds is None else seconds / 2.0 - state.seconds, save)
        if blocks.done:
            state.step = state.whole_from = max(one.steps for one in blocks.done)
            state.seconds = state.whole_seconds = time.monotonic() - begun
            if state.step:
                self._judge(None)

    def resume(self, checkpoint: "TrainingCheckpoint") -> bool:
        """Load what an earlier run left, to go on from it; return whether there is such. Raises `CalibrationError`."""
        found = checkpoint.load()
        if found is None:
            return False
        header, arrays = found
        rounds = [Round(**one) for one in header.pop("rounds")]
        trained, owned = header.pop("blocks"), header.pop("owned")
        if self._blocks is not None:
            self._blocks.resume(trained, owned)
        self._state = _State(**header, rounds=rounds)
        for index, (name, tensor) in enumerate(self._tensors.items()):
            held = (torch.from_numpy(arrays[f"{what}{index}"]).to(tensor.device) for what in _PARTS)
            now, best, mean, square = held
            with torch.no_grad():
                tensor.copy_(now)
            self._best[name] = best
            steps = torch.tensor(float(self._state.step - self._state.whole_from))
            self._descent.adam.state[tensor] = {"step": steps, "exp_avg": mean, "exp_avg_sq": square}
        return True

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        for index, (name, tensor) in enumerate(self._tensors.items()):
            adam = self._descent.adam.state[tensor]
            zeros = torch.zeros_like(tensor)
            kept = (tensor.detach(), self._best[name], adam.get("exp_avg", zeros), adam.get("exp_avg_sq", zeros))
            arrays |= {f"{what}{index}": one.cpu().numpy() for what, one in zip(_PARTS, kept, strict=True)}
        blocks = ([], []) if self._blocks is None else self._blocks.saved()
        header = {**asdict(self._state), "blocks": blocks[0], "owned": blocks[1]}
        return header, arrays

    def _progressed(self) -> float:
        """The share of the training end to end that is done."""
        state, seconds = self._state, self._settings.seconds
        if state.step >= self._total:
            return 1.0
        spent = state.seconds - state.whole_seconds
        by_time = 0.0 if seconds is None else spent / max(seconds - state.whole_seconds, 1e-9)
        return max((state.step - state.whole_from) / self._left, by_time)

    @property
    def _left(self) -> int:
        """The steps of training end to end."""
        return max(self._total - self._state.whole_from, 1)

    def _ended(self) -> bool:
        rounds = max(self._left / self._per_round, 1.0)
        late = self._progressed() > _LATE
        hopeless = late and self._state.since_best >= max(3.0, _PATIENCE * rounds)
        return self._progressed() >= 1.0 or hopeless

    def _step(self, batch: Sequence[int]) -> float:
        parts = [batch] if self._stackable else [[index] for index in batch]
        found = ((len(part) / len(batch), functools.partial(self._loss, part)) for part in parts)
        state, done, share = self._state, self._progressed(), 1.0 / self._left
        fallen = state.rounds[-1].held_out_db < state.rounds[0].held_out_db
        if state.alone_from is None and (done >= self._together or (done >= _FALLEN and fallen and self._staged)):
            self._restore(self._best)
            state.alone_from, state.since_best = done, 0
        if state.alone_from is None:
            loss = self._descent.step(done / self._together, share / self._together, found)
        else:
            span = 1.0 - state.alone_from
            loss = self._descent.step((done - state.alone_from) / span, share / span, found, only=BIAS)
        state.step += 1
        return loss

    def _loss(self, samples: Sequence[int]) -> Tensor:
        losses = self._losses(samples)
        return losses[0] if len(losses) == 1 else losses[0] + self._weight * losses[1]

    def _losses(self, batch: Sequence[int]) -> list[Tensor]:
        """The loss of these samples to what the float model gives, and that to their labels where there is one."""
        given, exact = self._seen(batch)
        made = self._student.run(joined(given))
        noise = self._noise(made, exact)
        losses = [torch.stack([one.mean() for one in noise]).mean()]
        if self._labelled is not None:
            loss, labels = self._labelled
            wanted = joined([labels[i] for i in batch])
            losses.append(loss(made, {name: tensor_of(one, self._student.device) for name, one in wanted.items()}))
        return losses

    def _seen(self, batch: Sequence[int]) -> tuple[list[Arrays], list[Arrays]]:
        """These samples, pictures as another view of them in every step, and what the float model gives for each.

        Labels are those of the pictures as they are, so that with them there are no other views.
        """
        given = [self._inputs[i] for i in batch]
        if not self._settings.views or self._labelled is not None or picture_of(given[0]) is None:
            return given, [self._exact[i] for i in batch]
        turns = [np.random.default_rng([self._settings.seed, self._state.step, i]) for i in batch]
        seen = [view(sample, random) for sample, random in zip(given, turns, strict=True)]
        return seen, [self._teacher.run(sample) for sample in seen]

    def _balanced(self) -> float:
        """The factor with which the loss to labels moves what is learned as much as the other one does at first."""
        batch = next(iter(shuffled(self._inputs.shapes, self._settings.batch, np.random.default_rng(0))))
        losses = self._losses(batch if self._stackable else batch[:1])
        return balance(list(self._tensors.values()), *losses)

    def _noise(self, made: Mapping[str, Tensor], exact: Sequence[Arrays]) -> list[Tensor]:
        """The noise of each target, part by part, for one of these samples."""
        wanted = {name: tensor_of(array, self._student.device) for name, array in joined(exact).items()}
        return [one / len(exact) for one in self._teacher.noise(made, wanted)]

    def _judge(self, loss: float | None) -> None:
        """Measure the samples that are held out, and keep the state where it is the best so far."""
        state = self._state
        db = self.held_out_db()
        shown, figure = (None, 0.0) if self._measure is None else self._measure()
        state.first = state.first if state.rounds else figure
        state.rounds.append(Round(state.step, loss, db, shown))
        state.since_best += 1
        if (figure, db) > (state.best, state.best_db):
            state.best, state.best_db, state.since_best, self._best = figure, db, 0, self._copy()

    def held_out_db(self) -> float:
        """Return the SQNR in dB of the outputs on the samples that are held out, inf without noise; see `judge`."""
        return loudness(self._score())

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._tensors.items()}

    def _restore(self, copy: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(copy[name])


_PARTS = ("now", "best", "mean", "square")


@dataclass(frozen=True, slots=True)
class TrainingCheckpoint:
    """A file that holds an unfinished training. identity: what it must be of to be gone on with."""

    path: Path
    identity: str

    @classmethod
    def of(cls, path: Path, *parts: object) -> "TrainingCheckpoint":
        """Return the checkpoint at a path of a training that these values describe."""
        return cls(path, hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest())

    def save(self, content: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
        """Write how far the training is, in the place of what was there. Raises `OutputError`."""
        header, arrays = content
        stored = io.BytesIO()
        text = json.dumps({"identity": self.identity, **header})
        np.savez(stored, header=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        with atomic_output(self.path) as place:
            place.write_bytes(stored.getvalue())

    def load(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Return what an earlier run left, or None. Raises `CalibrationError`: damaged, or of another training."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            header = json.loads(arrays.pop("header").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CalibrationError(f"{self.path}: damaged; remove it, or leave out {arg('resume')}") from error
        if header.pop("identity", None) != self.identity:
            raise CalibrationError(
                f"{self.path}: is of a training with another model, other data or options; remove it, or leave out "
                f"{arg('resume')}"
            )
        return header, arrays

    def remove(self) -> None:
        """Remove the file, once the model is there."""
        remove_with_outputs(self.path)

"""Training: steps of Adam on what is learned, judged after every round by samples that are held out.

Source of the optimiser: Kingma and Ba 2015, "Adam"; of the schedule: Loshchilov and Hutter 2017, "SGDR" (one cosine).
"""

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
from qtool.core.progress import Progress
from qtool.core.records.finetuning import Round
from qtool.finetuning.calls import tensor_of
from qtool.finetuning.distillation import Teacher, decibels
from qtool.finetuning.labels import LabelsLoss, balance
from qtool.finetuning.samples import Arrays, Samples, joined, shuffled
from qtool.finetuning.student import Student

RATES = {"weight": 0.02, "bias": 0.02, "scale": 0.002}
"""How far a step of Adam moves: weights in their own steps, biases in those of the output, scales as a share."""
_COARSE_DB = 15.0
"""Steps are that far where the model to begin with has this SQNR or less; where it has more, less by as much."""
_WARM_UP = 0.1
_PATIENCE = 0.4
"""The share of all rounds without a better state after which training ends."""
_LATE = 0.75
"""It ends so only behind this share of it: long steps cost some decibels first, which short ones give back and more."""
_BETAS, _NOTHING = (0.9, 0.99), 1e-16


@dataclass(frozen=True, slots=True)
class Settings:
    """The way of training.

    epochs, steps: how often each sample is seen, or how many steps; one of them. seconds: an end besides, or None.
    batch: samples of a step. rate: the factor of `RATES`. seed: of the order of samples.
    """

    epochs: int
    steps: int | None
    seconds: float | None
    batch: int
    rate: float
    seed: int

    def describe(self) -> dict[str, Any]:
        """Return what another training must have in common to go on with this one."""
        return {"epochs": self.epochs, "steps": self.steps, "batch": self.batch, "rate": self.rate, "seed": self.seed}


@dataclass(slots=True)
class _State:
    """How far a training is. best, first: by `measure`, 0 where there is none."""

    step: int = 0
    round: int = 0
    seconds: float = 0.0
    since_best: int = 0
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
        held_out: the samples that judge, with what the teacher gives for them.
        settings: the way of training.
        stackable: whether samples may be run as one batch.
        progress: is told of every step.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        inputs: Samples,
        exact: Samples,
        held_out: Sequence[tuple[Arrays, Arrays]],
        settings: Settings,
        *,
        stackable: bool,
        progress: Progress,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._inputs, self._exact, self._held_out = inputs, exact, held_out
        self._settings, self._stackable, self._progress = settings, stackable, progress
        self._tensors = student.learned.named()
        groups = [
            {"params": tensors, "lr": RATES[kind]}
            for kind in RATES
            if (tensors := [t for name, t in self._tensors.items() if name.split(" ")[0] == kind])
        ]
        self._adam = torch.optim.Adam(groups, betas=_BETAS, eps=_NOTHING)
        self._per_round = -(-len(inputs) // settings.batch)
        self._total = settings.steps or settings.epochs * self._per_round
        self._state = _State()
        self._rate = settings.rate
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
            self._judge(math.nan)
        noise = 10.0 ** (-(state.rounds[0].held_out_db - _COARSE_DB) / 20.0)
        self._rate = self._settings.rate * min(1.0, noise)
        begun = time.monotonic() - state.seconds
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
            self._judge(float(np.mean(losses)) if losses else math.nan)
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

    def resume(self, checkpoint: "TrainingCheckpoint") -> bool:
        """Load what an earlier run left, to go on from it; return whether there is such. Raises `CalibrationError`."""
        found = checkpoint.load()
        if found is None:
            return False
        header, arrays = found
        rounds = [Round(**one) for one in header.pop("rounds")]
        self._state = _State(**header, rounds=rounds)
        for index, (name, tensor) in enumerate(self._tensors.items()):
            held = (torch.from_numpy(arrays[f"{what}{index}"]).to(tensor.device) for what in _PARTS)
            now, best, mean, square = held
            with torch.no_grad():
                tensor.copy_(now)
            self._best[name] = best
            steps = torch.tensor(float(self._state.step))
            self._adam.state[tensor] = {"step": steps, "exp_avg": mean, "exp_avg_sq": square}
        return True

    def _saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        for index, (name, tensor) in enumerate(self._tensors.items()):
            adam = self._adam.state[tensor]
            zeros = torch.zeros_like(tensor)
            kept = (tensor.detach(), self._best[name], adam.get("exp_avg", zeros), adam.get("exp_avg_sq", zeros))
            arrays |= {f"{what}{index}": one.cpu().numpy() for what, one in zip(_PARTS, kept, strict=True)}
        state = self._state
        header = {name: getattr(state, name) for name in _KEPT}
        return {**header, "rounds": [asdict(one) for one in state.rounds]}, arrays

    def _progressed(self) -> float:
        """The share of the training that is done."""
        seconds = self._settings.seconds
        by_time = 0.0 if seconds is None else self._state.seconds / seconds
        return max(self._state.step / self._total, by_time)

    def _ended(self) -> bool:
        rounds = max(self._total / self._per_round, 1.0)
        late = self._progressed() > _LATE
        hopeless = late and self._state.since_best >= max(3.0, _PATIENCE * rounds)
        return self._progressed() >= 1.0 or hopeless

    def _step(self, batch: Sequence[int]) -> float:
        done = self._progressed()
        rise = min(1.0, (done + 1.0 / self._total) / _WARM_UP)
        factor = self._rate * rise * 0.5 * (1.0 + math.cos(math.pi * done))
        for group, rate in zip(self._adam.param_groups, self._rates(), strict=True):
            group["lr"] = rate * factor
        self._adam.zero_grad()
        loss = 0.0
        for part in [batch] if self._stackable else [[index] for index in batch]:
            parts = self._losses(part)
            mean = (parts[0] + self._weight * parts[1] if len(parts) > 1 else parts[0]) * len(part) / len(batch)
            mean.backward()
            loss += float(mean.detach())
        self._adam.step()
        self._student.learned.keep_within()
        self._state.step += 1
        return loss

    def _rates(self) -> list[float]:
        kinds = {name.split(" ")[0] for name in self._tensors}
        return [rate for kind, rate in RATES.items() if kind in kinds]

    def _losses(self, batch: Sequence[int]) -> list[Tensor]:
        """The loss of these samples to what the float model gives, and that to their labels where there is one."""
        made = self._student.run(joined([self._inputs[i] for i in batch]))
        noise = self._noise(made, [self._exact[i] for i in batch])
        losses = [torch.stack([one.mean() for one in noise]).mean()]
        if self._labelled is not None:
            loss, labels = self._labelled
            given = joined([labels[i] for i in batch])
            losses.append(loss(made, {name: tensor_of(one, self._student.device) for name, one in given.items()}))
        return losses

    def _balanced(self) -> float:
        """The factor with which the loss to labels moves what is learned as much as the other one does at first."""
        batch = next(iter(shuffled(self._inputs.shapes, self._settings.batch, np.random.default_rng(0))))
        losses = self._losses(batch if self._stackable else batch[:1])
        return balance(list(self._tensors.values()), *losses)

    def _noise(self, made: Mapping[str, Tensor], exact: Sequence[Arrays]) -> list[Tensor]:
        """The noise of each target, part by part, for one of these samples."""
        wanted = {name: tensor_of(array, self._student.device) for name, array in joined(exact).items()}
        return [one / len(exact) for one in self._teacher.noise(made, wanted)]

    def _judge(self, loss: float) -> None:
        """Measure the samples that are held out, and keep the state where it is the best so far."""
        state = self._state
        db = self.held_out_db()
        shown, figure = (None, 0.0) if self._measure is None else self._measure()
        state.first = state.first if state.rounds else figure
        state.rounds.append(Round(state.step, None if math.isnan(loss) else loss, db, shown))
        state.since_best += 1
        if (figure, db) > (state.best, state.best_db):
            state.best, state.best_db, state.since_best, self._best = figure, db, 0, self._copy()

    def held_out_db(self) -> float:
        """Return the SQNR in dB of the noisiest part of the targets, over the samples that are held out."""
        with torch.no_grad():
            sums: list[np.ndarray] = []
            for inputs, exact in self._held_out:
                made = self._student.run(inputs)
                noise = [one.cpu().numpy() for one in self._noise(made, [exact])]
                sums = noise if not sums else [a + b for a, b in zip(sums, noise, strict=True)]
            return decibels([float(x) / len(self._held_out) for one in sums for x in one])

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._tensors.items()}

    def _restore(self, copy: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(copy[name])


_PARTS = ("now", "best", "mean", "square")
_KEPT = ("step", "round", "seconds", "since_best", "best_db", "best", "first")


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

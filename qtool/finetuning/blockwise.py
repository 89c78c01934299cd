"""Training block by block: each learns to give what the float one gives, from what the int8 blocks before it make.

Sources: Li et al. 2021, "BRECQ" (blocks, one after the other); Wei et al. 2022, "QDrop" (what a block reads is float by
chance, number by number). Both begin a block with the outputs of the quantised blocks before it.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qtool.core.errors import DataError
from qtool.core.progress import Progress
from qtool.core.records.finetuning import TrainedBlock
from qtool.finetuning.blocks import LearnedBlock, divide
from qtool.finetuning.calls import tensor_of
from qtool.finetuning.descent import Descent, Part, Settings
from qtool.finetuning.samples import Arrays, Samples, joined, shuffled
from qtool.finetuning.student import Student
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.runtime.session import Session

_IN_FLOAT = 0.5
"""The share of the numbers that a block reads in float."""
_STUDENT, _FLOAT, _EXACT = "student ", "float ", "exact "
"""What the int8 model and the float one give a block to read, and what the float one makes of it: name by name."""
_SAME = 0.05
"""The share by which the noise of a batch may differ from that of the same samples one by one."""
_FAINT = 1e-12


@dataclass(frozen=True, slots=True)
class Means:
    """The graph, data and settings that all blocks are trained with.

    prepared: the float graph. inputs: the samples that train. folder: for what does not fit in memory. stackable:
    whether samples may be run as one batch. judge: returns the SQNR in dB of the whole int8 model on the samples that
    are held out.
    """

    prepared: Model
    inputs: Samples
    folder: Path
    settings: Settings
    stackable: bool
    judge: Callable[[], float]
    progress: Progress


class BlockTraining:
    """The training of one block after the other. `done` are those that were trained, in their order."""

    def __init__(self, student: Student, means: Means) -> None:
        self._student, self._means = student, means
        self._blocks = divided(means.prepared, student)
        self._tensors = student.learned.named()
        self.done: list[TrainedBlock] = []
        # what these have learned, which no other block learns again
        self._owned: set[str] = set()

    def saved(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return what `resume` takes."""
        return [asdict(one) for one in self.done], sorted(self._owned)

    def resume(self, done: Sequence[Mapping[str, Any]], owned: Sequence[str]) -> None:
        """Take blocks as trained, as `saved` gave them."""
        self.done = [TrainedBlock.restored(one) for one in done]
        self._owned = set(owned)

    def run(self, rate: float, steps: int, seconds: float | None, save: Callable[[], None]) -> None:
        """Run the training of all blocks that are not done, each for so many steps or its share of the seconds.

        `rate` is the factor of step sizes. `save` is called after each, and may raise `OutputError`.
        """
        held_out, count = self._means.judge(), len(self._blocks)
        for index in range(len(self.done), count):
            begun = time.monotonic()
            until = None if seconds is None else begun + seconds / (count - index)
            found = self._trained(index, _Clock(steps, begun, until), rate, held_out)
            held_out = found.held_out_db[1] if found.kept else held_out
            self.done.append(found)
            seconds = None if seconds is None else seconds - (time.monotonic() - begun)
            save()

    def _trained(self, index: int, clock: "_Clock", rate: float, held_out: float) -> TrainedBlock:
        """Train a block, and leave it as it was where the model is not better for it."""
        block = self._blocks[index]
        with Samples(self._means.folder / "block", self._means.settings.memory) as captured:
            run = _BlockRun(self._student, block, self._means, captured)
            tensors = {name: self._tensors[name] for name in self._reached(run) if name not in self._owned}
            self._owned.update(tensors)
            before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            noise = run.noise()
            taken = self._descend(index, run, tensors, rate, clock) if tensors else 0
            figures = noise, run.noise()
            spilled = captured.spilled
        judged = held_out, self._means.judge()
        kept = judged[1] > judged[0]
        if not kept:
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(before[name])
        return TrainedBlock(block.layers, taken, figures, judged, kept, spilled)

    def _descend(
        self, index: int, run: "_BlockRun", tensors: Mapping[str, Tensor], rate: float, clock: "_Clock"
    ) -> int:
        """Take the steps of a block, and return how many there were."""
        settings, shapes, name = (
            self._means.settings,
            self._means.inputs.shapes,
            f"train block {index + 1} of {len(self._blocks)}",
        )
        stackable = self._means.stackable and run.stackable()
        descent = Descent(tensors, self._student.learned, settings.rate, rate)
        taken, turn = 0, 0
        while True:
            random = np.random.default_rng([settings.seed, index, turn])
            for batch in shuffled(shapes, settings.batch, random):
                done = clock.done(taken)
                if done >= 1.0:
                    return taken
                parts = [batch] if stackable else [[i] for i in batch]
                descent.step(done, 1.0 / clock.steps, run.losses(parts, random))
                taken += 1
                self._means.progress(name, min(taken, clock.steps), clock.steps)
            turn += 1

    def _reached(self, run: "_BlockRun") -> list[str]:
        """The names of the tensors that a gradient of the block's ends reaches."""
        tensors = list(self._tensors.values())
        loss = run.loss([0])
        found = torch.autograd.grad(loss, tensors, allow_unused=True) if loss.requires_grad else [None] * len(tensors)
        return [name for name, grad in zip(self._tensors, found, strict=True) if grad is not None]


@dataclass(frozen=True, slots=True)
class _Clock:
    """When a block's training ends: after so many steps, or at a time."""

    steps: int
    begun: float
    until: float | None

    def done(self, taken: int) -> float:
        by_time = 0.0 if self.until is None else (time.monotonic() - self.begun) / max(self.until - self.begun, 1e-9)
        return max(taken / self.steps, by_time)


def divided(prepared: Model, student: Student) -> tuple[LearnedBlock, ...]:
    """Return the blocks of a float graph; two are one where the int8 model does not compute what is between them."""
    blocks: list[LearnedBlock] = []
    for block in divide(prepared):
        if blocks and not all(map(student.has, block.starts)):
            last = blocks.pop()
            blocks.append(LearnedBlock(last.starts, block.ends, (*last.layers, *block.layers)))
        else:
            blocks.append(block)
    return tuple(LearnedBlock(b.starts, tuple(filter(student.has, b.ends)), b.layers) for b in blocks)


class _BlockRun:
    """A block with what it reads and what it is to make, sample by sample."""

    def __init__(self, student: Student, block: LearnedBlock, means: Means, captured: Samples) -> None:
        self._student, self._block, self._inputs, self._captured = student, block, means.inputs, captured
        self._power = dict.fromkeys(block.ends, 0.0)
        exact = Session(compose.with_outputs(means.prepared, list(dict.fromkeys((*block.starts, *block.ends)))))
        for i in range(len(self._inputs)):
            self._capture(self._inputs[i], exact)
            means.progress("run up to the block", i + 1, len(self._inputs))

    def _capture(self, inputs: Arrays, exact: Session) -> None:
        with torch.no_grad():
            read = self._student.between(inputs, {}, self._block.starts)
        read = {name: tensor.cpu() for name, tensor in read.items()}
        found = exact.run(inputs)
        for name in self._block.ends:
            self._power[name] += float(np.square(found[name], dtype=np.float64).sum()) / len(self._inputs)
        self._captured.add(
            {
                **{_STUDENT + name: tensor.numpy() for name, tensor in read.items()},
                **{_FLOAT + name: found[name] for name in self._block.starts},
                **{_EXACT + name: found[name] for name in self._block.ends},
            }
        )

    def losses(self, parts: Sequence[Sequence[int]], random: np.random.Generator) -> Iterator[Part]:
        """Yield the share and the loss of each part of a batch."""
        total = sum(map(len, parts))
        for part in parts:
            yield len(part) / total, functools.partial(self.loss, part, random)

    def loss(self, samples: Sequence[int], random: np.random.Generator | None = None) -> Tensor:
        """Return the noise of what the block makes, in units of the signal's power: the mean of its ends.

        `random`: takes half of what the block reads from the float model; None: nothing.
        """
        held = joined([self._captured[i] for i in samples])
        made = self._made(samples, held, random)
        noise = []
        for name, power in self._power.items():
            if power > _FAINT:
                wrong = made[name] - tensor_of(held[_EXACT + name], self._student.device)
                noise.append(wrong.square().sum() / (len(samples) * power))
        return torch.stack(noise).mean() if noise else torch.zeros(())

    def noise(self) -> float:
        """Return the loss over all samples, of what the block makes of what the int8 model gives it."""
        with torch.no_grad():
            return float(np.mean([float(self.loss([i])) for i in range(len(self._inputs))]))

    def stackable(self) -> bool:
        """Return whether two samples run as one batch as each does by itself."""
        alike = [i for i, shapes in enumerate(self._captured.shapes) if shapes == self._captured.shapes[0]][:2]
        if len(alike) < 2:
            return False
        with torch.no_grad():
            try:
                both = float(self.loss(alike))
            except (DataError, RuntimeError):
                return False
            one = float(np.mean([float(self.loss([i])) for i in alike]))
        return abs(both - one) <= _SAME * max(one, _FAINT)

    def _made(
        self, samples: Sequence[int], held: Mapping[str, np.ndarray], random: np.random.Generator | None
    ) -> dict[str, Tensor]:
        starts = {}
        for name in self._block.starts:
            student = torch.from_numpy(held[_STUDENT + name])
            if random is not None and student.is_floating_point():
                chance = torch.from_numpy(random.random(student.shape, np.float32))
                student = torch.where(chance < _IN_FLOAT, torch.from_numpy(held[_FLOAT + name]), student)
            starts[name] = student.to(self._student.device)
        return self._student.between(joined([self._inputs[i] for i in samples]), starts, self._block.ends)

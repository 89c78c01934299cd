"""The loss: how far the outputs of the int8 model are from those of the float model, in front of what saturates.

Of scores behind a Sigmoid or Softmax, what these read is compared too. Each part of an output counts by the power of
its own signal, so that the loss is the mean of inverse signal to noise ratios. Source: Hinton et al. 2015, "Distilling
the Knowledge in a Neural Network", section 2.1: for logits without means, squared error is the limit of distillation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qtool.core.numerics.sqnr import Parts, measured_outputs
from qtool.finetuning.calls import tensor_of
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.graph.parts import saturating_ends
from qtool.pipeline.verify.judged import find_parts
from qtool.runtime.session import Session

Arrays = Mapping[str, np.ndarray]
_FAINT = 1e-60
"""A sum of squares below is none: gradients in units of it leave float32."""


@dataclass(slots=True)
class Taught:
    """A tensor of the float model that the int8 model is to give too.

    axis: of a Softmax behind it, along which a constant says nothing. labels: the part of each element, by which they
    are weighed; None where all are of one. power: of each part, the mean sum of squares of a sample.
    """

    name: str
    axis: int | None
    labels: Tensor | None
    parts: int
    power: Tensor

    def on(self, device: torch.device) -> "Taught":
        """Return a copy with its tensors on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, labels=labels, power=self.power.to(device))

    def centred(self, x: Tensor) -> Tensor:
        """Return the tensor without its mean along the axis of a Softmax."""
        return x if self.axis is None else x - x.mean(self.axis, keepdim=True)

    def by_part(self, squares: Tensor) -> Tensor:
        """Return the sums of squares of the parts, [P]."""
        if self.labels is None:
            return squares.sum().reshape(1)
        spread = self.labels.expand_as(squares).reshape(-1)
        zeros = torch.zeros(self.parts, dtype=squares.dtype, device=squares.device)
        return zeros.index_add(0, spread, squares.reshape(-1))


@dataclass(slots=True)
class Teacher:
    """The float model: what it gives for samples, and the loss of another model's outputs beside that."""

    targets: list[Taught]
    _session: Session
    device: torch.device
    count: int = 0

    @classmethod
    def of(cls, prepared: Model, example: Arrays, device: str | torch.device = "cpu") -> "Teacher":
        """Return the teacher that a prepared graph is.

        Args:
            prepared: the float graph, which onnxruntime runs.
            example: one batch of its inputs.
            device: where torch compares.
        """
        outputs = [str(value.name) for value in prepared.graph.outputs]
        ends = saturating_ends(prepared)
        reads = dict.fromkeys(end.reads for end in ends)
        graph = compose.with_outputs(prepared, list(dict.fromkeys([*outputs, *reads])))
        session = Session(graph, name="the prepared model")
        exact = session.run(example)
        parts = find_parts(prepared, example)
        names = measured_outputs({name: exact[name] for name in outputs})
        targets = []
        for name in names:
            own = [end for end in ends if end.output == name]
            for end in own:
                targets.append(_target(end.reads, end.axis, None))
            if exact[name].dtype.kind == "f":
                targets.append(_target(name, None, parts.get(name)))
        unique = {target.name: target for target in targets}
        here = torch.device(device)
        return cls([target.on(here) for target in unique.values()], session, here)

    @property
    def names(self) -> list[str]:
        """The tensors that are compared."""
        return [target.name for target in self.targets]

    def run(self, example: Arrays) -> dict[str, np.ndarray]:
        """Return the tensors that are compared, for one sample."""
        made = self._session.run(example)
        return {name: made[name] for name in self.names}

    def measure(self, exact: Mapping[str, np.ndarray]) -> None:
        """Add the power of a sample's tensors to what the loss is measured by."""
        self.count += 1
        for target in self.targets:
            x = target.centred(tensor_of(np.asarray(exact[target.name], np.float32), self.device))
            power = target.by_part(x.double().square())
            target.power = (target.power * (self.count - 1) + power) / self.count

    @property
    def is_silent(self) -> bool:
        """Whether what was measured has no signal at all, so that there is no noise in units of it."""
        return all(bool((target.power <= _FAINT).all()) for target in self.targets)

    def noise(self, made: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the noise of each target's parts in units of their signals' power for one sample, [P] each."""
        result = []
        for target in self.targets:
            wrong = target.centred(made[target.name]) - target.centred(exact[target.name])
            sums, power = target.by_part(wrong.double().square()), target.power
            result.append(torch.where(power > _FAINT, sums / power.clamp_min(_FAINT), 0.0))
        return result


def _target(name: str, axis: int | None, parts: Parts | None) -> Taught:
    if parts is None or len(parts.faint) == 1:
        return Taught(name, axis, None, 1, torch.zeros(1, dtype=torch.float64))
    labels = torch.from_numpy(np.ascontiguousarray(parts.labels, np.int64))
    return Taught(name, axis, labels, len(parts.faint), torch.zeros(len(parts.faint), dtype=torch.float64))

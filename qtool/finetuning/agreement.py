"""The check that torch computes what onnxruntime's integer kernels do; nothing is trained without."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from qtool.core.errors import VerificationError
from qtool.core.numerics.affine import dequantize
from qtool.core.numerics.sqnr import SignalToNoise
from qtool.core.records.finetuning import TorchAgreement
from qtool.core.records.plan import Plan
from qtool.core.text import amount
from qtool.finetuning.student import Student
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.graph.parts import saturating_ends
from qtool.pipeline.rewrite.static import rewrite
from qtool.runtime.session import Session
from qtool.targets.rules import Target

Arrays = Mapping[str, np.ndarray]
_ENOUGH_DB = 40.0
_STEPS = 2
"""A kernel may round to the next step, rarely to the one after that."""
_FAR_SHARE = 1e-3
_DIFFERING = 0.05
"""The share of 8-bit numbers that may be a step off where layers read the same."""


def check_agreement(
    student: Student, prepared: Model, plan: Plan, target: Target, samples: Sequence[Arrays]
) -> TorchAgreement:
    """Run a plan's int8 model by onnxruntime and by torch, and return how they compare.

    Where the outputs are less than 40 dB alike, it must be single steps that grow: layer by layer, each on what
    onnxruntime's layer reads, hardly a number is off, and none by much.

    Raises:
        VerificationError: torch computes something else; the message says where.
    """
    watched = _Watched(student, prepared, plan, target)
    for sample in samples:
        watched.add(sample)
    found = watched.agreement()
    enough = found.db is None or found.db >= _ENOUGH_DB
    single = watched.far <= _FAR_SHARE * watched.count and found.layers_differing <= _DIFFERING
    behind = found.outputs_db is None or found.outputs_db >= _ENOUGH_DB
    if enough or (single and behind):
        return found
    off = f"tensor {found.tensor!r} is up to {amount(found.layers_steps, 'step')} off"
    where = "behind all of these" if single else off
    raise VerificationError(
        f"torch does not compute what onnxruntime does: the outputs agree to {found.db:.1f} dB, and layer by layer "
        f"{100 * found.layers_differing:.2g} % of the numbers differ ({where}); nothing was trained"
    )


class _Watched:
    """Both models, and sums of their differences. far: numbers that are more than `_STEPS` off, of `count`."""

    def __init__(self, student: Student, prepared: Model, plan: Plan, target: Target) -> None:
        self._student = student
        self._grids = {row.tensor: row.params for row in plan.activations}
        model = rewrite(prepared, plan)
        read = compose.hand_out_reads(model, {end.node: end.reads for end in saturating_ends(prepared)})
        self._names = {name: read.get(name, name) for name in student.wanted}
        self._stored = compose.stored_names(prepared, model)
        wanted = list(dict.fromkeys([*self._names.values(), *self._stored.values()]))
        self._session = Session(compose.with_outputs(model, wanted), config=target.session, name="the int8 model")
        self._whole = {name: SignalToNoise() for name in self._names}
        self._behind = {name: SignalToNoise() for name in self._names}
        self._differing, self._elements = 0, 0
        self.far, self.count, self._off, self._largest, self._tensor = 0, 0, 0, 0, ""

    def add(self, sample: Arrays) -> None:
        with torch.no_grad():
            ran = self._session.run(sample)
            free = self._student.run(sample)

            def rounded(tensor: str, found: Tensor) -> Tensor:
                params = self._grids[tensor]
                given = dequantize(ran[self._stored[tensor]], params)
                self._compare(tensor, np.abs(np.rint((found.cpu().numpy() - given) / np.float32(params.scale[0]))))
                return torch.from_numpy(given).to(found.device)

            held = self._student.run(sample, rounded)
            for name, written in self._names.items():
                exact = ran[written]
                here = free[name].cpu().numpy()
                self._whole[name].add(exact, here)
                self._behind[name].add(exact, held[name].cpu().numpy())
                self._differing += int(np.count_nonzero(here != exact))
                self._elements += exact.size

    def _compare(self, tensor: str, steps: np.ndarray) -> None:
        largest = int(steps.max(initial=0))
        self._off += int(np.count_nonzero(steps))
        self.far += int(np.count_nonzero(steps > _STEPS))
        self.count += steps.size
        if largest > self._largest:
            self._largest, self._tensor = largest, tensor

    def agreement(self) -> TorchAgreement:
        return TorchAgreement(
            _worst(self._whole),
            self._differing / max(self._elements, 1),
            self._off / max(self.count, 1),
            self._largest,
            self._tensor,
            _worst(self._behind),
        )


def _worst(noise: Mapping[str, SignalToNoise]) -> float | None:
    """The least figure in dB; None where nothing differs."""
    found = min((one.db for one in noise.values() if one.db is not None), default=math.inf)
    return None if found == math.inf else found

"""The models of a sensitivity analysis, loaded and proven: a layer's own piece, and the stages that it shares."""

import numpy as np

from qtool.core.errors import VerificationError
from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import View
from qtool.core.text import amount
from qtool.evaluation.trial import check_outputs
from qtool.runtime.census import Census, take_census
from qtool.targets.kernels import INTEGER_KERNELS
from qtool.targets.rules import Target
from qtool.tuning.sensitivity.bases import Item, Job
from qtool.tuning.sensitivity.cut import Base, Piece, Tensor, piece_model


class PieceModel:
    """A piece, ready to run under a plan; the census has confirmed which kernels it is.

    Raises:
        VerificationError: onnxruntime runs a layer in integers that was planned in float, or the other way round.
    """

    def __init__(self, base: Base, plan: Plan, piece: Piece, target: Target, name: str) -> None:
        data, self._inputs, self._outputs = piece_model(base.model, plan, piece)
        self.session, census = take_census(data, target.session)
        self.session.name = name
        _check_census(census, piece, plan, target)

    def run(self, known: dict[Tensor, np.ndarray]) -> None:
        """Add what it makes to what is known."""
        made = self.session.run_list({name: known[t] for name, t in self._inputs.items()}, list(self._outputs))
        known.update(zip(self._outputs.values(), made, strict=True))


def _check_census(census: Census, piece: Piece, plan: Plan, target: Target) -> None:
    if not target.on_cpu:
        return
    integer = 0
    for layer in plan.layers:
        if layer not in piece.nodes:
            continue
        kernels = plan.integer.get(layer)
        if kernels is not None and not census.runs_as(layer, kernels):
            raise VerificationError(f"onnxruntime runs layer {layer!r} in float here")
        if kernels is None and census.runs_as(layer, target.rules_kernels):
            raise VerificationError(f"onnxruntime runs layer {layer!r} in integers here")
        integer += kernels is not None
    kernels_found = sum(count for op, count in census.kernels.items() if op in INTEGER_KERNELS)
    planned = sum(name in plan.integer for name in piece.nodes)
    if kernels_found > max(planned, integer):
        raise VerificationError(
            f"onnxruntime runs {amount(kernels_found, 'node')} in integers here, planned: {planned}"
        )


class PieceChain:
    """One job's own piece and the stages behind it."""

    def __init__(
        self, job: Job, base: Base, stages: dict[tuple[View, int], PieceModel], target: Target, name: str
    ) -> None:
        self.name = f"{name} with {'only ' if job.view == 'alone' else 'all but '}{job.layer!r} quantised"
        self._job = job
        self._models = [PieceModel(base, job.variant, job.cut.piece, target, self.name)]
        for number in range(job.cut.next_stage, len(base.stages)):
            if (job.view, number) not in stages:
                stages[job.view, number] = PieceModel(base, base.plan, base.stages[number], target, name)
            self._models.append(stages[job.view, number])

    def run(self, item: Item) -> dict[str, np.ndarray]:
        """Return all outputs of the variant for a batch; those that do not lie behind the change are the base's."""
        known = {(key[1], key[2]): item.live[key] for key in self._job.needs}
        for model in self._models:
            model.run(known)
        outputs = {name: known.get((name, False), array) for name, array in item.outputs[self._job.view].items()}
        for array in outputs.values():
            array.flags.writeable = False
        check_outputs(self._models[0].session, outputs, item.outputs["alone"])
        return outputs

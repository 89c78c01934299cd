"""The int8 model as torch computes it: what the integer kernels compute, with gradients to what is learned."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from qtool.core.numerics.affine import integer_range
from qtool.core.records.plan import Plan
from qtool.finetuning.grids import on_grid
from qtool.finetuning.interpreter import Interpreter
from qtool.finetuning.learned import Learned
from qtool.graph import compose, edit
from qtool.graph.bodies import bodies
from qtool.graph.edit import Array, Model, Node
from qtool.graph.parts import saturating_ends
from qtool.pipeline.rewrite.static import rewrite, shift_biases
from qtool.targets.rules import Target

Arrays = Mapping[str, np.ndarray]
OnRounded = Callable[[str, Tensor], Tensor]


class Student:
    """The int8 model of a plan, run by torch.

    QuantizeLinear and DequantizeLinear together round to the grid; weights and biases are constants, or what is
    learned. Everything else is the written graph, dynamic layers and tables in 8 bits included.

    Args:
        prepared: the float graph that the plan is for.
        plan: the plan to begin with.
        target: the plan's.
        learn: what is learned: weights, biases, scales; nothing to only run it.
        rounding: of weights, learn only whether each is rounded down or up.
        wanted: the tensors that are given: outputs, and what Sigmoids and Softmaxes at their ends read.
        threads: of onnxruntime, where it computes what torch does not.
        also: tensors that are given besides, for a loss on labels.
        device: where torch computes.

    `untrained` are the layers that no gradient reaches, with the reason.
    """

    def __init__(
        self,
        prepared: Model,
        plan: Plan,
        target: Target,
        learn: Collection[str],
        wanted: Sequence[str],
        threads: int = 1,
        *,
        also: Sequence[str] = (),
        device: str | torch.device = "cpu",
        rounding: bool = False,
    ) -> None:
        model = rewrite(prepared, plan)
        read = compose.hand_out_reads(model, {end.node: end.reads for end in saturating_ends(prepared)})
        self.wanted = tuple(wanted)
        self._names = {name: read.get(name, name) for name in (*wanted, *also)}
        self._stored = compose.stored_names(prepared, model)
        stored = {written: tensor for tensor, written in self._stored.items()}
        quantizers = [node for node in model.graph if edit.is_main_op(node, "QuantizeLinear")]
        self._activations = {str(node.name): stored[str(node.outputs[0].name)] for node in quantizers}
        self._grids = {row.tensor: row.params for row in plan.activations}
        self._reads = _without_quantizers(model)
        self._made = {str(value.name) for node in model.graph for value in node.outputs}
        self._interpreter = Interpreter(model, device=device, threads=threads)
        self.untrained = self._interpreter.untrained | _in_bodies(prepared, plan)
        floats = prepared if rounding else None
        self.learned = Learned.of(shift_biases(prepared, plan), plan, target, learn, device, rounding=floats)
        moved = {tensor for node, tensor in self._activations.items() if node in self._interpreter.reached}
        self.learned.keep(lambda reader: reader[0] not in self.untrained, moved)

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self._interpreter.device

    def run(self, feeds: Arrays, rounded: OnRounded | None = None) -> dict[str, Tensor]:
        """Return the wanted tensors for a batch of inputs, by their names in the float graph.

        `rounded`: is told the name of each activation and its tensor on its grid, and returns what is computed with.
        """
        made = self._run(feeds, list(self._names.values()), rounded, None)
        return {name: made[written] for name, written in self._names.items()}

    def between(self, feeds: Arrays, starts: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
        """Return tensors by their names in the float graph, as the next layers read them.

        starts: tensors that are given, likewise; nothing is computed before them.
        """
        given = {self._written(name): tensor for name, tensor in starts.items()}
        made = self._run(feeds, [self._written(name) for name in wanted], None, given)
        return {name: made[self._written(name)] for name in wanted}

    def has(self, tensor: str) -> bool:
        """Return whether the int8 model computes a tensor of the float graph, so that `between` can give it."""
        return self._written(tensor) in self._made

    def _written(self, tensor: str) -> str:
        return self._stored.get(tensor, tensor)

    def _run(
        self, feeds: Arrays, wanted: list[str], rounded: OnRounded | None, start: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        scales = self.learned.scale_of()
        parameters = {self._reads[reader]: tensor for reader, tensor in self.learned.read(scales)}

        def on_output(node: Node, _: str, made: Tensor) -> Tensor:
            tensor = self._activations.get(str(node.name))
            if tensor is None:
                return made
            found = self._rounded(tensor, made, scales.get(tensor))
            return found if rounded is None else rounded(tensor, found)

        return self._interpreter.run(feeds, parameters=parameters, on_output=on_output, wanted=wanted, start=start)

    def _rounded(self, tensor: str, x: Tensor, scale: Tensor | None) -> Tensor:
        """An activation on its grid, or on that with another scale."""
        params = self._grids[tensor]
        low, high = integer_range(params.dtype)
        step = torch.tensor(params.scale[0], device=x.device) if scale is None else scale
        return on_grid(x, step, params.zero_point[0], low, high)


def _in_bodies(prepared: Model, plan: Plan) -> dict[str, str]:
    """The integer layers in the bodies of nodes, which onnxruntime runs as part of these, and why they stay as is."""
    planned = {node for row in plan.weights for node, _ in row.readers}
    result: dict[str, str] = {}
    for body in bodies(prepared.graph):
        why = f"in a body of {body.holder.op_type} {body.holder.name!r}, which onnxruntime runs"
        result |= {str(node.name): why for node in body.graph if node.name in planned}
    return result


def _without_quantizers(model: Model) -> dict[tuple[str, int], str]:
    """Turn Q/DQ of activations into Identities, in place, and DQ of integers that are stored into float constants.

    Returns the name of the constant that each input of a node reads.
    """
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or not edit.is_main_op(node, "QuantizeLinear", "DequantizeLinear"):
            continue
        stored = edit.constant_or_none(source)
        if stored is None:
            edit.make_identity(node, source)
            continue
        value, name = node.outputs[0], str(node.outputs[0].name)
        value.name = f"{name}_gone"
        edit.replace_uses(value, edit.add_initializer(model.graph, name, _real(node, stored)))
        edit.remove_node(node)
    return {
        (str(node.name), index): str(value.name)
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None and value.is_initializer()
    }


def _real(node: Node, stored: Array) -> Array:
    """What a DequantizeLinear of a constant gives."""
    scale = edit.constant(node.inputs[1])
    zero = edit.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    if scale.ndim:
        shape = [1] * stored.ndim
        shape[int(edit.attribute(node, "axis", 1))] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.ndim else zero
    result: Array = (stored.astype(np.int64) - zero.astype(np.int64)).astype(np.float32) * scale
    return result

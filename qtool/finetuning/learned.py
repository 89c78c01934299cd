"""The numbers of a plan that are learned: integers of weights, biases, scales of activations; and the way back."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from qtool.core.numerics.affine import MIN_SCALE, QParams
from qtool.core.numerics.weights import SEVEN_BITS, bias_scale, quantize_weight
from qtool.core.records.placement import Reader
from qtool.core.records.plan import ActivationPlan, BiasPlan, BiasShift, Plan, WeightPlan
from qtool.finetuning.calls import tensor_of
from qtool.finetuning.grids import rounded
from qtool.finetuning.rounding import LearnedRounding, undecided
from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node
from qtool.graph.layers import Layer
from qtool.targets.rules import Target

_ACCUMULATOR = float(2**30)
"""The most of a bias in its steps, since products are added to it in 32 bits."""
_FULL = float(2**31 - 256)
"""The most that any bias may be in its steps: as far as 32 bits go, in float32."""
_PAIR = 128
"""Two neighbouring weights of one sign are at most this together where products are added in pairs in 16 bits."""
_FARTHEST = float(np.log(4.0))
"""A scale becomes at most four times as large or as small."""


@dataclass(slots=True)
class _Weight:
    """A weight in steps of its grid: `steps` is learned and rounded; `low` and `high` are its bounds.

    rounding: where it is there, the rounding alone is learned: whether each number is the integer below or above.
    """

    row: WeightPlan
    steps: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    rounding: LearnedRounding | None = None

    @property
    def name(self) -> str:
        return f"{'weight' if self.rounding is None else 'rounding'} {self.row.tensor}"

    @property
    def learned(self) -> Tensor:
        return self.steps if self.rounding is None else self.rounding.logit

    def real(self) -> Tensor:
        return self.integers() * self.scale

    def integers(self) -> Tensor:
        """In steps, with a gradient."""
        return rounded(self.steps) if self.rounding is None else self.rounding.steps()


@dataclass(slots=True)
class _Bias:
    """A bias: `start` and, in units of `unit`, how far it has moved, which is learned where that has a gradient.

    most: in steps, at which it ends. Steps become smaller with the scale of what the layer reads, while a channel with
    tiny weights begins with a bias of nearly so many.
    """

    row: BiasPlan
    input: str
    weight: WeightPlan
    start: Tensor
    unit: float
    moved: Tensor
    most: Tensor

    def real(self) -> Tensor:
        return self.start + self.unit * self.moved


@dataclass(slots=True)
class _Scale:
    """The scale that some tensors share: `start` times the exponent of `log`, which is learned."""

    tensors: tuple[str, ...]
    start: float
    log: Tensor
    most: float

    def real(self) -> Tensor:
        return self.start * torch.exp(self.log)


@dataclass(slots=True)
class Learned:
    """The numbers of a plan for a prepared graph that are learned, as tensors, and the way back to a plan."""

    plan: Plan
    weights: list[_Weight] = field(default_factory=list)
    biases: list[_Bias] = field(default_factory=list)
    scales: list[_Scale] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: Model,
        plan: Plan,
        target: Target,
        learn: Collection[str],
        device: str | torch.device = "cpu",
        *,
        rounding: Model | None = None,
    ) -> "Learned":
        """Return what can be learned of a plan.

        Args:
            model: the float graph that the plan stands for: prepared, with its shifts and its own integers.
            plan: the plan to begin with.
            target: the plan's.
            learn: what to learn: weights, biases, scales.
            device: where the tensors are.
            rounding: the prepared graph, with the weights as they were before anything was rounded: learn of each only
                whether it is rounded down or up.
        """
        maker = _Maker(model, plan, target, device)
        result = cls(plan)
        if "weights" in learn:
            result.weights = list(maker.weights(rounding))
        if not {"biases", "scales"}.isdisjoint(learn):
            result.biases = list(maker.biases(learned="biases" in learn))
        if "scales" in learn:
            result.scales = list(maker.scales())
        return result

    def keep(self, learnable: Callable[[Reader], bool], reached: Collection[str]) -> None:
        """Leave out the weights and biases of which an input that reads them cannot be learned, and idle scales.

        `reached`: the tensors to whose scales a gradient comes back.
        """
        self.weights = [one for one in self.weights if all(map(learnable, one.row.readers))]
        self.biases = [one for one in self.biases if learnable(one.row.reader)]
        self.scales = [one for one in self.scales if not set(reached).isdisjoint(one.tensors)]

    def counts(self) -> dict[str, int]:
        """Return how many numbers are learned, by kind; without those of which there are none."""
        found = {
            "weights": sum(one.steps.numel() for one in self.weights),
            "biases": sum(one.moved.numel() for one in self._learned_biases()),
            "scales": len(self.scales),
        }
        return {name: count for name, count in found.items() if count}

    def named(self) -> dict[str, Tensor]:
        """Return the tensors that are learned, by a name of their own, in a fixed order."""
        return {
            **{one.name: one.learned for one in self.weights},
            **{f"bias {one.row.reader[0]} {one.row.reader[1]}": one.moved for one in self._learned_biases()},
            **{f"scale {one.tensors[0]}": one.log for one in self.scales},
        }

    def _learned_biases(self) -> Iterator[_Bias]:
        return (one for one in self.biases if one.moved.requires_grad)

    def scale_of(self) -> dict[str, Tensor]:
        """Return the scale of each activation whose scale is learned."""
        return {tensor: scale for one in self.scales for scale in (one.real(),) for tensor in one.tensors}

    def read(self, scales: Mapping[str, Tensor]) -> Iterator[tuple[Reader, Tensor]]:
        """Yield what the layers read instead of their weights and biases; `scales` as `scale_of` gives them."""
        for weight in self.weights:
            real = weight.real()
            for reader in weight.row.readers:
                yield reader, real
        grids = {row.tensor: row.params.scale[0] for row in self.plan.activations}
        for bias in self.biases:
            device = bias.moved.device
            x = scales.get(bias.input, torch.tensor(grids[bias.input], device=device))
            step = x * torch.tensor(bias.weight.params.scale, device=device)
            integers = torch.maximum(torch.minimum(rounded(bias.real() / step), bias.most), -bias.most)
            yield bias.row.reader, integers * step

    def undecided(self, names: Collection[str], progress: float) -> Tensor | None:
        """Return how far from integers weights are whose rounding is being learned: 0 to 1, with a gradient.

        names: of the tensors to count, as `named` gives them. progress: of the training, 0 to 1; early in it nothing
        counts, and None is returned, as where there are none.
        """
        asked = [one for one in self.weights if one.name in names]
        return undecided([one.rounding for one in asked if one.rounding is not None], progress)

    def keep_within(self) -> None:
        """Keep every number within its bounds."""
        with torch.no_grad():
            for weight in self.weights:
                if weight.rounding is not None:
                    continue
                torch.minimum(torch.maximum(weight.steps, weight.low), weight.high, out=weight.steps)
            for scale in self.scales:
                scale.log.clamp_(-_FARTHEST, min(_FARTHEST, scale.most))

    def planned(self, model: Model) -> Plan:
        """Return the plan with what was learned. `model`: the prepared graph, without shifts."""
        with torch.no_grad():
            scales = {tensor: float(scale) for tensor, scale in self.scale_of().items()}
            activations = tuple(_rescaled(row, scales.get(row.tensor)) for row in self.plan.activations)
            weights = {one.row.tensor: one for one in self.weights}
            rows = tuple(_held(row, weights.get(row.tensor)) for row in self.plan.weights)
            nodes = {str(node.name): node for node in model.graph}
            grids = {row.tensor: row.params.scale[0] for row in activations}
            biases = tuple(_rescaled_bias(row, nodes, grids, rows) for row in self.plan.biases)
            shifts = self._shifts(nodes, biases)
            return replace(self.plan, activations=activations, weights=rows, biases=biases, shifts=shifts)

    def _shifts(self, nodes: Mapping[str, Node], rows: Sequence[BiasPlan]) -> tuple[BiasShift, ...]:
        """The shifts that make the biases what was learned, and end them where their integers do: as `read` does."""
        shifts = {shift.reader: shift for shift in self.plan.shifts}
        learned = {bias.row.reader: bias for bias in self._learned_biases()}
        for before, row in zip(self.plan.biases, rows, strict=True):
            name, index = reader = row.reader
            if name not in nodes:
                continue
            bias, shift = learned.get(reader), shifts.get(reader)
            exact = edit.constant(nodes[name].inputs[index]).astype(np.float64)
            start = (exact + (0.0 if shift is None else np.asarray(shift.shift))).astype(np.float32)
            real = (start if bias is None else bias.real().cpu().numpy()).astype(np.float64)
            most = _most(start, before).astype(np.float64) * np.asarray(row.scale)
            moved = np.clip(real, -most, most) - exact
            if (bias is None and (np.abs(real) > most).any()) or (bias is not None and (shift or moved.any())):
                shifts[reader] = BiasShift(reader, tuple(map(float, moved)))
        return tuple(shifts.values())


class _Maker:
    """Finds what can be learned of a plan."""

    def __init__(self, model: Model, plan: Plan, target: Target, device: str | torch.device) -> None:
        self.model, self.plan, self.target, self.device = model, plan, target, device
        self.nodes = {str(node.name): node for node in model.graph}
        known = edit.named_values(model.graph)
        # in bodies no gradient passes: onnxruntime computes them
        self.rows = {row.tensor: row for row in plan.activations if row.tensor in known}
        self.by_reader = {reader: row for row in plan.weights for reader in row.readers}

    def weights(self, floats: Model | None) -> Iterator[_Weight]:
        """Those that integer layers alone read, with one grid."""
        for row in self.plan.weights:
            value = self.model.graph.initializers[row.tensor]
            if {(str(node.name), index) for node, index in value.uses()} != set(row.readers):
                continue
            if any(node not in self.nodes for node, _ in row.readers):
                continue
            exact = row.real(edit.constant(value))
            shape = [1] * exact.ndim
            if row.params.axis is not None:
                shape[row.params.axis] = -1
            scale = np.asarray(row.params.scale, np.float32).reshape(shape)
            integers = quantize_weight(exact, row.params)
            low, high = self._bounds(integers, row.params.axis)
            steps = np.clip(exact / scale, -127.0, 127.0)
            bounds = tensor_of(low, self.device), tensor_of(high, self.device)
            rounding = None
            if floats is not None:
                before = edit.constant(floats.graph.initializers[row.tensor]) / scale
                begun = integers.astype(np.float32)
                near = tensor_of(before, self.device), tensor_of(begun, self.device)
                rounding = LearnedRounding.of(*near, *bounds)
            yield _Weight(row, self._leaf(steps), tensor_of(scale, self.device), *bounds, rounding)

    def _bounds(self, integers: Array, axis: int | None) -> tuple[Array, Array]:
        """The bounds of each element within which no sum of a pair saturates on the target, where any could."""
        if not self.target.saturates:
            most = np.full((1,) * integers.ndim, 127.0, np.float32)
            return -most, most
        others = tuple(i for i in range(integers.ndim) if i != axis) if axis is not None else None
        start = integers.astype(np.float32)
        free = np.clip(_PAIR - np.abs(start).max(axis=others, keepdims=True), 0.0, SEVEN_BITS)
        return -np.maximum(-start, free), np.maximum(start, free)

    def biases(self, *, learned: bool) -> Iterator[_Bias]:
        """Those whose layers have a weight in the plan; where they are not learned, they end with their steps too."""
        for row in self.plan.biases:
            node = self.nodes.get(row.reader[0])
            if node is None:
                continue
            layer, fed = Layer.of(node), self.rows.get(str(node.inputs[0].name if node.inputs[0] else ""))
            weight = None if layer is None else self.by_reader.get((row.reader[0], layer.operator.weights[0]))
            if fed is None or weight is None or weight.readers == ():
                continue
            start = edit.constant(node.inputs[row.reader[1]]).astype(np.float32)
            moved, unit = self._leaf(np.zeros_like(start)).requires_grad_(learned), self._unit(node, start)
            most = tensor_of(_most(start, row), self.device)
            yield _Bias(row, fed.tensor, weight, tensor_of(start, self.device), unit, moved, most)

    def _unit(self, node: Node, bias: Array) -> float:
        """A step of the output's grid, or where that has none a 255th of the largest bias."""
        follower = edit.single_consumer(node.outputs[0])
        for value in (node.outputs[0], None if follower is None else follower.outputs[0]):
            if value is not None and (row := self.rows.get(str(value.name))) is not None:
                return row.params.scale[0]
        return max(float(np.abs(bias).max(initial=0.0)), 1e-6) / 255.0

    def scales(self) -> Iterator[_Scale]:
        for tensors in self._groups():
            rows = [self.rows[tensor] for tensor in tensors]
            if any(row.params != rows[0].params for row in rows) or len(rows[0].params.scale) > 1:
                continue
            most = 0.0 if any(self._is_clipped(row.tensor) for row in rows) else _FARTHEST
            yield _Scale(tensors, rows[0].params.scale[0], self._leaf(np.zeros((), np.float32)), most)

    def _leaf(self, array: Array) -> Tensor:
        return tensor_of(array.astype(np.float32), self.device).requires_grad_()

    def _is_clipped(self, tensor: str) -> bool:
        """Whether a Clip makes it, whose bounds the grid must not leave."""
        node = next((n for n in self.model.graph if any(o.name == tensor for o in n.outputs)), None)
        return node is not None and edit.is_main_op(node, "Clip")

    def _groups(self) -> list[tuple[str, ...]]:
        """The activations that share a grid since nodes pass their integers through, each with its group."""
        group = {tensor: [tensor] for tensor in self.rows}
        for name in self.plan.integer:
            node = self.nodes.get(name)
            rule = None if node is None else self.target.rule(node)
            if node is None or rule is None or rule.kind != "passthrough":
                continue
            read = [v for i, v in enumerate(node.inputs) if rule.inputs is None or i in rule.inputs]
            tied = [str(v.name) for v in (*read, *node.outputs) if v is not None and v.name in group]
            for other in tied[1:]:
                one, two = group[tied[0]], group[other]
                if one is not two:
                    one += two
                    group.update(dict.fromkeys(two, one))
        return list(dict.fromkeys(tuple(one) for one in group.values()))


def _most(start: Array, row: BiasPlan) -> Array:
    """How many steps a bias may have, so that the accumulator holds it and the products: float32."""
    steps = np.abs(start / np.asarray(row.scale, np.float32))
    return np.clip(steps, _ACCUMULATOR, _FULL).astype(np.float32)


def _rescaled(row: ActivationPlan, scale: float | None) -> ActivationPlan:
    if scale is None:
        return row
    found = float(np.float32(max(scale, MIN_SCALE)))
    if found == row.params.scale[0]:
        return row
    params = replace(row.params, scale=(found,))
    return replace(row, params=params, why=f"learned, from {row.why}")


def _held(row: WeightPlan, learned: _Weight | None) -> WeightPlan:
    return row if learned is None else row.holding(torch.round(learned.integers()).cpu().numpy())


def _rescaled_bias(
    row: BiasPlan, nodes: Mapping[str, Node], grids: Mapping[str, float], weights: tuple[WeightPlan, ...]
) -> BiasPlan:
    """The row with the scale of its input's grid times its weight's; as it is in a body, where nothing is learned."""
    node = nodes.get(row.reader[0])
    if node is None:
        return row
    layer, fed = Layer.of(node), node.inputs[0]
    reader = None if layer is None else (row.reader[0], layer.operator.weights[0])
    params: QParams | None = next((weight.params for weight in weights if reader in weight.readers), None)
    if fed is None or params is None or str(fed.name) not in grids:
        return row
    return replace(row, scale=bias_scale(grids[str(fed.name)], params))

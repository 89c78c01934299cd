"""A prepared graph, or a part of it, computed by torch, with gradients.

    interpreter = Interpreter(prepared.model)
    interpreter.run({"x": array})                                   # output -> tensor, as onnxruntime computes it
    interpreter.run(feeds, parameters={"w": tensor})                # constants replaced: what is trained
    interpreter.run({}, start={"a": tensor}, wanted=["b"])          # a part: a block
    interpreter.run(feeds, on_input=fake_quantised)                 # each tensor as a node reads it, and as it is made

What has no row in `qtool.finetuning.operators` is a `Border`: onnxruntime computes it, and no gradient passes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qtool.core.errors import DataError
from qtool.finetuning.borders import Border, calls_of, find_borders, made_of, reached_of
from qtool.finetuning.calls import Call, tensor_of
from qtool.finetuning.cutout import Cutout
from qtool.finetuning.operators import OPERATORS, computed, key_of
from qtool.graph.edit import Model, Node

OnInput = Callable[[Node, int, str, Tensor], Tensor]
"""Of a node, the index of an input, its name and its tensor: what the node reads instead."""
OnOutput = Callable[[Node, str, Tensor], Tensor]
"""Of a node, the name of an output and its tensor: what stands for it from there on."""
_Values = dict[str, Any]
"""Tensors by name; what torch has no type for is an array."""


@dataclass(frozen=True, slots=True)
class _Computation:
    """A node in the order of the run: the values that it needs, constants left out, and how it is computed."""

    node: Node
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    how: Call | Cutout


@dataclass(frozen=True, slots=True)
class _Schedule:
    """The steps of a run, and for each the values that nobody needs behind it."""

    steps: tuple[_Computation, ...]
    freed: tuple[tuple[str, ...], ...]
    fed: tuple[str, ...]


class Interpreter:
    """Runs a prepared graph by torch, on a device.

    `threads`: of onnxruntime, where it computes a border. `constants` are the initializers that torch reads, by name;
    `borders` the nodes that it does not compute, or that no gradient passes, and `untrained` the layers that none
    reaches, with the reason; `reached` the nodes from which one comes back.
    """

    def __init__(self, model: Model, *, device: str | torch.device = "cpu", threads: int = 1) -> None:
        self.device = torch.device(device)
        self.inputs = tuple(str(value.name) for value in model.graph.inputs if not value.is_initializer())
        self.outputs = tuple(str(value.name) for value in model.graph.outputs if computed(value))
        calls = calls_of(model)
        self.borders: tuple[Border, ...] = find_borders(model, calls)
        self.reached = frozenset(str(node.name) for node in reached_of(calls))
        self._cut: set[str] = set()
        self._steps = self._all_steps(model, calls, threads)
        read = {name for step in self._steps if isinstance(step.how, Call) for name in _names(step.node.inputs)}
        read.update(self.outputs)
        self.constants: dict[str, Tensor] = {
            name: tensor_of(value.const_value.numpy(), self.device)
            for name, value in model.graph.initializers.items()
            if name in read and value.const_value is not None and computed(value)
        }
        self._schedules: dict[tuple[frozenset[str], tuple[str, ...]], _Schedule] = {}

    @property
    def untrained(self) -> dict[str, str]:
        """The layers with weights that no gradient reaches: name -> what stands in the way, in words."""
        return {layer: border.says for border in self.borders for layer in border.layers}

    def run(
        self,
        feeds: Mapping[str, Tensor | np.ndarray],
        *,
        parameters: Mapping[str, Tensor] | None = None,
        on_input: OnInput | None = None,
        on_output: OnOutput | None = None,
        wanted: Iterable[str] | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Run the graph once, and return the tensors `wanted` by name: the outputs, if not given.

        feeds: the inputs by name; only those that are needed. parameters: what stands for some `constants`. on_input:
        is shown each tensor that a node reads, constants too but not those of a border, and returns what it reads
        instead; on_output likewise what a node makes. start: tensors that are not computed but given.

        Raises:
            DataError: an input is missing, or a node cannot be computed from what it reads.
            ValueError: what `parameters` name is no constant that torch reads, or `wanted` no tensor.
        """
        given, asked = start or {}, tuple(self.outputs if wanted is None else wanted)
        trained = self._checked(parameters or {})
        schedule = self._schedule(frozenset(given), asked)
        values: _Values = {name: self._fed(name, feeds) for name in schedule.fed}
        values.update(given)
        for step, freed in zip(schedule.steps, schedule.freed, strict=True):
            self._do(step, values, trained, on_input, on_output)
            for name in freed:
                del values[name]
        return {name: values[name] if name in values else self._constant(name, trained) for name in asked}

    def _do(
        self,
        step: _Computation,
        values: _Values,
        trained: Mapping[str, Tensor],
        on_input: OnInput | None,
        on_output: OnOutput | None,
    ) -> None:
        if isinstance(step.how, Cutout):
            read = {name: values[name] for name in step.needs}
            if on_input is not None:
                for index, value in enumerate(step.node.inputs):
                    if value is not None and isinstance(values.get(str(value.name)), Tensor):
                        read[str(value.name)] = on_input(step.node, index, str(value.name), values[str(value.name)])
            made = step.how.run(read, self.device)
        else:
            made = self._computed(step.node, step.how, values, trained, on_input)
        for name, tensor in zip(step.outputs, made, strict=False):
            if name and name not in values:
                values[name] = tensor if on_output is None else on_output(step.node, name, tensor)

    def _computed(
        self, node: Node, call: Call, values: _Values, trained: Mapping[str, Tensor], on_input: OnInput | None
    ) -> Sequence[Tensor]:
        read: list[Tensor | None] = []
        for index, value in enumerate(node.inputs):
            if value is None or not value.name:
                read.append(None)
                continue
            tensor = values[value.name] if value.name in values else self._constant(value.name, trained)
            read.append(tensor if on_input is None else on_input(node, index, value.name, tensor))
        try:
            made = OPERATORS[key_of(node)].function(call, *read)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            why = " ".join(str(error).split())[:200]
            raise DataError(
                f"node {node.name!r} ({node.op_type}) cannot be computed from what it reads ({why}); correct the data "
                "or the model"
            ) from error
        return made if isinstance(made, tuple | list) else (made,)

    def _constant(self, name: str, trained: Mapping[str, Tensor]) -> Tensor:
        return trained[name] if name in trained else self.constants[name]

    def _checked(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for name in parameters:
            if name not in self.constants or name in self._cut:
                raise ValueError(f"{name!r} is no constant that torch alone reads")
        return parameters

    def _fed(self, name: str, feeds: Mapping[str, Tensor | np.ndarray]) -> Any:
        if name not in feeds:
            raise DataError(f"input {name!r} is not fed; give an array for it")
        value = feeds[name]
        if isinstance(value, Tensor):
            return value.to(self.device)
        array = np.asarray(value)
        return array if array.dtype.kind in "OUS" else tensor_of(array, self.device)

    def _all_steps(self, model: Model, calls: Mapping[Node, Call | None], threads: int) -> tuple[_Computation, ...]:
        steps = []
        for node, call in calls.items():
            outputs = tuple(str(v.name) if v.name and computed(v) else "" for v in node.outputs)
            if call is not None:
                needs = tuple(str(v.name) for v in node.inputs if v is not None and v.name and not v.is_initializer())
                steps.append(_Computation(node, needs, outputs, call))
                continue
            read = [str(v.name) for v in node.outputs if v.name and computed(v) and (v.uses() or v.is_graph_output())]
            if read:
                needs, constants = made_of(model, node, calls)
                self._cut.update(constants)
                steps.append(_Computation(node, needs, tuple(read), Cutout(model, needs, tuple(read), threads)))
        return tuple(steps)

    def _schedule(self, start: frozenset[str], wanted: tuple[str, ...]) -> _Schedule:
        key = (start, wanted)
        if key not in self._schedules:
            self._schedules[key] = self._scheduled(start, wanted)
        return self._schedules[key]

    def _scheduled(self, start: frozenset[str], wanted: tuple[str, ...]) -> _Schedule:
        needed, steps = set(wanted) - start, []
        for step in reversed(self._steps):
            if not needed.isdisjoint(step.outputs):
                steps.append(step)
                needed.difference_update(step.outputs)
                needed.update(name for name in step.needs if name not in start)
        steps.reverse()
        fed = tuple(name for name in self.inputs if name in needed)
        unknown = needed - set(fed) - set(self.constants)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} is no tensor of the graph that can be computed")
        last: dict[str, int] = {}
        for i, step in enumerate(steps):
            last.update(dict.fromkeys(filter(None, (*step.outputs, *step.needs)), i))
        freed: list[list[str]] = [[] for _ in steps]
        for name, i in last.items():
            if name not in wanted:
                freed[i].append(name)
        return _Schedule(tuple(steps), tuple(map(tuple, freed)), fed)


def _names(values: Iterable[Any]) -> Iterable[str]:
    return (str(value.name) for value in values if value is not None and value.name)

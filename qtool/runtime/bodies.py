"""Runs the bodies of If, Loop and Scan as models of their own, each time that the model around them would.

A session does not hand out what a body computes, least of all in each iteration. So the model runs as far as such a
node, and what this reads is what its body is fed with here: the branch that is taken, or one iteration after another.
Source: ONNX operators If, Loop and Scan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.graph import compose, edit
from qtool.graph.bodies import Alone, alone, held
from qtool.graph.edit import Model, Node, Value
from qtool.runtime.session import Session

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class BodyRun:
    """A run of a body: its name, what it is fed with, and what was wanted of it."""

    body: str
    fed: Arrays
    found: Arrays


class BodyRuns:
    """The bodies of a model, ready to be run.

    Args:
        model: it is not changed.
        wanted: body -> the tensors that are handed out of it; bodies that are not named are not run.
        config: see `Session`.
        name: what to call the model in messages.

    Raises:
        ModelError: onnxruntime cannot load a part of the model.
    """

    def __init__(
        self,
        model: Model,
        wanted: Mapping[str, Sequence[str]],
        *,
        config: Mapping[str, str] | None = None,
        name: str = "the model",
    ) -> None:
        asked = _Wanted(wanted, config or {}, name)
        holders = _holders(model, asked)
        self._main = _Level(model, "", (), (), holders, asked) if holders else None

    def run(self, feeds: Arrays) -> Iterator[BodyRun]:
        """Run the model on a batch of inputs, and yield each run of a body, in order. Raises `DataError`."""
        if self._main is not None:
            yield from self._main.inside(self._main.run(feeds))


@dataclass(frozen=True, slots=True)
class _Wanted:
    tensors: Mapping[str, Sequence[str]]
    config: Mapping[str, str]
    name: str


class _Level:
    """The main graph, or a body, in a session that hands out what is wanted, carried on, and read by bodies in it."""

    def __init__(
        self,
        model: Model,
        body: str,
        tensors: Sequence[str],
        carried: Sequence[Value],
        holders: "Sequence[_Holder]",
        wanted: _Wanted,
    ) -> None:
        self.body, self.tensors, self.holders = body, tuple(tensors), holders
        self.asked = body in wanted.tensors
        read = [*carried, *(value for holder in holders for value in holder.reads)]
        self.constants = {str(v.name): found for v in read if (found := edit.constant_or_none(v)) is not None}
        known = {str(value.name) for value in model.graph.inputs} | set(self.constants)
        self.names = [n for n in dict.fromkeys([*tensors, *(str(v.name) for v in read)]) if n not in known]
        # a level that only its inputs are wanted of computes nothing
        graph = compose.with_outputs(model, self.names) if self.names else None
        self.session = None if graph is None else Session(graph, config=wanted.config, name=wanted.name)

    def run(self, feeds: Arrays) -> Arrays:
        """What is known in a run by name: what it is fed with, too."""
        found = [] if self.session is None else self.session.run_list(feeds, self.names)
        return {**self.constants, **feeds, **dict(zip(self.names, found, strict=True))}

    def visit(self, feeds: Arrays, values: Arrays) -> Iterator[BodyRun]:
        """This run of the body, and those of the bodies inside of it."""
        if self.asked:
            yield BodyRun(self.body, feeds, {name: values[name] for name in self.tensors})
        yield from self.inside(values)

    def inside(self, values: Arrays) -> Iterator[BodyRun]:
        for holder in self.holders:
            yield from holder.run(values)


def _holders(model: Model, wanted: _Wanted) -> "list[_Holder]":
    """The nodes of the main graph with a body that is wanted, or with one in which there is one."""
    result = []
    for node in model.graph:
        bodies = {}
        for body in held(node):
            part = alone(model, body)
            inner = [] if part is None else _holders(part.model, wanted)
            if part is None or not (inner or body.name in wanted.tensors):
                continue
            tensors = wanted.tensors.get(body.name, ())
            key = body.name.rpartition(".")[2]
            bodies[key] = (part, _Level(part.model, body.name, tensors, _carried(part), inner, wanted))
        if bodies:
            result.append(_Holder(node, bodies))
    return result


def _carried(part: Alone) -> list[Value]:
    """What an iteration hands to the next one; for a Loop whether there is one comes first."""
    node = part.body.holder
    if node.op_type == "Loop":
        return list(part.model.graph.outputs)[: len(node.inputs) - 1]
    count = edit.attribute(node, "num_scan_inputs", 0)
    return list(part.model.graph.outputs)[: len(node.inputs) - count] if node.op_type == "Scan" else []


class _Holder:
    """An If, Loop or Scan and its bodies, by the attribute that holds each."""

    def __init__(self, node: Node, bodies: dict[str, tuple[Alone, _Level]]) -> None:
        self.node, self.bodies = node, bodies
        around = [value for part, _ in bodies.values() for value in part.around.values()]
        self.reads = list(dict.fromkeys([*(v for v in node.inputs if v is not None), *around]))

    def run(self, values: Arrays) -> Iterator[BodyRun]:
        inputs = [None if v is None else values[str(v.name)] for v in self.node.inputs]
        if self.node.op_type == "If":
            yield from self._branch(inputs, values)
        elif self.node.op_type == "Loop":
            yield from self._loop(inputs, values)
        else:
            yield from self._scan(inputs, values)

    def _branch(self, inputs: Sequence[np.ndarray | None], values: Arrays) -> Iterator[BodyRun]:
        condition = inputs[0]
        assert condition is not None
        found = self.bodies.get("then_branch" if condition.reshape(-1)[0] else "else_branch")
        if found is not None:
            yield from self._once(found, [], values)[0]

    def _loop(self, inputs: Sequence[np.ndarray | None], values: Arrays) -> Iterator[BodyRun]:
        found = self.bodies["body"]
        limit = None if inputs[0] is None else int(inputs[0].reshape(-1)[0])
        go = np.array(True) if inputs[1] is None else inputs[1].reshape(())
        states = [array for array in inputs[2:] if array is not None]
        step = 0
        while bool(go) and (limit is None or step < limit):
            runs, (go, *states) = self._once(found, [np.array(step, np.int64), go, *states], values)
            yield from runs
            go, step = go.reshape(()), step + 1

    def _scan(self, inputs: Sequence[np.ndarray | None], values: Arrays) -> Iterator[BodyRun]:
        found = self.bodies["body"]
        count = edit.attribute(self.node, "num_scan_inputs")
        arrays = [array for array in inputs if array is not None]
        states, whole = arrays[:-count], arrays[-count:]
        axes = edit.attribute(self.node, "scan_input_axes") or [0] * count
        backwards = edit.attribute(self.node, "scan_input_directions") or [0] * count
        steps = whole[0].shape[axes[0]]
        for step in range(steps):
            at = [steps - 1 - step if back else step for back in backwards]
            slices = [np.take(array, i, axis) for array, i, axis in zip(whole, at, axes, strict=True)]
            runs, states = self._once(found, [*states, *slices], values)
            yield from runs

    def _once(
        self, found: tuple[Alone, _Level], own: Sequence[np.ndarray], values: Arrays
    ) -> tuple[Iterator[BodyRun], list[np.ndarray]]:
        """One run of a body, and what it carries on."""
        part, level = found
        names = [str(value.name) for value in part.model.graph.inputs[: part.own]]
        feeds = dict(zip(names, own, strict=True))
        feeds |= {name: values[str(outer.name)] for name, outer in part.around.items()}
        ran = level.run(feeds)
        return level.visit(feeds, ran), [ran[str(value.name)] for value in _carried(part)]

"""`inspect_model`: what a model is, what onnxruntime runs of it, what that costs, and what to do about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from qtool.anatomy import grids
from qtool.anatomy.executed import Executed, inspected_nodes, is_integer, layer_kernels
from qtool.anatomy.opened import Opened, open_model, parameters
from qtool.anatomy.planned import PlannedLayer, grid_or_none, macs_of, planned_layers, shapes_in
from qtool.core.arguments import checked_types
from qtool.core.errors import DataError, ModelError, UsageError, arg
from qtool.core.progress import Progress, silent
from qtool.core.records.inspection import InspectedLayer, Inspection, Speed
from qtool.core.text import amount
from qtool.feeds import Data, ReadOptions
from qtool.graph import edit, model_io
from qtool.graph.edit import Node
from qtool.inspection.causes import why_float
from qtool.inspection.differences import differences
from qtool.inspection.errors import Errors, errors_of
from qtool.inspection.findings import find_all, remedy_of
from qtool.inspection.float_model import inspect_float
from qtool.inspection.inputs import Example, Examples, examples_of, fed_to, loaded
from qtool.inspection.islands import Island, find_islands
from qtool.inspection.look import Look
from qtool.inspection.makers import OWN, Maker, form_of, maker_of
from qtool.inspection.speed import PROFILE_SECONDS, speed_of
from qtool.inspection.trained import trained_layers
from qtool.inspection.verdict import next_step, verdict_of
from qtool.runtime.census import take_census
from qtool.runtime.profile import timed_nodes
from qtool.runtime.session import Session
from qtool.targets.tables import find_target


@checked_types
def inspect_model(
    model: str | Path,
    float_model: str | Path | None = None,
    data: Data | None = None,
    *,
    latency: bool = False,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Inspection:
    """Return what a model of any maker is, what onnxruntime runs of it, what that costs, and what to do about it.

    Nothing is written. What cannot be measured is named in `not_measured`, with the reason.

    Args:
        model: an ONNX model, float or quantised: Q/DQ, QOperator, dynamic or weight-only.
        float_model: of a quantised model, the one that it is made of: its errors and its speed are against that.
        data: samples, of which the first few are run; None makes inputs up, which say nothing of accuracy.
        latency: whether to time the model and each node of it, in one thread of this machine.
        progress: told of each step of the work on a quantised model; of a float one that work has begun, and of the
            steps of the draft.
        reading: how the data is read, see `qtool.feeds.ReadOptions`.

    Raises:
        ModelError: a model cannot be read, or onnxruntime does not load it.
        DataError, UsageError: the data cannot be read, or does not fit the model.
    """
    opened = open_model(model)
    if not opened.is_quantized:
        if float_model is not None:
            raise UsageError(f"{arg('float_model')}: {model} is a float model itself; leave it out")
        return inspect_float(opened, model_io.load(model), data, latency=latency, progress=progress, **reading)
    return _Inspected(opened, float_model, data, latency, reading, progress).inspection()


@dataclass(frozen=True, slots=True)
class _Float:
    """The float model that a quantised one is made of."""

    opened: Opened
    session: Session


def _float_of(opened: Opened, float_model: str | Path) -> _Float:
    found = open_model(float_model)
    if found.is_quantized:
        raise UsageError(
            f"{arg('float_model')}: {float_model} is quantised itself; give the float model that {opened.path} is made "
            "of"
        )
    return _Float(found, Session(float_model))


def _check_runs(found: _Float, example: Example, opened: Opened) -> None:
    try:
        found.session.run(fed_to(found.session, example))
    except DataError as error:
        raise UsageError(
            f"{arg('float_model')}: does not run on what {opened.path} takes ({error}); give the float model that that "
            "is made of"
        ) from error


_STEPS = 6


class _Inspected:
    """A quantised model, and what is found out of it, in order."""

    def __init__(
        self,
        opened: Opened,
        float_model: str | Path | None,
        data: Data | None,
        latency: bool,
        reading: ReadOptions,
        progress: Progress,
    ) -> None:
        self.opened = opened
        self._progress, self._done = progress, 0
        progress("inspecting", 0, _STEPS)
        self.session = loaded(opened)
        self.missing: list[str] = []
        self.float = None if float_model is None else _float_of(opened, float_model)
        self.examples: Examples = examples_of(opened.model, self.session, data, **reading)
        if self.float is not None and self.examples.batches:
            _check_runs(self.float, self.examples.batches[0], opened)
        if self.examples.absent:
            self.missing.append(f"what takes a run: {self.examples.absent}")
        self._step()
        self.planned = planned_layers(opened.model)
        self.executed = self._executed(opened, timed=latency)
        self.kernels = layer_kernels(self.executed, self.planned)
        self.unused = self._unused()
        self.maker: Maker | None = maker_of(opened)
        self.nodes: dict[str, Node] = {str(node.name): node for node in opened.nodes}
        self.islands: tuple[Island, ...] = find_islands(
            self.executed,
            self.planned,
            self.kernels,
            self.nodes,
            frozenset(port.name for port in opened.outputs),
            frozenset(port.name for port in opened.inputs),
            form=form_of(opened),
        )
        self._step()
        self.speed = self._speed() if latency else None
        self._step()
        self.errors = self._errors()
        self._step()
        self.float_ms = self._float_ms() if latency else {}
        self._step()

    def _step(self) -> None:
        self._done += 1
        self._progress("inspecting", self._done, _STEPS)

    def inspection(self) -> Inspection:
        """Put together what was found."""
        opened = self.opened
        form = form_of(opened)
        different = differences(opened.model, self.examples.batches, self.kernels)
        if different.absent and self.examples.batches:
            self.missing.append(f"optimised against unoptimised: {different.absent}")
        self._step()
        look = Look(
            opened, self.planned, self.executed, self.kernels, self.islands, self.maker, form,
            vnni=not find_target().saturates, differs=different.found, float_ms=self._float_ms_of_nodes(),
            errors=self.errors, outputs=self._float_outputs(),
            fails=self.examples.fails, trained=trained_layers(self._twins()),
        )  # fmt: skip
        layers = self._layers()
        findings = find_all(look)
        macs = [layer.macs for layer in layers]
        known = [number for number in macs if number is not None]
        return Inspection(
            model=str(opened.path),
            sha256=opened.digest,
            bytes=opened.size,
            kind="int8",
            maker="" if self.maker is None else self.maker.name,
            form=form,
            verdict=verdict_of(layers, self.islands, self.executed, self.speed, findings, look.output_db),
            next=next_step(findings, self.speed, own=self.maker is OWN),
            inputs=opened.inputs,
            outputs=opened.outputs,
            opset=opened.opset,
            parameters=parameters(opened.model),
            macs=sum(known) if known and len(known) == len(macs) else None,
            suggestions=(),
            unusual=(),
            layers=layers,
            nodes=inspected_nodes(self.executed, self.kernels, frozenset(self.nodes)),
            findings=findings,
            speed=self.speed,
            errors=self.errors.rows,
            targets=(),
            float_model=None if self.float is None else str(self.float.opened.path),
            inputs_from=self.examples.said,
            not_measured=tuple(self.missing),
        )

    def _executed(self, opened: Opened, *, timed: bool) -> Executed:
        if not timed or not self.examples.batches:
            return Executed.of(take_census(opened.serialized, name=str(opened.path))[1].nodes)
        return Executed.of(*timed_nodes(opened.serialized, self.examples.batches, PROFILE_SECONDS, str(opened.path)))

    def _unused(self) -> frozenset[str]:
        """The layers in bodies that no run came to, such as the branches that an If did not take."""
        inside = [layer.name for layer in self.planned if layer.inside and layer.name in self.kernels]
        found = frozenset(name for name in inside if self.executed.time([self.kernels[name]]) == 0)
        if found:
            self.missing.append(f"the time of {amount(len(found), 'layer')} in bodies, to which no run came")
        return found

    def _speed(self) -> Speed | None:
        if not self.examples.batches:
            return None
        if self.float is None:
            self.missing.append("the speed of float: no float model was given")
        try:
            return speed_of(self.session, None if self.float is None else self.float.session, self.examples.batches)
        except (ModelError, DataError) as error:
            self.missing.append(f"the speed: {error}")
            return None

    def _errors(self) -> Errors:
        if self.float is None or not self.examples.batches:
            return Errors()
        if self.examples.made_up:
            self.missing.append("errors: inputs that are made up say nothing of accuracy; give data")
            return Errors()
        found = errors_of(self.float.opened.model, self.opened.model, self.examples.batches)
        self.missing += found.not_measured
        return found

    def _float_ms(self) -> Mapping[str, float]:
        """Milliseconds of each node of the float model, by the tensors that it, and what belongs to it, makes."""
        if self.float is None or not self.examples.batches:
            return {}
        examples = [fed_to(self.float.session, example) for example in self.examples.batches]
        opened = self.float.opened
        executed = Executed.of(*timed_nodes(opened.serialized, examples, PROFILE_SECONDS, str(opened.path)))
        layers = {str(layer.node.name): layer for layer in planned_layers(self.float.opened.model)}
        result: dict[str, float] = {}
        for node in self.float.opened.nodes:
            number = executed.kernel_of(node)
            layer = layers.get(str(node.name))
            if number is not None and node.outputs:
                names = [str(edit.main_output(node).name)] if layer is None else _tensors(layer)
                result |= {name: executed.ms[number] for name in names if name not in result or layer is not None}
        return result

    def _float_ms_of_nodes(self) -> dict[int, float]:
        """Number of a node -> what the same takes in the float model, by the tensor that a node of the file makes."""
        found: dict[int, float] = {}
        layers = {layer.name: layer for layer in self.planned}
        for name, node in self.nodes.items():
            number = self.executed.kernel_of(node) if self.float_ms and node.outputs else None
            layer = layers.get(name)
            tensors = [str(edit.main_output(node).name)] if layer is None else _tensors(layer)
            known = [self.float_ms[t] for t in map(self._float_tensor, tensors) if t in self.float_ms]
            if number is not None and known:
                found[number] = max(known[0], found.get(number, 0.0))
        return found

    def _layers(self) -> tuple[InspectedLayer, ...]:
        example = self.examples.batches[0] if self.examples.batches else None
        known = shapes_in(self.opened.model, example)
        macs = {layer.name: macs_of(layer, known) for layer in self.planned}
        counted = [number for number in macs.values() if number is not None]
        whole = sum(counted) if counted and len(counted) == len(macs) else None
        return tuple(self._layer(layer, macs[layer.name], whole) for layer in self.planned)

    def _layer(self, layer: PlannedLayer, macs: int | None, whole: int | None) -> InspectedLayer:
        number = self.kernels.get(layer.name)
        kernel = None if number is None else self.executed.nodes[number]
        integer = kernel is not None and is_integer(kernel)
        cause = None if integer or kernel is None else why_float(layer)
        tensors = [name for name in map(self._float_tensor, _tensors(layer)) if name]
        tensor = tensors[-1] if tensors else ""
        # what is behind it and belongs to it reads what float gives: the piece that holds the layer is the worst
        alone = [db for name in tensors if (db := self.errors.alone.get(name)) is not None]
        return InspectedLayer(
            name=layer.name,
            op=layer.node.op_type,
            output=str(edit.main_output(layer.node).name),
            inside=layer.inside,
            macs=macs,
            share=None if not whole or macs is None else macs / whole,
            planned=layer.planned,
            kernel="" if kernel is None else kernel.op_type,
            integer=integer,
            input=grid_or_none(layer.x),
            weight=grid_or_none(layer.w),
            result=grid_or_none(layer.y),
            ms=None if number is None or layer.name in self.unused else self.executed.time([number]),
            # of what belongs to it, the layer itself takes most
            float_ms=max((self.float_ms[name] for name in tensors if name in self.float_ms), default=None),
            sqnr_db=self.errors.by_tensor.get(tensor),
            alone_db=min(alone, default=None),
            cause="" if cause is None else cause.text,
            remedy="" if cause is None else remedy_of(cause.rule, self.maker),
        )

    def _twins(self) -> Iterator[tuple[PlannedLayer, PlannedLayer]]:
        """The layers of the model, each with that of the float one, as far as it is known."""
        if self.float is None:
            return
        made = {tensor: layer for layer in planned_layers(self.float.opened.model) for tensor in _tensors(layer)}
        for layer in self.planned:
            twin = next((made[t] for t in map(self._float_tensor, _tensors(layer)) if t in made), None)
            if twin is not None:
                yield layer, twin

    def _float_outputs(self) -> tuple[str, ...]:
        return () if self.float is None else tuple(port.name for port in self.float.opened.outputs)

    def _float_tensor(self, name: str) -> str:
        """The tensor of the float model that one of this model is, where that is known."""
        return self.errors.of.get(name, name if name in self.float_ms else "")


_FUSED = ("Relu", "Clip", "BatchNormalization", "QuantizeLinear", "Cast", "Mul", "Add")


def _tensors(layer: PlannedLayer) -> list[str]:
    """What a layer makes, and behind what belongs to it: its bound, and the scale and bias of a dynamic one."""
    made = edit.main_output(layer.node)
    names = [str(made.name)]
    value = grids.behind_norm(layer.node) or made
    if value is not made:
        names = [str(value.name)]
    dynamic = layer.written is not None and layer.written.dynamic
    while True:
        node = edit.single_consumer(value)
        if node is None or node.op_type not in (_FUSED if dynamic else _FUSED[:4]):
            return names
        others = [v for v in node.inputs if v is not None and v is not value and node.op_type == "Add"]
        if not all(map(grids.is_constant, others)):
            return names
        value = node.outputs[0]
        names.append(str(value.name))

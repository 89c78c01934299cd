"""A float model inspected: what its inputs ask for, what each target makes of it, and where its time goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np

from qtool.anatomy.executed import Executed, inspected_nodes, layer_kernels
from qtool.anatomy.opened import Opened, parameters
from qtool.anatomy.planned import PlannedLayer, macs_of, planned_layers, shapes_in
from qtool.core.errors import DataError, ModelError, QtoolError
from qtool.core.progress import Progress, silent
from qtool.core.records.inspection import Finding, InspectedLayer, InspectedNode, Inspection, Speed
from qtool.core.records.statistics import Statistics
from qtool.core.records.verification import percent
from qtool.core.text import amount
from qtool.feeds import Data, ReadOptions
from qtool.graph.edit import Model, Node
from qtool.graph.layers import Layer
from qtool.graph.model_io import LoadedModel
from qtool.graph.origins import origins_of
from qtool.inspection.draft import draft_speedup
from qtool.inspection.inputs import examples_of
from qtool.inspection.makers import maker_of
from qtool.inspection.prospects import Outlook, outlooks
from qtool.inspection.speed import speed_of
from qtool.inspection.suggestions import suggest
from qtool.inspection.unusual import prepared_in_words, unusual
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.verify.macs import count_macs, shapes_of
from qtool.pipeline.verify.macs import macs_of as macs_in
from qtool.runtime.census import take_census
from qtool.runtime.profile import timed_nodes
from qtool.runtime.session import Session
from qtool.targets.tables import find_target

_SECONDS = 2.0
_REORDERS = ("ReorderInput", "ReorderOutput")
_ALIKE = 1.05
"""Speeds within this factor are alike."""
_MUCH = 0.05
"""The share of float's time from which what stays float is named."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What could be found out of a model, and what could not.

    prepared: None where quantisation would refuse the model. outlooks: of each target. example: one batch of inputs,
    None where there is none; given: all, where somebody gave them; source: what it is, in words. executed: what
    onnxruntime runs; None where it does not. macs: of all nodes of the prepared graph that multiply; inputs that are
    made up say nothing of those in bodies. speed: of the file; drafted: how many times as fast as that a draft of the
    int8 model is; None where these were not measured.
    """

    prepared: Prepared | None
    outlooks: tuple[Outlook, ...]
    example: Mapping[str, np.ndarray] | None
    given: Sequence[Mapping[str, np.ndarray]]
    source: str
    executed: Executed | None
    missing: tuple[str, ...]
    macs: Mapping[str, int | None]
    speed: Speed | None
    drafted: float | None
    heirs: Mapping[str, Node] = field(default_factory=dict)

    @property
    def own(self) -> Outlook | None:
        """That of this machine's target."""
        name = find_target().name
        return next((outlook for outlook in self.outlooks if outlook.target.name == name), None)

    def heir(self, *names: str) -> str:
        """The node of the prepared graph that stands for one of the file, by its names; "" where none does."""
        found = next((self.heirs[name] for name in names if name in self.heirs), None)
        return "" if found is None else str(found.name)


def inspect_float(
    opened: Opened,
    loaded: LoadedModel,
    data: Data | None = None,
    *,
    latency: bool = False,
    seconds: float = _SECONDS,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Inspection:
    """Return the inspection of a float model.

    Args:
        opened, loaded: the model, tidied and as it came.
        data: whose first batch gives the shapes, and is what is timed; None makes inputs up.
        latency: also time each node, for about so many `seconds`, and a draft of the int8 model.
        progress: told that work has begun, and of the steps of the draft.
        reading: how the data is read, see `qtool.feeds.ReadOptions`.

    Raises:
        DataError, UsageError: the data cannot be read.
    """
    progress("inspecting", 0, None)
    known = _known(opened, loaded, data, reading, latency=latency, seconds=seconds, progress=progress)
    layers = planned_layers(opened.model)
    rows = _layers(layers, known, opened)
    prospects = tuple(one.record(known.macs, known.drafted if one is known.own else None) for one in known.outlooks)
    prepared = known.prepared
    done = [] if prepared is None else [prepared_in_words(prepared.changes)]
    counted = [row.macs for row in rows if row.macs is not None]
    maker = maker_of(opened)
    result = Inspection(
        model=str(opened.path),
        sha256=opened.digest,
        bytes=opened.size,
        kind="float",
        maker=opened.producer if maker is None else maker.name,
        form="float",
        verdict="",
        next="",
        inputs=opened.inputs,
        outputs=opened.outputs,
        opset=opened.opset,
        parameters=parameters(opened.model),
        macs=sum(counted) if counted and len(counted) == len(rows) else None,
        suggestions=suggest(loaded.model, opened.path, known.given),
        unusual=(
            *unusual(loaded.model, opened.path, None if prepared is None else prepared.model),
            *filter(None, done),
        ),
        layers=rows,
        nodes=_nodes(layers, known, opened),
        findings=_findings(known, opened),
        speed=known.speed,
        errors=(),
        targets=prospects,
        float_model=None,
        inputs_from=known.source,
        not_measured=known.missing,
    )
    return replace(result, verdict=_verdict(result), next=_next(result))


def _known(
    opened: Opened,
    loaded: LoadedModel,
    data: Data | None,
    reading: ReadOptions,
    *,
    latency: bool,
    seconds: float,
    progress: Progress,
) -> _Known:
    missing = []
    prepared = None
    try:
        prepared = prepare(loaded)
    except QtoolError as error:
        missing.append(f"what would be quantised: {_without_name(error, opened)}")
    examples, source, why = _examples(opened, data, reading)
    example = examples[0] if examples else None
    missing += [why] if why else []
    statistics = Statistics("no data", opened.digest, 0, {}, () if example is None else (dict(example),))
    given = () if data is None else examples
    macs = {} if prepared is None or example is None else _macs(prepared.model, example, given)
    found = () if prepared is None else outlooks(prepared, statistics, macs)
    executed = None
    try:
        executed = _executed(opened, example if latency else None, seconds)
    except (ModelError, DataError) as error:
        missing.append(f"what onnxruntime runs: {_without_name(error, opened)}")
    if latency and example is None:
        missing.append("times: there are no inputs to run it on")
    heirs = {} if prepared is None else _heirs(prepared)
    speed = drafted = None
    if latency and executed is not None and example is not None:
        speed = speed_of(Session(opened.path), None, [example])
        if prepared is not None:
            drafted, why = draft_speedup(opened.path, example, progress)
            missing += [] if drafted is not None else [f"what integers gain: {why}"]
    return _Known(prepared, found, example, given, source, executed, tuple(missing), macs, speed, drafted, heirs)


def _macs(
    model: Model, example: Mapping[str, np.ndarray], given: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, int | None]:
    return count_macs(model, given) if given else macs_in(model, shapes_of(model, example))


def _without_name(error: QtoolError, opened: Opened) -> str:
    return str(error).removeprefix(f"{opened.path}: ")


def _examples(
    opened: Opened, data: Data | None, reading: ReadOptions
) -> tuple[Sequence[Mapping[str, np.ndarray]], str, str]:
    """Batches of inputs, what the first one is, and why there are none."""
    try:
        found = examples_of(opened.model, Session(opened.path), data, **reading)
    except ModelError as error:
        return (), "", f"what a run tells: {_without_name(error, opened)}"
    if not found.batches:
        return (), "", f"multiply-accumulates: {QtoolError(found.absent)}"
    first = found.batches[0]
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in first.items())
    return found.batches, f"{found.said} ({shapes})", ""


def _executed(opened: Opened, example: Mapping[str, np.ndarray] | None, seconds: float) -> Executed:
    if example is None:
        return Executed.of(take_census(opened.serialized, name=str(opened.path))[1].nodes)
    return Executed.of(*timed_nodes(opened.serialized, [example], seconds, str(opened.path)))


def _heirs(prepared: Prepared) -> dict[str, Node]:
    """Name of a node of the file, or of its output -> the prepared node that stands for it, a layer first."""
    result: dict[str, Node] = {}
    nodes = list(prepared.model.graph.all_nodes())
    for node in sorted(nodes, key=lambda node: Layer.of(node) is None):
        for name in _names(origins_of(node)):
            result.setdefault(name, node)
    for node in nodes:
        for name in (str(node.name), *(str(o.name) for o in node.outputs)):
            if not (name in result and Layer.of(result[name]) is not None and Layer.of(node) is None):
                result[name] = node
    return result


def _names(origins: Iterable[object]) -> list[str]:
    return [name for origin in origins for name in origin.names if name]  # type: ignore[attr-defined]


def _heir(layer: PlannedLayer, known: _Known) -> str:
    """The node of the prepared graph that stands for a layer of the file; "" where none does."""
    return known.heir(layer.name, next(str(value.name) for value in layer.node.outputs if value.name))


def _layers(layers: Sequence[PlannedLayer], known: _Known, opened: Opened) -> tuple[InspectedLayer, ...]:
    shapes = shapes_in(opened.model, known.example)
    macs = {
        layer.name: known.macs.get(_heir(layer, known)) if layer.inside else macs_of(layer, shapes) for layer in layers
    }
    total = sum(number for number in macs.values() if number is not None)
    kernels = {} if known.executed is None else layer_kernels(known.executed, layers)
    result = []
    for layer in layers:
        output = next(str(value.name) for value in layer.node.outputs if value.name)
        number = kernels.get(layer.name)
        heir, own = _heir(layer, known), macs[layer.name]
        outlook = known.own
        planned = outlook is not None and heir in outlook.kernels
        result.append(
            InspectedLayer(
                name=layer.name,
                op=layer.node.op_type,
                output=output,
                inside=layer.inside,
                macs=own,
                share=own / total if own is not None and total and None not in macs.values() else None,
                planned=planned,
                kernel="" if number is None or known.executed is None else known.executed.nodes[number].op_type,
                integer=False,
                input=None,
                weight=None,
                result=None,
                ms=None if number is None or known.executed is None else known.executed.time([number]),
                float_ms=None,
                sqnr_db=None,
                alone_db=None,
                cause="" if planned or outlook is None else outlook.floats.get(heir, ""),
                remedy="",
            )
        )
    return tuple(result)


def _nodes(layers: Sequence[PlannedLayer], known: _Known, opened: Opened) -> tuple[InspectedNode, ...]:
    if known.executed is None:
        return ()
    names = frozenset(str(node.name) for node in opened.nodes)
    return inspected_nodes(known.executed, layer_kernels(known.executed, layers), names)


def _floats(known: _Known, opened: Opened) -> list[tuple[int, str]]:
    """The numbers of the executed nodes that stay float, each with the reason.

    What only changes the layout for a kernel of float is none of these where a neighbour becomes integer.
    """
    executed, outlook = known.executed, known.own
    if executed is None or outlook is None:
        return []
    integers, reasons = set(), dict.fromkeys(range(len(executed.nodes)), "")
    for node in opened.nodes:
        number = executed.kernel_of(node)
        heir = known.heir(str(node.name), *(str(output.name) for output in node.outputs))
        if number is not None and heir in outlook.kernels:
            integers.add(number)
        elif number is not None:
            reasons[number] = reasons[number] or outlook.floats.get(heir, "")
    for number, moved in enumerate(executed.nodes):
        if moved.op_type in _REORDERS:
            ends = {executed.maker(moved.inputs[0]), *executed.readers(moved.outputs[0])}
            integers.update([number] if ends & integers else [])
    return [(number, why) for number, why in reasons.items() if number not in integers]


def _findings(known: _Known, opened: Opened) -> tuple[Finding, ...]:
    """What stays float and takes much of float's time, by operator: integers gain nothing there."""
    executed = known.executed
    if executed is None or not executed.total:
        return ()
    named = {number: name for name, number in layer_kernels(executed, planned_layers(opened.model)).items()}
    by_op: dict[str, list[tuple[int, str]]] = {}
    for number, why in _floats(known, opened):
        by_op.setdefault(executed.nodes[number].op_type, []).append((number, why))
    result = []
    for op, found in by_op.items():
        ms = executed.time([number for number, _ in found]) or 0.0
        share = ms / executed.total
        if share >= _MUCH:
            dearest = sorted(found, key=lambda one: -executed.ms[one[0]])
            why = next((why for _, why in dearest if why), "it has no integer form on this machine's target")
            names = tuple(named.get(n) or executed.nodes[n].name or executed.nodes[n].outputs[0] for n, _ in dearest)
            what = f"{amount(len(found), op, op)} would stay float, {100 * share:.0f} % of float's time"
            result.append(Finding("stays-float", names, what, why, "", ms, share))
    return tuple(sorted(result, key=lambda one: -(one.ms or 0.0)))


def _verdict(result: Inspection) -> str:
    own = next((one for one in result.targets if one.target == find_target().name), None)
    if own is None:
        return "float; what would be quantised is not known"
    if not own.integer_layers:
        return f"float; nothing would be integer on {own.target}" + _main_reason(own.floats)
    whose = "multiply-accumulates" if result.macs is not None else "the multiply-accumulates that are known"
    share = "" if own.macs_share is None else f", {percent(own.macs_share)} of {whose},"
    words = f"float; on {own.target} {own.integer_layers} of {amount(own.layers, 'layer')}{share} can be integer"
    if own.speedup is None:
        return words
    timed = f"a draft of it runs at {own.speedup:.2g}x the speed of float"
    if own.speedup < 1 / _ALIKE:
        return f"{words}; {timed}: SLOWER than float"
    return f"{words}; {timed}"


def _main_reason(floats: Mapping[str, str]) -> str:
    reasons = list(floats.values())
    return f": {max(reasons, key=reasons.count)}" if reasons else ""


def _next(result: Inspection) -> str:
    if any(one.integer_layers for one in result.targets):
        return "quantise it, with data like that which it will see"
    if not result.targets:
        return "mend what is said not to be known"
    fixed = any(text.startswith("fix=") for text in result.suggestions)
    return "fix the input that decides which branch runs, and quantise it so" if fixed else "use it as it is"

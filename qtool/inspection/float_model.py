"""A float model inspected: what its inputs ask for, what each target makes of it, and where its time goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qtool.core.errors import DataError, ModelError, QtoolError
from qtool.core.records.inspection import Finding, InspectedLayer, InspectedNode, Inspection
from qtool.core.records.statistics import Statistics
from qtool.core.records.verification import MADE_UP
from qtool.core.text import amount
from qtool.feeds import Data, open_for_model
from qtool.feeds.formats.sequences import unrolled
from qtool.graph.edit import Node
from qtool.graph.model_io import LoadedModel
from qtool.graph.origins import origins_of
from qtool.inspection.executed import Executed, inspected_nodes, layer_kernels
from qtool.inspection.makers import maker_of
from qtool.inspection.opened import Opened, parameters
from qtool.inspection.planned import PlannedLayer, macs_of, planned_layers, shapes_in
from qtool.inspection.prospects import Outlook, outlooks
from qtool.inspection.suggestions import suggest
from qtool.inspection.unusual import prepared_in_words, unusual
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.verify.macs import count_macs
from qtool.quantization.blind import without_data
from qtool.runtime.census import take_census
from qtool.runtime.profile import timed_nodes
from qtool.runtime.session import Session
from qtool.targets.tables import find_target

_SECONDS = 2.0
_REORDERS = ("ReorderInput", "ReorderOutput")
_MUCH = 0.05
"""The share of float's time from which what stays float is named."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What could be found out of a model, and what could not.

    prepared: None where quantisation would refuse the model. outlooks: of each target. example: one batch of inputs,
    None where there is none; source: what it is, in words. executed: what onnxruntime runs; None where it does not.
    """

    prepared: Prepared | None
    outlooks: tuple[Outlook, ...]
    example: Mapping[str, np.ndarray] | None
    source: str
    executed: Executed | None
    missing: tuple[str, ...]
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
    **reading: object,
) -> Inspection:
    """Return the inspection of a float model.

    Args:
        opened, loaded: the model, tidied and as it came.
        data: whose first batch gives the shapes, and is what is timed; None makes inputs up.
        latency: also time each node, for about so many `seconds`.
        reading: how the data is read, see `qtool.feeds.ReadOptions`.

    Raises:
        DataError, UsageError: the data cannot be read.
    """
    known = _known(opened, loaded, data, reading, latency=latency, seconds=seconds)
    layers = planned_layers(opened.model)
    rows = _layers(layers, known, opened)
    macs = {} if known.prepared is None or known.example is None else count_macs(known.prepared.model, known.example)
    share = _time_share(known, opened)
    prospects = tuple(one.record(macs, share if one is known.own else None) for one in known.outlooks)
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
        suggestions=suggest(loaded.model, opened.path),
        unusual=(
            *unusual(loaded.model, opened.path, None if prepared is None else prepared.model),
            *filter(None, done),
        ),
        layers=rows,
        nodes=_nodes(layers, known, opened),
        findings=_findings(known, opened),
        speed=None,
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
    reading: Mapping[str, object],
    *,
    latency: bool,
    seconds: float,
) -> _Known:
    missing = []
    prepared = None
    try:
        prepared = prepare(loaded)
    except QtoolError as error:
        missing.append(f"what would be quantised: {_without_name(error, opened)}")
    example, source, why = _example(prepared, opened, data, reading)
    missing += [why] if why else []
    statistics = Statistics("no data", opened.digest, 0, {}, () if example is None else (dict(example),))
    found = () if prepared is None else outlooks(prepared, statistics)
    executed = None
    try:
        executed = _executed(opened, example if latency else None, seconds)
    except (ModelError, DataError) as error:
        missing.append(f"what onnxruntime runs: {_without_name(error, opened)}")
    if latency and example is None:
        missing.append("times: there are no inputs to run it on")
    heirs = {} if prepared is None else _heirs(prepared)
    return _Known(prepared, found, example, source, executed, tuple(missing), heirs)


def _without_name(error: QtoolError, opened: Opened) -> str:
    return str(error).removeprefix(f"{opened.path}: ")


def _example(
    prepared: Prepared | None, opened: Opened, data: Data | None, reading: Mapping[str, object]
) -> tuple[Mapping[str, np.ndarray] | None, str, str]:
    """One batch of inputs, what it is, and why there is none."""
    if data is not None:
        feeds = open_for_model(opened.model, data, **reading)  # type: ignore[arg-type]
        feeds = unrolled(feeds, Session(opened.path).run) if feeds.states else feeds
        first = next(iter(feeds))
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in first.inputs.items())
        return first.inputs, f"{first.origin} ({shapes})", ""
    if prepared is None:
        return None, "", ""
    try:
        statistics, why = without_data(prepared)
    except (ModelError, DataError) as error:
        statistics, why = None, _without_name(error, opened)
    if statistics is None or not statistics.examples:
        return None, "", f"multiply-accumulates: {why or 'no inputs can be made up'}; give data"
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in statistics.examples[0].items())
    return statistics.examples[0], f"{MADE_UP} ({shapes})", ""


def _executed(opened: Opened, example: Mapping[str, np.ndarray] | None, seconds: float) -> Executed:
    if example is None:
        return Executed(take_census(opened.serialized)[1].nodes)
    return Executed(*timed_nodes(opened.serialized, [example], seconds))


def _heirs(prepared: Prepared) -> dict[str, Node]:
    """Name of a node of the file, or of its output -> the node of the prepared graph that stands for it."""
    result: dict[str, Node] = {}
    for node in prepared.model.graph.all_nodes():
        for name in (str(node.name), *(str(o.name) for o in node.outputs), *_names(origins_of(node))):
            result.setdefault(name, node)
    return result


def _names(origins: Iterable[object]) -> list[str]:
    return [name for origin in origins for name in origin.names if name]  # type: ignore[attr-defined]


def _layers(layers: Sequence[PlannedLayer], known: _Known, opened: Opened) -> tuple[InspectedLayer, ...]:
    shapes = shapes_in(opened.model, known.example)
    macs = {layer.name: macs_of(layer, shapes) for layer in layers}
    total = sum(number for number in macs.values() if number is not None)
    kernels = {} if known.executed is None else layer_kernels(known.executed, layers)
    result = []
    for layer in layers:
        output, number = str(layer.node.outputs[0].name), kernels.get(layer.name)
        heir, own = known.heir(layer.name, output), macs[layer.name]
        outlook = known.own
        planned = outlook is not None and heir in outlook.kernels
        result.append(
            InspectedLayer(
                name=layer.name,
                op=layer.node.op_type,
                output=output,
                inside=layer.inside,
                macs=own,
                share=own / total if own is not None and total else None,
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


def _split(known: _Known, opened: Opened) -> tuple[list[tuple[int, str]], list[int]]:
    """The numbers of the executed nodes that stay float, each with the reason, and of those that become integer.

    What only changes the layout for a kernel of float is one of those where a neighbour is.
    """
    executed, outlook = known.executed, known.own
    if executed is None or outlook is None:
        return [], []
    integers, reasons = set(), dict.fromkeys(range(len(executed.nodes)), "")
    for node in opened.nodes:
        number = executed.kernel_of(node)
        heir = known.heir(str(node.name), *(str(output.name) for output in node.outputs))
        if number is not None and heir in outlook.kernels:
            integers.add(number)
        elif number is not None:
            reasons[number] = reasons[number] or outlook.floats.get(heir, "")
    for number, node in enumerate(executed.nodes):
        if node.op_type in _REORDERS:
            ends = {executed.maker(node.inputs[0]), *executed.readers(node.outputs[0])}
            integers.update([number] if ends & integers else [])
    return [(number, why) for number, why in reasons.items() if number not in integers], sorted(integers)


def _time_share(known: _Known, opened: Opened) -> float | None:
    """The share of float's time in the nodes that are to be integer."""
    executed = known.executed
    if executed is None or not executed.total:
        return None
    return (executed.time(_split(known, opened)[1]) or 0.0) / executed.total


def _findings(known: _Known, opened: Opened) -> tuple[Finding, ...]:
    """What stays float and takes much of float's time, by operator: integers gain nothing there."""
    executed = known.executed
    if executed is None or not executed.total:
        return ()
    by_op: dict[str, list[tuple[int, str]]] = {}
    for number, why in _split(known, opened)[0]:
        by_op.setdefault(executed.nodes[number].op_type, []).append((number, why))
    result = []
    for op, found in by_op.items():
        ms = executed.time([number for number, _ in found]) or 0.0
        share = ms / executed.total
        if share >= _MUCH:
            dearest = sorted(found, key=lambda one: -executed.ms[one[0]])
            why = next((why for _, why in dearest if why), "it has no integer form on this machine's target")
            names = tuple(executed.nodes[n].name or executed.nodes[n].outputs[0] for n, _ in dearest)
            what = f"{amount(len(found), op, op)} would stay float, {100 * share:.0f} % of float's time"
            result.append(Finding("stays-float", names, what, why, "", ms, share))
    return tuple(sorted(result, key=lambda one: -(one.ms or 0.0)))


def _verdict(result: Inspection) -> str:
    own = next((one for one in result.targets if one.target == find_target().name), None)
    if own is None:
        return "float; what would be quantised is not known"
    if not own.integer_layers:
        return f"float; nothing would be integer on {own.target}" + _main_reason(own.floats)
    share = "" if own.macs_share is None else f", {100 * own.macs_share:.3g} % of multiply-accumulates,"
    words = f"float; on {own.target} {own.integer_layers} of {amount(own.layers, 'layer')}{share} can be integer"
    if own.speedup is None:
        return words
    slower = ", slower than float" if own.speedup < 1.0 else ""
    return f"{words}: about {own.speedup:.2g}x the speed of float{slower} (estimate)"


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

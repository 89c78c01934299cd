"""The prospects of a float model: what `quantize` would make of it on each target, by its own planner, without data."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from qtool.core.errors import NothingToQuantizeError
from qtool.core.records.inspection import Prospect
from qtool.core.records.options import Scheme
from qtool.core.records.placement import NOTHING_AMENDED, Placement
from qtool.core.records.statistics import Statistics
from qtool.graph import edit, products
from qtool.graph.edit import Model, Node
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.selection import is_layer, select, static_scheme
from qtool.pipeline.planning.speed import Divider
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.verify.macs import known_total
from qtool.quantization.graphs import FloatGraph
from qtool.targets.conditions import table
from qtool.targets.rules import Target
from qtool.targets.tables import TARGETS

Macs = Mapping[str, int | None]
_COMPUTED = "it multiplies two computed tensors"
_UNKNOWN = 0.1
"""The share of the work of which the table may know nothing."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The placement for one target, and what the target's table of times says of it.

    kernels: node -> the kernels that it may become, of what is to be integer. floats: node -> why it stays float, of
    what multiplies and of what else the target knows. gain: how many times as fast the integer nodes are as in float,
    borders included, by the table; None where the target has none, or nothing is known of the shapes.
    """

    target: Target
    layers: tuple[str, ...]
    kernels: Mapping[str, tuple[str, ...]]
    floats: Mapping[str, str]
    gain: float | None

    def record(self, macs: Macs, speedup: float | None) -> Prospect:
        """Return the record of it, with its share of the work.

        macs: of all nodes that multiply; empty where they are unknown. speedup: of a draft; None without one.
        """
        inside = sum(macs.get(name) or 0 for name in self.kernels)
        total = known_total(macs)
        return Prospect(
            self.target.name,
            layers=len(self.layers),
            integer_layers=sum(name in self.kernels for name in self.layers),
            macs_share=inside / total if total and None not in macs.values() else None,
            floats=dict(self.floats),
            layers_speedup=self.gain,
            speedup=speedup,
        )


def outlooks(prepared: Prepared, statistics: Statistics, macs: Macs) -> tuple[Outlook, ...]:
    """Return what becomes of a prepared model on each target, in the order of the tables.

    Args:
        statistics: with examples whose shapes the table of times is asked with; without any, nothing is left in float
            for speed.
        macs: of all nodes that multiply; empty where they are unknown.
    """
    return tuple(_outlook(prepared, statistics, macs, target) for target in TARGETS.values())


def _outlook(prepared: Prepared, statistics: Statistics, macs: Macs, target: Target) -> Outlook:
    model = prepared.model
    # as in a report of `quantize`: what the target has no row for is work all the same
    layers = [node for node in model.graph.all_nodes() if is_layer(node, target) or products.multiplies(node)]
    scheme = static_scheme(model, target, Scheme())
    try:
        placement = place(model, target, scheme, name=prepared.name)
    except NothingToQuantizeError:
        declined = select(model, target, scheme, {}).declined
        floats = {str(node.name): why for node, why in declined.items()}
        return Outlook(target, _names(layers), {}, _in_words(model, target, floats, ()), None)
    graph = FloatGraph(prepared, statistics, None)
    speed = graph.speed(target) if target.on_cpu else None
    gain, slow = None, {}
    divider = graph.divider(target, placement)
    if speed is not None and divider is not None:
        slow = dict(speed(placement))
        gain = _gain(divider, slow, macs, {name for name in placement.integer if name in placement.layers})
        placement = _without(prepared, target, scheme, placement, slow)
    integer = {name: kernels for name, kernels in placement.integer.items() if name not in slow}
    return Outlook(target, _names(layers), integer, _in_words(model, target, placement.skipped, integer), gain)


def _gain(divider: Divider, slow: Collection[str], macs: Macs, layers: set[str]) -> float | None:
    """How many times as fast it is by the table; None where that knows too few of the layers, as of those in bodies."""
    mixed, floating, unknown = divider.times(slow)
    inside = layers.difference(divider.nodes)
    if macs and any(macs.get(name) is None for name in inside):
        return None
    work = sum(macs.get(name) or 0 for name in {*divider.nodes, *inside})
    if not mixed or not floating or sum(macs.get(name) or 0 for name in {*unknown, *inside}) > _UNKNOWN * work:
        return None
    return floating / mixed


def _without(
    prepared: Prepared, target: Target, scheme: Scheme, placement: Placement, slow: Mapping[str, str]
) -> Placement:
    """The placement with what is faster in float there; as it is where nothing would be left."""
    if not slow:
        return placement
    try:
        return place(prepared.model, target, scheme, name=prepared.name, amendment=NOTHING_AMENDED.leaving(slow))
    except NothingToQuantizeError:
        return placement


def _names(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(str(node.name) for node in nodes)


def _in_words(model: Model, target: Target, floats: Mapping[str, str], integer: Collection[str]) -> dict[str, str]:
    """Why nodes stay float, in graph order: those that multiply, and those of real numbers that a rule declined.

    What takes rows of a table multiplies nothing, and what computes shapes has no form in 8 bits to be missed.
    """
    result = {}
    for node in model.graph.all_nodes():
        name = str(node.name)
        if table(node) is None or name in integer:
            continue
        if products.multiplies(node) and not edit.is_main_op(node, "Gather"):
            without = f"there is no integer {node.op_type} that qtool plans"
            result[name] = _COMPUTED if _multiplies_computed(node) else floats.get(name, without)
        elif name in floats and target.outputs and any(edit.is_float32(v) for _, v in edit.activations(node)):
            result[name] = floats[name]
    return result


def _multiplies_computed(node: Node) -> bool:
    return edit.is_main_op(node, "MatMul", "Gemm") and len(edit.activations(node)) == 2

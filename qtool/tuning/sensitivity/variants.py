"""The plans of a sensitivity analysis: all layers, one layer or head alone, and all but it."""

from collections.abc import Callable
from dataclasses import dataclass

from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import View
from qtool.graph import edit
from qtool.graph.bodies import values_inside
from qtool.graph.edit import Model, Value
from qtool.graph.heads import Head
from qtool.pipeline.planning.leave import maker, without
from qtool.targets.rules import Target

PlanOf = Callable[[tuple[str, ...]], Plan]
"""Layers (node names) that stay float -> the plan for all others."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The plan in which one layer, or one head by its name, is quantised alone, or left out alone."""

    layer: str
    view: View
    plan: Plan


def variant_of(
    model: Model, full: Plan, plan_of: PlanOf, target: Target, layer: str, view: View, *, closed: bool = False
) -> Variant:
    """Return the plan of one layer in one view.

    `closed`: alone, its output is quantised where the full plan does so, whether or not its kernel needs it.
    """
    single = view == "alone"
    return Variant(layer, view, alone(model, full, layer, target, closed=closed) if single else plan_of((layer,)))


def variant_of_head(model: Model, full: Plan, plan_of: PlanOf, head: Head, view: View) -> Variant:
    """Return the plan of what is quantised of a head in one view."""
    others = {*full.integer, *full.quantized}.difference(head.nodes)
    return Variant(head.name, view, without(model, full, others) if view == "alone" else plan_of(head.nodes))


def excluded_names(plan_of: PlanOf, head: Head) -> tuple[str, ...]:
    """Return the names of nodes that are to be excluded so that all of a head is float: of its layers, where these do.

    Raises:
        ModelError: see `make_plan`.
    """
    left = plan_of(head.layers).integer
    return head.nodes if any(name in left for name in head.nodes) else head.layers


def alone(model: Model, plan: Plan, layer: str, target: Target, *, closed: bool = False) -> Plan:
    """Return the part of the plan that quantises one layer: its weight and bias, what it reads, and what it writes.

    Where its kernel can give a float output, that stays float unless `closed`: the next layer's grid is that layer's
    business.
    """
    values = values_inside(model)
    needs_output = next(target.rules[n.op_type].needs_output for n in model.graph.all_nodes() if n.name == layer)
    made = {
        row.tensor
        for row in plan.activations
        if row.produced
        and maker(values[row.tensor]) == layer
        and (closed or needs_output or not _is_output_of(values[row.tensor], layer))
    }
    return plan.only(layer, made)


def _is_output_of(value: Value, layer: str) -> bool:
    """Whether the value is the layer's own output, and no Relu or Clip stands behind it, where the kernel needs a Q."""
    node, reader = value.producer(), edit.single_consumer(value)
    clipped = reader is not None and edit.is_main_op(reader, "Relu", "Clip")
    return node is not None and node.name == layer and not clipped

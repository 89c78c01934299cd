"""The plans of a sensitivity analysis: all layers, one layer alone, and all but one."""

from collections.abc import Callable
from dataclasses import dataclass

from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import View
from qtool.graph import edit
from qtool.graph.edit import Model, Value
from qtool.pipeline.planning.leave import maker
from qtool.targets.rules import Target

PlanOf = Callable[[tuple[str, ...]], Plan]
"""Layers (node names) that stay float -> the plan for all others."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The plan in which one layer is quantised alone, or left out alone."""

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


def alone(model: Model, plan: Plan, layer: str, target: Target, *, closed: bool = False) -> Plan:
    """Return the part of the plan that quantises one layer: its weight and bias, what it reads, and what it writes.

    Where its kernel can give a float output, that stays float unless `closed`: the next layer's grid is that layer's
    business.
    """
    values = edit.named_values(model.graph)
    needs_output = next(target.rules[n.op_type].needs_output for n in model.graph if n.name == layer)
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

"""The plans of a sensitivity analysis: all layers, one layer alone, and all but one."""

from collections.abc import Callable
from dataclasses import dataclass

from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import View
from qtool.graph import edit
from qtool.graph.edit import Model, Value
from qtool.targets.rules import Target

PlanOf = Callable[[tuple[str, ...]], Plan]
"""Layers (node names) that stay float -> the plan for all others."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The plan in which one layer is quantised alone, or left out alone."""

    layer: str
    view: View
    plan: Plan


def variant_of(model: Model, full: Plan, plan_of: PlanOf, target: Target, layer: str, view: View) -> Variant:
    """Return the plan of one layer in one view.

    Raises:
        ModelError: the layer cannot be kept float.
    """
    return Variant(layer, view, alone(model, full, layer, target) if view == "alone" else plan_of((layer,)))


def alone(model: Model, plan: Plan, layer: str, target: Target) -> Plan:
    """Return the part of the plan that quantises one layer: its weight and bias, what it reads, and what it writes.

    Where its kernel can give a float output, that stays float: the next layer's grid is that layer's business.
    """
    values = edit.named_values(model.graph)
    needs_output = next(target.rules[n.op_type].needs_output for n in model.graph if n.name == layer)
    made = {
        row.tensor
        for row in plan.activations
        if row.produced
        and _maker(values[row.tensor]) == layer
        and (needs_output or not _is_output_of(values[row.tensor], layer))
    }
    return plan.only(layer, made)


def _is_output_of(value: Value, layer: str) -> bool:
    """Whether the value is the layer's own output, and no Relu or Clip stands behind it, where the kernel needs a Q."""
    node, reader = value.producer(), edit.single_consumer(value)
    clipped = reader is not None and edit.is_main_op(reader, "Relu", "Clip")
    return node is not None and node.name == layer and not clipped


def _maker(value: Value) -> str | None:
    """The name of the node whose kernel writes a produced value, through the Relu or Clip that it absorbs."""
    node = value.producer()
    if node is not None and edit.is_main_op(node, "Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None else node.name

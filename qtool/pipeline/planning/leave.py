"""leave_float: a plan that was given, with some layers in float. What comes of statistics is placed again instead."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from qtool.core.errors import NothingToQuantizeError
from qtool.core.records.plan import Plan
from qtool.graph import edit
from qtool.graph.bodies import values_inside
from qtool.graph.edit import Model, Value
from qtool.graph.layers import is_linear
from qtool.pipeline.planning.hiding import twin_fields


def leave_float(model: Model, plan: Plan, nodes: Mapping[str, str], *, name: str = "the model") -> Plan:
    """Return the plan with nodes of the prepared graph, by name, in float, and why; every other row stays as it is.

    `name`: what to call the model in messages.

    Raises:
        NothingToQuantizeError: no layer is left that is not float.
    """
    if not nodes:
        return plan
    result = replace(without(model, plan, nodes), skipped={**plan.skipped, **nodes})
    if not result.quantized:
        why = "; ".join(sorted({f"{node}: {reason}" for node, reason in nodes.items()})[:3])
        raise NothingToQuantizeError(f"{name}: nothing to quantise is left of the plan ({why}); use it as it is")
    return result


def without(model: Model, plan: Plan, nodes: Collection[str]) -> Plan:
    """Return the plan without nodes of the prepared graph, by name; what is left may be nothing."""
    values = values_inside(model)
    kept = {str(node.name) for node in model.graph.all_nodes()} - set(nodes)
    activations = []
    for row in plan.activations:
        value = values[row.tensor]
        produced = row.produced and maker(value) not in nodes
        readers = tuple(reader for reader in row.readers if reader[0] in kept)
        left = {(str(node.name), index): node for node, index in value.uses() if node.name in nodes}
        twins = {*row.float_readers, *(reader for reader, node in left.items() if is_linear(node))}
        barred = {*row.barred_readers, *left} - twins
        if readers or produced:
            hidden = twin_fields(value, twins, barred) if produced else twin_fields(value, (), ())
            activations.append(replace(row, readers=readers, produced=produced, **hidden))
    return replace(
        plan.read_by(kept),
        activations=tuple(activations),
        integer={name: kernels for name, kernels in plan.integer.items() if name in kept},
    )


def maker(value: Value) -> str | None:
    """Return the name of the node whose kernel writes an 8-bit value, through the Relu or Clip that it absorbs."""
    node = value.producer()
    if node is not None and edit.is_main_op(node, "Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None else node.name

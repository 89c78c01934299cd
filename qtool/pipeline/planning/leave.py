"""leave_float: a plan that was given, with some layers in float. What comes of statistics is placed again instead."""

from collections.abc import Mapping
from dataclasses import replace

from qtool.core.errors import NothingToQuantizeError
from qtool.core.records.plan import Plan
from qtool.graph import edit
from qtool.graph.edit import Model, Value
from qtool.pipeline.planning.sites import find_twin


def leave_float(model: Model, plan: Plan, nodes: Mapping[str, str], *, name: str = "the model") -> Plan:
    """Return the plan with nodes of the prepared graph, by name, in float, and why; every other row stays as it is.

    `name`: what to call the model in messages.

    Raises:
        NothingToQuantizeError: no layer is left that is not float.
        ModelError: a node cannot be kept float by itself.
    """
    if not nodes:
        return plan
    values = edit.named_values(model.graph)
    kept = {str(node.name) for node in model.graph} - nodes.keys()
    activations = []
    for row in plan.activations:
        value = values[row.tensor]
        produced = row.produced and maker(value) not in nodes
        readers = tuple(reader for reader in row.readers if reader[0] in kept)
        left = [(str(node.name), index) for node, index in value.uses() if node.name in nodes]
        twins = sorted({*row.float_readers, *left}) if produced else []
        if readers or produced:
            axis, size = find_twin(value, twins) or (None, None)
            changed = replace(row, readers=readers, float_readers=tuple(twins), produced=produced)
            activations.append(replace(changed, twin_axis=axis, twin_size=size))
    result = replace(
        plan.read_by(kept),
        activations=tuple(activations),
        integer={name: kernels for name, kernels in plan.integer.items() if name in kept},
        skipped={**plan.skipped, **nodes},
    )
    if not result.quantized:
        why = "; ".join(sorted({f"{node}: {reason}" for node, reason in nodes.items()})[:3])
        raise NothingToQuantizeError(f"{name}: nothing to quantise is left of the plan ({why}); use it as it is")
    return result


def maker(value: Value) -> str | None:
    """Return the name of the node whose kernel writes an 8-bit value, through the Relu or Clip that it absorbs."""
    node = value.producer()
    if node is not None and edit.is_main_op(node, "Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None else node.name

"""Dropout, which does nothing at inference, becomes Identity and then goes.

Declines where the mask is used, training mode may be on, or a graph output is what it makes.
"""

from qtool.graph import edit
from qtool.graph.edit import Model


def apply(model: Model) -> int:
    """Remove each Dropout that does nothing, in place; return how many nodes were removed."""
    count = 0
    for node in list(model.graph):
        if not edit.is_main_op(node, "Dropout"):
            continue
        mask_used = any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
        training = node.inputs[2] if len(node.inputs) > 2 else None
        flag = edit.constant_or_none(training)
        source, output = node.inputs[0], node.outputs[0]
        if mask_used or source is None or (training is not None and (flag is None or bool(flag))):
            continue
        if output.is_graph_output():
            continue
        edit.replace_uses(output, source)
        edit.remove_node(node)
        count += 1
    return count

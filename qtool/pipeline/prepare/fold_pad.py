"""A Pad with zeros before a Conv becomes the Conv's own padding: Pad has no integer kernel.

Declines for other modes and values, computed pads, padded batch or channel axes, negative pads, and auto_pad SAME.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node


def apply(model: Model) -> int:
    """Fold each Pad with zeros into the convolutions behind it, in place; return how many Pad nodes were removed."""
    count = 0
    for pad in list(model.graph):
        if not edit.is_main_op(pad, "Pad") or pad.outputs[0].is_graph_output():
            continue
        spatial = _spatial_pads(pad)
        users = edit.consumers(pad.outputs[0])
        if spatial is None or not users or not all(_takes_pads(user, pad) for user in users):
            continue
        for conv in users:
            valid = edit.attribute(conv, "auto_pad", "NOTSET") == "VALID"
            own = list((None if valid else edit.attribute(conv, "pads", None)) or [0] * len(spatial))
            edit.set_attribute(conv, "pads", [int(a + b) for a, b in zip(own, spatial, strict=True)])
            edit.set_attribute(conv, "auto_pad", "NOTSET")
            assert pad.inputs[0] is not None
            conv.replace_input_with(0, pad.inputs[0])
            edit.take_origins(conv, pad)
        edit.remove_node(pad)
        count += 1
    return count


def _takes_pads(node: Node, pad: Node) -> bool:
    return (
        edit.is_main_op(node, "Conv")
        and node.inputs[0] is pad.outputs[0]
        and list(node.inputs).count(pad.outputs[0]) == 1
        and edit.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _spatial_pads(pad: Node) -> list[int] | None:
    """Begins then ends of the spatial axes, or None where the Pad is not a plain zero padding of these."""
    pads = edit.constant_or_none(pad.inputs[1])
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    fill = edit.constant_or_none(value)
    if edit.attribute(pad, "mode", "constant") != "constant" or pads is None:
        return None
    if value is not None and (fill is None or fill.size != 1 or float(fill.reshape(())[()]) != 0.0):
        return None
    n = edit.rank(pad.inputs[0])
    axes_value = pad.inputs[3] if len(pad.inputs) > 3 else None
    if axes_value is not None:
        axes = edit.constant_or_none(axes_value)
        if axes is None or n is None:
            return None
        full = np.zeros((2, n), np.int64)
        full[:, [int(a) % n for a in axes.reshape(-1)]] = pads.reshape(2, -1)
    else:
        full = pads.reshape(2, -1).astype(np.int64)
    if full.shape[1] < 3 or full[:, :2].any() or (full < 0).any():
        return None
    return [int(p) for p in full[:, 2:].reshape(-1)]

"""A Pad with zeros before a Conv or a MaxPool becomes that node's own padding: Pad has no integer kernel.

What MaxPool pads with is never the largest, which a zero is not either where it stands beside what Relu, Clip or
Sigmoid make of numbers. Declines for other modes and values, computed pads, padded batch or channel axes, negative
pads, auto_pad SAME, and a MaxPool of what may be negative, or whose windows may then lie in the padding alone.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value

_POSITIVE = ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Softplus", "Exp", "Abs")
_HANDS_ON = ("MaxPool", "AveragePool", "Transpose", "GlobalAveragePool")


def apply(model: Model) -> int:
    """Fold each Pad with zeros into the nodes behind it, in place; return how many Pad nodes were removed."""
    count = 0
    for pad in list(model.graph):
        if not edit.is_main_op(pad, "Pad") or pad.outputs[0].is_graph_output():
            continue
        spatial = _spatial_pads(pad)
        users = edit.consumers(pad.outputs[0])
        if spatial is None or not users or not all(_takes_pads(user, pad) for user in users):
            continue
        if not all(edit.is_main_op(user, "Conv") or _pools(user, pad, spatial) for user in users):
            continue
        for user in users:
            edit.set_attribute(user, "pads", _together(user, spatial))
            edit.set_attribute(user, "auto_pad", "NOTSET")
            assert pad.inputs[0] is not None
            user.replace_input_with(0, pad.inputs[0])
            edit.take_origins(user, pad)
        edit.remove_node(pad)
        count += 1
    return count


def _takes_pads(node: Node, pad: Node) -> bool:
    return (
        edit.is_main_op(node, "Conv", "MaxPool")
        and node.inputs[0] is pad.outputs[0]
        and list(node.inputs).count(pad.outputs[0]) == 1
        and edit.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _together(node: Node, spatial: list[int]) -> list[int]:
    """The node's own pads and those of the Pad."""
    valid = edit.attribute(node, "auto_pad", "NOTSET") == "VALID"
    own = list((None if valid else edit.attribute(node, "pads", None)) or [0] * len(spatial))
    return [int(a + b) for a, b in zip(own, spatial, strict=True)]


def _pools(pool: Node, pad: Node, spatial: list[int]) -> bool:
    """Whether a MaxPool of what is never negative may pad by itself; windows are counted as before."""
    kernel = list(edit.attribute(pool, "kernel_shape", ()))
    dilated = any(d != 1 for d in edit.attribute(pool, "dilations", None) or ())
    if len(pool.outputs) > 1 or edit.attribute(pool, "ceil_mode", 0) or dilated or 2 * len(kernel) != len(spatial):
        return False
    return _never_negative(pad.inputs[0]) and all(
        p < k for p, k in zip(_together(pool, spatial), 2 * kernel, strict=True)
    )


def _never_negative(value: Value | None) -> bool:
    maker = None if value is None else value.producer()
    while maker is not None and edit.is_main_op(maker, *_HANDS_ON):
        value = maker.inputs[0]
        maker = None if value is None else value.producer()
    if maker is None:
        return False
    if edit.is_main_op(maker, "Clip"):
        low = edit.constant_or_none(maker.inputs[1]) if len(maker.inputs) > 1 else None
        return low is not None and low.size == 1 and float(low.reshape(())[()]) >= 0.0
    return edit.is_main_op(maker, *_POSITIVE)


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

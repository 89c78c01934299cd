"""Why onnxruntime loads a quantised model, and cannot run it: what the file shows of that, and what onnxruntime says.

Source: onnxruntime `core/providers/cpu/quantization/quantize_linear.cc` (`PrepareForQDQ`) and `qlinearconv.cc`
(`ComputeOutputScale`): as many scales as the axis is long; for the weight of a convolution, as it has output channels.
"""

import re
from collections.abc import Iterator, Sequence

from qtool.anatomy import grids
from qtool.anatomy.planned import PlannedLayer
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Model, Node
from qtool.inspection.causes import wrong_axis

_AXIS = 1
"""Of QuantizeLinear and DequantizeLinear, where they say none."""
_NODE = re.compile(r"running (\w+) node\. Name:'([^']*)'")
_LONGEST = 160


def impossible(model: Model, layers: Sequence[PlannedLayer]) -> str:
    """Return why no kernel takes the scales of a model, in words: there are more or fewer than needed; "" if not so."""
    return next(iter((*_nodes(model), *_written(layers))), "")


def likely(layers: Sequence[PlannedLayer]) -> str:
    """Return what integer kernels refuse of scales that QuantizeLinear takes, in words; "" where nothing is known."""
    for layer in layers:
        off = wrong_axis(layer)
        if off is not None:
            return f"of layer {layer.name!r}, {off}"
        for what, placed in (("input", layer.x), ("output", layer.y)):
            if placed is not None and len(placed.grid.scale) > 1:
                count = len(placed.grid.scale)
                return f"the {what} of layer {layer.name!r} has {count} scales, and its kernel takes one for a tensor"
    return ""


def shortened(error: str) -> str:
    """Return what onnxruntime says of a run that failed: the node and the reason, without its code and signatures."""
    said = error.rpartition("; correct ")[0] or error
    found = _NODE.search(said)
    reason = said.rpartition("cannot run it on this data: ")[2]
    if found is not None:
        reason = reason.rpartition(" Status Message: ")[2].rpartition(" was false. ")[2]
        reason = reason.rpartition(") ")[2] if "::" in reason and ") " in reason else reason
    reason = reason if len(reason) <= _LONGEST else f"{reason[: _LONGEST - 1]}…"
    return reason if found is None else f"{found[1]} {found[2]!r}: {reason}"


def _nodes(model: Model) -> Iterator[str]:
    for node in model.graph.all_nodes():
        if (grids.is_quantize(node) or grids.is_dequantize(node)) and (wrong := _miscounted(node)):
            yield wrong


def _miscounted(node: Node) -> str:
    """That a Q or DQ has another number of scales than its axis is long; "" where it has not, or that is not known."""
    data, scale = node.inputs[0], edit.static_shape(node.inputs[1])
    rank = edit.rank(data)
    if data is None or data.shape is None or scale is None or len(scale) != 1 or scale == (1,) or not rank:
        return ""
    axis = int(edit.attribute(node, "axis", _AXIS))
    if not -rank <= axis < rank:
        return f"{node.op_type} {node.name!r} has its scales along axis {axis} of {amount(rank, 'axis', 'axes')}"
    length = data.shape[axis]
    if not isinstance(length, int) or length == scale[0]:
        return ""
    return f"{node.op_type} {node.name!r} has {amount(scale[0], 'scale')} along axis {axis}, which is {length} long"


def _written(layers: Sequence[PlannedLayer]) -> Iterator[str]:
    for layer in layers:
        if layer.written is None or layer.w is None or layer.w.grid.axis is None or len(layer.w.grid.scale) < 2:
            continue
        stored, count = edit.static_shape(layer.w.stored), len(layer.w.grid.scale)
        if stored and stored[layer.w.grid.axis % len(stored)] != count:
            channels = stored[layer.w.grid.axis % len(stored)]
            yield f"the weight of {layer.name!r} has {count} scales, for {amount(channels, 'output channel')}"

"""A Resize of some axes becomes one of all axes, which onnxruntime can move its transposes through.

Its layout optimiser permutes `scales` and `sizes` and forgets `axes`: behind a channels-last QLinearConv the model does
not load. Declines where a region of interest or an aspect ratio is asked for, where scales or sizes are computed, and
where sizes are given and a dimension that they resize is not known.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value


def apply(model: Model) -> int:
    """Write the scales of each Resize for all axes, in place; return how many were changed."""
    names = edit.Names(model.graph)
    count = 0
    for node in model.graph:
        axes = edit.attribute(node, "axes", None) if edit.is_main_op(node, "Resize") else None
        known = edit.rank(node.inputs[0]) if axes is not None else None
        region = edit.constant_or_none(_input(node, 1))
        if axes is None or known is None or (_input(node, 1) is not None and (region is None or region.size)):
            continue
        if edit.attribute(node, "keep_aspect_ratio_policy", "stretch") not in ("stretch", b"stretch"):
            continue
        axes = [int(axis) % known for axis in axes]
        scales = _scales(node, axes)
        if scales is None:
            continue
        whole = np.ones(known, np.float32)
        whole[axes] = scales
        edit.set_input(node, 2, edit.add_initializer(model.graph, names.fresh(f"{node.name}_scales"), whole))
        if len(node.inputs) > 3:
            node.replace_input_with(3, None)
        del node.attributes["axes"]
        count += 1
    return count


def _scales(node: Node, axes: list[int]) -> Array | None:
    """One for each of the axes; those that lead to the sizes, exactly."""
    given = edit.constant_or_none(_input(node, 2))
    if given is not None and given.size == len(axes):
        return given
    sizes = edit.constant_or_none(_input(node, 3))
    dims = [edit.static_dim(node.inputs[0], axis) for axis in axes]
    if sizes is None or sizes.size != len(axes) or not all(dims):
        return None
    before = np.array(dims, np.float32)
    scales = sizes.astype(np.float32) / before
    return scales if (np.floor(before * scales).astype(np.int64) == sizes).all() else None


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if len(node.inputs) > index else None

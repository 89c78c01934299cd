"""Shape, and what is gathered from it, becomes a constant where those dimensions are known numbers.

onnxruntime does the same; an If whose condition hangs on a dimension would lose its branch's float layers to it.
Declines for dimensions that are free, and where a graph output is what would go.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node

Dims = list[int | None]


def apply(model: Model) -> int:
    """Replace each Shape or Gather whose result is known by a constant, in place; return how many were replaced."""
    names = edit.Names(model.graph)
    count = 0
    for shape in list(model.graph):
        if not edit.is_main_op(shape, "Shape") or shape.outputs[0].is_graph_output():
            continue
        dims = _dims(shape)
        if dims is None:
            continue
        for gather in edit.consumers(shape.outputs[0]):
            taken = _gathered(gather, shape, dims)
            if taken is not None:
                _replace(model, gather, taken, names)
                count += 1
        if all(dim is not None for dim in dims):
            _replace(model, shape, np.array(dims, np.int64), names)
            count += 1
    return count


def _dims(shape: Node) -> Dims | None:
    """What the node gives, as far as it is known; None without a known rank."""
    x = shape.inputs[0]
    n = edit.rank(x)
    if n is None:
        return None
    whole = [edit.static_dim(x, i) for i in range(n)]
    return whole[edit.attribute(shape, "start", 0) : edit.attribute(shape, "end")]


def _gathered(node: Node, shape: Node, dims: Dims) -> edit.Array | None:
    if not edit.is_main_op(node, "Gather") or node.graph is not shape.graph or node.inputs[0] is not shape.outputs[0]:
        return None
    indices = edit.constant_or_none(node.inputs[1])
    if indices is None or node.outputs[0].is_graph_output() or not (np.abs(indices + 0.5) < len(dims)).all():
        return None
    found = [dims[int(i)] for i in indices.reshape(-1)]
    return None if None in found else np.array(found, np.int64).reshape(indices.shape)


def _replace(model: Model, node: Node, array: edit.Array, names: edit.Names) -> None:
    value = edit.add_initializer(model.graph, names.fresh(f"{node.outputs[0].name}_known"), array)
    edit.replace_uses(node.outputs[0], value)
    edit.remove_node(node)

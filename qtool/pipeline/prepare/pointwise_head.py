"""A 1x1 Conv over 1x1 maps followed by Flatten is a Gemm: it becomes Flatten and Gemm.

As Gemm the classifier gets a float output straight from the integer kernel, where a Conv would round its scores to 8
bits. Declines unless the spatial size is known to be 1, the kernel is 1, and a Flatten alone reads the result.
"""

from qtool.graph import edit
from qtool.graph.edit import Model, Node
from qtool.graph.layers import Layer


def apply(model: Model) -> int:
    """Rewrite each 1x1 Conv and its Flatten as Flatten and Gemm, in place; return how many pairs were rewritten."""
    count = 0
    for conv in list(model.graph):
        layer = Layer.of(conv) if edit.is_main_op(conv, "Conv") else None
        flatten = edit.single_consumer(conv.outputs[0]) if layer is not None and _pointwise(layer) else None
        if layer is None or flatten is None or not _flattens(flatten):
            continue
        x, weight = conv.inputs[0], layer.weight
        assert x is not None and weight is not None
        names = edit.Names(model.graph)
        kernel = edit.constant(weight)
        matrix = edit.add_initializer(
            model.graph, names.fresh(f"{weight.name}_matrix"), kernel.reshape(kernel.shape[:2])
        )
        flat = edit.new_node(
            "Flatten",
            [x],
            names.fresh(f"{x.name}_flat"),
            name=names.fresh(f"{conv.name}_flatten"),
            attributes={"axis": 1},
        )
        gemm = edit.new_node(
            "Gemm", [flat.outputs[0], matrix, *conv.inputs[2:]], names.fresh(f"{conv.outputs[0].name}_gemm"),
            name=names.fresh(f"{conv.name}_gemm"), attributes={"transB": 1},
        )  # fmt: skip
        old = flatten.outputs[0]
        flat.outputs[0].type, gemm.outputs[0].type, gemm.outputs[0].shape = x.type, old.type, old.shape
        model.graph.insert_before(conv, [flat, gemm])
        edit.replace_uses(old, gemm.outputs[0])
        edit.take_origins(gemm, conv, flatten)
        edit.remove_node(flatten)
        edit.remove_node(conv)
        count += 1
    return count


def _pointwise(layer: Layer) -> bool:
    if not edit.weight_like(layer.weight) or layer.groups != 1:
        return False
    if not layer.fits(edit.constant(layer.weight).shape):
        return False
    kernel = layer.kernel(edit.constant(layer.weight).shape)
    sizes = [edit.static_dim(layer.node.inputs[0], axis) for axis in range(2, 2 + len(kernel))]
    padded = any(edit.attribute(layer.node, "pads", None) or ())
    return all(k == 1 for k in kernel) and all(size == 1 for size in sizes) and not padded


def _flattens(node: Node) -> bool:
    if edit.is_main_op(node, "Flatten"):
        return int(edit.attribute(node, "axis", 1)) == 1
    if edit.is_main_op(node, "Squeeze"):
        axes = edit.constant_or_none(node.inputs[1]) if len(node.inputs) > 1 else None
        n = edit.rank(node.inputs[0])
        return axes is not None and n is not None and sorted(int(a) % n for a in axes.reshape(-1)) == list(range(2, n))
    if edit.is_main_op(node, "Reshape"):
        shape = edit.constant_or_none(node.inputs[1])
        channels = edit.static_dim(node.inputs[0], 1)
        return shape is not None and shape.size == 2 and _keeps_rows(int(shape[0]), int(shape[1]), channels)
    return False


def _keeps_rows(rows: int, columns: int, channels: int | None) -> bool:
    """Whether a Reshape to (rows, columns) leaves one row a sample."""
    return (rows, columns) == (0, -1) or (rows in (0, -1) and channels is not None and columns == channels)

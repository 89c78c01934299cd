"""A mean over all of an image becomes GlobalAveragePool, whose integer kernel is faster than that of AveragePool.

It may be a ReduceMean over the spatial axes, or an AveragePool whose kernel is as large as the image. Declines for
other axes, ranks other than 4, types other than float32, computed axes, images of unknown size, and padding.
"""

from qtool.graph import edit
from qtool.graph.edit import Model, Node


def apply(model: Model) -> int:
    """Rewrite each mean over an image as GlobalAveragePool, in place; return how many nodes were rewritten."""
    count = 0
    for node in list(model.graph):
        x = node.inputs[0] if node.inputs else None
        if x is None or edit.rank(x) != 4 or not edit.is_float32(x) or not (_spatial(node) or _whole(node)):
            continue
        old = node.outputs[0]
        names = edit.Names(model.graph)
        pool = edit.new_node(
            "GlobalAveragePool", [x], names.fresh(f"{old.name}_pool"), name=names.fresh(f"{node.name}_pool")
        )
        pool.outputs[0].type = old.type
        model.graph.insert_before(node, pool)
        last = pool
        if not edit.attribute(node, "keepdims", 1):
            last = edit.new_node(
                "Flatten", [pool.outputs[0]], names.fresh(f"{old.name}_flat"),
                name=names.fresh(f"{node.name}_flat"), attributes={"axis": 1},
            )  # fmt: skip
            last.outputs[0].type = old.type
            model.graph.insert_after(pool, last)
        last.outputs[0].shape = old.shape
        edit.take_origins(pool, node)
        edit.replace_uses(old, last.outputs[0])
        edit.remove_node(node)
        count += 1
    return count


def _whole(node: Node) -> bool:
    size = [edit.static_dim(node.inputs[0], axis) for axis in (2, 3)]
    return (
        edit.is_main_op(node, "AveragePool")
        and list(edit.attribute(node, "kernel_shape", ())) == size
        and not any(edit.attribute(node, "pads", ()))
        and edit.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and all(step == 1 for step in edit.attribute(node, "dilations", ()))
    )


def _spatial(node: Node) -> bool:
    if not edit.is_main_op(node, "ReduceMean"):
        return False
    axes = edit.attribute(node, "axes")
    if axes is None and len(node.inputs) > 1:
        found = edit.constant_or_none(node.inputs[1])
        axes = None if found is None else found.reshape(-1).tolist()
    return axes is not None and sorted(int(a) % 4 for a in axes) == [2, 3]

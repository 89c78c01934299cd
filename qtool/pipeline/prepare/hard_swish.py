"""x * clip(x + 3, 0, 6) / 6, as exporters write it in four nodes, becomes x * HardSigmoid(x).

HardSigmoid has no integer kernel, nor have the four; one float node between the integer layers costs less than four
(measured in the patterns of tests/targets/test_fusion.py).

Declines where an inner value is read elsewhere, a constant differs or has more dimensions than x, or x is not float32.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value

# an attribute is float32: a longer number would not survive serialisation
_SIXTH = float(np.float32(1.0 / 6.0))


def apply(model: Model) -> int:
    """Rewrite each hard swish as HardSigmoid and Mul, in place; return how many patterns were rewritten."""
    count = 0
    for clip in list(model.graph):
        if not edit.is_main_op(clip, "Clip") or _clip_bounds(clip) != (0.0, 6.0):
            continue
        x = _minus_three(clip)
        last = None if x is None else _final(clip, x)
        if x is None or last is None or not edit.is_float32(x):
            continue
        names = edit.Names(model.graph)
        old = last.outputs[0]
        gate = edit.new_node(
            "HardSigmoid", [x], names.fresh(f"{clip.outputs[0].name}_gate"), name=names.fresh(f"{clip.name}_gate"),
            attributes={"alpha": _SIXTH, "beta": 0.5},
        )  # fmt: skip
        product = edit.new_node(
            "Mul",
            [x, gate.outputs[0]],
            names.fresh(f"{old.name}_hardswish"),
            name=names.fresh(f"{clip.name}_hardswish"),
        )
        for node in (gate, product):
            node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
        model.graph.insert_before(last, [gate, product])
        edit.replace_uses(old, product.outputs[0])
        count += 1
    return count


def _scalar(value: Value | None, beside: Value | None = None) -> float | None:
    """The number that a constant of one element is; `beside`: what it is added to or multiplied with."""
    array = edit.constant_or_none(value)
    if array is None or array.size != 1 or (beside is not None and not edit.keeps_shape(array, beside)):
        return None
    return float(array.reshape(())[()])


def _clip_bounds(clip: Node) -> tuple[float | None, float | None]:
    low = _scalar(clip.inputs[1]) if len(clip.inputs) > 1 else None
    high = _scalar(clip.inputs[2]) if len(clip.inputs) > 2 else None
    return low, high


def _minus_three(clip: Node) -> Value | None:
    """x where the Clip reads x + 3 and nobody else does."""
    source = clip.inputs[0]
    add = source.producer() if source is not None else None
    if source is None or add is None or not edit.is_main_op(add, "Add") or edit.single_consumer(source) is not clip:
        return None
    for i in (0, 1):
        x = add.inputs[1 - i]
        if x is not None and _scalar(add.inputs[i], x) == 3.0:
            return x
    return None


def _final(clip: Node, x: Value) -> Node | None:
    """The last node of (clip / 6) * x or (clip * x) / 6, in any order of factors."""
    divided = multiplied = False
    node: Node | None = clip
    for _ in range(2):
        node = edit.single_consumer(node.outputs[0]) if node is not None else None
        if node is None:
            return None
        if edit.is_main_op(node, "Mul") and x in node.inputs and not multiplied:
            multiplied = True
        elif _is_sixth(node, x) and not divided:
            divided = True
        else:
            return None
    return node


def _is_sixth(node: Node, x: Value) -> bool:
    """Whether the node divides by 6 what has the shape of x."""
    if edit.is_main_op(node, "Div"):
        return _scalar(node.inputs[1], x) == 6.0
    if edit.is_main_op(node, "Mul"):
        return any((s := _scalar(v, x)) is not None and abs(s * 6.0 - 1.0) < 1e-6 for v in node.inputs)
    return False

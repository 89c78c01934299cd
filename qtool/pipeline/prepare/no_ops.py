"""Nodes that hand on what they read become Identity, and then go: integer layers would stop at them.

Casts of a type to itself, Dropout, Reshape and Expand to the same shape, Pad by nothing, Slice of everything, Concat,
Sum, Max, Min and Mean of one input, Mul and Div by 1, Add and Sub of 0, two Transposes that cancel, and the like.
Declines where a shape, or what has to be constant for it, is not known.
"""

from collections.abc import Callable

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value

# what exporters write for "to the end"
_END = 2**31 - 1
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1}
_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def apply(model: Model) -> int:
    """Turn each node that does nothing into an Identity, in place; return how many were turned.

    Types and shapes must be inferred.
    """
    count = 0
    for node in list(model.graph):
        source = _handed_on(node)
        if source is not None:
            edit.make_identity(node, source)
            count += 1
    return count


def _handed_on(node: Node) -> Value | None:
    """The value that the node's output is equal to in all: type, shape and numbers."""
    x = node.inputs[0] if node.inputs else None
    if x is None or not edit.is_main_op(node, node.op_type):
        return None
    if node.op_type in _NEUTRAL:
        return _neutral(node, _NEUTRAL[node.op_type])
    if node.op_type in _RESHAPING:
        return _reshaped(node, x)
    if node.op_type == "Transpose":
        return _transposed(node, x)
    check = _CHECKS.get(node.op_type)
    return x if check is not None and check(node, x) else None


def _neutral(node: Node, number: int) -> Value | None:
    for position in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
        constant, other = edit.constant_or_none(node.inputs[position]), node.inputs[1 - position]
        if constant is not None and other is not None and constant.dtype.kind in "fiu" and (constant == number).all():
            if not constant.size or not edit.keeps_shape(constant, other):
                return None
            return None if constant.size > 1 and _is_normalized(other) else other
    return None


def _is_normalized(value: Value) -> bool:
    """Whether the vectors of a LayerNormalization that is written out stand here, without which none is found.

    Source: onnxruntime core/optimizer/layer_norm_fusion.cc, which wants Div, Mul by the scale, and Add of the bias.
    """
    maker = value.producer()
    if maker is not None and maker.op_type == "Mul":
        makers = [None if v is None else v.producer() for v in maker.inputs]
        maker = next((m for m in makers if m is not None), None)
    return maker is not None and maker.op_type == "Div"


def _reshaped(node: Node, x: Value) -> Value | None:
    """x, or what a node like this one in front of it reads, where that has the same shape."""
    if _same_shape(x, node.outputs[0]) or (node.op_type == "Reshape" and _copies_shape(node, x)):
        return x
    before = x.producer()
    root = before.inputs[0] if before is not None and before.inputs else None
    if before is None or root is None or not edit.is_main_op(before, *_RESHAPING):
        return None
    return root if _same_shape(root, node.outputs[0]) else None


def _same_shape(a: Value, b: Value) -> bool:
    """Whether two values of as many elements are known to have the same shape: one free dimension follows."""
    n = edit.rank(a)
    if n is None or n != edit.rank(b):
        return False
    dims = [(edit.static_dim(a, axis), edit.static_dim(b, axis)) for axis in range(n)]
    return all(p == q for p, q in dims) and sum(p is None for p, _ in dims) <= 1 and (0, 0) not in dims


def _copies_shape(node: Node, x: Value) -> bool:
    shape = edit.constant_or_none(node.inputs[1])
    if shape is None or shape.size != edit.rank(x) or edit.attribute(node, "allowzero", 0):
        return False
    free = [axis for axis, size in enumerate(shape.tolist()) if size not in (0, edit.static_dim(x, axis))]
    return not free or (len(free) == 1 and shape[free[0]] == -1)


def _transposed(node: Node, x: Value) -> Value | None:
    n = edit.rank(x)
    perm = edit.attribute(node, "perm") or (None if n is None else list(range(n))[::-1])
    if perm is None:
        return None
    if list(perm) == sorted(perm):
        return x
    before = x.producer()
    if before is None or not edit.is_main_op(before, "Transpose"):
        return None
    first = edit.attribute(before, "perm") or list(range(len(perm)))[::-1]
    return before.inputs[0] if len(first) == len(perm) and [first[i] for i in perm] == sorted(perm) else None


def _cast(node: Node, x: Value) -> bool:
    return x.dtype is not None and x.dtype == edit.attribute(node, "to")


def _cast_like(node: Node, x: Value) -> bool:
    like = node.inputs[1]
    return x.dtype is not None and like is not None and x.dtype == like.dtype


def _dropout(node: Node, _: Value) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    flag = edit.constant_or_none(training)
    return not _others_used(node) and (training is None or (flag is not None and not flag.any()))


def _others_used(node: Node) -> bool:
    return any(o.uses() or o.is_graph_output() for o in node.outputs[1:])


def _input(node: Node, index: int) -> Array | None:
    return edit.constant_or_none(node.inputs[index]) if len(node.inputs) > index else None


def _given(node: Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def _pad(node: Node, _: Value) -> bool:
    pads = _input(node, 1)
    return pads is not None and not pads.any()


def _slice(node: Node, x: Value) -> bool:
    starts, ends = _input(node, 1), _input(node, 2)
    axes = _input(node, 3) if _given(node, 3) else None if starts is None else np.arange(starts.size)
    steps = _input(node, 4) if _given(node, 4) else np.ones(1, np.int64)
    n = edit.rank(x)
    if starts is None or ends is None or axes is None or steps is None or n is None:
        return False
    sizes = [edit.static_dim(x, int(axis) % n) for axis in axes.reshape(-1)] if n else []
    reached = all(e >= _END or (s is not None and e >= s) for e, s in zip(ends.reshape(-1), sizes, strict=False))
    return bool((starts == 0).all() and (steps == 1).all()) and reached


def _expand(node: Node, x: Value) -> bool:
    shape, n = _input(node, 1), edit.rank(x)
    if shape is None or n is None or shape.size > n:
        return False
    sizes = shape.tolist()
    return all(size in (1, edit.static_dim(x, n - len(sizes) + axis)) for axis, size in enumerate(sizes))


def _tile(node: Node, _: Value) -> bool:
    repeats = _input(node, 1)
    return repeats is not None and bool((repeats == 1).all())


def _alone(node: Node, _: Value) -> bool:
    return len(node.inputs) == 1


_CHECKS: dict[str, Callable[[Node, Value], bool]] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Pad": _pad,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _alone,
    "Sum": _alone,
    "Max": _alone,
    "Min": _alone,
    "Mean": _alone,
    "Clip": lambda node, _: not (_given(node, 1) or _given(node, 2)),
}

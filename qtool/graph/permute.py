"""A table of the operators that compute the same on permuted tensors, and what of them changes with the axes.

A permutation `perm` is that of a Transpose: axis j of what is permuted is axis `perm[j]` of what was there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Graph, Names, Node, Value

Perm = tuple[int, ...]

_UNARY = frozenset({
    "Abs", "Acos", "Asin", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal",
    "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh",
    "ThresholdedRelu",
})  # fmt: skip
_BROADCASTING = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
    "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip
_REDUCING = frozenset({
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
})  # fmt: skip
Edit = Callable[[Graph, Names, Node, Perm], None]


@dataclass(frozen=True, slots=True)
class Permutable:
    """A node that can read permuted tensors.

    ports: the inputs that are permuted then. outputs: whether what it makes is permuted then as well; else it is the
    same as before. edit: what else is to be changed.
    """

    node: Node
    ports: tuple[int, ...]
    outputs: bool
    edit: Edit

    @classmethod
    def of(cls, node: Node, perm: Perm) -> "Permutable | None":
        """Return how a node reads tensors that are permuted by `perm`; None where it cannot, or nothing is known."""
        if not edit.is_main_op(node, node.op_type) or not node.inputs or edit.subgraphs(node):
            return None
        if node.op_type in _BROADCASTING:
            return _broadcasting(node, perm)
        if edit.rank(node.inputs[0]) != len(perm):
            return None
        if node.op_type in _UNARY:
            used = any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
            return None if used else cls(node, (0,), True, _nothing)
        if node.op_type in _REDUCING:
            return _reducing(node, perm)
        rule = _RULES.get(node.op_type)
        return None if rule is None else rule(node, perm)


def inverse(perm: Sequence[int]) -> Perm:
    """Return the permutation that takes another back."""
    return tuple(int(i) for i in np.argsort(perm))


def perm_of(transpose: Node) -> Perm | None:
    """Return the permutation of a Transpose; None where it is that of all axes and their number is not known."""
    given = edit.attribute(transpose, "perm")
    n = edit.rank(transpose.inputs[0])
    return tuple(given) if given else None if n is None else tuple(range(n))[::-1]


def permuted(array: np.ndarray, perm: Perm) -> np.ndarray:
    """Return a constant that broadcasts against tensors as one that does so against permuted ones."""
    if array.size == 1:
        return array
    return np.ascontiguousarray(array.reshape((1,) * (len(perm) - array.ndim) + array.shape).transpose(perm))


def _nothing(graph: Graph, names: Names, node: Node, perm: Perm) -> None:
    pass


def _broadcasting(node: Node, perm: Perm) -> Permutable | None:
    ports = []
    for index, value in enumerate(node.inputs):
        n = edit.rank(value)
        if value is None or n is None or n > len(perm):
            return None
        if edit.static_shape(value) == (1,) * n:
            continue
        if n < len(perm) and edit.constant_or_none(value) is None:
            return None
        ports.append(index)
    return Permutable(node, tuple(ports), True, _nothing) if edit.rank(node.outputs[0]) == len(perm) else None


def _ordered(perm: Perm, gone: set[int]) -> bool:
    """Whether the axes that are left are in the same order after the permutation."""
    left = [axis for axis in perm if axis not in gone]
    return left == sorted(left)


def _constant_axes(node: Node, index: int, n: int) -> list[int] | None:
    """The axes that a node is given, as an attribute or as a constant input; None where they are neither."""
    given = edit.attribute(node, "axes", None)
    if given is None:
        found = edit.constant_or_none(_input(node, index))
        given = None if found is None else found.reshape(-1).tolist()
    return None if given is None or not all(-n <= a < n for a in given) else [int(a) % n for a in given]


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _set_axes(index: int) -> Edit:
    """The axes become those where they are now, in the form in which they are given."""

    def change(graph: Graph, names: Names, node: Node, perm: Perm) -> None:
        axes = _constant_axes(node, index, len(perm))
        assert axes is not None
        now = [perm.index(axis) for axis in axes]
        if "axes" in node.attributes:
            edit.set_attribute(node, "axes", now)
        else:
            _set_ints(graph, names, node, index, now)

    return change


def _set_ints(graph: Graph, names: Names, node: Node, index: int, numbers: Sequence[int]) -> None:
    array = np.array(numbers, np.int64)
    edit.set_input(node, index, edit.add_initializer(graph, names.fresh(f"{node.name}_axes"), array))


def _reducing(node: Node, perm: Perm) -> Permutable | None:
    n = len(perm)
    keeps = bool(edit.attribute(node, "keepdims", 1))
    if _input(node, 1) is None and "axes" not in node.attributes:
        everything = not edit.attribute(node, "noop_with_empty_axes", 0)
        return Permutable(node, (0,), keeps, _nothing) if everything else None
    axes = _constant_axes(node, 1, n)
    # a mean over the last axis alone is part of a normalisation of channels last, for which there is one kernel
    if not axes or axes == [n - 1] or not (keeps or _ordered(perm, set(axes))):
        return None
    return Permutable(node, (0,), keeps, _set_axes(1))


def _set_axis(_: Graph, __: Names, node: Node, perm: Perm) -> None:
    edit.set_attribute(node, "axis", perm.index(int(edit.attribute(node, "axis", 0)) % len(perm)))


def _concat(node: Node, perm: Perm) -> Permutable | None:
    same = all(edit.rank(value) == len(perm) for value in node.inputs)
    return Permutable(node, tuple(range(len(node.inputs))), True, _set_axis) if same else None


def _split(node: Node, _: Perm) -> Permutable:
    return Permutable(node, (0,), True, _set_axis)


def _gather(node: Node, _: Perm) -> Permutable | None:
    return Permutable(node, (0,), True, _set_axis) if edit.rank(node.inputs[1]) == 1 else None


def _pad(node: Node, perm: Perm) -> Permutable | None:
    if _input(node, 3) is not None:
        known = _constant_axes(node, 3, len(perm)) is not None
        return Permutable(node, (0,), True, _set_axes(3)) if known else None
    pads = edit.constant_or_none(_input(node, 1))
    return Permutable(node, (0,), True, _permute_pads) if pads is not None and pads.size == 2 * len(perm) else None


def _permute_pads(graph: Graph, names: Names, node: Node, perm: Perm) -> None:
    pads = edit.constant(node.inputs[1]).reshape(2, -1)
    _set_ints(graph, names, node, 1, pads[:, list(perm)].reshape(-1).tolist())


def _slice(node: Node, perm: Perm) -> Permutable | None:
    if _input(node, 3) is not None:
        known = _constant_axes(node, 3, len(perm)) is not None
        return Permutable(node, (0,), True, _set_axes(3)) if known else None
    return Permutable(node, (0,), True, _name_axes) if edit.static_dim(node.inputs[1], 0) is not None else None


def _name_axes(graph: Graph, names: Names, node: Node, perm: Perm) -> None:
    count = edit.static_dim(node.inputs[1], 0)
    assert count is not None
    _set_ints(graph, names, node, 3, [perm.index(axis) for axis in range(count)])


def _vector(index: int) -> Callable[[Node, Perm], Permutable | None]:
    """A constant input with a number for each axis."""

    def rule(node: Node, perm: Perm) -> Permutable | None:
        numbers = edit.constant_or_none(_input(node, index))
        known = numbers is not None and numbers.size == len(perm)
        return Permutable(node, (0,), True, _permute_numbers(index)) if known else None

    return rule


def _permute_numbers(index: int) -> Edit:
    def change(graph: Graph, names: Names, node: Node, perm: Perm) -> None:
        numbers = edit.constant(node.inputs[index])[list(perm)]
        edit.set_input(node, index, edit.add_initializer(graph, names.fresh(f"{node.name}_permuted"), numbers))

    return change


def _resize(node: Node, perm: Perm) -> Permutable | None:
    region = _input(node, 1)
    found = edit.constant_or_none(region)
    if (region is not None and (found is None or found.size)) or not _interpolates(node, perm):
        return None
    if "axes" in node.attributes:
        return Permutable(node, (0,), True, _set_axes(len(node.inputs)))
    scales = edit.constant_or_none(_input(node, 2))
    return _vector(2 if scales is not None and scales.size else 3)(node, perm)


def _interpolates(node: Node, perm: Perm) -> bool:
    """Whether onnxruntime interpolates along the axes where those that change are then.

    Source: `ScalesValidation` in onnxruntime/core/providers/cpu/tensor/upsamplebase.h.
    """
    n = len(perm)
    if edit.attribute(node, "mode", "nearest") == "nearest":
        return True
    given = edit.attribute(node, "axes", None)
    axes = list(range(n)) if given is None else [int(axis) % n for axis in given]
    scales, sizes = (edit.constant_or_none(_input(node, index)) for index in (2, 3))
    changes = set(axes)
    if scales is not None and scales.size == len(axes):
        changes = {axis for axis, scale in zip(axes, scales, strict=True) if scale != 1.0}
    elif sizes is not None and sizes.size == len(axes):
        changes = {
            axis for axis, size in zip(axes, sizes, strict=True) if edit.static_dim(node.inputs[0], axis) != size
        }
    now = {perm.index(axis) for axis in changes}
    return n == 3 or now <= set(range(2, n)) or (n == 4 and now <= {1, 2})


def _squeeze(node: Node, perm: Perm) -> Permutable | None:
    axes = _constant_axes(node, 1, len(perm))
    fits = axes is not None and _ordered(perm, set(axes))
    return Permutable(node, (0,), False, _set_axes(1)) if fits else None


def _flat(node: Node, perm: Perm) -> Permutable | None:
    """A tensor whose axes of more than one element stay in order lies in memory as before."""
    ones = {axis for axis in range(len(perm)) if edit.static_dim(node.inputs[0], axis) == 1}
    if perm[0] != 0 or not _ordered(perm, ones - {0}):
        return None
    if node.op_type == "Flatten":
        return Permutable(node, (0,), False, _nothing) if edit.attribute(node, "axis", 1) == 1 else None
    shape = edit.constant_or_none(_input(node, 1))
    copies = shape is None or (shape[1:] == 0).any() or edit.attribute(node, "allowzero", 0)
    return None if copies else Permutable(node, (0,), False, _nothing)


def _shape(node: Node, _: Perm) -> Permutable | None:
    whole = "start" not in node.attributes and "end" not in node.attributes
    return Permutable(node, (0,), False, _sort_sizes) if whole and not node.outputs[0].is_graph_output() else None


def _sort_sizes(graph: Graph, names: Names, node: Node, perm: Perm) -> None:
    """The sizes in the order of the axes before; a few numbers."""
    order = edit.add_initializer(graph, names.fresh(f"{node.name}_order"), np.array(inverse(perm), np.int64))
    sizes = node.outputs[0]
    name = names.fresh(f"{node.name}_sizes")
    gather = edit.new_node("Gather", [sizes, order], names.fresh(name), name=name, attributes={"axis": 0})
    gather.outputs[0].type, gather.outputs[0].shape = sizes.type, sizes.shape
    graph.insert_after(node, gather)
    edit.replace_uses(sizes, gather.outputs[0], only=[n for n in edit.consumers(sizes) if n is not gather])


def _transpose(node: Node, perm: Perm) -> Permutable | None:
    own = perm_of(node)
    return None if own is None or own in (perm, inverse(perm)) else Permutable(node, (0,), False, _compose)


def _compose(_: Graph, __: Names, node: Node, perm: Perm) -> None:
    own = perm_of(node)
    assert own is not None
    edit.set_attribute(node, "perm", [perm.index(axis) for axis in own])


_RULES: dict[str, Callable[[Node, Perm], Permutable | None]] = {
    "Concat": _concat,
    "Flatten": _flat,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _flat,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _vector(1),
    "Transpose": _transpose,
}

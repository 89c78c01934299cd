"""The parts of a model's outputs that differ in kind, and what the Sigmoids and Softmaxes read that end them.

An output that a Concat puts together holds coordinates beside scores, which no single sum of squares should speak for.
Of a Sigmoid that is 0 or 1 nearly everywhere the output says little, and what it reads says more.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qtool.core.numerics.sqnr import Parts
from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer, Shape
from qtool.graph.subgraphs import subgraphs

_MOST = 32
"""An output of more parts than this is taken as one."""
_FAINT = 2.0**-5
"""Scores behind a Sigmoid that stay below, a few steps of 8 bits, are none."""
_RESHAPED = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"}
_FEW_NODES = 256
_MOVED = {*_RESHAPED, "Transpose", "Split", "Slice", "Gather", "Expand"}
_SATURATING = {"Sigmoid", "Softmax"}
_CHOOSING = {"ArgMax": 0, "ArgMin": 0, "TopK": 1}
"""Operators of which an output says places of what they read, and which output that is."""
_PLACING = {"NonZero", "NonMaxSuppression"}
_UNARY = {
    *_SATURATING, "LogSoftmax", "Tanh", "Relu", "LeakyRelu", "Clip", "Exp", "Log", "Sqrt", "Neg", "Abs", "Softplus",
    "HardSigmoid", "HardSwish", "Elu",
}  # fmt: skip
_BINARY = {"Mul", "Add", "Sub", "Div", "Pow", "Min", "Max"}


@dataclass(frozen=True, slots=True)
class Saturating:
    """A Sigmoid or Softmax behind which only values are moved and scaled up to an output: the node and what it reads.

    axis: of a Softmax, to whose sum of exponents a constant says nothing; None of a Sigmoid. chooses: whether it is an
    ArgMax instead, or another that says places along the axis.
    """

    output: str
    node: str
    reads: str
    axis: int | None
    chooses: bool = False


def saturating_ends(model: Model) -> tuple[Saturating, ...]:
    """Return the Sigmoids, Softmaxes and ArgMaxes that end the outputs of a graph."""
    found: dict[tuple[str, str], Saturating] = {}
    for output in model.graph.outputs:
        for value in tail(output):
            node = value.producer()
            if node is None or node.graph is not model.graph:
                continue
            chooses = _says_places(value) and node.op_type in _CHOOSING
            if chooses or edit.is_main_op(node, *_SATURATING):
                reads = node.inputs[0]
                if reads is None or reads.producer() is None:
                    continue
                first = 0 if node.op_type in ("ArgMax", "ArgMin") else -1
                axis = None if node.op_type == "Sigmoid" else int(edit.attribute(node, "axis", first))
                name = str(output.name)
                end = Saturating(name, str(node.name), str(reads.name), axis, chooses)
                found.setdefault((name, str(node.name)), end)
    return tuple(found.values())


def place_outputs(model: Model) -> frozenset[str]:
    """Return the outputs that say places or classes and nothing else, of which a difference has no size.

    An ArgMax, a TopK, a NonZero or a NonMaxSuppression makes all of their values, in whatever type and order.
    """
    found = set()
    for output in model.graph.outputs:
        ends = [v for v in tail(output) if (n := v.producer()) is None or not followed(n)]
        if ends and all(map(_says_places, ends)):
            found.add(str(output.name))
    return frozenset(found)


def _says_places(value: Value) -> bool:
    node = value.producer()
    if node is None or not edit.is_main_op(node, *_CHOOSING, *_PLACING):
        return False
    return node.op_type in _PLACING or value.index() == _CHOOSING[node.op_type]


def parted_tensors(model: Model) -> tuple[str, ...]:
    """Return the tensors whose shapes `output_parts` needs; none where no output may have parts."""
    tails = [list(tail(output)) for output in model.graph.outputs if edit.is_tensor(output)]
    ends = ("Concat", "Sigmoid")
    parted = [values for values in tails if any((n := v.producer()) and edit.is_main_op(n, *ends) for v in values)]
    return tuple(dict.fromkeys(str(value.name) for values in parted for value in values if value.name))


def output_parts(model: Model, shapes: Mapping[str, Shape]) -> dict[str, Parts]:
    """Return the parts of each output that has several, or whose scores may be too faint to say anything.

    `shapes`: of the `parted_tensors`, in one run.
    """
    walk = _Walk(shapes)
    result = {}
    for output in model.graph.outputs:
        name = str(output.name)
        if name not in shapes or not edit.is_tensor(output):
            continue
        made = walk.of(output)
        ids = np.unique(made.kinds)
        faint = tuple(_FAINT if walk.kinds[i][1] else 0.0 for i in ids)
        if (len(ids) > 1 or any(faint)) and len(ids) <= _MOST:
            result[name] = Parts(_compact(np.searchsorted(ids, made.kinds)), faint)
    return result


def _compact(labels: Array) -> Array:
    """The labels with length 1 on each axis along which they do not change."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis=axis) if labels.shape[axis] else labels
        if (labels == first).all():
            labels = first
    return labels


def tail(output: Value) -> Iterable[Value]:
    """Yield each tensor that is only moved, scaled or bent on its way to an output, and those where that begins."""
    seen, waiting = set(), [output]
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        yield value
        node = value.producer()
        waiting += [] if node is None else followed(node)


def is_moved(node: Node) -> bool:
    """Return whether the outputs of a node hold the values of its first input, in whatever order."""
    return edit.is_main_op(node, *_MOVED)


def followed(node: Node) -> list[Value]:
    """Return the inputs whose values an output of the node holds, in whatever order and scale.

    None of them where it computes.
    """
    inputs = [v for v in node.inputs if v is not None]
    if edit.is_main_op(node, "Concat"):
        return inputs
    if edit.is_main_op(node, "If"):
        return [graph.outputs[index] for graph in subgraphs(node) for index in range(len(graph.outputs))]
    if edit.is_main_op(node, *_MOVED, *_UNARY):
        return inputs[:1]
    if edit.is_main_op(node, *_BINARY):
        computed = [v for v in inputs if not _fixed(v)]
        return computed if len(computed) == 1 else []
    return []


def _fixed(value: Value) -> bool:
    """Whether a few nodes make it of constants alone."""
    seen, waiting = set(), [value]
    while waiting:
        one = waiting.pop()
        node = one.producer()
        if node is None:
            if not one.is_initializer():
                return False
        elif node.op_type != "Constant" and node not in seen:
            seen.add(node)
            if not node.inputs or len(seen) > _FEW_NODES:
                return False
            waiting += [v for v in node.inputs if v is not None]
    return True


_Kind = tuple[object, bool]


@dataclass(frozen=True, slots=True)
class _Traced:
    """Of a tensor, arrays of its shape: the kind of each element, and the channel that it has in its layer.

    form: a number for the operators that make it.
    """

    kinds: Array
    channels: Array
    form: int


class _Walk:
    """Goes back from outputs; what was found of a tensor is kept.

    A kind is a path through the Concats (which input it came by, where these differ), and whether a Sigmoid made it
    what it is.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._made: dict[Value, _Traced] = {}
        self._forms: dict[object, int] = {}
        self._kinds: dict[_Kind, int] = {}

    def of(self, value: Value) -> _Traced:
        waiting = [value]
        while waiting:
            one = waiting[-1]
            node = one.producer()
            before = [] if node is None or node.op_type == "If" else followed(node)
            missing = [v for v in before if v not in self._made]
            if missing and one not in self._made:
                waiting += missing
                continue
            if one not in self._made:
                self._made[one] = self._find(one)
            waiting.pop()
        return self._made[value]

    @property
    def kinds(self) -> list[_Kind]:
        """By their numbers."""
        return list(self._kinds)

    def _form(self, *made_of: object) -> int:
        return self._forms.setdefault(made_of, len(self._forms))

    def _find(self, value: Value) -> _Traced:
        node = value.producer()
        shape = tuple(self._shapes.get(str(value.name)) or edit.static_shape(value) or ())
        if node is not None and node.op_type != "If" and followed(node):
            found = self._concatenated(node) if node.op_type == "Concat" else self._moved(node, value, shape)
            if found is not None and found.kinds.shape == shape:
                return found
        axis = None if node is None else _channel_axis(node, len(shape))
        channels = np.zeros(shape, np.int64)
        if axis is not None:
            channels += np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        kind = self._kinds.setdefault(((), False), len(self._kinds))
        return _Traced(np.full(shape, kind), channels, self._form("none" if node is None else node.op_type))

    def _moved(self, node: Node, value: Value, shape: tuple[int, ...]) -> _Traced | None:
        (source,) = followed(node)
        made = self.of(source)
        kinds = made.kinds
        if edit.is_main_op(node, "Sigmoid"):
            kinds = self._renamed(kinds, lambda kind: (kind[0], True))
        elif not edit.is_main_op(node, *_MOVED):
            kinds = self._renamed(kinds, lambda kind: (kind[0], False))
        try:
            arrays = [_as_moved(node, value, array, shape) for array in (kinds, made.channels)]
        except (ValueError, IndexError, TypeError):
            return None
        return _Traced(arrays[0], arrays[1], self._form(node.op_type, made.form))

    def _concatenated(self, node: Node) -> _Traced | None:
        pieces = [self.of(v) for v in node.inputs if v is not None]
        axis = int(edit.attribute(node, "axis", 0))
        forms = {piece.form for piece in pieces}
        differ = len(forms) > 1 or all(_along(piece.channels, axis) for piece in pieces)
        kinds = [piece.kinds for piece in pieces]
        if differ:
            kinds = [self._renamed(k, functools.partial(_by_input, i)) for i, k in enumerate(kinds)]
        try:
            return _Traced(
                np.concatenate(kinds, axis),
                np.concatenate([piece.channels for piece in pieces], axis),
                self._form("Concat", *(piece.form for piece in pieces)),
            )
        except (ValueError, IndexError):
            return None

    def _renamed(self, kinds: Array, new: Callable[[_Kind], _Kind]) -> Array:
        known, every = np.unique(kinds), self.kinds
        numbers = [self._kinds.setdefault(new(every[i]), len(self._kinds)) for i in known]
        return np.asarray(numbers, np.int64)[np.searchsorted(known, kinds)] if numbers else kinds


def _by_input(index: int, kind: _Kind) -> _Kind:
    return (index, kind[0]), kind[1]


def _along(channels: Array, axis: int) -> bool:
    """Whether channels lie along this axis, and along no other."""
    varies = [bool(np.ptp(channels, axis=a).any()) if channels.size else False for a in range(channels.ndim)]
    return [a for a, v in enumerate(varies) if v] == [axis % channels.ndim]


def _channel_axis(node: Node, rank: int) -> int | None:
    layer = Layer.of(node)
    axes = {"convolution": 1, "transposed convolution": 1, "matrix product": rank - 1}
    return None if layer is None or rank < 2 else axes.get(layer.operator.kind)


def _as_moved(node: Node, value: Value, array: Array, shape: tuple[int, ...]) -> Array:
    """What a node makes of an array of the shape of its first input."""
    kind = node.op_type
    if kind in _RESHAPED:
        return array.reshape(shape)
    if kind == "Transpose":
        return array.transpose(edit.attribute(node, "perm", None))
    if kind == "Split":
        axis = int(edit.attribute(node, "axis", 0))
        index = value.index() or 0
        sizes = edit.attribute(node, "split", None)
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            sizes = _content(node.inputs[1]).tolist()
        before = index * -(-array.shape[axis] // len(node.outputs)) if sizes is None else sum(sizes[:index])
        return array.take(range(before, before + shape[axis]), axis=axis)
    if kind == "Slice":
        return array[_slices(node, array.ndim)]
    if kind == "Gather":
        return array.take(_content(node.inputs[1]), axis=int(edit.attribute(node, "axis", 0)))
    return np.broadcast_to(array, shape)


def _content(value: Value | None) -> Array:
    """Raises `ValueError` where it is computed."""
    maker = None if value is None else value.producer()
    if maker is not None and maker.op_type == "Constant":
        return np.asarray(edit.attribute(maker, "value").numpy())
    return edit.constant(value)


def _slices(node: Node, rank: int) -> tuple[slice, ...]:
    if len(node.inputs) > 1:
        given = [None if v is None else _content(v).tolist() for v in node.inputs[1:]]
    else:
        given = [edit.attribute(node, name, None) for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = [*given, None, None][:4]
    result = [slice(None)] * rank
    if starts is None or ends is None:
        raise ValueError("a Slice without ends")
    for i, start in enumerate(starts):
        result[i if axes is None else axes[i]] = slice(start, ends[i], 1 if steps is None else steps[i])
    return tuple(result)

"""A ConvTranspose becomes a Conv with channels for each place of the stride, and a rearrangement, both in integers.

y[q * s + r] is the sum over t of x[q - t] * w[r + s * t], so the places r of a stride are channels of a convolution
whose kernel is s times smaller. The rearrangement is Transpose and Reshape channels last, which move whole pixels, and
a Slice where there are pads. `python -m bench.conv_transpose` shows that it pays from the smallest layers on, as
DepthToSpace does not. A Relu or Clip behind the layer comes in front of the rearrangement.

Declines for weights that are computed or that others read, a bias that is computed, groups, dilations, auto_pad SAME,
an output_shape, three spatial axes, and pads that leave nothing of an edge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer

_TO_THE_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class _Axis:
    """A spatial axis: its stride s, and how many elements of x a place of the output is a sum over.

    pads: of the convolution, in front and behind. crop: how much of its output goes, in front and behind.
    """

    stride: int
    kernel: int
    pads: tuple[int, int]
    crop: tuple[int, int]

    @classmethod
    def of(cls, size: int, stride: int, pads: tuple[int, int], more: int) -> "_Axis":
        """For a kernel of `size` elements; `more`: the output_padding."""
        kernel = math.ceil(size / stride)
        gone = (pads[0], kernel * stride - size + pads[1] - more)
        first, last = (kernel - 1 - n // stride for n in gone)
        return cls(stride, kernel, (first, last), (gone[0] % stride, gone[1] % stride))

    def length(self, before: int | None) -> int | None:
        """The length in front of the crop, where it was `before`."""
        return None if before is None else (before + sum(self.pads) - self.kernel + 1) * self.stride


def apply(model: Model) -> int:
    """Rewrite each ConvTranspose as a Conv and a rearrangement, in place; return how many were rewritten."""
    names = edit.Names(model.graph)
    count = 0
    for node in list(model.graph):
        layer = Layer.of(node) if edit.is_main_op(node, "ConvTranspose") else None
        axes = _axes(layer) if layer is not None and _plain(layer) else None
        if layer is not None and axes is not None:
            _rewrite(model, layer, axes, names)
            count += 1
    return count


def _plain(layer: Layer) -> bool:
    node = layer.node
    if not edit.weight_like(layer.weight) or layer.weight is None or len(layer.weight.uses()) > 1:
        return False
    shape = edit.constant(layer.weight).shape
    if len(shape) not in (3, 4) or edit.rank(node.inputs[0]) != len(shape) or 0 in shape or layer.groups != 1:
        return False
    if any(d != 1 for d in edit.attribute(node, "dilations", None) or ()) or "output_shape" in node.attributes:
        return False
    bias = layer.bias
    fits = bias is None or (edit.weight_like(bias) and edit.constant(bias).shape == (layer.output_size(shape),))
    return fits and edit.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _axes(layer: Layer) -> list[_Axis] | None:
    node, sizes = layer.node, layer.kernel(edit.constant(layer.weight).shape)
    n = len(sizes)
    strides = edit.attribute(node, "strides", None) or [1] * n
    valid = edit.attribute(node, "auto_pad", "NOTSET") == "VALID"
    pads = (None if valid else edit.attribute(node, "pads", None)) or [0] * 2 * n
    more = edit.attribute(node, "output_padding", None) or [0] * n
    if min(*pads, *more) < 0 or min(strides) < 1 or (len(strides), len(pads), len(more)) != (n, 2 * n, n):
        return None
    axes = [
        _Axis.of(k, s, (pads[i], pads[n + i]), more[i]) for i, (k, s) in enumerate(zip(sizes, strides, strict=True))
    ]
    return axes if all(min(axis.pads) >= 0 for axis in axes) else None


def _rewrite(model: Model, layer: Layer, axes: list[_Axis], names: edit.Names) -> None:
    node, weight, x = layer.node, edit.constant(layer.weight), layer.node.inputs[0]
    places = math.prod(axis.stride for axis in axes)
    reader = edit.single_consumer(node.outputs[0])
    tail = reader if reader is not None and _is_activation(reader) else node
    chain = _Chain(model, node, tail, names)
    kernel = chain.constant("places", _places(weight, axes))
    bias = [] if layer.bias is None else [chain.constant("bias", np.tile(edit.constant(layer.bias), places))]
    pads = [axis.pads[side] for side in (0, 1) for axis in axes]
    assert x is not None
    chain.add(
        "Conv", [x, kernel, *bias], name=chain.name("conv"), kernel_shape=[axis.kernel for axis in axes], pads=pads
    )
    if tail is not node:
        chain.take(tail)
    if places > 1:
        _spread(chain, x, axes, weight.shape[1])
    chain.replace()


def _is_activation(node: Node) -> bool:
    return edit.is_main_op(node, "Relu", "Clip") and all(v is None or v.is_initializer() for v in node.inputs[1:])


def _places(weight: Array, axes: list[_Axis]) -> Array:
    """The weight [C, M, ...] as [places * M, C, ...]; the places of the last axis vary the slowest."""
    n = len(axes)
    whole = np.zeros((*weight.shape[:2], *(axis.kernel * axis.stride for axis in axes)), weight.dtype)
    inside: tuple[slice, ...] = tuple(slice(size) for size in weight.shape)
    whole[inside] = weight
    parts = whole.reshape(*weight.shape[:2], *(size for axis in axes for size in (axis.kernel, axis.stride)))
    parts = np.flip(parts, axis=tuple(range(2, 2 + 2 * n, 2)))
    order = [*range(1 + 2 * n, 2, -2), 1, 0, *range(2, 2 + 2 * n, 2)]
    return parts.transpose(order).reshape(-1, weight.shape[0], *(axis.kernel for axis in axes))


def _spread(chain: "_Chain", x: Value, axes: list[_Axis], channels: int) -> None:
    """Channels that are places go where they belong."""
    n = len(axes)
    chain.add("Transpose", perm=[0, *range(2, 2 + n), 1])
    if n == 1:
        chain.reshape(0, -1, channels)
    else:
        height, width = (axis.length(edit.static_dim(x, 2 + i)) for i, axis in enumerate(axes))
        chain.reshape(0, 0, -1, axes[0].stride, channels)
        chain.add("Transpose", perm=[0, 1, 3, 2, 4])
        if width is not None:
            chain.reshape(0, -1, width, channels)
        elif height is not None:
            chain.reshape(0, height, -1, channels)
        else:
            chain.join_rows()
    cropped = [i for i, axis in enumerate(axes) if any(axis.crop)]
    if cropped:
        ends = [-axes[i].crop[1] or _TO_THE_END for i in cropped]
        bounds = ([axes[i].crop[0] for i in cropped], ends, [1 + i for i in cropped])
        chain.add("Slice", [chain.last, *(chain.constant("crop", np.array(b, np.int64)) for b in bounds)])
    chain.add("Transpose", perm=[0, 1 + n, *range(1, 1 + n)])


class _Chain:
    """Nodes in a row, each of which reads the one before, for `node` and those behind it as far as `at`."""

    def __init__(self, model: Model, node: Node, at: Node, names: edit.Names) -> None:
        self._graph, self._node, self._at, self._names = model.graph, node, at, names
        self._base = str(at.outputs[0].name)
        self._made: list[Node] = []

    @property
    def last(self) -> Value:
        """What the last node makes."""
        return self._made[-1].outputs[0]

    def name(self, what: str) -> str:
        return self._names.fresh(f"{self._node.name or self._base}_{what}")

    def constant(self, what: str, array: Array) -> Value:
        return edit.add_initializer(self._graph, self._names.fresh(f"{self._base}_{what}"), array)

    def add(
        self, op: str, inputs: Sequence[Value] | None = None, *, name: str | None = None, **attributes: Any
    ) -> None:
        fresh = self._names.fresh(f"{self._base}_{op.lower()}")
        read = [self.last] if inputs is None else inputs
        self._put(edit.new_node(op, read, fresh, name=name or fresh, attributes=attributes))

    def take(self, node: Node) -> None:
        """Let a node that stands behind the chain stand in it."""
        inputs = [self.last, *node.inputs[1:]]
        self._put(edit.copy_node(node, inputs, self._names.fresh(f"{self._base}_moved"), name=str(node.name)))
        edit.take_origins(self._made[-1], node)

    def _put(self, node: Node) -> None:
        node.outputs[0].type = self._at.outputs[0].type
        self._graph.insert_before(self._at, node)
        self._made.append(node)

    def reshape(self, *shape: int) -> None:
        self.add("Reshape", [self.last, self.constant("shape", np.array(shape, np.int64))])

    def join_rows(self) -> None:
        """[N, H, s, W, M] to [N, H * s, W, M], where neither H nor W is known."""
        rows = self.last
        start = len(self._made)
        self.add("Shape", [rows])
        bounds = [self.constant("bound", np.array([n], np.int64)) for n in (3, 5)]
        self.add("Slice", [self.last, *bounds])
        self.add("Concat", [self.constant("shape", np.array([0, -1], np.int64)), self.last], axis=0)
        for made in self._made[start:]:
            # they are integers, as inference finds out
            made.outputs[0].type = None
        self.add("Reshape", [rows, self.last])

    def replace(self) -> None:
        """Let the chain stand for the node, and for what of it is taken, which go."""
        for made in self._made:
            edit.take_origins(made, self._node)
        old = self._at.outputs[0]
        self.last.type, self.last.shape = old.type, old.shape
        edit.replace_uses(old, self.last)
        edit.remove_node(self._at)
        if self._at is not self._node:
            edit.remove_node(self._node)

"""The one place that knows what an operator with weights is: which inputs and axes hold what, how the sums run.

A new one is a row of `OPERATORS`, and a rule in the table of each target that makes it integer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Node, Value

Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class Operator:
    """The way in which an operator uses its weights. Source: the operators' pages of ONNX.

    kind:
        convolution: an output element is a sum over input channels and the places of a kernel.
        transposed convolution: an input element goes into a product with each output channel and place of a kernel.
        matrix product: an output element is a sum over one axis of the input.
        recurrence: matrix products with the input and with the state, step by step.
        table: rows are taken, and nothing is multiplied.
    ranks: the numbers of dimensions that the weights may have where the layer is quantised.
    output, input: the axes of a weight that are its output channels, and its input channels (what is summed over).
        Groups divide axis 0.
    weights: the inputs that are weights; the first is the one that meets the layer's input.
    bias: the input that is a bias of one number an output channel, if the operator has one.
    transposed_by: the attribute that swaps the two axes.
    """

    kind: Literal["convolution", "transposed convolution", "matrix product", "recurrence", "table"]
    ranks: tuple[int, ...]
    output: int
    input: int
    weights: tuple[int, ...] = (1,)
    bias: int | None = None
    transposed_by: str | None = None


_RECURRENCE = Operator("recurrence", (3,), output=1, input=2, weights=(1, 2))
OPERATORS = {
    "Conv": Operator("convolution", (3, 4, 5), output=0, input=1, bias=2),
    "ConvTranspose": Operator("transposed convolution", (3, 4, 5), output=1, input=0, bias=2),
    "Gemm": Operator("matrix product", (2,), output=1, input=0, bias=2, transposed_by="transB"),
    "MatMul": Operator("matrix product", (2,), output=1, input=0),
    "LSTM": _RECURRENCE,
    "GRU": _RECURRENCE,
    "RNN": _RECURRENCE,
    "Gather": Operator("table", (2,), output=0, input=1, weights=(0,)),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A node and what its operator is; M output channels, C input channels, G groups.

    The views of a weight are writable where the weight is, and serve any array of its shape.
    """

    node: Node
    operator: Operator

    @classmethod
    def of(cls, node: Node) -> "Layer | None":
        """Return a node as a layer; None for operators without weights. The weights may also be computed."""
        operator = OPERATORS.get(node.op_type) if edit.is_main_op(node, node.op_type) else None
        return None if operator is None else cls(node, operator)

    @property
    def weight(self) -> Value | None:
        """The weight that meets the layer's input."""
        return self._input(self.operator.weights[0])

    @property
    def weights(self) -> tuple[Value | None, ...]:
        """All weights, in the order of the operator's inputs."""
        return tuple(self._input(index) for index in self.operator.weights)

    @property
    def bias(self) -> Value | None:
        """The bias, where there is one."""
        return None if self.operator.bias is None else self._input(self.operator.bias)

    @property
    def is_linear(self) -> bool:
        """Whether it is one sum of products, so that what changes the weight changes the output in proportion."""
        return self.operator.kind in ("convolution", "transposed convolution", "matrix product")

    @property
    def is_product(self) -> bool:
        """Whether it is a product with a matrix."""
        return self.operator.kind == "matrix product"

    @property
    def groups(self) -> int:
        """G; 1 for operators without groups."""
        return int(edit.attribute(self.node, "group", 1)) if "convolution" in self.operator.kind else 1

    @property
    def alpha(self) -> float:
        """The factor of the product of a Gemm; 1 elsewhere."""
        return float(edit.attribute(self.node, "alpha", 1.0))

    @property
    def beta(self) -> float:
        """The factor of the bias of a Gemm; 1 elsewhere."""
        return float(edit.attribute(self.node, "beta", 1.0))

    @property
    def transposes_input(self) -> bool:
        """Whether a Gemm sums over axis 0 of its input."""
        return bool(edit.attribute(self.node, "transA", 0))

    @property
    def output_axis(self) -> int:
        """The axis of the weight that holds the output channels: that of scales per channel."""
        return self.operator.input if self._swapped else self.operator.output

    @property
    def input_axis(self) -> int:
        """The axis of the weight that holds the input channels."""
        return self.operator.output if self._swapped else self.operator.input

    def fits(self, weight: Shape) -> bool:
        """Return whether a weight has a number of dimensions that is quantised, and channels for every group.

        onnxruntime also loads a model in which it has not, and fails when it runs.
        """
        return len(weight) in self.operator.ranks and self.groups >= 1 and weight[0] % self.groups == 0

    def output_size(self, weight: Shape) -> int:
        """Return M, the number of output channels, from the shape of the weight."""
        return self._size(weight, self.output_axis)

    def input_size(self, weight: Shape) -> int:
        """Return C, the number of input channels, from the shape of the weight."""
        return self._size(weight, self.input_axis)

    def kernel(self, weight: Shape) -> tuple[int, ...]:
        """Return the size of a convolution's kernel, from the shape of the weight; () for other layers."""
        return tuple(weight[2:]) if "convolution" in self.operator.kind else ()

    def output_channels(self, weight: Array) -> Array:
        """Return a view of the weight as [G, M / G, C / G, everything else]."""
        return np.moveaxis(self._grouped(weight), (self.output_axis + 1, self.input_axis + 1), (1, 2))

    def input_channels(self, weight: Array, size: int | None = None) -> Array:
        """Return a view of the weight as [G, C / G, M / G, everything else].

        `size`: the number of channels where a Flatten made several inputs in a row of each, which then are the last
        axis.
        """
        view = np.moveaxis(self._grouped(weight), (self.input_axis + 1, self.output_axis + 1), (1, 2))
        if size in (None, view.shape[0] * view.shape[1]):
            return view
        assert size is not None
        return np.moveaxis(view.reshape(view.shape[0], size // view.shape[0], -1, *view.shape[2:]), 2, -1)

    def matrix(self, weight: Array) -> Array:
        """Return a view of the weight of a matrix product as [C, M].

        A second call leads back, since a transposition is its own inverse.
        """
        return weight if self.input_axis == 0 else weight.T

    def holds_rows(self, rows: Array) -> bool:
        """Return whether the constant weight of a matrix product holds `rows`, [M, C], as its output channels."""
        weight = edit.constant_or_none(self.weight) if self.is_product else None
        if weight is None or weight.ndim != rows.ndim:
            return False
        own = self.matrix(weight).T
        # most others differ in their first row
        return own.shape == rows.shape and np.array_equal(own[:1], rows[:1]) and np.array_equal(own, rows)

    def sum_length(self, weight: Shape) -> int:
        """Return how many products are added up in an element of a linear layer's output, from the shape of its weight.

        For a transposed convolution these are as many as can be, which stride 1 leads to; for a MatMul the axes in
        front of the last two count samples.
        """
        in_front = max(len(weight) - 2, 0) if self.is_product else 0
        channels = weight[in_front + self.input_axis]
        return channels // (self.groups if self.input_axis == 0 else 1) * math.prod(self.kernel(weight))

    @property
    def counted(self) -> tuple[Value, ...]:
        """The values whose shapes `macs` needs; constants know theirs."""
        return tuple(v for v in (self._element, *self.weights) if v is not None and not v.is_initializer())

    def macs(self, shapes: Mapping[str, Shape]) -> int | None:
        """Return the multiply-accumulates of one run, by the shapes of the values `counted`; None if one is missing."""
        elements = _shape(self._element, shapes)
        found = [_shape(weight, shapes) for weight in self.weights]
        weights = [weight for weight in found if weight is not None]
        if elements is None or len(weights) < len(found):
            return None
        match self.operator.kind:
            case "transposed convolution":
                return math.prod(elements) * math.prod(weights[0][1:])
            case "recurrence":
                # each step of each sample takes every number of both weights once
                return math.prod(elements[:2]) * sum(math.prod(weight) for weight in weights)
            case "table":
                return 0
            case _:
                return math.prod(elements) * self.sum_length(weights[0])

    @property
    def _element(self) -> Value | None:
        """The value whose elements are counted: input or output."""
        by_input = self.operator.kind in ("transposed convolution", "recurrence")
        return self._input(0) if by_input else self.node.outputs[0]

    @property
    def _swapped(self) -> bool:
        name = self.operator.transposed_by
        return name is not None and bool(edit.attribute(self.node, name, 0))

    def _input(self, index: int) -> Value | None:
        return self.node.inputs[index] if len(self.node.inputs) > index else None

    def _size(self, weight: Shape, axis: int) -> int:
        return weight[axis] * (1 if axis == 0 else self.groups)

    def _grouped(self, weight: Array) -> Array:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, *weight.shape[1:])


def end_of(node: Node) -> Value:
    """Return what a layer gives, behind the Relu or Clip that reads it alone, which its kernel absorbs."""
    follower = edit.single_consumer(node.outputs[0])
    return (
        follower.outputs[0] if follower is not None and edit.is_main_op(follower, "Relu", "Clip") else node.outputs[0]
    )


def per_channel(numbers: Array, view: Array) -> Array:
    """Return one number a channel in the shape that multiplies a view of `output_channels` or `input_channels`."""
    return numbers.reshape(*view.shape[:2], *[1] * (view.ndim - 2))


def _shape(value: Value | None, shapes: Mapping[str, Shape]) -> Shape | None:
    constant = edit.constant_or_none(value)
    if constant is not None:
        return constant.shape
    return None if value is None else shapes.get(str(value.name))


def is_linear(node: Node) -> bool:
    """Return whether a node is a layer that is one sum of products, whatever its weights are."""
    layer = Layer.of(node)
    return layer is not None and layer.is_linear

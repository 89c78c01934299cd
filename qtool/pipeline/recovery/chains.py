"""Chains: a Conv or Gemm, what follows it channel by channel, and the one Conv or Gemm that reads the result.

Whatever is done to the channels between the two layers can be undone in the second one's weight. There is no chain
where a value between them has another reader or is a graph output, where a weight is read elsewhere too (it would have
to be copied) or is not a finite float32 constant, or where the channels do not stand on axis 1 from end to end.
"""

from dataclasses import dataclass

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value

_LAYERS = ("Conv", "Gemm")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_BETWEEN = ("Relu", "LeakyRelu", "Clip", "Flatten", *_POOLS)


@dataclass(frozen=True, slots=True)
class Chain:
    """`first` and `second` with the nodes `between`, in their order; `size` channels."""

    first: Node
    between: tuple[Node, ...]
    second: Node
    size: int

    @property
    def tensor(self) -> str:
        """The output of the first layer."""
        return str(self.first.outputs[0].name)

    @property
    def activations(self) -> tuple[Node, ...]:
        """The nodes between that are no pooling and no reshaping."""
        return tuple(node for node in self.between if not edit.is_main_op(node, "Flatten", *_POOLS))


def find_chains(model: Model) -> list[Chain]:
    """All chains of the main graph, in its order."""
    return [chain for node in model.graph if (chain := _chain_from(node)) is not None]


def upper_bound(chain: Chain) -> float | None:
    """The least upper bound of the Clips on the way, inf without any; None where one is no Relu with a bound."""
    bound = np.inf
    for node in chain.activations:
        if node.op_type == "Clip":
            low, high = (edit.constant_or_none(v) for v in (*node.inputs[1:3], None, None)[:2])
            absent = len(node.inputs) < 3 or node.inputs[2] is None
            if low is None or low.size != 1 or float(low.reshape(-1)[0]) != 0.0 or (high is None and not absent):
                return None
            bound = min(bound, np.inf if high is None else float(high.reshape(-1)[0]))
    return bound if bound > 0.0 else None


def bias_of(layer: Node) -> Value | None:
    """The bias, where there is one."""
    return layer.inputs[2] if len(layer.inputs) > 2 else None


def output_channels(layer: Node, weight: Array) -> Array:
    """A view of the weight as [M, everything else], M the output channels."""
    axis = 1 if layer.op_type == "Gemm" and not edit.attribute(layer, "transB", 0) else 0
    return np.moveaxis(weight, axis, 0)


def input_channels(layer: Node, weight: Array, size: int) -> Array:
    """A view of the weight as [G, C, everything else] with G * C = `size`, the channels that the layer reads.

    A Gemm behind a Flatten reads each channel several times in a row: [size, 1, times, N].
    """
    if layer.op_type == "Gemm":
        moved = weight.T if edit.attribute(layer, "transB", 0) else weight
        return moved.reshape(size, 1, -1, moved.shape[1])
    groups = int(edit.attribute(layer, "group", 1))
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.moveaxis(split, 2, 1)


def _chain_from(first: Node) -> Chain | None:
    weight = _own_weight(first)
    if weight is None or not _vector_bias(first, size := output_channels(first, weight).shape[0]):
        return None
    between: list[Node] = []
    value = first.outputs[0]
    while (node := edit.single_consumer(value)) is not None and node.graph is first.graph:
        if node.inputs[0] is not value:
            return None
        if edit.is_main_op(node, *_LAYERS):
            return Chain(first, tuple(between), node, size) if _reads(node, size, between) else None
        if not _keeps_channels(node):
            return None
        between.append(node)
        value = node.outputs[0]
    return None


def _keeps_channels(node: Node) -> bool:
    """Whether it works channel by channel and gives one value; Flatten must leave the channels outermost."""
    if not edit.is_main_op(node, *_BETWEEN) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return False
    return node.op_type != "Flatten" or int(edit.attribute(node, "axis", 1)) == 1


def _reads(second: Node, size: int, between: list[Node]) -> bool:
    weight = _own_weight(second)
    if weight is None:
        return False
    if second.op_type == "Conv":
        return bool(weight.shape[1] * int(edit.attribute(second, "group", 1)) == size)
    read = weight.shape[1 if edit.attribute(second, "transB", 0) else 0]
    flattened = any(node.op_type == "Flatten" for node in between)
    return bool(read == size or (flattened and size > 0 and read % size == 0))


def _own_weight(layer: Node) -> Array | None:
    """The weight of a Conv or Gemm where it may be edited."""
    if not edit.is_main_op(layer, *_LAYERS) or edit.attribute(layer, "transA", 0):
        return None
    value = layer.inputs[1]
    if value is None or not edit.weight_like(value) or edit.single_consumer(value) is None:
        return None
    weight = edit.constant(value)
    return weight if weight.size and np.isfinite(weight).all() else None


def _vector_bias(layer: Node, size: int) -> bool:
    """Whether the bias is absent or a finite constant [size]."""
    value = bias_of(layer)
    if value is None:
        return True
    bias = edit.constant_or_none(value)
    return bias is not None and edit.weight_like(value) and bias.shape == (size,) and bool(np.isfinite(bias).all())

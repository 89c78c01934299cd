"""Chains: a Conv or Gemm, what follows it channel by channel, and the one Conv or Gemm that reads the result.

Whatever is done to the channels between the two layers can be undone in the second one's weight. There is no chain
where a value between them has another reader or is a graph output, where a weight is read elsewhere too (it would have
to be copied) or is not a finite float32 constant, or where the channels do not stand on axis 1 from end to end.
"""

from dataclasses import dataclass

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node
from qtool.graph.layers import Layer

_LAYERS = ("Conv", "Gemm")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_BETWEEN = ("Relu", "LeakyRelu", "Clip", "Flatten", *_POOLS)


@dataclass(frozen=True, slots=True)
class Chain:
    """`first` and `second` with the nodes `between`, in their order; `size` channels."""

    first: Layer
    between: tuple[Node, ...]
    second: Layer
    size: int

    @property
    def tensor(self) -> str:
        """The output of the first layer."""
        return str(self.first.node.outputs[0].name)

    @property
    def activations(self) -> tuple[Node, ...]:
        """The nodes between that are no pooling and no reshaping."""
        return tuple(node for node in self.between if not edit.is_main_op(node, "Flatten", *_POOLS))


def find_chains(model: Model) -> list[Chain]:
    """Find all chains of the main graph, in its order."""
    return [chain for node in model.graph if (chain := _chain_from(node)) is not None]


def upper_bound(chain: Chain) -> float | None:
    """Return the least upper bound of the Clips on the way, inf without any; None where one is no Relu with a bound."""
    bound = np.inf
    for node in chain.activations:
        if node.op_type == "Clip":
            low, high = (edit.constant_or_none(v) for v in (*node.inputs[1:3], None, None)[:2])
            absent = len(node.inputs) < 3 or node.inputs[2] is None
            if low is None or low.size != 1 or float(low.reshape(-1)[0]) != 0.0 or (high is None and not absent):
                return None
            bound = min(bound, np.inf if high is None else float(high.reshape(-1)[0]))
    return bound if bound > 0.0 else None


def _chain_from(node: Node) -> Chain | None:
    first = _layer(node)
    weight = None if first is None else _own_weight(first)
    if first is None or weight is None or not _vector_bias(first, size := first.output_size(weight.shape)):
        return None
    between: list[Node] = []
    value = node.outputs[0]
    while (reader := edit.single_consumer(value)) is not None and reader.graph is node.graph:
        if reader.inputs[0] is not value:
            return None
        second = _layer(reader)
        if second is not None:
            return Chain(first, tuple(between), second, size) if _reads(second, size, between) else None
        if not _keeps_channels(reader):
            return None
        between.append(reader)
        value = reader.outputs[0]
    return None


def _layer(node: Node) -> Layer | None:
    return Layer.of(node) if edit.is_main_op(node, *_LAYERS) else None


def _keeps_channels(node: Node) -> bool:
    """Whether it works channel by channel and gives one value; Flatten must leave the channels outermost."""
    if not edit.is_main_op(node, *_BETWEEN) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return False
    return node.op_type != "Flatten" or int(edit.attribute(node, "axis", 1)) == 1


def _reads(second: Layer, size: int, between: list[Node]) -> bool:
    weight = _own_weight(second)
    if weight is None:
        return False
    read = second.input_size(weight.shape)
    flattened = second.is_product and any(node.op_type == "Flatten" for node in between)
    return read == size or (flattened and size > 0 and read % size == 0)


def _own_weight(layer: Layer) -> Array | None:
    """The weight of a Conv or Gemm where it may be edited."""
    value = layer.weight
    if layer.transposes_input or value is None or not edit.weight_like(value) or edit.single_consumer(value) is None:
        return None
    weight = edit.constant(value)
    return weight if weight.size and np.isfinite(weight).all() else None


def _vector_bias(layer: Layer, size: int) -> bool:
    """Whether the bias is absent or a finite constant [size]."""
    value = layer.bias
    if value is None:
        return True
    bias = edit.constant_or_none(value)
    return bias is not None and edit.weight_like(value) and bias.shape == (size,) and bool(np.isfinite(bias).all())

"""A graph divided into blocks that are learned one after the other: between them as few tensors as there can be.

Source: Li et al., "BRECQ" (2021), section 3.2: blocks rather than layers, since what a block's layers do to each other
counts; and rather than networks, since few samples overfit these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qtool.graph import compose, edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer

MOST = 6
"""Layers with weights in a block."""


@dataclass(frozen=True, slots=True)
class LearnedBlock:
    """A stretch of a graph's nodes, and the tensors at both ends.

    starts: what it reads of the blocks before; nothing else behind a layer is read, and what no layer makes (a mask of
    the input, say) is computed from the inputs. ends: what others read of it, and the graph's outputs in it; floats.
    Both are one tensor wherever the graph has such a place. layers: the nodes with weights in it, in their order.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Boundary:
    """Behind a node: the layers up to there, and the tensors behind layers that later nodes read, floats first."""

    layers: int
    crossing: tuple[Value, ...]
    floats: int


def divide(model: Model, most: int = MOST) -> tuple[LearnedBlock, ...]:
    """Return the blocks of a graph in their order, each of at most so many layers with weights; none without layers.

    A block ends at the last place within reach that a single tensor crosses; where there is none, at the last of those
    that the fewest cross, and not before half of its layers.
    """
    nodes = list(model.graph)
    places = _places(nodes)
    blocks: list[LearnedBlock] = []
    begin = -1 if any(place.layers for place in places) else len(nodes) - 1
    while begin < len(nodes) - 1:
        end = _end(places, begin, most)
        blocks.append(_block(nodes, places, begin, end))
        begin = end
    return tuple(blocks)


def _end(places: Sequence[_Boundary], begin: int, most: int) -> int:
    """The place at which the block that begins behind another place ends."""
    before = 0 if begin < 0 else places[begin].layers
    total = places[-1].layers
    if total - before <= most:
        return len(places) - 1
    reached = [i for i in range(begin + 1, len(places)) if before < places[i].layers <= before + most]
    single = [i for i in reached if places[i].floats <= 1]
    if single:
        return single[-1]
    late = [i for i in reached if places[i].layers >= before + (most + 1) // 2]
    fewest = min(places[i].floats for i in late)
    return max(i for i in late if places[i].floats == fewest)


def _places(nodes: Sequence[Node]) -> list[_Boundary]:
    read = [compose.reads(node) for node in nodes]
    last = {value: i for i, values in enumerate(read) for value in values}
    behind: set[Value] = set()
    crossing: dict[Value, None] = {}
    places, layers = [], 0
    for i, node in enumerate(nodes):
        weighted = is_weighted(node)
        layers += weighted
        if weighted or not behind.isdisjoint(read[i]):
            behind.update(node.outputs)
            crossing.update(dict.fromkeys(value for value in node.outputs if last.get(value, i) > i))
        for value in read[i]:
            if last[value] == i:
                crossing.pop(value, None)
        places.append(_Boundary(layers, tuple(crossing), sum(map(_in_floats, crossing))))
    return places


def _block(nodes: Sequence[Node], places: Sequence[_Boundary], begin: int, end: int) -> LearnedBlock:
    inside = nodes[begin + 1 : end + 1]
    starts = () if begin < 0 else tuple(str(value.name) for value in places[begin].crossing)
    left = set(places[end].crossing)
    made = (value for node in inside for value in node.outputs if value in left or value.is_graph_output())
    ends = tuple(str(value.name) for value in made if _in_floats(value))
    return LearnedBlock(starts, ends, tuple(str(node.name) for node in inside if is_weighted(node)))


def is_weighted(node: Node) -> bool:
    """Return whether a node is a layer whose weight is a constant in float32."""
    layer = Layer.of(node)
    return layer is not None and edit.weight_like(layer.weight)


def _in_floats(value: Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()

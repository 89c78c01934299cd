"""The heads of a graph: the last layers in front of an output, and what decodes what they give.

A detector ends in convolutions, and behind them come Reshapes, Concats, Sigmoids and the arithmetic of boxes. A layer
there whose numbers are fixed and not learnt decodes too: the expected distance of a distribution (Li et al. 2020,
"Generalized Focal Loss", equation 5), or the product that turns centres and sizes into corners.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from qtool.graph import compose, edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.graph.parts import followed, is_moved, tail

_COORDINATES = 4
"""A layer behind a Softmax with so few outputs gives coordinates."""
_MATRIX = 64
"""So many numbers has a matrix at most that turns coordinates into others; all of them are multiples of a half."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a network in front of some outputs, or in front of the parts of one that differ in kind.

    name: what it is called. outputs: of the graph. layers: the last ones, which no other follows on the way, and those
    that only decode. nodes: these, and all between them and the outputs, in the order of the graph. All by name.
    """

    name: str
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    nodes: tuple[str, ...]


def decoding_layers(model: Model) -> tuple[str, ...]:
    """Return the names of the layers that only decode what the last ones give, in graph order.

    Such a one has no bias, and no layer that learns follows it. It takes the mean of coordinates over a Softmax, or
    turns coordinates into others by a small matrix.
    """
    candidates = [node for node in model.graph if _decodes(node)]
    if not candidates:
        return ()
    learning = [node for node in model.graph if _learns(node) and node not in candidates]
    before, behind = nodes_before(model, learning), _nodes_behind(model, learning)
    return tuple(str(node.name) for node in candidates if node in behind and node not in before)


def heads_of(model: Model) -> tuple[Head, ...]:
    """Find the heads of a graph, in the order of its outputs; those that share a layer are one.

    Outputs that no layer leads to have none. The parts of an output that differ in kind are heads of their own where no
    layer leads to several of them.
    """
    decoding = set(decoding_layers(model))
    positions = {node: i for i, node in enumerate(model.graph)}
    merged: list[_Found] = []
    for output in model.graph.outputs:
        for ends in _kinds(model, output):
            found = _found(output, ends, positions, decoding)
            if not found.last:
                continue
            same = [one for one in merged if one.last & found.last]
            for one in same:
                found = _Found(one.outputs | found.outputs, one.last | found.last, one.nodes | found.nodes)
                merged.remove(one)
            merged.append(found)
    return tuple(_named(model, merged, decoding))


@dataclass(frozen=True, slots=True)
class _Found:
    """The outputs, by name, that nodes lead to; last: the layers among the nodes that learn."""

    outputs: dict[str, None]
    last: set[Node]
    nodes: set[Node]


def nodes_before(model: Model, nodes: Collection[Node]) -> set[Node]:
    """Return the nodes of the main graph that lead to some of its nodes."""
    wanted, result = set(nodes), set[Node]()
    for node in reversed(model.graph):
        if node in wanted or node in result:
            result.update(_makers(node))
    return result


def _nodes_behind(model: Model, nodes: Collection[Node]) -> set[Node]:
    wanted, result = set(nodes), set[Node]()
    for node in model.graph:
        if any(maker in wanted or maker in result for maker in _makers(node)):
            result.add(node)
    return result


def _makers(node: Node) -> list[Node]:
    """The nodes of the same graph that make what a node, or a graph inside of it, reads."""
    makers = (value.producer() for value in compose.reads(node))
    return [maker for maker in makers if maker is not None and maker.graph is node.graph]


def _weight_size(node: Node) -> tuple[int, ...] | None:
    """The shape of the constant weight of a layer; None of any other node."""
    layer = Layer.of(node)
    if layer is None or layer.operator.kind == "table":
        return None
    weight = edit.constant_or_none(layer.weight)
    return None if weight is None else weight.shape


def _learns(node: Node) -> bool:
    return _weight_size(node) is not None


def _decodes(node: Node) -> bool:
    """Whether its numbers look fixed: see `decoding_layers`."""
    layer, shape = Layer.of(node), _weight_size(node)
    # a malformed model may have a scalar for a weight
    if layer is None or not shape or not layer.is_linear or layer.bias is not None:
        return False
    outputs = 1 if len(shape) == 1 else layer.output_size(shape)
    if outputs <= _COORDINATES and layer.groups == 1 and _reads_softmax(node):
        return True
    weight = edit.constant(layer.weight)
    return layer.is_product and 0 < weight.size <= _MATRIX and bool((2 * weight == np.rint(2 * weight)).all())


def _reads_softmax(node: Node) -> bool:
    value = node.inputs[0]
    while value is not None and (maker := value.producer()) is not None and is_moved(maker):
        value = maker.inputs[0]
    maker = None if value is None else value.producer()
    return maker is not None and edit.is_main_op(maker, "Softmax")


def _kinds(model: Model, output: Value) -> list[list[Value]]:
    """The values that an output is put together of, those of one kind together: the output itself where it is of one.

    What a Concat joins differs in kind where other operators made it, or where layers give it side by side along their
    channels.
    """
    values = set(tail(output))
    forms: dict[Value, int] = {}
    known: dict[object, int] = {}
    for node in model.graph:
        for value in values.intersection(node.outputs):
            made_of = tuple(forms.get(source) for source in followed(node))
            forms[value] = known.setdefault((node.op_type, made_of), len(known))
    kinds: dict[Value, set[tuple[int, ...]]] = {output: {()}}
    found: dict[tuple[int, ...], list[Value]] = {}
    for value in [output, *(v for node in reversed(model.graph) for v in node.outputs if v in values)]:
        maker = value.producer()
        # what an If gives comes of other graphs
        sources = [] if maker is None or maker.op_type == "If" else followed(maker)
        own = kinds.pop(value, set())
        if maker is None or not sources:
            for kind in sorted(own):
                found.setdefault(kind, []).append(value)
            continue
        parted = edit.is_main_op(maker, "Concat") and _differ(maker, [forms.get(source) for source in sources])
        for i, source in enumerate(sources):
            kinds.setdefault(source, set()).update((*kind, i) if parted else kind for kind in own)
    return [[output]] if len(found) < 2 else [found[kind] for kind in sorted(found)]


def _differ(concat: Node, forms: Collection[object]) -> bool:
    if len(set(forms)) > 1:
        return True
    layers = [Layer.of(maker) for v in concat.inputs if v is not None and (maker := v.producer()) is not None]
    axis = int(edit.attribute(concat, "axis", 0))
    rank = edit.rank(concat.outputs[0])
    axis += 0 if axis >= 0 or rank is None else rank
    channels = {"convolution": 1, "transposed convolution": 1, "matrix product": -1 if rank is None else rank - 1}
    known = [channels.get(layer.operator.kind) for layer in layers if layer is not None]
    return len(known) == len(concat.inputs) and all(one == axis for one in known)


def _found(output: Value, ends: Iterable[Value], positions: dict[Node, int], decoding: Collection[str]) -> _Found:
    """The last layers in front of values, and what lies between."""
    needed: set[Node] = set()
    waiting = [maker for value in ends if (maker := value.producer()) in positions and maker is not None]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += [maker for maker in _makers(node) if maker in positions]
    ordered = sorted(needed, key=positions.__getitem__)
    led_on: set[Node] = set()
    for node in reversed(ordered):
        learns = _learns(node) and node.name not in decoding
        if learns or node in led_on:
            led_on.update(maker for maker in _makers(node) if maker in needed)
    last = {node for node in ordered if node not in led_on and _learns(node) and node.name not in decoding}
    nodes = set(last)
    for node in ordered:
        if node not in led_on and any(maker in nodes for maker in _makers(node)):
            nodes.add(node)
    return _Found({str(output.name): None}, last, nodes)


def _named(model: Model, found: Collection[_Found], decoding: Collection[str]) -> Iterator[Head]:
    taken = {str(node.name) for node in model.graph}
    outputs = {str(value.name): i for i, value in enumerate(model.graph.outputs)}
    first = sorted(found, key=lambda one: min(outputs[name] for name in one.outputs))
    for one in first:
        of = tuple(sorted(one.outputs, key=outputs.__getitem__))
        beside = [other for other in first if tuple(sorted(other.outputs, key=outputs.__getitem__)) == of]
        name = f"head of {', '.join(of)}" + (f", part {beside.index(one) + 1}" if len(beside) > 1 else "")
        while name in taken:
            name += " (head)"
        taken.add(name)
        nodes = [node for node in model.graph if node in one.nodes]
        layers = [str(node.name) for node in nodes if node in one.last or node.name in decoding]
        yield Head(name, of, tuple(layers), tuple(str(node.name) for node in nodes))

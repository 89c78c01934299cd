"""The layers that stay float because integers are slower there, by the target's table of times: no clock decides.

A layer in float pays for the borders of its integer neighbours, and neighbours in float share them: so the whole graph
is divided at once, at the least time in all (`qtool.core.partition`). What is close stays integer: the table is right
to some ten per cent, and integers are smaller.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from qtool.core.partition import Division
from qtool.core.records.placement import Placement
from qtool.core.text import rounded
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.targets.costs import BLOCKED, BYTE_NS, Costs, Shape, terms_of

Measured = Mapping[str, tuple[float, float]]
"""Node -> nanoseconds in integers, and in float, where somebody's clock says it."""

Speed = Callable[[Placement], Mapping[str, str]]
"""The nodes of a placement that are to stay float, since they are faster so -> why."""
_DOUBT, _LAYER_NS = 1.0, 300.0
"""What is left in float is taken to be so much slower than the table says, and a layer so many nanoseconds."""
_WORTHS, _MOST = (BYTE_NS, 3.0 * BYTE_NS, 10.0 * BYTE_NS), 0.5
"""The nanoseconds that a weight in 8 bits is worth: the first with which at most that share of the weights is float."""
_LEAST = 0.02
"""Of the time in integers: for less, nothing is left in float."""
_LEAST_NS = 1500.0
_GAIN = 4.0
"""The most that a layer may gain: an instruction takes four products of 8 bits where it takes one of float32."""
_ALIGNED = 16
_ALIKE = 1.1
"""The table is right to some ten per cent."""


@dataclass(frozen=True, slots=True)
class _Joint:
    """Where the readers of a tensor meet: those that read it as float, or those that read it as integers."""

    tensor: str
    leaves: bool


_End = Node | _Joint | str
"""Who makes or reads a tensor; a name: the caller of the model."""


@dataclass(frozen=True, slots=True)
class _Border:
    """The time that it takes where the left one is integer and the right one float, in nanoseconds."""

    left: _End
    right: _End
    cost: float


@dataclass(frozen=True, slots=True)
class _Graph:
    """The nodes to choose for, what they take in integers and in float, and who stands for an absorbed Relu or Clip."""

    free: Mapping[Node, tuple[float, float]]
    stands: Mapping[Node, Node]
    shapes: Mapping[str, Shape]
    costs: Costs

    def maker(self, value: Value) -> Node | None:
        node = value.producer()
        return None if node is None else self.stands.get(node, node)


def faster_in_float(
    model: Model,
    placement: Placement,
    shapes: Mapping[str, Shape],
    costs: Costs,
    open_ended: Collection[str],
    *,
    measured: Measured | None = None,
    doubt: float = _DOUBT,
) -> dict[str, str]:
    """Return the nodes that the placement makes integer and that are faster in float, by name, and why.

    Args:
        model: the prepared graph.
        placement: with nothing left in float for speed.
        shapes: of the tensors, by name; what has none stays integer.
        costs: the target's.
        open_ended: operators whose integer kernels write float where the reader wants it.
        measured: what a clock says of nodes, instead of the table; weights in 8 bits are worth nothing then.
        doubt: how many times as long float is taken to be as it says.
    """
    graph = _graph(model, _choices(placement), shapes, costs, measured or {})
    weights = {node: _numbers(node) for node in graph.free}
    least = 0.0 if measured else max(_LEAST * sum(integer for integer, _ in graph.free.values()), _LEAST_NS)
    if sum(max(integer - floating, 0.0) for integer, floating in graph.free.values()) < least:
        return {}
    borders = list(_borders(model, graph, open_ended))
    before, _ = _division(graph, borders, {}).cheapest()
    for worth in (0.0,) if measured else _WORTHS:
        floating = {
            node: doubt * real + bool(weights[node]) * _LAYER_NS + worth * weights[node]
            for node, (_, real) in graph.free.items()
        }
        cost, right = _division(graph, borders, floating).cheapest()
        chosen = [node for node in graph.free if node in right]
        if before - cost < least:
            return {}
        share = sum(weights[node] for node in chosen) / max(sum(weights.values()), 1)
        if share <= _MOST or (measured and share < 1.0):
            return {str(node.name): _why(graph, node) for node in chosen}
    return {}


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of what nodes count for besides their time, by name: noise in integers, multiply-accumulates in float.

    noise, work: shares of all of them. noise_ns, share_ns: what all the noise, and all the work, is worth.
    """

    noise: Mapping[str, float]
    work: Mapping[str, float]
    noise_ns: float
    share_ns: float = 0.0


class Divider:
    """The division of a placement's nodes into integer and float ones at the least time by the table, and noise.

    alike: the names of layers that take hardly longer in float.

    Args:
        model, placement, shapes, costs, open_ended: as of `faster_in_float`; what is float in the placement stays so.
    """

    def __init__(
        self,
        model: Model,
        placement: Placement,
        shapes: Mapping[str, Shape],
        costs: Costs,
        open_ended: Collection[str],
    ) -> None:
        self._graph = _graph(model, _choices(placement), shapes, costs, {})
        self._borders = list(_borders(model, self._graph, open_ended))
        self._floating = {
            node: (real if real < inf else 0.0) + bool(numbers := _numbers(node)) * _LAYER_NS + _WORTHS[0] * numbers
            for node, (_, real) in self._graph.free.items()
        }
        times = self._graph.free.items()
        self.nodes = frozenset(str(node.name) for node in self._graph.free)
        self.alike = frozenset(
            str(node.name) for node, (integer, real) in times if _numbers(node) and real <= _ALIKE * integer
        )
        self.integer_ns = sum(integer for integer, _ in self._graph.free.values())

    def cheapest(self, prices: Prices) -> frozenset[str]:
        """Return the names of the nodes to be left in float."""
        extra, floating = {}, {}
        for node, real in self._floating.items():
            name = str(node.name)
            extra[node] = prices.noise_ns * prices.noise.get(name, 0.0)
            floating[node] = real + prices.share_ns * prices.work.get(name, 0.0)
        _, right = _division(self._graph, self._borders, floating, extra).cheapest()
        return frozenset(str(node.name) for node in self._graph.free if node in right)

    def speedup(self, names: Collection[str]) -> float:
        """Return how many times as long all in float takes as these nodes in float, whatever weights are worth."""
        real = {node: time for node, (_, time) in self._graph.free.items() if time < inf}
        floating = {node: time for node, time in real.items() if node.name in names}
        fixed = dict.fromkeys(floating, inf)
        result, _ = _division(self._graph, self._borders, floating, fixed).cheapest()
        return sum(real.values()) / max(result, 1.0)

    def time(self, names: Collection[str]) -> float:
        """Return the nanoseconds that it takes with these nodes in float, and what their weights are worth."""
        floating = {node: real for node, real in self._floating.items() if node.name in names}
        result, _ = _division(self._graph, self._borders, floating, dict.fromkeys(floating, inf)).cheapest()
        return result

    def times(self, names: Collection[str]) -> tuple[float, float, frozenset[str]]:
        """Return the nanoseconds with the nodes `names` in float, borders included, and those with all in float.

        Also the names of the layers of which the table knows nothing, which count nothing in either. No layer is taken
        to gain more than its products can: the table is a fit, and promises more where these are many.
        """
        known = {node: real for node, (_, real) in self._graph.free.items() if real < inf}
        floating = {node: real for node, real in known.items() if node.name in names}
        extra = {n: max(known[n] / _GAIN - own, 0.0) for n, (own, _) in self._graph.free.items() if n in known}
        extra |= dict.fromkeys(floating, inf)
        mixed, _ = _division(self._graph, self._borders, floating, extra).cheapest()
        unknown = frozenset(str(node.name) for node in self._graph.free if node not in known)
        return mixed, sum(known.values()), unknown


def _choices(placement: Placement) -> Collection[str]:
    """The nodes that may be integer or float: dynamic layers read and write float tensors in any case."""
    return placement.integer.keys() - {
        name for weight in (*placement.dynamic, *placement.stored) for name, _ in weight.readers
    }


def _numbers(node: Node) -> int:
    """How many numbers the weight of a layer has; 0 of what is none."""
    layer = Layer.of(node)
    weight = None if layer is None else edit.constant_or_none(layer.weight)
    return 0 if weight is None else weight.size


def slower_than_float(
    model: Model, integer: Collection[str], shapes: Mapping[str, Shape], costs: Costs
) -> list[tuple[str, float, float]]:
    """Return (name, nanoseconds in integers, in float) of the nodes, by name, that the table has slower in integers.

    Those that lose most come first. `shapes`: of the tensors, by name.
    """
    times = _graph(model, integer, shapes, costs, {}).free.items()
    rows = [(str(node.name), taken, real) for node, (taken, real) in times if taken > _DOUBT * real]
    return sorted(rows, key=lambda row: row[2] - row[1])


def _division(
    graph: _Graph,
    borders: Collection[_Border],
    floating: Mapping[Node, float],
    extra: Mapping[Node, float] | None = None,
) -> Division:
    """Integers stand left, float right.

    `floating`: what the nodes cost there that may be there; `extra`: what they cost in integers besides their time.
    """
    result, more = Division(), extra or {}
    for node, (integer, _) in graph.free.items():
        result.stand(node, integer + more.get(node, 0.0), floating.get(node, inf))
    for border in borders:
        result.border(border.left, border.right, border.cost)
        for end in (border.left, border.right):
            if end not in graph.free and not isinstance(end, _Joint):
                result.stand(end, inf, 0.0)
    return result


def _why(graph: _Graph, node: Node) -> str:
    integer, floating = graph.free[node]
    return "its neighbours are faster in float" if integer <= floating else faster_by_clock(integer, floating)


def faster_by_clock(integer: float, floating: float) -> str:
    """Return why a node of these times in nanoseconds, in integers and in float, stays float."""
    return f"float is faster for its shape: {rounded(floating / 1000)} us, {rounded(integer / 1000)} in integers"


def _graph(
    model: Model, integer: Collection[str], shapes: Mapping[str, Shape], costs: Costs, measured: Measured
) -> _Graph:
    """`integer`: the names of the nodes to choose for."""
    free: dict[Node, tuple[float, float]] = {}
    stands: dict[Node, Node] = {}
    for node in model.graph:
        if node.name in integer:
            times = measured.get(str(node.name)) or _times(node, shapes, costs)
            if times is None:
                free[node] = (0.0, inf if _numbers(node) else 0.0)
                continue
            free[node] = times[0], times[1] + _moves(node, shapes, costs)
            follower = edit.single_consumer(node.outputs[0])
            if follower is not None and edit.is_main_op(follower, "Relu", "Clip"):
                stands[follower] = node
    return _Graph(free, stands, shapes, costs)


def _times(node: Node, shapes: Mapping[str, Shape], costs: Costs) -> tuple[float, float] | None:
    terms = terms_of(node, shapes)
    integer, real = (None, None) if terms is None else (costs.integer(terms), costs.floating(terms))
    return None if integer is None or real is None else (integer, real)


def _moves(node: Node, shapes: Mapping[str, Shape], costs: Costs) -> float:
    """What a float node between float ones pays for tensors that are not in the layout that it reads."""
    layer = Layer.of(node)
    if not edit.is_main_op(node, "Conv") or layer is None or node.inputs[0] is None:
        return 0.0
    value = node.inputs[0]
    shape = shapes.get(str(value.name), ())
    own = layer.sum_length(edit.constant(layer.weight).shape) // max(_taps(layer), 1)
    maker = value.producer()
    blocked = maker is not None and edit.is_main_op(maker, *BLOCKED)
    ragged = own % _ALIGNED != 0 and own > 1
    return costs.unblocked(shape) if blocked and ragged else 0.0


def _taps(layer: Layer) -> int:
    result = 1
    for length in layer.kernel(edit.constant(layer.weight).shape):
        result *= length
    return result


def _borders(model: Model, graph: _Graph, open_ended: Collection[str]) -> Iterator[_Border]:
    """Of each tensor: that integer nodes make and float ones read, and the other way round."""
    costs = graph.costs
    for value in [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]:
        shape, maker = graph.shapes.get(str(value.name)), graph.maker(value)
        readers = dict.fromkeys(graph.stands.get(node, node) for node in edit.consumers(value))
        if maker is not None:
            readers.pop(maker, None)
        if shape is None or not (graph.free.keys() & {maker, *readers}):
            continue
        ends: list[_End] = [*readers, *(["outputs"] if value.is_graph_output() else [])]
        blocked = maker is not None and edit.is_main_op(maker, *BLOCKED)
        wanted = any(edit.is_main_op(node, *BLOCKED) for node in readers)
        leaving = 0.0 if maker is not None and maker.op_type in open_ended else costs.dequantized(shape)
        leaving += costs.blocked(shape) if wanted else 0.0
        entering = costs.quantized(shape) + (costs.unblocked(shape) if blocked else 0.0)
        source: _End = maker or "inputs"
        if len(ends) == 1:
            yield _Border(source, ends[0], leaving)
            yield _Border(ends[0], source, entering)
        elif ends:
            # however many read it, it is turned once
            out, back = _Joint(str(value.name), True), _Joint(str(value.name), False)
            yield _Border(source, out, leaving)
            yield _Border(back, source, entering)
            for end in ends:
                yield _Border(out, end, inf)
                yield _Border(end, back, inf)

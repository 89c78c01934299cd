"""The parts of a network that must be run again when a plan changes in one layer, as models of their own.

A base (the float graph, or the one quantised by the full plan) has been run, and is cut into stages. A variant differs
from it in one layer. Whatever does not lie behind the change computes the same in both. What lies behind it in the same
stage is a small model of its own; the stages after that are the base's, fed with other tensors. Between models go float
tensors, and 8-bit ones where an integer kernel writes them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from qtool.core.records.placement import Reader
from qtool.core.records.plan import Plan
from qtool.graph import compose, edit
from qtool.graph.bodies import values_inside
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.graph.serialized import Serialized, consume
from qtool.pipeline.rewrite.static import rewrite

_FUSED = ("Relu", "Clip", "Add", "Sum", "Mul", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")
_STAGES = 8

Tensor = tuple[str, bool]
"""A tensor of the prepared graph, and whether it is meant in 8 bits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some nodes as a model: what they read from elsewhere, and what they make that others read or the user gets."""

    nodes: tuple[str, ...]
    reads: tuple[Tensor, ...]
    makes: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A change: the piece that runs again, and the first of the base's stages that run behind it."""

    piece: Piece
    next_stage: int


class Base:
    """A prepared graph under a plan, in stages.

    The borders of stages lie where few tensors cross them, and where no kernel of onnxruntime would be split.
    """

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self._nodes = list(model.graph)
        outer = set(model.graph.inputs) | {o for n in self._nodes for o in n.outputs}
        self._reads = {n: list(dict.fromkeys(v for v in compose.reads(n) if v in outer)) for n in self._nodes}
        self._index = _Index(plan)
        self._signatures = {n: self._index.signature(n) for n in self._nodes}
        borders = [0, *self._borders(), len(self._nodes)]
        self._stage = {n: s for s, (a, b) in enumerate(pairwise(borders)) for n in self._nodes[a:b]}
        self.stages = [self._piece(set(self._nodes[a:b]), self._index, s) for s, (a, b) in enumerate(pairwise(borders))]

    def cut(self, variant: Plan) -> Cut:
        """Return what must run again under `variant`: a piece of its own, and the base's stages behind it."""
        index = _Index(variant)
        changed = [n for n in self._nodes if index.signature(n) != self._signatures[n]]
        stage = max((self._stage[n] for n in changed), default=0)
        while True:
            piece = self._piece(self._again(changed, index, stage), index, stage)
            behind = {tensor for later in self.stages[stage + 1 :] for tensor in later.reads}
            names = {name for name, _ in piece.makes}
            # later stages read what the base makes; where the variant makes another form, its piece must reach further
            if not any(tensor[0] in names for tensor in behind - set(piece.makes)):
                return Cut(piece, stage + 1)
            stage += 1

    def _again(self, changed: list[Node], index: "_Index", stage: int) -> set[Node]:
        """The changed nodes, those behind them up to a stage, and what must run in one kernel with these."""
        again = set(changed)
        for node in self._nodes:
            if self._stage[node] <= stage and any(v.producer() in again for v in self._reads[node]):
                again.add(node)
        while pulled := {p for v in self._border(again) if (p := v.producer()) is not None and _fuses(p, v, index)}:
            again |= pulled
        return again

    def _piece(self, nodes: set[Node], index: "_Index", stage: int) -> Piece:
        """`stage` is the last one that the nodes are of."""
        made: dict[Tensor, None] = {}
        for node in self._nodes:
            if node in nodes:
                made.update({(str(o.name), False): None for o in node.outputs if o.is_graph_output()})
            elif self._stage[node] > stage:
                values = [v for v in self._reads[node] if v.producer() in nodes]
                made.update({(str(v.name), index.produced(v) is not None): None for v in values})
        return Piece(
            nodes=tuple(str(one.name) for n in self._nodes if n in nodes for one in _with_inner(n)),
            reads=tuple(
                (str(v.name), v.producer() is not None and index.produced(v) is not None) for v in self._border(nodes)
            ),
            makes=tuple(made),
        )

    def _border(self, nodes: Iterable[Node]) -> list[Value]:
        """What the nodes read that others make, or that is fed."""
        wanted = set(nodes)
        read = (v for n in self._nodes if n in wanted for v in self._reads[n])
        return list(dict.fromkeys(v for v in read if v.producer() not in wanted))

    def _borders(self) -> list[int]:
        """Positions in the list of nodes."""
        last = {v: i for i, n in enumerate(self._nodes) for v in self._reads[n]}
        crossing: dict[int, int] = {}
        live: set[Value] = set()
        for i, node in enumerate(self._nodes):
            live = {v for v in live if last[v] >= i}
            if i and not any(_fuses(p, v, self._index) for v in live if (p := v.producer()) is not None):
                crossing[i] = len(live)
            live |= {o for o in node.outputs if o in last}
        result: list[int] = []
        layers = [i for i, n in enumerate(self._nodes) if n.name in self.plan.layers]
        size = max(len(layers) / _STAGES, 2.0)
        for stage in range(1, _STAGES):
            around = layers[int((stage - 0.5) * size) : int((stage + 0.5) * size)]
            found = [i for i in crossing if around and around[0] <= i <= around[-1] and i > (result or [0])[-1]]
            if found:
                middle = around[len(around) // 2]
                result.append(min(found, key=lambda i: (crossing[i], abs(i - middle))))
        return result


class _Index:
    """How a plan has each node read and write."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = {row.tensor: row for row in plan.activations}
        self._through = {reader: "dq" for row in plan.activations for reader in row.readers}
        self._through |= {reader: "twin" for row in plan.activations for reader in row.float_readers}
        self._through |= {reader: "barred" for row in plan.activations for reader in row.barred_readers}
        self._grids = {reader: row.params for row in plan.activations for reader in row.readers}
        self._constants: dict[Reader, object] = {}
        for weight in plan.weights:
            self._constants.update(dict.fromkeys(weight.readers, weight.params))
        for constant in plan.constants:
            self._constants.update(dict.fromkeys(constant.readers, constant.params))
        for form, weights in (("dynamic", plan.dynamic), ("stored", plan.stored)):
            for weight in weights:
                self._constants.update(dict.fromkeys(weight.readers, (form, weight.params)))
        self._constants |= {bias.reader: bias.scale for bias in plan.biases}
        self._shifts = {shift.reader: shift.shift for shift in plan.shifts}

    def produced(self, value: Value) -> object | None:
        """The grid on which an integer kernel writes the value; None where none does."""
        row = self._rows.get(str(value.name))
        return row.params if row is not None and row.produced else None

    def signature(self, node: Node) -> object:
        """Equal where the node computes the same from the same inputs."""
        reads = tuple(self._reading(value, (str(node.name), i)) for i, value in enumerate(compose.reads(node)))
        inner = tuple(self._inner(one) for one in _with_inner(node)[1:])
        return self._plan.integer.get(str(node.name)), reads, tuple(self.produced(o) for o in node.outputs), inner

    def _inner(self, node: Node) -> object:
        """The same of a node in the body of another."""
        readers = [(str(node.name), i) for i in range(len(node.inputs))]
        reads = tuple((self._grids.get(r), self._constants.get(r), self._shifts.get(r)) for r in readers)
        return self._plan.integer.get(str(node.name)), reads, tuple(self.produced(o) for o in node.outputs)

    def is_float(self, value: Value, reader: Reader) -> bool:
        """Whether the reader reads the value itself."""
        row = self._rows.get(str(value.name))
        return row is None or (not row.produced and reader not in self._through)

    def _reading(self, value: Value, reader: Reader) -> object:
        if value.is_initializer():
            return self._constants.get(reader), self._shifts.get(reader)
        if self.is_float(value, reader):
            return None
        row = self._rows[str(value.name)]
        return row.params, self._through.get(reader, "dq")


def _with_inner(node: Node) -> list[Node]:
    """The node, and those in its bodies."""
    return [node, *(inner for graph in edit.subgraphs(node) for inner in graph.all_nodes())]


def _fuses(maker: Node, value: Value, index: _Index) -> bool:
    """Whether onnxruntime computes the value inside of the kernel that also does what its only reader does.

    A convolution takes in the activation behind it, and the Add of a residual. Cut apart, float sums would be rounded
    in another order, and 8-bit kernels would not be found at all. Sequences and optionals are not cut either: what is
    kept between the parts are arrays.
    """
    if not edit.is_tensor(value):
        return True
    reader = edit.single_consumer(value)
    if reader is None or index.produced(value) is not None or value not in reader.inputs:
        return False
    layer = Layer.of(maker)
    return (
        layer is not None
        and layer.is_linear
        and edit.is_main_op(reader, *_FUSED)
        and index.is_float(value, (str(reader.name), list(reader.inputs).index(value)))
    )


def piece_model(model: Model, plan: Plan, piece: Piece) -> tuple[Serialized, dict[str, Tensor], dict[str, Tensor]]:
    """Return the piece under the plan, serialised, and which tensor each of its inputs, and each of its outputs, is.

    Raises:
        ModelError: the plan does not fit the graph.
    """
    stored = [name for name, in_8_bits in piece.reads if in_8_bits]
    handed = [name for name, in_8_bits in piece.makes if in_8_bits]
    made = list(dict.fromkeys(name for name, _ in piece.makes))
    part = compose.part(model, [name for name, _ in piece.reads], made)
    nodes = [str(n.name) for n in part.graph.all_nodes()]
    quantized = rewrite(part, plan.within(nodes, set(values_inside(part))))
    fed = compose.feed_stored(quantized, stored)
    given = compose.hand_out_stored(quantized, handed, [name for name, in_8_bits in piece.makes if not in_8_bits])
    inputs = {fed[name] if in_8_bits else name: (name, in_8_bits) for name, in_8_bits in piece.reads}
    outputs = {given[name] if in_8_bits else name: (name, in_8_bits) for name, in_8_bits in piece.makes}
    return consume(quantized), inputs, outputs

"""The layers of a model as its file asks for them: by Q/DQ, or by integer operators."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.anatomy import grids
from qtool.anatomy.grids import Placed
from qtool.anatomy.integers import INTEGER_OPERATORS, LAYERS, NBITS, IntegerOperator
from qtool.anatomy.opened import element_type
from qtool.core.errors import DataError, ModelError
from qtool.core.records.inspection import Grid
from qtool.graph import compose, edit, products, shapes
from qtool.graph.edit import Graph, Model, Node, Value
from qtool.graph.layers import Layer
from qtool.runtime.session import Session

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """A node that multiplies and accumulates, and the grids that the file gives to what it reads and makes.

    x, w, y: of the input, the weight and the output, None where these are float. inside: the name of the node whose
    body holds it, or "". weights_only: whether only its weight is on a grid. absorbed: what stands between it and the
    QuantizeLinear of its output, such as a Relu.
    """

    node: Node
    inside: str
    x: Placed | None
    w: Placed | None
    y: Placed | None
    absorbed: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """The name of its node."""
        return str(self.node.name)

    @property
    def written(self) -> IntegerOperator | None:
        """The row of its operator, where it is an integer one in the file already."""
        return INTEGER_OPERATORS.get(self.node.op_type)

    @property
    def planned(self) -> bool:
        """Whether the file asks for integers: input and weight are on a grid, or it is an integer operator."""
        if self.node.op_type == NBITS:
            return False
        return self.written is not None or (self.x is not None and self.w is not None)

    @property
    def weights_only(self) -> bool:
        """Whether its weight is on a grid, and its input is not."""
        return self.node.op_type == NBITS or (self.x is None and self.w is not None and self.written is None)


def planned_layers(model: Model) -> tuple[PlannedLayer, ...]:
    """Return the layers of a model in its order; those in bodies of If, Loop and Scan too."""
    return tuple(_planned(node, inside) for node, inside in _nodes(model.graph, "") if is_layer(node))


def is_layer(node: Node) -> bool:
    """Return whether a node multiplies and accumulates, in float or in integers."""
    return node.op_type in LAYERS or products.multiplies(node)


def _nodes(graph: Graph, inside: str) -> Iterator[tuple[Node, str]]:
    for node in graph:
        yield node, inside
        for body in edit.subgraphs(node):
            yield from _nodes(body, str(node.name))


def _planned(node: Node, inside: str) -> PlannedLayer:
    row = INTEGER_OPERATORS.get(node.op_type)
    if row is not None:
        return _written(node, inside, row)
    weight = _weight_index(node)
    data = [i for i in range(len(node.inputs)) if i != weight and i < 2] if weight is not None else [0]
    x = grids.carried_grid(_input(node, data[0])) if data else None
    w = None if weight is None else grids.grid_behind(_input(node, weight))
    y, absorbed = _output(node)
    return PlannedLayer(node, inside, x, w, y, absorbed)


_ABSORBED = ("Relu", "Clip")


def _output(node: Node) -> tuple[Placed | None, tuple[Node, ...]]:
    absorbed: list[Node] = []
    value: Value | None = edit.main_output(node)
    while value is not None:
        found = grids.grid_ahead(value)
        if found is not None:
            return found, tuple(absorbed)
        reader = edit.single_consumer(value)
        if reader is None or not edit.is_main_op(reader, *_ABSORBED):
            return None, ()
        absorbed.append(reader)
        value = reader.outputs[0]
    return None, ()


def _weight_index(node: Node) -> int | None:
    """Which input is the weight: the one that is constant; of a product of two computed tensors the second."""
    layer = Layer.of(node)
    if layer is None:
        return 1 if len(node.inputs) > 1 else None
    indexes = layer.operator.weights
    if layer.is_product and len(node.inputs) > 1:
        constant = [i for i in (1, 0) if grids.is_constant(node.inputs[i])]
        return constant[0] if constant else 1
    return indexes[0]


def _written(node: Node, inside: str, row: IntegerOperator) -> PlannedLayer:
    def grid(stored: int | None, scale: int | None, zero: int | None, axis: int | None) -> Placed | None:
        value = _input(node, stored)
        dtype = element_type(_input(node, zero)) or element_type(value)
        if dtype in ("", "float", "float16") or (scale is None and zero is None):
            return None
        return Placed(grids.make_grid(dtype, _input(node, scale), _input(node, zero), axis), node, value)

    x = grid(row.x, row.x_scale, row.x_zero, None)
    w = _packed(node, row) if node.op_type == NBITS else grid(row.w, row.w_scale, row.w_zero, row.axis)
    y = None
    if row.y_scale is not None:
        stored = node.outputs[0]
        dtype = element_type(_input(node, row.y_zero)) or element_type(stored)
        y = Placed(grids.make_grid(dtype, _input(node, row.y_scale), _input(node, row.y_zero), None), node, stored)
    return PlannedLayer(node, inside, x, w, y)


def _packed(node: Node, row: IntegerOperator) -> Placed:
    """The grid of weights of a few bits, of which several lie in a byte; their zero point is the middle unless given.

    Source: MatMulNBits in onnxruntime's docs/ContribOperators.md.
    """
    bits, block = int(edit.attribute(node, "bits", 4)), int(edit.attribute(node, "block_size", 0))
    scales, zeros = (edit.constant_or_none(_input(node, index)) for index in (row.w_scale, row.w_zero))
    scale = () if scales is None else tuple(float(s) for s in scales.reshape(-1))
    points = (1 << bits - 1,) * len(scale)
    if zeros is not None and zeros.dtype == np.uint8 and zeros.size and scale:
        columns = int(edit.attribute(node, "N", 0)) or 1
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        rows = zeros.reshape(columns, -1)[..., None] >> shifts & (1 << bits) - 1
        points = tuple(int(z) for z in rows.reshape(columns, -1)[:, : len(scale) // columns].reshape(-1))
    return Placed(Grid(f"uint{bits}", scale, points, None, block or None), node, _input(node, row.w))


def shapes_in(model: Model, example: Mapping[str, np.ndarray] | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what layers read and make, of a run on `example` where there is one, else as inferred.

    What inference does not know, since there are operators of onnxruntime's own, is run for.
    """
    fed = {} if example is None else {name: array.shape for name, array in example.items()}
    known = shapes.known_shapes(model, fed)
    for value in model.graph.initializers.values():
        shape = edit.static_shape(value)
        if shape is not None:
            known[str(value.name)] = shape
    wanted = [
        str(value.name)
        for node in model.graph
        if is_layer(node)
        for value in (*node.inputs[:3], edit.main_output(node))
        if value is not None and value.name and not value.is_initializer() and not value.is_graph_input()
    ]
    missing = [name for name in dict.fromkeys(wanted) if name not in known]
    if missing and example is not None:
        try:
            session = Session(compose.with_outputs(model, missing), optimize=False, name="the model")
            known |= {name: array.shape for name, array in session.run(example).items()}
        except (ModelError, DataError):
            pass
    return known


def macs_of(layer: PlannedLayer, known: Shapes) -> int | None:
    """Return the multiply-accumulates of one run of a layer; None where unknown, as in the body of a Loop."""
    node, row = layer.node, layer.written
    if layer.inside:
        return None
    if row is None:
        return products.macs(node, known)
    output = known.get(str(node.outputs[0].name))
    x, w = (
        known.get(str(value.name)) if value is not None else None for value in (node.inputs[row.x], _input(node, row.w))
    )
    found = None
    match row.counted_as:
        case "Conv" if output is not None and w is not None:
            found = math.prod(output) * math.prod(w[1:])
        case "MatMul" if output is not None and x is not None:
            found = math.prod(output) * x[-1]
        case "Gemm" if output is not None and x is not None:
            found = math.prod(output) * x[0 if edit.attribute(node, "transA", 0) else -1]
        case _ if row.counted_as == NBITS and output is not None:
            found = math.prod(output) * int(edit.attribute(node, "K", 0))
        case "LSTM" if x is not None and w is not None:
            recurrent = known.get(str(node.inputs[2].name)) if node.inputs[2] is not None else None
            found = None if recurrent is None else math.prod(x[:2]) * (math.prod(w) + math.prod(recurrent))
        case "Attention" if x is not None and w is not None and len(x) == 3:
            found = x[0] * x[1] * (x[2] * w[1] + x[1] * 2 * (w[1] // 3))
    return found


def grid_or_none(placed: Placed | None) -> Grid | None:
    """Return the grid that is placed somewhere; None where there is none."""
    return None if placed is None else placed.grid


def _input(node: Node, index: int | None) -> Value | None:
    return node.inputs[index] if index is not None and len(node.inputs) > index else None

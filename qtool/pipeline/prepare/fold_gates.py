"""HardSigmoid behind a Conv or Gemm becomes a Clip, and x * HardSigmoid(x) there becomes Add, Clip and Mul.

The factor goes into the layer, and a Clip into the saturation of the Q behind it. With a = alpha, b = beta of the gate:

    clip(a x + b, 0, 1)       Clip(y, 0, 1) of the layer's y = a x + b
    x clip(a x + b, 0, 1)     v Clip(v + b / sqrt(a), 0, 1 / sqrt(a)) of the layer's v = sqrt(a) x

So the gate of a squeeze-and-excite block costs nothing, and a hard swish two integer operators; HardSigmoid has no
integer kernel (times are in docs/lab-notebook.md). Declines where the layer's result is read elsewhere or its weight is
shared, alpha is 0 (for a product: not positive), or the folded numbers are not finite in float32.
"""

import math

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.pipeline.prepare.fold_affine import fold_scalar


def apply(model: Model) -> int:
    """Fold each gate behind a layer, in place; return how many gates were folded."""
    folder = _Folder(model)
    return sum(folder.fold(gate) for gate in list(model.graph) if edit.is_main_op(gate, "HardSigmoid"))


class _Folder:
    """Changes `model`; equal numbers are one constant."""

    def __init__(self, model: Model) -> None:
        self.model, self.names = model, edit.Names(model.graph)
        self._numbers: dict[float, Value] = {}

    def fold(self, gate: Node) -> bool:
        """Fold one gate; return whether it could be folded."""
        x = gate.inputs[0]
        layer = None if x is None else _layer_of(x, gate)
        if x is None or layer is None:
            return False
        alpha, beta = (float(edit.attribute(gate, k, v)) for k, v in (("alpha", 0.2), ("beta", 0.5)))
        readers = edit.consumers(x)
        if readers == [gate]:
            if alpha == 0.0 or not fold_scalar(self.model, layer, alpha, beta, self.names):
                return False
            self._clip(gate, x, 1.0)
            return True
        root = math.sqrt(max(alpha, 0.0))
        if (
            not _is_product(readers, gate, x)
            or root == 0.0
            or not fold_scalar(self.model, layer, root, 0.0, self.names)
        ):
            return False
        moved = self._insert("Add", gate, [x, self._number(beta / root)], "shifted")
        moved.outputs[0].type, moved.outputs[0].shape = x.type, x.shape
        edit.take_origins(moved, gate)
        self._clip(gate, moved.outputs[0], 1.0 / root)
        return True

    def _clip(self, gate: Node, x: Value, high: float) -> None:
        edit.replace_node(gate, self._insert("Clip", gate, [x, self._number(0.0), self._number(high)], "clip"))

    def _insert(self, op: str, gate: Node, inputs: list[Value], suffix: str) -> Node:
        output, name = (self.names.fresh(f"{base}_{suffix}") for base in (gate.outputs[0].name, gate.name))
        node = edit.new_node(op, inputs, output, name=name)
        self.model.graph.insert_before(gate, node)
        return node

    def _number(self, number: float) -> Value:
        if number not in self._numbers:
            array = np.asarray(number, np.float32)
            self._numbers[number] = edit.add_initializer(self.model.graph, self.names.fresh("gate_bound"), array)
        return self._numbers[number]


def _layer_of(x: Value, gate: Node) -> Layer | None:
    """The layer that makes x, whose weight nothing else reads."""
    node = x.producer()
    layer = None if node is None or x.is_graph_output() or node.graph is not gate.graph else Layer.of(node)
    weight = None if layer is None else layer.weight
    # a weight that others make is computed from theirs where it is written
    alone = weight is not None and len(list(weight.uses())) == 1 and edit.origin_of(weight) is None
    return layer if alone else None


def _is_product(readers: list[Node], gate: Node, x: Value) -> bool:
    """Whether x is read by the gate, and by the product of both alone."""
    product = edit.single_consumer(gate.outputs[0])
    return (
        product is not None
        and edit.is_main_op(product, "Mul")
        and set(product.inputs) == {x, gate.outputs[0]}
        and sorted(map(id, readers)) == sorted(map(id, (gate, product)))
    )

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
    names = edit.Names(model.graph)
    count = 0
    for gate in list(model.graph):
        x = gate.inputs[0] if edit.is_main_op(gate, "HardSigmoid") else None
        layer = None if x is None else _layer_of(x, gate)
        if x is None or layer is None:
            continue
        alpha, beta = (float(edit.attribute(gate, k, v)) for k, v in (("alpha", 0.2), ("beta", 0.5)))
        readers = edit.consumers(x)
        if readers == [gate] and alpha != 0.0 and fold_scalar(model, layer, alpha, beta, names):
            _clip(model, gate, x, 1.0, names)
            count += 1
        elif _is_product(readers, gate, x) and alpha > 0.0:
            root = math.sqrt(alpha)
            if fold_scalar(model, layer, root, 0.0, names):
                shift = edit.add_initializer(
                    model.graph, names.fresh(f"{gate.name}_shift"), np.asarray(beta / root, np.float32)
                )
                base = f"{gate.outputs[0].name}_shifted"
                moved = edit.new_node("Add", [x, shift], names.fresh(base), name=names.fresh(f"{base}_node"))
                moved.outputs[0].type, moved.outputs[0].shape = x.type, x.shape
                model.graph.insert_before(gate, moved)
                edit.take_origins(moved, gate)
                _clip(model, gate, moved.outputs[0], 1.0 / root, names)
                count += 1
    return count


def _layer_of(x: Value, gate: Node) -> Layer | None:
    """The layer that makes x, whose weight nothing else reads."""
    node = x.producer()
    layer = None if node is None or x.is_graph_output() or node.graph is not gate.graph else Layer.of(node)
    shared = layer is None or layer.weight is None or len(list(layer.weight.uses())) != 1
    return None if shared else layer


def _is_product(readers: list[Node], gate: Node, x: Value) -> bool:
    """Whether x is read by the gate, and by the product of both alone."""
    product = edit.single_consumer(gate.outputs[0])
    return (
        product is not None
        and edit.is_main_op(product, "Mul")
        and set(product.inputs) == {x, gate.outputs[0]}
        and sorted(map(id, readers)) == sorted(map(id, (gate, product)))
    )


def _clip(model: Model, gate: Node, x: Value, high: float, names: edit.Names) -> None:
    bounds = [
        edit.add_initializer(model.graph, names.fresh(f"{gate.name}_{end}"), np.asarray(bound, np.float32))
        for end, bound in (("low", 0.0), ("high", high))
    ]
    name = names.fresh(f"{gate.name}_clip")
    clip = edit.new_node("Clip", [x, *bounds], names.fresh(f"{gate.outputs[0].name}_clip"), name=name)
    model.graph.insert_before(gate, clip)
    edit.replace_node(gate, clip)

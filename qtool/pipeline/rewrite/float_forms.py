"""Mish, which stays float, in operators that onnxruntime computes fast: its Softplus is no vector kernel.

With s = sigmoid(x) and t = s (2 - s), tanh(softplus(x)) is t / (2 - t), which loses nothing where x is far from 0. Five
operators take a sixth of the time of Softplus and Tanh (docs/lab-notebook.md). Plans are about the graph before it, in
which they are one operator, or two; the result of the last keeps its name.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value


def write_mish(model: Model) -> None:
    """Write each Mish, and each Tanh of a Softplus that nothing else reads, in those operators, in place."""
    names = edit.Names(model.graph)
    two: Value | None = None
    for node in list(model.graph):
        softplus = _softplus_of(node)
        x = softplus.inputs[0] if softplus is not None else node.inputs[0] if edit.is_main_op(node, "Mish") else None
        if x is None or not edit.is_float32(x):
            continue
        if two is None:
            two = edit.add_initializer(model.graph, names.fresh("mish_two"), np.asarray(2.0, np.float32))
        nodes = _gate(x, two, node, names)
        if softplus is None:
            nodes.append(_new("Mul", [x, nodes[-1].outputs[0]], node, names))
        model.graph.insert_before(node, nodes)
        edit.replace_node(node, nodes[-1])
        if softplus is not None:
            edit.remove_node(softplus)


def _softplus_of(node: Node) -> Node | None:
    source = node.inputs[0] if edit.is_main_op(node, "Tanh") else None
    maker = None if source is None else source.producer()
    found = maker is not None and edit.is_main_op(maker, "Softplus") and edit.single_consumer(source) is node
    return maker if found else None


def _gate(x: Value, two: Value, node: Node, names: edit.Names) -> list[Node]:
    sigmoid = _new("Sigmoid", [x], node, names)
    s = sigmoid.outputs[0]
    rest = _new("Sub", [two, s], node, names)
    product = _new("Mul", [s, rest.outputs[0]], node, names)
    below = _new("Sub", [two, product.outputs[0]], node, names)
    return [sigmoid, rest, product, below, _new("Div", [product.outputs[0], below.outputs[0]], node, names)]


def _new(op: str, inputs: list[Value], node: Node, names: edit.Names) -> Node:
    output, name = (names.fresh(f"{base}_{op.lower()}") for base in (node.outputs[0].name, node.name))
    made = edit.new_node(op, inputs, output, name=name)
    made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    return made

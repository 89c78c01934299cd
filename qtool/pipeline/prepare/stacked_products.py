"""A MatMul with a stack of matrices, [E, K, N], becomes a MatMul with each: experts, or heads with a matrix each.

onnxruntime multiplies integers with one constant matrix alone, and packs one alone when it loads the model. Where the
input is one for all matrices each product reads it, else a Split hands it out; a Concat puts the results together.
Declines where the matrices are small, so that calls cost more than is gained, or many; where the input has no axis of
known size for them, or of another type than float32; and for weights of more dimensions.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value

_LEAST = 128 * 128
"""Numbers of a matrix."""
_MOST = 64
"""Matrices."""


def apply(model: Model) -> int:
    """Take each product with a stack of matrices apart, in place; return how many were."""
    names = edit.Names(model.graph)
    parts: dict[Value, list[Value]] = {}
    count = 0
    for node in list(model.graph):
        stack = _stack(node)
        if stack is None:
            continue
        weight = node.inputs[1]
        assert weight is not None
        if weight not in parts:
            parts[weight] = _matrices(model, weight, stack, names)
        _take_apart(model, node, parts[weight], names)
        count += 1
    return count


def _stack(node: Node) -> Array | None:
    """The weight [E, K, N] of a product that can be taken apart."""
    if not edit.is_main_op(node, "MatMul") or not edit.weight_like(node.inputs[1]):
        return None
    x, stack = node.inputs[0], edit.constant(node.inputs[1])
    if stack.ndim != 3 or not 2 <= len(stack) <= _MOST or stack[0].size < _LEAST:
        return None
    rank = edit.rank(x)
    if x is None or x.is_initializer() or rank is None or rank < 3 or not edit.is_float32(x):
        return None
    size = edit.static_dim(x, rank - 3)
    return stack if size in (1, len(stack)) else None


def _matrices(model: Model, weight: Value, stack: Array, names: edit.Names) -> list[Value]:
    return [
        edit.add_initializer(model.graph, names.fresh(f"{weight.name}_{i}"), np.ascontiguousarray(matrix))
        for i, matrix in enumerate(stack)
    ]


def _take_apart(model: Model, node: Node, matrices: list[Value], names: edit.Names) -> None:
    x, graph = node.inputs[0], model.graph
    assert x is not None
    axis, count = (edit.rank(x) or 3) - 3, len(matrices)
    inputs: list[Value] = [x] * count
    made: list[Node] = []
    if edit.static_dim(x, axis) == count:
        sizes = edit.add_initializer(graph, names.fresh(f"{node.name}_sizes"), np.ones(count, np.int64))
        pieces = [names.fresh(f"{node.name}_in_{i}") for i in range(count)]
        made.append(
            edit.new_node(
                "Split", [x, sizes], pieces, name=names.fresh(f"{node.name}_split"), attributes={"axis": axis}
            )
        )
        inputs = list(made[0].outputs)
    products = [
        edit.new_node(
            "MatMul", [one, matrix], names.fresh(f"{node.name}_out_{i}"), name=names.fresh(f"{node.name}_of_{i}")
        )
        for i, (one, matrix) in enumerate(zip(inputs, matrices, strict=True))
    ]
    made += products
    joined = [product.outputs[0] for product in products]
    name = names.fresh(f"{node.name}_joined")
    made.append(edit.new_node("Concat", joined, name, name=names.fresh(f"{name}_node"), attributes={"axis": axis}))
    for new in made:
        for output in new.outputs:
            output.type = x.type
    graph.insert_before(node, made)
    for product in products:
        edit.take_origins(product, node)
    edit.replace_node(node, made[-1])

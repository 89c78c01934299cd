"""Nodes that compute the same from the same inputs become one: the first, which the readers of the others then read.

onnxruntime does so with the quantised graph (`CommonSubexpressionElimination`), where two equal layers would have one
kernel between them. A layer whose result is a graph output leaves an Identity there, since outputs keep their names.
Constants are equal where their bytes are. Declines for what makes random numbers, for nodes with subgraphs, and where
another graph output is what would go.
"""

from collections.abc import Hashable

from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


def apply(model: Model) -> int:
    """Let one node stand for all that equal it, in place; return how many were removed."""
    seen: dict[Hashable, list[Node]] = {}
    names = edit.Names(model.graph)
    count = 0
    for node in list(model.graph):
        if not edit.is_main_op(node, node.op_type) or node.op_type in (*_RANDOM, "Dropout") or edit.subgraphs(node):
            continue
        others = seen.setdefault(_key(node), [])
        first = next((other for other in others if _same_constants(other, node)), None)
        is_output = any(output.is_graph_output() for output in node.outputs)
        if first is None or (is_output and (Layer.of(node) is None or len(node.outputs) > 1)):
            others.append(node)
            continue
        if is_output:
            name = f"{node.name}_again"
            copy = edit.new_node("Identity", [first.outputs[0]], names.fresh(name), name=names.fresh(name))
            model.graph.insert_before(node, copy)
            edit.replace_node(node, copy)
            count += 1
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            edit.replace_uses(old, new)
        edit.remove_node(node)
        count += 1
    return count


def _key(node: Node) -> Hashable:
    """Equal where nothing but the content of constants can differ."""
    attributes = tuple(sorted((name, repr(value)) for name, value in edit.attribute_values(node).items()))
    return node.op_type, attributes, len(node.outputs), tuple(map(_identity, node.inputs))


def _identity(value: Value | None) -> Hashable:
    found = edit.constant_or_none(value)
    if found is None:
        return None if value is None else id(value)
    return str(found.dtype), found.shape


def _same_constants(a: Node, b: Node) -> bool:
    for one, other in zip(a.inputs, b.inputs, strict=True):
        found = edit.constant_or_none(one)
        if found is not None and one is not other and found.tobytes() != edit.constant(other).tobytes():
            return False
    return True

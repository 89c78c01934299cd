"""Integers of a table that a product multiplies with too are in the file once: what the product reads is made of them.

A language model's embeddings are tied: one matrix gives the rows of tokens and, turned, the scores of the next one. A
table holds rows, MatMulInteger and a MatMul read columns, MatMulNBits blocks padded to whole ones; a Transpose, or a
Pad and a Reshape, makes these of the table. onnxruntime computes them once, when it loads the model. Source:
onnxruntime `core/optimizer/constant_folding.cc`.
"""

from collections.abc import Iterator

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Graph, Model, Node, Value

_TABLES = ("Gather", "GatherBlockQuantized")
_LEAST = 4096
"""Bytes from which on it is worth two nodes."""


def share_tables(model: Model) -> None:
    """Let constants that hold what a table of 8-bit integers or of blocks holds be made of it, in place.

    Equal ones become one: tables, their scales and zero points. Bodies of If, Loop and Scan read what the main graph
    makes.
    """
    names = edit.Names(model.graph)
    tables = dict.fromkeys(node.inputs[0] for node in model.graph.all_nodes() if _takes_rows(node))
    beside = dict.fromkeys(v for node in model.graph.all_nodes() if _takes_rows(node) for v in node.inputs[2:])
    for kept in [*tables, *beside]:
        array = edit.constant_or_none(kept)
        if kept is None or array is None or array.nbytes < _LEAST or not kept.uses():
            continue
        made: dict[tuple[str, tuple[int, ...]], Value] = {}
        for other, same in _candidates(model.graph, kept, array):
            if same.shape == array.shape and np.array_equal(same, array):
                edit.replace_uses(other, kept)
            elif kept in tables and (way := _way(array, same)) is not None:
                key = way, same.shape
                made[key] = made.get(key) or _make(model.graph, kept, array, same, way, names)
                edit.replace_uses(other, made[key])
            else:
                continue
            del model.graph.initializers[str(other.name)]


def _takes_rows(node: Node) -> bool:
    if node.op_type not in _TABLES:
        return False
    array = edit.constant_or_none(node.inputs[0])
    return array is not None and array.dtype in (np.int8, np.uint8)


def _candidates(graph: Graph, kept: Value, array: Array) -> Iterator[tuple[Value, Array]]:
    """The other constants of the main graph of this type that hold as many numbers, or a few more."""
    for value in list(graph.initializers.values()):
        found = edit.constant_or_none(value)
        if found is None or value is kept or found.dtype != array.dtype or value.is_graph_output() or not value.uses():
            continue
        if array.size <= found.size <= 2 * array.size:
            yield value, found


def _way(table: Array, other: Array) -> str | None:
    """How the other constant is made of a table [V, C]: turned, or in blocks; None where it holds something else."""
    if table.ndim != 2:
        return None
    if other.shape == table.shape[::-1] and np.array_equal(other[:, 0], table[0]) and np.array_equal(other.T, table):
        return "turned"
    if other.ndim != 3 or len(other) != len(table):
        return None
    flat, width = other.reshape(len(other), -1), table.shape[1]
    same = np.array_equal(flat[0, :width], table[0]) and np.array_equal(flat[:, :width], table)
    fill = flat[:, width:]
    return "in_blocks" if same and (fill == fill[:1, :1]).all() else None


def _make(graph: Graph, kept: Value, table: Array, other: Array, way: str, names: edit.Names) -> Value:
    """Put the nodes in front that make the other constant of the table, and return what they make."""
    base = f"{kept.name}_{way}"
    nodes = []
    if way == "turned":
        nodes.append(edit.new_node("Transpose", [kept], names.fresh(base), name=base, attributes={"perm": [1, 0]}))
    else:
        source, flat = kept, other.reshape(len(other), -1)
        more = flat.shape[1] - table.shape[1]
        if more:
            pads = edit.add_initializer(graph, names.fresh(f"{base}_pads"), np.array([0, 0, 0, more], np.int64))
            fill = edit.add_initializer(graph, names.fresh(f"{base}_fill"), flat[0, -1].reshape(()))
            filled = names.fresh(f"{base}_filled")
            nodes.append(edit.new_node("Pad", [kept, pads, fill], filled, name=f"{filled}_node"))
            source = nodes[0].outputs[0]
        shape = edit.add_initializer(graph, names.fresh(f"{base}_shape"), np.array(other.shape, np.int64))
        nodes.append(edit.new_node("Reshape", [source, shape], names.fresh(base), name=base))
    for node in reversed(nodes):
        node.name = names.fresh(f"{node.outputs[0].name}_node")
        graph.insert_before(graph[0], node)
    return nodes[-1].outputs[0]

"""Everything that depends on initializers alone is computed once, by onnxruntime itself.

Declines for random operators, control flow, other domains, results of unknown size, and results over 64 MiB that are
larger than what they are made of and are no layer's weight. A result that is larger than what it is made of, less what
others read as well, remembers that, so that a file need not hold it (`qtool.pipeline.rewrite.unfold`).
"""

import math

from qtool.core.errors import QtoolError
from qtool.graph import compose, edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.runtime.session import Session

_LIMIT_ELEMENTS = 16 * 2**20
# nodes take about as much
_SMALL_BYTES = 256
_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


def apply(model: Model) -> int:
    """Fold nodes that depend only on initializers into constants, in place; return how many nodes were folded."""
    folded: list[Node] = []
    known: set[Value] = set(model.graph.initializers.values())
    for node in model.graph:
        if _foldable(node, known):
            folded.append(node)
            known.update(node.outputs)
    if not folded:
        return 0
    # what makes a graph output has to stay, and reads constants then
    inside = {node for node in folded if not any(output.is_graph_output() for output in node.outputs)}
    frontier = [
        output
        for node in folded
        for output in node.outputs
        if any(user not in inside for user in edit.consumers(output)) and not output.is_graph_output()
    ]
    if not frontier:
        return 0
    try:
        session = Session(compose.constant_part(model, frontier), optimize=False, name="constant folding")
        arrays = session.run_list({}, [str(v.name) for v in frontier])
    except QtoolError:
        return 0
    names = edit.Names(model.graph)
    kept = {
        str(v.name) for node in folded for v in node.inputs
        if v is not None and v.is_initializer() and any(reader not in inside for reader in edit.consumers(v))
    }  # fmt: skip
    _hand_on(folded)
    for value, array in zip(frontier, arrays, strict=True):
        constant = edit.add_initializer(model.graph, names.fresh(f"{value.name}_folded"), array)
        edit.remember(constant, compose.origin(model, value, smaller_than=array.nbytes - _SMALL_BYTES, kept=kept))
        edit.replace_uses(value, constant)
    count = 0
    for node in reversed(folded):
        if not any(o.uses() or o.is_graph_output() for o in node.outputs):
            edit.remove_node(node)
            count += 1
    return count


def _hand_on(folded: list[Node]) -> None:
    """Let who reads a constant stand for the nodes that computed it; in place."""
    for node in folded:
        for reader in dict.fromkeys(reader for output in node.outputs for reader in edit.consumers(output)):
            edit.take_origins(reader, node)


def _foldable(node: Node, known: set[Value]) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type not in _RANDOM
        and not edit.has_subgraph(node)
        and bool(node.inputs)
        and all(v is None or v in known for v in node.inputs)
        and all(_worth_storing(o, node) for o in node.outputs)
    )


def _worth_storing(value: Value, node: Node) -> bool:
    size = _size(value)
    if size is None:
        return False
    if size <= _LIMIT_ELEMENTS or size <= sum(_size(v) or 0 for v in node.inputs if v is not None):
        return True
    # onnxruntime would fold it all the same, and then quantise a layer that was planned to stay float
    readers = [Layer.of(reader) for reader in edit.consumers(value)]
    return any(layer is not None and layer.is_linear and layer.weight is value for layer in readers)


def _size(value: Value) -> int | None:
    shape = edit.static_shape(value)
    return None if shape is None else math.prod(shape)

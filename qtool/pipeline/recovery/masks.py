"""Padding masks that add large negative constants before a Softmax are made mild: the same weights, without denormals.

exp(-10000) is zero, and so is exp(-40) beside 1 in float32; but between them lie denormal numbers, on which
onnxruntime's Softmax and the product behind it are many times slower: exp(-87) is one, and scores lie tens apart.
A mask is (1 - m) * c with m from integers or booleans, c <= -1000. Whether the outputs stay the same on the data is
measured before it is kept (rows in which everything is masked would differ).
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value

_LARGE = -1000.0
_MILD = -40.0
_MOVES = ("Unsqueeze", "Squeeze", "Reshape", "Expand", "Transpose", "Slice", "Cast", "Identity")


def has_masks(model: Model) -> bool:
    """Return whether a graph has padding masks that `soften_masks` would make mild."""
    return bool(_masks(model))


def soften_masks(model: Model) -> Model:
    """Return a copy of the prepared graph with mild masks."""
    result = edit.clone(model)
    names = edit.Names(result.graph)
    for node, index in _masks(result):
        constant = edit.constant(node.inputs[index])
        mild = np.maximum(constant, np.float32(_MILD))
        value = edit.add_initializer(result.graph, names.fresh(f"{node.name}_mild"), mild)
        node.replace_input_with(index, value)
    return result


def _masks(model: Model) -> list[tuple[Node, int]]:
    """(Mul, input index) of the factors of masks."""
    return [
        (node, index)
        for node in model.graph
        if edit.is_main_op(node, "Mul")
        for index in (0, 1)
        if _is_large(node.inputs[index]) and _is_zero_or_one(node.inputs[1 - index]) and _only_masks(node.outputs[0])
    ]


def _is_large(value: Value | None) -> bool:
    constant = edit.constant_or_none(value)
    return (
        constant is not None
        and constant.dtype == np.float32
        and constant.size == 1
        and bool((constant <= _LARGE).all())
    )


def _is_zero_or_one(value: Value | None) -> bool:
    """Whether it is 1 - m with an m that was cast from whole numbers or booleans."""
    node = _origin(value)
    if node is None or not edit.is_main_op(node, "Sub"):
        return False
    one = edit.constant_or_none(node.inputs[0])
    source = node.inputs[1]
    while source is not None and (made := source.producer()) is not None and edit.is_main_op(made, *_MOVES):
        source = made.inputs[0]
    whole = source is not None and source.dtype is not None and not source.dtype.is_floating_point()
    return one is not None and bool((one == 1.0).all()) and whole


def _origin(value: Value | None) -> Node | None:
    """The node that computes a value, before it was moved about."""
    node = None if value is None else value.producer()
    while node is not None and edit.is_main_op(node, *_MOVES):
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node


def _only_masks(value: Value) -> bool:
    """Whether the value goes into sums in front of a Softmax and nowhere else."""
    if value.is_graph_output() or not value.uses():
        return False
    return all(_is_masking(reader) for reader in edit.consumers(value))


def _is_masking(node: Node) -> bool:
    if edit.is_main_op(node, *_MOVES):
        return _only_masks(node.outputs[0])
    if not edit.is_main_op(node, "Add"):
        return False
    return all(edit.is_main_op(r, "Softmax") for r in edit.consumers(node.outputs[0])) and bool(node.outputs[0].uses())

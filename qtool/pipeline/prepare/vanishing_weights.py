"""Weights and biases so small that no sum in float32 tells them from zero become zero.

Training shrinks the weights of dead channels to 1e-38 and below, and on such denormal numbers, and those that they
leave between layers, a processor takes up to a hundred times as long: a text detector spends half of its time on one
layer. Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Denormals". Declines where all of a
weight is small, and for a constant that the model computes.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Value
from qtool.graph.layers import Layer

_VANISHING, _LOUD = np.float32(2.0**-100), 2.0**-40
"""Below the first a number is zero, where another of its tensor is as large as the second."""
_CHUNK = 2**20


def apply(model: Model) -> int:
    """Make zeros of them, in place; return of how many tensors."""
    names = edit.Names(model.graph)
    done: dict[Value, Value | None] = {}
    for node in model.graph:
        layer = Layer.of(node)
        if layer is None or layer.operator.kind == "table":
            continue
        wanted = (*layer.operator.weights, layer.operator.bias)
        for index, value in enumerate(node.inputs):
            if value is None or index not in wanted or not edit.weight_like(value):
                continue
            if value not in done:
                found = None if edit.origin_of(value) is not None else _without(edit.constant(value))
                name = names.fresh(f"{value.name}_some_zero") if found is not None else ""
                done[value] = None if found is None else edit.add_initializer(model.graph, name, found)
            if (new := done[value]) is not None:
                edit.set_input(node, index, new)
    return sum(new is not None for new in done.values())


def _without(array: Array) -> Array | None:
    """The array with zeros; None where nothing changes."""
    flat = array.reshape(-1)
    chunks = [np.abs(flat[i : i + _CHUNK]) for i in range(0, flat.size, _CHUNK)]
    if not any(((chunk < _VANISHING) & (chunk > 0.0)).any() for chunk in chunks):
        return None
    if max(chunk.max() for chunk in chunks) < _LOUD:
        return None
    return np.where(np.abs(array) < _VANISHING, np.float32(0.0), array)

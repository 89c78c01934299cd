"""Multiply-accumulates of the weighted layers, from the shapes that one batch of inputs leads to."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from qtool.graph import compose, edit
from qtool.graph.edit import Model, Value
from qtool.runtime.session import Session

Shape = tuple[int, ...]


def macs_of(model: Model, layers: tuple[str, ...], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Layer -> multiply-accumulates of one run, by the shapes of the layers' outputs (or inputs, see `_needed`)."""
    wanted = set(layers)
    result: dict[str, int] = {}
    for node in model.graph:
        if node.name not in wanted or node.inputs[1] is None:
            continue
        weight = edit.constant_or_none(node.inputs[1])
        output = shapes.get(str(node.outputs[0].name))
        if output is None:
            continue
        if weight is None:
            inner = shapes.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            result[node.name] = math.prod(output) * (inner[-1] if inner else 1)
        elif node.op_type == "Conv":
            result[node.name] = math.prod(output) * math.prod(weight.shape[1:])
        elif node.op_type == "ConvTranspose":
            source = shapes.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            result[node.name] = 0 if source is None else math.prod(source) * math.prod(weight.shape[1:])
        else:
            transposed = node.op_type == "Gemm" and edit.attribute(node, "transB", 0)
            # a MatMul with a vector sums over its only axis
            result[node.name] = math.prod(output) * weight.shape[1 if transposed else max(weight.ndim - 2, 0)]
    return result


def layer_macs(model: Model, layers: tuple[str, ...], example: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Layer -> multiply-accumulates of a run of the prepared graph on `example` (one batch of inputs).

    The graph is run where its inferred shapes do not follow from those of its inputs.
    """
    shapes = {name: array.shape for name, array in example.items()}
    sizes: dict[str | None, int] = {}
    for value in model.graph.inputs:
        if value.shape is not None:
            known = zip(value.shape, shapes[str(value.name)], strict=False)
            sizes |= {d.value: n for d, n in known if not isinstance(d, int) and d.value}
    missing = []
    for value in _needed(model, layers):
        name = str(value.name)
        dims = None if value.shape is None else [d if isinstance(d, int) else sizes.get(d.value) for d in value.shape]
        if dims is not None and None not in dims:
            shapes.setdefault(name, tuple(d for d in dims if d is not None))
        elif name not in shapes:
            missing.append(name)
    if missing:
        session = Session(compose.with_outputs(model, missing), name="the prepared model")
        shapes |= {name: array.shape for name, array in session.run(example).items()}
    return macs_of(model, layers, shapes)


def _needed(model: Model, layers: tuple[str, ...]) -> Iterator[Value]:
    """The computed values whose shapes say it: outputs, and inputs where weights do not tell the length of the sums."""
    wanted = set(layers)
    for node in model.graph:
        if node.name not in wanted:
            continue
        if node.outputs[0].name:
            yield node.outputs[0]
        source = node.inputs[0]
        summed = node.op_type != "ConvTranspose" and node.inputs[1] is not None and node.inputs[1].is_initializer()
        if not summed and source is not None and not source.is_initializer():
            yield source

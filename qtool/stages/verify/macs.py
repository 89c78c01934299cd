"""Multiply-accumulates of the weighted layers, from the shapes of a real run."""

import math
from collections.abc import Mapping

import numpy as np

from qtool.graph import compose, edit
from qtool.graph.edit import Model
from qtool.runtime.session import Session


def macs_of(model: Model, layers: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Layer -> multiply-accumulates of one run. `arrays` holds the layers' outputs (or inputs, for ConvTranspose)."""
    wanted = set(layers)
    result: dict[str, int] = {}
    for node in model.graph:
        if node.name not in wanted or node.inputs[1] is None:
            continue
        weight = edit.constant_or_none(node.inputs[1])
        output = arrays.get(str(node.outputs[0].name))
        if output is None:
            continue
        if weight is None:
            inner = arrays.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            result[node.name] = output.size * (inner.shape[-1] if inner is not None and inner.ndim else 1)
        elif node.op_type == "Conv":
            result[node.name] = output.size * math.prod(weight.shape[1:])
        elif node.op_type == "ConvTranspose":
            source = arrays.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            result[node.name] = (source.size if source is not None else 0) * math.prod(weight.shape[1:])
        else:
            transposed = node.op_type == "Gemm" and edit.attribute(node, "transB", 0)
            # a MatMul with a vector sums over its only axis
            result[node.name] = output.size * weight.shape[1 if transposed else max(weight.ndim - 2, 0)]
    return result


def layer_macs(model: Model, layers: tuple[str, ...], example: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Layer -> multiply-accumulates of a run of the prepared graph on `example` (one batch of inputs)."""
    names = []
    for node in model.graph:
        if node.name in layers:
            names.append(str(node.outputs[0].name))
            if node.op_type == "ConvTranspose" or not (node.inputs[1] is not None and node.inputs[1].is_initializer()):
                names.append(str(node.inputs[0].name) if node.inputs[0] is not None else "")
    fed = {v.name for v in model.graph.inputs}
    wanted = [n for n in dict.fromkeys(names) if n and n not in fed and n not in model.graph.initializers]
    session = Session(compose.with_outputs(model, wanted), name="the prepared model")
    return macs_of(model, layers, {**example, **session.run(example)})

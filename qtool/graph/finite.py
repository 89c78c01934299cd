"""The inputs of a model that must be finite: those that layers compute with, and not masks or what is chosen among."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.core.tensorspec import InputSpec
from qtool.graph import edit
from qtool.graph.layers import OPERATORS
from qtool.graph.loading import read_proto
from qtool.graph.quantizers import is_quantizing

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast")

_Row = tuple[str, Sequence[str], Sequence[str]]
"""Operator, inputs and outputs of a node."""


def fed_specs(model: ir.Model) -> list[InputSpec]:
    """Return the signature of a model's inputs, with which of them must be finite.

    Those must that a layer or a quantiser reads, as they are or moved about.

    Raises:
        ModelError: an input is no tensor.
    """
    names = _read_by_layers(
        (node.op_type, [v.name or "" for v in node.inputs if v is not None], [o.name or "" for o in node.outputs])
        for node in reversed(model.graph)
    )
    return [replace(spec, finite=spec.name in names) for spec in edit.input_specs(model)]


def fed_specs_of(specs: Sequence[InputSpec], path: Path) -> list[InputSpec]:
    """Return the signature of the model in a file with the same; what is no protocol buffer says nothing.

    onnxruntime gives what has no shape that of a scalar: it has none then.
    """
    try:
        graph = read_proto(path).graph
    except ModelError:
        return list(specs)
    names = _read_by_layers((node.op_type, node.input, node.output) for node in reversed(graph.node))
    shapeless = {info.name for info in graph.input if not info.type.tensor_type.HasField("shape")}
    return [
        replace(spec, finite=spec.name in names, shape=None if spec.name in shapeless else spec.shape) for spec in specs
    ]


def _read_by_layers(rows: Iterable[_Row]) -> frozenset[str]:
    """`rows`: of the nodes, the last one first."""
    found: set[str] = set()
    for op, inputs, outputs in rows:
        if op in OPERATORS or is_quantizing(op):
            found.update(inputs)
        elif op in _MOVES and found.intersection(outputs):
            found.update(inputs[:1])
    return frozenset(found)

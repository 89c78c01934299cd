"""Reads the graph that onnxruntime says it will execute."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from qtool.graph.serialized import Serialized, encode


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the optimised graph."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def executed_nodes(path: str | Path) -> list[ExecutedNode]:
    """Read the nodes of a saved optimised model, in order; behind an If, Loop or Scan those of its bodies."""
    return _nodes(onnx.load(str(path), load_external_data=False).graph)


def _nodes(graph: onnx.GraphProto) -> list[ExecutedNode]:
    result = []
    for node in graph.node:
        result.append(ExecutedNode(node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output)))
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                result += _nodes(body)
    return result


_BLOCK = 16
"""The largest block of channels of any processor; fewer channels are padded to it, and padding must not be counted."""


def has_convolutions(model: Serialized) -> bool:
    """Return whether a model has a Conv; without one, no tensor is ever blocked."""
    return any(node.op_type == "Conv" for node in onnx.load_from_string(model.graph).graph.node)


def without_reorders(path: Path, outputs: Sequence[str]) -> tuple[Serialized, dict[str, str]]:
    """Load a saved optimised model so that graph outputs of a ReorderOutput are the blocked tensors themselves.

    Only `outputs` are touched, and of these only those without padded channels. Returns the serialised model, whose
    weights stay where they are, and for each output that was replaced the name of the one that stands for it.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        channels = next((a.i for a in node.attribute if a.name == "channels"), 0)
        blocked = node.op_type == "ReorderOutput" and node.output[0] in outputs and channels % _BLOCK == 0 < channels
        if blocked and node.input[0] not in renamed.values():
            renamed[node.output[0]] = node.input[0]
        if not blocked or node.output[0] not in renamed or node.output[0] in read:
            kept.append(node)
    if renamed:
        del graph.node[:]
        graph.node.extend(kept)
        for output in graph.output:
            if output.name in renamed:
                output.name = renamed[output.name]
                output.type.tensor_type.ClearField("shape")
    return Serialized(encode(model), {}, path.parent), renamed

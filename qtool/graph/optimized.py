"""Reads the graph that onnxruntime says it will execute."""

from dataclasses import dataclass
from pathlib import Path

import onnx


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the optimised graph."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def executed_nodes(path: str | Path) -> list[ExecutedNode]:
    """The nodes of a saved optimised model, in order."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return [ExecutedNode(n.name, n.op_type, n.domain, tuple(n.input), tuple(n.output)) for n in graph.node]

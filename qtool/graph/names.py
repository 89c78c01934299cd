"""Names that are unique in the whole model, the graphs inside of nodes included."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

import onnx_ir as ir

from qtool.graph.subgraphs import subgraphs

_Named = TypeVar("_Named", ir.Value, ir.Node)
_TOLD = 9
"""Characters that tell apart what is shortened to the same ones."""


class Names:
    """Hands out names that no value or node of a graph has, nor those of the graphs inside of it.

    longest: of a longer one the beginning is handed out, and what tells it from others that begin so; None for any.
    """

    def __init__(self, graph: ir.Graph, longest: int | None = None) -> None:
        self._longest = longest
        self._taken: set[str | None] = set()
        waiting = [graph]
        while waiting:
            part = waiting.pop()
            self._taken |= {v.name for v in part.inputs} | set(part.initializers)
            for node in part:
                self._taken.add(node.name)
                self._taken.update(output.name for output in node.outputs)
                waiting += subgraphs(node) if node.attributes else ()

    def fresh(self, wanted: str) -> str:
        """Return `wanted`, or `wanted_1`, `wanted_2`... where that is taken; it is never handed out again."""
        if self._longest is not None and len(wanted) > self._longest:
            wanted = f"{wanted[: self._longest - _TOLD]}_{zlib.crc32(wanted.encode()):08x}"
        name, i = wanted, 0
        while name in self._taken:
            i += 1
            name = f"{wanted}_{i}"
        self._taken.add(name)
        return name


def make_unique(model: ir.Model) -> None:
    """Give every node, and every value that is read or handed out, a name that nothing else in the model has; in place.

    ONNX lets the bodies of If, Loop and Scan repeat each other's names, and those that come later around them; whoever
    moves a node, or looks it up by its name, must not care. Names of the main graph win; its inputs and outputs keep
    theirs always. A node without a name gets that of its first output, as viewers of networks show it. What has no name
    and is not read (an output left out) stays without.
    """
    graphs = list(model.graphs())
    values = dict.fromkeys(value for graph in graphs for value in _values(graph))
    _name((v for v in values if v.name or v.uses() or v.is_graph_output()), lambda _: "v")
    _name((node for graph in graphs for node in graph), _made)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    yield from list(graph.initializers.values())
    for node in graph:
        yield from node.outputs


def _made(node: ir.Node) -> str:
    """The name of the first output of a node that has one."""
    return next((output.name for output in node.outputs if output.name), "node")


def _name(items: Iterable[_Named], default: Callable[[_Named], str]) -> None:
    taken: set[str] = set()
    clashing: list[_Named] = []
    for item in items:
        if item.name and item.name not in taken:
            taken.add(item.name)
        else:
            clashing.append(item)
    count: Counter[str] = Counter()
    for item in clashing:
        base = item.name or default(item)
        name = base
        while name in taken:
            count[base] += 1
            name = f"{base}_{count[base]}"
        taken.add(name)
        item.name = name

"""The origins of an edited graph's nodes: which nodes of the model as it came each of them stands for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx_ir import Model, Node

_KEY = "qtool.origins"
_CALL = "qtool.call"


@dataclass(frozen=True, slots=True)
class Origin:
    """A node of the model as it came."""

    name: str
    op_type: str
    outputs: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which it can be called: its own, and those of its outputs."""
        return (self.name, *self.outputs)


def mark_origins(model: Model) -> tuple[Origin, ...]:
    """Let each node stand for itself, in place, and return them all.

    One that already stands for another, since the opset was raised, does so still. What a call of a function becomes
    when functions are inlined is known once `take_calls` is called.
    """
    result: list[Origin] = []
    for node in model.graph.all_nodes():
        if origins_of(node):
            result += [origin for origin in origins_of(node) if origin not in result]
            continue
        origin = _itself(node)
        node.meta[_KEY] = (origin,)
        if node.op_identifier() in model.functions:
            # inlining hands these on to the nodes that it makes of the call
            node.metadata_props[_CALL] = str(len(result))
        result.append(origin)
    return tuple(result)


def take_calls(model: Model, origins: Sequence[Origin]) -> None:
    """Let each node that was part of a function stand for the call of it, in place; `origins` as they were marked."""
    for node in model.graph.all_nodes():
        call = node.metadata_props.pop(_CALL, None)
        if call is not None:
            node.meta[_KEY] = (*origins_of(node), origins[int(call)])


def _itself(node: Node) -> Origin:
    return Origin(node.name or "", node.op_type, tuple(o.name for o in node.outputs if o.name))


def stand_for(node: Node, old: Node) -> None:
    """Let a node stand for one that it is a part of, in place, before any is marked."""
    node.meta[_KEY] = (_itself(old),)


def take_origins(node: Node, *gone: Node) -> None:
    """Let a node stand for those that are folded into it, or replaced by it, as well; in place."""
    node.meta[_KEY] = tuple(dict.fromkeys(o for source in (node, *gone) for o in origins_of(source)))


def origins_of(node: Node) -> tuple[Origin, ...]:
    """Return the nodes that a node stands for; empty for one that is new."""
    found: tuple[Origin, ...] = node.meta.get(_KEY, ())
    return found


def heirs(model: Model, origins: Iterable[Origin]) -> dict[Origin, tuple[str, ...]]:
    """Return the names of the nodes that stand for each origin which cannot be called as it was any more.

    By one of its names, or by its operator. Empty for one of which nothing is left: it computed a constant, or nothing.
    """
    standing: dict[Origin, list[Node]] = {}
    called: set[str] = set()
    for node in model.graph.all_nodes():
        called.update((node.name or "", *(o.name or "" for o in node.outputs)))
        for origin in origins_of(node):
            standing.setdefault(origin, []).append(node)
    return {
        o: tuple(node.name or "" for node in standing.get(o, ()))
        for o in origins
        if any(name not in called for name in o.names) or all(node.op_type != o.op_type for node in standing.get(o, ()))
    }

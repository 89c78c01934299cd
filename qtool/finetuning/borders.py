"""The borders of the gradients: nodes that onnxruntime computes or that none passes, and the layers behind them."""

from collections.abc import Mapping
from dataclasses import dataclass

from qtool.finetuning.calls import Call
from qtool.finetuning.operators import OPERATORS, computed, key_of, missing
from qtool.graph import compose, edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer

Calls = Mapping[Node, Call | None]


@dataclass(frozen=True, slots=True)
class Border:
    """A node that no gradient passes.

    why: in words. outside: onnxruntime computes it, not torch. layers: those with weights that are not trained for it:
    itself, and those from which every path to an output goes through such nodes, where it is the first.
    """

    node: str
    operator: str
    why: str
    outside: bool
    layers: tuple[str, ...]

    @property
    def says(self) -> str:
        """The node and the reason as half a sentence."""
        return f"{self.operator} {self.node!r} {self.why}"


def calls_of(model: Model) -> dict[Node, Call | None]:
    """Return how torch computes each node of the main graph, in order; None where it does not."""
    result: dict[Node, Call | None] = {}
    for node in model.graph:
        call = _call(node, model)
        result[node] = call if missing(node, call) is None else None
    return result


def find_borders(model: Model, calls: Calls) -> tuple[Border, ...]:
    """Return the nodes that no gradient passes, of those that torch computes only where a layer is cut off by it."""
    reached, readers = reached_of(calls), _readers(calls)
    held: dict[Node, list[str]] = {}
    for node in calls:
        layer = Layer.of(node)
        if layer is None or not any(edit.weight_like(weight) for weight in layer.weights):
            continue
        if calls[node] is None:
            held.setdefault(node, []).append(str(node.name))
        elif node not in reached:
            for end in _first_ends(node, calls, readers):
                held.setdefault(end, []).append(str(node.name))
    found = []
    for node, call in calls.items():
        if call is None or node in held:
            why = "passes no gradient" if call is not None else _why(node, model)
            found.append(Border(str(node.name), node.op_type, why, call is None, tuple(held.get(node, ()))))
    return tuple(found)


def _why(node: Node, model: Model) -> str:
    return missing(node, _call(node, model)) or ""


def _call(node: Node, model: Model) -> Call:
    domain = key_of(node)[0]
    return Call.of(node, model.opset_imports.get(domain, model.opset_imports.get(node.domain, 1)))


def _passes(node: Node, calls: Calls) -> bool:
    return (
        calls[node] is not None
        and OPERATORS[key_of(node)].gradient
        and any(_in_floats(value) for value in node.outputs)
    )


def reached_of(calls: Calls) -> set[Node]:
    """Return the nodes from which a gradient comes back: those that pass it on every node of a path to an output."""
    reached: set[Node] = set()
    for node in reversed(list(calls)):
        if _passes(node, calls):
            for value in node.outputs:
                ends = value.is_graph_output() and _in_floats(value)
                if ends or any(user in reached for user, _ in value.uses()):
                    reached.add(node)
    return reached


def _in_floats(value: Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _first_ends(node: Node, calls: Calls, readers: Mapping[Value, list[Node]]) -> list[Node]:
    """The first nodes behind one that pass no gradient."""
    seen, waiting = {node}, [node]
    found: list[Node] = []
    while waiting:
        for value in waiting.pop().outputs:
            for user in readers.get(value, ()):
                if user not in seen:
                    seen.add(user)
                    (waiting if _passes(user, calls) else found).append(user)
    return found


def _readers(calls: Calls) -> dict[Value, list[Node]]:
    """The nodes of the main graph that read each value, in themselves or in a graph inside of them."""
    result: dict[Value, list[Node]] = {}
    for node in calls:
        for value in compose.reads(node):
            result.setdefault(value, []).append(node)
    return result


def made_of(model: Model, node: Node, calls: Calls) -> tuple[tuple[str, ...], set[str]]:
    """Return the names of the tensors that a node outside of torch is computed from, and of the constants it reads.

    Of sequences, maps and strings that it reads the nodes that make them count too.
    """
    needs: dict[str, None] = {}
    constants: set[str] = set()
    seen, waiting = {node}, [node]
    while waiting:
        for value in compose.reads(waiting.pop()):
            maker = value.producer()
            if value.is_initializer():
                constants.add(str(value.name))
            elif maker is None and value in model.graph.inputs:
                needs[str(value.name)] = None
            elif maker in calls and maker is not None:
                if computed(value):
                    needs[str(value.name)] = None
                elif maker not in seen:
                    seen.add(maker)
                    waiting.append(maker)
    return tuple(needs), constants

"""The bodies of If, Loop and Scan one after another as models of their own, so that every pass works in them too."""

from collections.abc import Iterator

import onnx_ir as ir

from qtool.graph import edit, opset, shapes
from qtool.graph.bodies import Alone, Body, alone, held, put_back
from qtool.graph.edit import Graph, Model, Value
from qtool.graph.names import make_unique

_Pair = tuple[Value, Value | None]


def parts_of(model: Model) -> Iterator[Model]:
    """Yield a model, then each body as a model of its own, which may be changed, and is put back; outer ones first.

    Names must be unique in the whole model, and are afterwards. A body is left out that reads what is of no known type.
    """
    yield model
    yield from _inside(model, model.graph)


def _inside(model: Model, graph: Graph) -> Iterator[Model]:
    for node in list(graph):
        for body in held(node):
            part = alone(model, body)
            if part is not None:
                opset.tidy(part.model, body.name)
                _tell_shapes(part)
                yield part.model
                put_back(model, part)
                make_unique(model)
            yield from _inside(model, body.graph)


def _tell_shapes(part: Alone) -> None:
    """Let the inputs of the body have the shapes that they have in every iteration, as far as inference tells."""
    graph = part.model.graph
    states = _states(part.body, graph)
    for fed, given in states:
        fed.shape = None if given is None else given.shape
    for fed, given, axis in _slices(part.body, graph):
        if given is not None and given.shape is not None:
            fed.shape = ir.Shape([dim for i, dim in enumerate(given.shape) if i != axis % given.shape.rank()])
    first = 1 if part.body.holder.op_type == "Loop" else 0
    # what one iteration makes of it is what the next one gets
    for _ in range(2):
        shapes.infer(part.model)
        changed = False
        for (fed, _), made in zip(states, graph.outputs[first:], strict=False):
            shape = _common(fed.shape, made.shape)
            changed |= shape != fed.shape
            fed.shape = shape
        if not changed:
            return
    for fed, _ in states:
        fed.shape = None


def _states(body: Body, graph: Graph) -> list[_Pair]:
    """What is carried from iteration to iteration: the inputs of the body, and what the first iteration gets."""
    node = body.holder
    if node.op_type == "Loop":
        return list(zip(graph.inputs[2:], node.inputs[2:], strict=False))
    if node.op_type == "Scan":
        count = len(node.inputs) - edit.attribute(node, "num_scan_inputs")
        return list(zip(graph.inputs[:count], node.inputs[:count], strict=False))
    return []


def _slices(body: Body, graph: Graph) -> list[tuple[Value, Value | None, int]]:
    """What Scan cuts from its inputs: the inputs of the body, what is cut, and along which axis."""
    node = body.holder
    if node.op_type != "Scan":
        return []
    count = edit.attribute(node, "num_scan_inputs")
    axes = edit.attribute(node, "scan_input_axes") or [0] * count
    whole = list(node.inputs)[-count:]
    first = len(node.inputs) - count
    return list(zip(graph.inputs[first : first + count], whole, axes, strict=False))


def _common(one: ir.Shape | None, other: ir.Shape | None) -> ir.Shape | None:
    """What both shapes say; None where their ranks differ or one says nothing."""
    if one is None or other is None or one.rank() != other.rank():
        return None
    return ir.Shape([a if a == b else None for a, b in zip(one, other, strict=True)])

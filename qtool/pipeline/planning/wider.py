"""The integer convolutions that are faster with more output channels than they have, by the target's table of times."""

from collections.abc import Mapping
from dataclasses import replace

from qtool.core.records.plan import Plan, WeightPlan, WiderPlan
from qtool.graph import edit, shapes
from qtool.graph.edit import Array, Model, Node
from qtool.graph.layers import Layer, end_of
from qtool.targets.costs import Shape, costs_of, may_be_wider, terms_of


def with_wider_kernels(
    model: Model, plan: Plan, example: Mapping[str, Array], known: Mapping[str, Shape] | None = None
) -> Plan:
    """Return the plan with all convolutions wider that are faster so; it goes by the target's table, and by no clock.

    Args:
        model: the prepared graph.
        plan: for it.
        example: a batch of the inputs, by name.
        known: the shapes of tensors where it is fed, if somebody has them; what has none stays as it is.
    """
    costs = costs_of(plan.target)
    found = [node for node, _ in widenable(model, plan).values() if may_be_wider(_weight(node))]
    if costs is None or not found:
        return replace(plan, wider=())
    known = known or shapes.known_shapes(model, {name: array.shape for name, array in example.items()})
    terms = ((str(node.name), terms_of(node, known)) for node in found)
    channels = ((name, None if units is None else costs.channels(units)) for name, units in terms)
    return replace(plan, wider=tuple(WiderPlan(name, number) for name, number in channels if number is not None))


def widenable(model: Model, plan: Plan) -> dict[str, tuple[Node, int]]:
    """Return the convolutions of a plan, by name, that may have more output channels, with how many they have.

    They alone read their weight, which is stored and not computed, and all that read them read their integers.
    """
    made = {row.tensor for row in plan.activations if row.produced and not row.barred}
    found = (_convolution(model, row) for row in plan.weights)
    nodes = [node for node in found if node is not None and end_of(node).name in made]
    return {str(node.name): (node, _weight(node)[0]) for node in nodes}


def _convolution(model: Model, row: WeightPlan) -> Node | None:
    """The convolution of the main graph that alone reads a weight, if there is one."""
    weight = model.graph.initializers.get(row.tensor)
    if weight is None or len(row.readers) != 1 or len(weight.uses()) != 1 or edit.origin_of(weight) is not None:
        return None
    node = next(iter(weight.uses()))[0]
    layer = Layer.of(node)
    if node.graph is not model.graph or layer is None or not edit.is_main_op(node, "Conv") or layer.groups != 1:
        return None
    held = [value for value in node.inputs[1:] if value is not None]
    return node if all(value.is_initializer() for value in held) else None


def _weight(node: Node) -> Shape:
    return edit.constant(node.inputs[1]).shape

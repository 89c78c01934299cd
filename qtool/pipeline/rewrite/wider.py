"""Convolutions with more output channels than they have, which a Slice drops: onnxruntime's kernels are faster so.

The channels that are added have weights and biases of 0, so that all others compute what they did. The same is written
into the int8 model and into the float one that it is without Q/DQ: Q/DQ stand on both sides of the Slice, which
onnxruntime then runs on integers.
"""

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.records.plan import Plan
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Array, Model, Names, Node, Value
from qtool.graph.layers import end_of
from qtool.pipeline.rewrite.static import LONGEST


def widen(model: Model, plan: Plan) -> None:
    """Write the plan's wider convolutions into a model with or without its Q/DQ, in place.

    Raises:
        ModelError: the plan names what the model does not hold.
    """
    nodes, names = {node.name: node for node in model.graph}, Names(model.graph, LONGEST)
    for row in plan.wider:
        node = nodes.get(row.layer)
        weight = None if node is None or len(node.inputs) < 2 else _stored(node.inputs[1])
        if node is None or weight is None or not edit.is_main_op(node, "Conv"):
            raise ModelError(f"the plan widens node {row.layer!r}, which the model does not hold; make the plan again")
        channels = edit.constant(weight).shape[0]
        if channels >= row.channels:
            raise ModelError(
                f"the plan widens node {row.layer!r}, which has {amount(channels, 'channel')}; make the plan again"
            )
        for index in (1, 2):
            _pad(model, node, index, channels, row.channels, names)
        node.outputs[0].shape = None
        _drop(model, end_of(node), channels, f"{row.layer}_own_channels", names)


def _stored(value: Value | None) -> Value | None:
    """The initializer that holds a weight or bias, behind its DequantizeLinear where it has one."""
    maker = None if value is None else value.producer()
    if maker is not None and edit.is_main_op(maker, "DequantizeLinear"):
        value = maker.inputs[0]
    return value if value is not None and value.is_initializer() else None


def _pad(model: Model, node: Node, index: int, channels: int, wanted: int, names: Names) -> None:
    """Let the node read its weight or bias with more channels, which are 0."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return
    maker = value.producer()
    reader = node if maker is None else maker
    places = [index] if maker is None else range(len(maker.inputs))
    for place in places:
        held = reader.inputs[place]
        array = edit.constant_or_none(held)
        if held is None or array is None:
            raise ModelError(f"the plan widens node {node.name!r}, whose weights are computed; make the plan again")
        if array.ndim and array.shape[0] == channels:
            # scales of channels that are 0 are any
            mode = "edge" if maker is not None and place == 1 else "constant"
            reader.replace_input_with(place, _padded(model, str(held.name), array, wanted, mode, names))


def _padded(model: Model, name: str, array: Array, wanted: int, mode: str, names: Names) -> Value:
    widths = [(0, wanted - array.shape[0]), *[(0, 0)] * (array.ndim - 1)]
    made: Array = np.pad(array, widths, mode=mode)  # type: ignore[call-overload]
    return edit.add_initializer(model.graph, names.fresh(f"{name}_wider"), made)


def _drop(model: Model, end: Value, channels: int, base: str, names: Names) -> None:
    """Put a Slice behind a value, which takes over its name, and in an int8 model Q/DQ in front of it."""
    name, was_output, last = str(end.name), end.is_graph_output(), end
    readers = list(end.uses())
    end.name = names.fresh(f"{name}_wider")
    end.shape = None
    after = end.producer()
    assert after is not None
    quantizer = next((node for node, _ in readers if edit.is_main_op(node, "QuantizeLinear")), None)
    if quantizer is not None:
        grid = list(quantizer.inputs[1:])
        for op in ("QuantizeLinear", "DequantizeLinear"):
            own = names.fresh(f"{end.name}_{'quantized' if op == 'QuantizeLinear' else 'dequantized'}")
            node = edit.new_node(op, [last, *grid], own, name=names.fresh(f"{own}_node"))
            model.graph.insert_after(after, node)
            after, last = node, node.outputs[0]
    bounds = [_number(model, number, names) for number in (0, channels, 1)]
    node = edit.new_node("Slice", [last, *bounds], name, name=names.fresh(base))
    model.graph.insert_after(after, node)
    for reader, index in readers:
        reader.replace_input_with(index, node.outputs[0])
    if was_output:
        node.outputs[0].type = end.type
        model.graph.outputs[list(model.graph.outputs).index(end)] = node.outputs[0]


def _number(model: Model, number: int, names: Names) -> Value:
    """A constant that all who drop channels read."""
    name = f"wider_{number}"
    known = model.graph.initializers.get(name)
    if known is not None and edit.constant(known).tolist() == [number]:
        return known
    return edit.add_initializer(model.graph, names.fresh(name), np.array([number], np.int64))

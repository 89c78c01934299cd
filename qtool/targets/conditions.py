"""The conditions that rows of the targets' tables name: why a node that has a rule is left float all the same."""

from collections.abc import Iterable

from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Node
from qtool.graph.layers import Layer

_SMALL_TABLE = 65536


def constant_weights(node: Node) -> str | None:
    """Return a reason where a weight or bias is no float32 constant, or a weight is empty, or of another rank."""
    layer = Layer.of(node)
    assert layer is not None
    for weight in layer.weights:
        if not edit.weight_like(weight):
            return "its weight is computed, or not float32"
        if edit.constant(weight).ndim not in layer.operator.ranks:
            return f"its weight has {amount(edit.constant(weight).ndim, 'dimension')}"
        if not layer.fits(edit.constant(weight).shape):
            return "its channels are not divided by its groups"
        if edit.constant(weight).size == 0:
            return "its weight is empty"
    return None if layer.bias is None or edit.weight_like(layer.bias) else "its bias is computed, or not float32"


def gemm(node: Node) -> str | None:
    """Return a reason where a Gemm has a computed weight, alpha or beta other than 1, or a bias that is no vector.

    None where it has none of these. The bias has one element per column.
    """
    layer, reason = Layer.of(node), constant_weights(node)
    if reason is not None or layer is None:
        return reason
    if layer.alpha != 1.0:
        return "its alpha is not 1"
    if layer.bias is None:
        return None
    if layer.beta != 1.0:
        return "its beta is not 1"
    columns = layer.output_size(edit.constant(layer.weight).shape)
    fits = edit.constant(layer.bias).shape == (columns,)
    return None if fits else "its bias is not a vector of one element per column"


def recurrent(node: Node) -> str | None:
    """Return a reason where a weight for input or state is not constant, or batch stands before time; else None."""
    return "its layout is batch first" if edit.attribute(node, "layout", 0) else constant_weights(node)


def table(node: Node) -> str | None:
    """Return a reason where a Gather does not take rows of a large constant matrix, or something else reads it.

    None where it takes rows, and nothing else reads the matrix but others that do, and layers with a column for each
    row: a Gemm that turns it.
    """
    layer = Layer.of(node)
    rows = None if layer is None else layer.weight
    if rows is None or not edit.weight_like(rows) or edit.constant(rows).ndim != 2:
        return "its data is not a constant matrix of float32"
    if edit.constant(rows).size < _SMALL_TABLE:
        return "its table is small"
    takers = all(_takes_rows(n, i) or _multiplies_rows(n, i) for n, i in rows.uses())
    return None if takers and not rows.is_graph_output() else "its table is used for something else"


def _takes_rows(node: Node, index: int) -> bool:
    return edit.is_main_op(node, "Gather") and index == 0 and not edit.attribute(node, "axis", 0)


def _multiplies_rows(node: Node, index: int) -> bool:
    layer = Layer.of(node)
    return layer is not None and layer.is_product and index in layer.operator.weights and layer.output_axis == 0


def is_tied(layer: Layer, nodes: Iterable[Node]) -> bool:
    """Return whether one of the nodes is a table that holds what the layer multiplies with, row by row."""
    return any(
        edit.is_main_op(node, "Gather") and table(node) is None and layer.holds_rows(edit.constant(node.inputs[0]))
        for node in nodes
    )


def large(node: Node) -> bool:
    """Return whether the constant weights of a layer have as many numbers as a table that is worth 8 bits."""
    layer = Layer.of(node)
    return layer is not None and sum(edit.constant(w).size for w in layer.weights) >= _SMALL_TABLE


def average_pool(node: Node) -> str | None:
    """Return a reason where an average pooling is dilated, else None."""
    return "it is dilated" if any(d != 1 for d in edit.attribute(node, "dilations", None) or ()) else None


def max_pool(node: Node) -> str | None:
    """Return a reason where the optional output of indices of a max pooling is used, else None."""
    return "its indices are used" if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]) else None


def all_outputs(node: Node) -> str | None:
    """Return a reason where an output is not used, else None.

    onnxruntime wants a Q on each output, and an unused one gets none.
    """
    return None if all(o.uses() or o.is_graph_output() for o in node.outputs) else "an output is not used"


def nearest(node: Node) -> str | None:
    """Return a reason where a Resize does not take the nearest neighbour, else None."""
    return None if edit.attribute(node, "mode", "nearest") == "nearest" else "it interpolates"


def no_constants(node: Node) -> str | None:
    """Return a reason where an input is constant, else None."""
    return "an input is constant" if any(v is not None and v.is_initializer() for v in node.inputs) else None


def data_computed(node: Node) -> str | None:
    """Return a reason where a Gather takes from a constant, else None.

    A constant table is a weight, not an activation.
    """
    return "its data is constant" if node.inputs[0] is None or node.inputs[0].is_initializer() else None


def residual(node: Node) -> str | None:
    """Return a reason where an Add does not end a residual block, else None.

    It does where it adds two computed tensors, one of which a convolution makes only for it.
    """
    return None if residual_branch(node) is not None else "it is not the end of a residual block"


def residual_branch(node: Node) -> int | None:
    """Return the index of the Add's input that is not from the convolution TensorRT fuses it into, None without one."""
    values = list(node.inputs)
    if len(values) != 2 or any(v is None or v.is_initializer() for v in values):
        return None
    for i in (1, 0):
        value = values[i]
        producer = value.producer() if value is not None else None
        if producer is not None and edit.is_main_op(producer, "Conv") and edit.single_consumer(value) is node:
            return 1 - i
    return None

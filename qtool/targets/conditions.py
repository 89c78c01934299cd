"""The conditions named in the targets' tables: why a node that has a rule is left float all the same."""

from collections.abc import Callable

from qtool.graph import edit
from qtool.graph.edit import Node

_SMALL_TABLE = 65536


def _weight_and_bias(node: Node, ndims: tuple[int, ...]) -> str | None:
    weight = node.inputs[1]
    if not edit.weight_like(weight):
        return "its weight is computed, or not float32"
    if edit.constant(weight).ndim not in ndims:
        return f"its weight has {edit.constant(weight).ndim} dimensions"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return None if bias is None or edit.weight_like(bias) else "its bias is computed, or not float32"


def conv(node: Node) -> str | None:
    """1-D to 3-D, constant weight and bias."""
    return _weight_and_bias(node, (3, 4, 5))


def conv_transpose(node: Node) -> str | None:
    """1-D to 3-D, constant weight and bias."""
    return _weight_and_bias(node, (3, 4, 5))


def gemm(node: Node) -> str | None:
    """Constant weight, alpha and beta 1, a bias with one element per column."""
    reason = _weight_and_bias(node, (2,))
    if reason is not None:
        return reason
    if float(edit.attribute(node, "alpha", 1.0)) != 1.0:
        return "its alpha is not 1"
    bias = edit.constant_or_none(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None:
        return None
    if float(edit.attribute(node, "beta", 1.0)) != 1.0:
        return "its beta is not 1"
    columns = edit.constant(node.inputs[1]).shape[0 if edit.attribute(node, "transB", 0) else 1]
    return None if bias.shape == (columns,) else "its bias is not a vector of one element per column"


def matmul(node: Node) -> str | None:
    """A constant matrix on the right."""
    return _weight_and_bias(node, (2,))


def recurrent(node: Node) -> str | None:
    """Constant weights for the input and for the state."""
    if edit.attribute(node, "layout", 0):
        return "its layout is batch first"
    return _constant_matrix(node, 1, 3) or _constant_matrix(node, 2, 3)


def _constant_matrix(node: Node, index: int, ndim: int) -> str | None:
    weight = node.inputs[index]
    fits = edit.weight_like(weight) and edit.constant(weight).ndim == ndim
    return None if fits else "its weight is computed, or not float32"


def table(node: Node) -> str | None:
    """A constant matrix of which rows are taken, and nothing else."""
    rows = node.inputs[0]
    if rows is None or not edit.weight_like(rows) or edit.constant(rows).ndim != 2:
        return "its data is not a constant matrix of float32"
    if edit.constant(rows).size < _SMALL_TABLE:
        return "its table is small"
    takers = all(edit.is_main_op(n, "Gather") and i == 0 and not edit.attribute(n, "axis", 0) for n, i in rows.uses())
    return None if takers and not rows.is_graph_output() else "its table is used for something else"


def average_pool(node: Node) -> str | None:
    """Without dilation."""
    return "it is dilated" if any(d != 1 for d in edit.attribute(node, "dilations", None) or ()) else None


def max_pool(node: Node) -> str | None:
    """Without the optional output of indices."""
    return "its indices are used" if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]) else None


def all_outputs(node: Node) -> str | None:
    """Every output is used: onnxruntime wants a Q on each, and an unused one gets none."""
    return None if all(o.uses() or o.is_graph_output() for o in node.outputs) else "an output is not used"


def nearest(node: Node) -> str | None:
    """Resize by nearest neighbour."""
    return None if edit.attribute(node, "mode", "nearest") == "nearest" else "it interpolates"


def no_constants(node: Node) -> str | None:
    """All inputs are computed."""
    return "an input is constant" if any(v is not None and v.is_initializer() for v in node.inputs) else None


def data_computed(node: Node) -> str | None:
    """What is gathered from is computed: a constant table is a weight, not an activation."""
    return "its data is constant" if node.inputs[0] is None or node.inputs[0].is_initializer() else None


def residual(node: Node) -> str | None:
    """An Add of two computed tensors of which a convolution makes one for it alone."""
    return None if residual_branch(node) is not None else "it is not the end of a residual block"


def residual_branch(node: Node) -> int | None:
    """The index of the input that does not come from the convolution that TensorRT fuses the Add into."""
    values = list(node.inputs)
    if len(values) != 2 or any(v is None or v.is_initializer() for v in values):
        return None
    for i in (1, 0):
        value = values[i]
        producer = value.producer() if value is not None else None
        if producer is not None and edit.is_main_op(producer, "Conv") and edit.single_consumer(value) is node:
            return 1 - i
    return None


CONDITIONS: dict[str, Callable[[Node], str | None]] = {
    f.__name__: f
    for f in (
        conv,
        conv_transpose,
        gemm,
        matmul,
        recurrent,
        table,
        average_pool,
        max_pool,
        all_outputs,
        nearest,
        no_constants,
        data_computed,
        residual,
    )
}

"""Gemm and MatMul with constant weights in the form that quantised kernels have: W [K, N], bias [N], no factors.

alpha goes into the weight, beta into the bias; a bias of one row or one number becomes a vector; what else a Gemm adds
is added behind it. A weight [1, ..., 1, K, N] becomes [K, N], and the result gets back the dimensions that this takes.
Declines where the numbers are not finite then, and for a MatMul whose input has an unknown rank, or rank 1.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer


def apply(model: Model) -> int:
    """Turn each Gemm and MatMul into this form, in place; return how many were changed."""
    names = edit.Names(model.graph)
    matrices: dict[Value, Value] = {}
    count = 0
    for node in list(model.graph):
        layer = Layer.of(node)
        if layer is None or not layer.is_product or not edit.weight_like(layer.weight):
            continue
        if node.op_type == "Gemm":
            count += _plain_gemm(model, layer, names)
        else:
            count += _plain_matmul(model, layer, matrices, names)
    return count


def _plain_gemm(model: Model, layer: Layer, names: edit.Names) -> bool:
    node, weight = layer.node, edit.constant(layer.weight)
    constant = edit.constant_or_none(layer.bias) if edit.weight_like(layer.bias) else None
    with np.errstate(all="ignore"):
        scaled = (weight.astype(np.float64) * layer.alpha).astype(np.float32)
        bias = None if constant is None else (constant.astype(np.float64) * layer.beta).astype(np.float32)
    columns = layer.output_size(weight.shape)
    is_vector = constant is not None and constant.ndim == 1 and constant.shape == (columns,)
    plain_bias = layer.bias is None or (is_vector and layer.beta == 1.0)
    finite = np.isfinite(scaled).all() and (bias is None or np.isfinite(bias).all())
    if (layer.alpha == 1.0 and plain_bias) or not finite or scaled.size == 0:
        return False
    if layer.alpha != 1.0:
        assert layer.weight is not None
        edit.set_input(node, 1, edit.add_initializer(model.graph, names.fresh(f"{layer.weight.name}_scaled"), scaled))
        edit.set_attribute(node, "alpha", 1.0)
    if not plain_bias:
        assert layer.bias is not None
        name = f"{layer.bias.name}_scaled"
        if bias is not None and (bias.size == 1 or bias.shape in ((columns,), (1, columns))):
            vector = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), (columns,)))
            edit.set_input(node, 2, edit.add_initializer(model.graph, names.fresh(name), vector))
        else:
            _add_behind(model, layer, bias, names)
        edit.set_attribute(node, "beta", 1.0)
    return True


def _add_behind(model: Model, layer: Layer, bias: Array | None, names: edit.Names) -> None:
    """Let an Add do what the Gemm did with its bias, which `bias` is with its factor where it is constant."""
    node, added = layer.node, layer.bias
    assert added is not None
    result = node.outputs[0]
    if bias is not None and layer.beta != 1.0:
        added = edit.add_initializer(model.graph, names.fresh(f"{added.name}_scaled"), bias)
    elif layer.beta != 1.0:
        beta = edit.add_initializer(model.graph, names.fresh(f"{node.name}_beta"), np.array(layer.beta, np.float32))
        scaled = edit.new_node("Mul", [added, beta], names.fresh(f"{added.name}_scaled"), name=f"{node.name}_beta")
        scaled.name = names.fresh(str(scaled.name))
        scaled.outputs[0].type, scaled.outputs[0].shape = added.type, added.shape
        model.graph.insert_before(node, scaled)
        added = scaled.outputs[0]
    node.resize_inputs(2)
    _put_behind(model, node, edit.new_node("Add", [result, added], names.fresh(f"{result.name}_sum"),
                name=names.fresh(f"{node.name}_add")))  # fmt: skip


def _plain_matmul(model: Model, layer: Layer, matrices: dict[Value, Value], names: edit.Names) -> bool:
    node, weight = layer.node, layer.weight
    assert weight is not None
    array, n = edit.constant(weight), edit.rank(node.inputs[0])
    extra = array.ndim - 2
    if extra < 1 or n is None or n < 2 or any(size != 1 for size in array.shape[:extra]):
        return False
    if weight not in matrices:
        name = names.fresh(f"{weight.name}_matrix")
        matrices[weight] = edit.add_initializer(model.graph, name, array.reshape(array.shape[extra:]))
    edit.set_input(node, 1, matrices[weight])
    if n < array.ndim:
        axes = edit.add_initializer(model.graph, names.fresh(f"{node.name}_axes"), np.arange(array.ndim - n))
        result = node.outputs[0]
        lost = edit.new_node("Unsqueeze", [result, axes], names.fresh(f"{result.name}_unsqueezed"),
                             name=names.fresh(f"{node.name}_unsqueeze"))  # fmt: skip
        _put_behind(model, node, lost)
    return True


def _put_behind(model: Model, node: Node, last: Node) -> None:
    """Insert a node that reads the output of `node`, and let it be read in its place."""
    old, new = node.outputs[0], last.outputs[0]
    new.type, new.shape = old.type, old.shape
    if last.op_type == "Unsqueeze":
        # inferred anew
        old.shape = None
    model.graph.insert_after(node, last)
    last.replace_input_with(0, None)
    edit.replace_uses(old, new)
    last.replace_input_with(0, old)

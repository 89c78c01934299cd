"""MatMul of a matrix with constant weights, and the Add of a constant vector or number after it, become Gemm.

As Gemm the layer gets an int32 bias and a float output from one integer kernel: the best classifier head. onnxruntime
does the same rewriting (`MatMulAddFusion`) but only knows the bias as float; it does it with any other matrix that is
added, too, of which no Q/DQ selector takes the result. So where something else is added, the MatMul alone becomes a
Gemm, without a bias, which onnxruntime leaves apart from an Add. Declines unless the input has rank 2, and where
something of more dimensions is added.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model, Value
from qtool.graph.layers import Layer


def apply(model: Model) -> int:
    """Rewrite each MatMul, with the vector that is added after it, as a Gemm, in place; return how many."""
    count = 0
    for matmul in list(model.graph):
        layer = Layer.of(matmul) if edit.is_main_op(matmul, "MatMul") else None
        if layer is None or not edit.weight_like(layer.weight):
            continue
        x, weight = matmul.inputs[0], layer.weight
        add = edit.single_consumer(matmul.outputs[0])
        if add is None or not edit.is_main_op(add, "Add") or edit.rank(x) != 2 or edit.rank(weight) != 2:
            continue
        names = edit.Names(model.graph)
        added = add.inputs[1] if add.inputs[0] is matmul.outputs[0] else add.inputs[0]
        bias = _vector(model, added, layer.output_size(edit.constant(weight).shape), names)
        if bias is None and edit.rank(added) not in (None, 1, 2):
            continue
        last, inputs = (matmul, [x, weight]) if bias is None else (add, [x, weight, bias])
        output = names.fresh(f"{last.outputs[0].name}_gemm")
        gemm = edit.new_node("Gemm", inputs, output, name=matmul.name or "Gemm")
        gemm.outputs[0].shape, gemm.outputs[0].type = last.outputs[0].shape, last.outputs[0].type
        model.graph.insert_before(matmul, gemm)
        edit.replace_uses(last.outputs[0], gemm.outputs[0])
        if last is add:
            edit.remove_node(add)
        edit.remove_node(matmul)
        count += 1
    return count


def _vector(model: Model, added: Value | None, columns: int, names: edit.Names) -> Value | None:
    """What is added as a constant of one element a column; None where it is something else."""
    if not edit.weight_like(added):
        return None
    array = edit.constant(added)
    if array.ndim > 2 or (array.size != 1 and array.shape not in ((columns,), (1, columns))):
        return None
    if array.shape == (columns,):
        return added
    vector = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (columns,)))
    return edit.add_initializer(model.graph, names.fresh(f"{'' if added is None else added.name}_vector"), vector)

"""MatMul of a matrix with constant weights, and the Add of a constant vector or number after it, become Gemm.

As Gemm the layer gets an int32 bias and a float output from one integer kernel: the best classifier head. onnxruntime
does the same rewriting (`MatMulAddFusion`) but only knows the bias as float. Declines unless the input has rank 2.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model
from qtool.graph.layers import Layer


def apply(model: Model) -> int:
    """Rewrite each MatMul and the Add after it as a Gemm, in place; return how many pairs were rewritten."""
    count = 0
    for matmul in list(model.graph):
        layer = Layer.of(matmul) if edit.is_main_op(matmul, "MatMul") else None
        if layer is None or not edit.weight_like(layer.weight):
            continue
        x, weight = matmul.inputs[0], layer.weight
        add = edit.single_consumer(matmul.outputs[0])
        if add is None or not edit.is_main_op(add, "Add") or edit.rank(x) != 2 or edit.rank(weight) != 2:
            continue
        bias = add.inputs[1] if add.inputs[0] is matmul.outputs[0] else add.inputs[0]
        columns = layer.output_size(edit.constant(weight).shape)
        if not edit.weight_like(bias) or edit.constant(bias).ndim > 2:
            continue
        array = edit.constant(bias)
        if array.size != 1 and array.shape not in ((columns,), (1, columns)):
            continue
        names = edit.Names(model.graph)
        if array.shape != (columns,):
            vector = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (columns,)))
            bias = edit.add_initializer(model.graph, names.fresh(f"{matmul.name}_bias"), vector)
        gemm = edit.new_node(
            "Gemm", [x, weight, bias], names.fresh(f"{add.outputs[0].name}_gemm"), name=matmul.name or "Gemm"
        )
        gemm.outputs[0].shape, gemm.outputs[0].type = add.outputs[0].shape, add.outputs[0].type
        model.graph.insert_before(matmul, gemm)
        edit.replace_uses(add.outputs[0], gemm.outputs[0])
        edit.remove_node(add)
        edit.remove_node(matmul)
        count += 1
    return count

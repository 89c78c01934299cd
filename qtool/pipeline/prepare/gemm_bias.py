"""A Gemm without a bias in front of a Sum or a Transpose gets one of zeros, as part of one integer kernel.

onnxruntime makes one float Gemm of the two otherwise (`GemmSumFusion`, `GemmTransposeFusion`: they ask that C be
missing), which no Q/DQ selector takes. Declines where the weight is computed.
"""

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Model
from qtool.graph.layers import Layer


def apply(model: Model) -> int:
    """Give each such Gemm a bias, in place; return how many got one."""
    names = edit.Names(model.graph)
    count = 0
    for node in model.graph:
        layer = Layer.of(node) if edit.is_main_op(node, "Gemm") else None
        if layer is None or layer.bias is not None or not edit.weight_like(layer.weight):
            continue
        reader = edit.single_consumer(node.outputs[0])
        if reader is None or not edit.is_main_op(reader, "Sum", "Transpose"):
            continue
        zeros = np.zeros(layer.output_size(edit.constant(layer.weight).shape), np.float32)
        edit.set_input(node, 2, edit.add_initializer(model.graph, names.fresh(f"{node.name}_no_bias"), zeros))
        count += 1
    return count

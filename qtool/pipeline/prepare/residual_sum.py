"""The Add of a residual in front of a layer normalisation becomes Sum, which is the same function.

onnxruntime fuses Add and LayerNormalization to SkipLayerNormalization, whose CPU kernel takes four times as long as the
two apart (`make bench`, section language). It does not look for Sum. Source: onnxruntime
`core/optimizer/skip_layer_norm_fusion.cc`. Declines where a constant is added.
"""

from qtool.graph import edit
from qtool.graph.edit import Model, Node


def apply(model: Model) -> int:
    """Turn each Add in front of a layer normalisation into a Sum, in place; return how many were turned."""
    count = 0
    for node in list(model.graph):
        if not edit.is_main_op(node, "Add") or len(edit.activations(node)) != 2:
            continue
        output = node.outputs[0]
        if not edit.is_float32(output) or not _normalised(edit.consumers(output)):
            continue
        result = edit.copy_node(node, list(node.inputs), f"{output.name}_sum", name=str(node.name), op_type="Sum")
        model.graph.insert_before(node, result)
        edit.replace_node(node, result)
        count += 1
    return count


def _normalised(readers: list[Node]) -> bool:
    """Whether the value is the input of a LayerNormalization, in one piece or as exporters write it out."""
    types = {node.op_type for node in readers}
    return "LayerNormalization" in types or {"ReduceMean", "Sub"} <= types

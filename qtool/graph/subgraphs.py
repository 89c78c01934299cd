"""The graphs inside of nodes: the branches of If, the bodies of Loop and Scan."""

import onnx_ir as ir
from onnx_ir.passes import common

_PAST = 4
"""Where keys and values of the past begin among the inputs of an Attention of ONNX."""


def has_subgraph(node: ir.Node) -> bool:
    """Return whether an attribute of a node holds a graph (If, Loop, Scan, ...)."""
    return bool(subgraphs(node))


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that the attributes of a node hold."""
    result: list[ir.Graph] = []
    for found in node.attributes.values():
        if found.type == ir.AttributeType.GRAPH:
            result.append(found.value)
        elif found.type == ir.AttributeType.GRAPHS:
            result += found.value
    return result


def detach_subgraphs(node: ir.Node) -> None:
    """Let the graphs inside of a node that is taken out read nothing any more, least of all values around them."""
    for graph in subgraphs(node):
        graph.outputs.clear()
        for inner in graph.all_nodes():
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)


def remove_unused(model: ir.Model) -> None:
    """Remove the nodes that no output needs, and the constants that nothing reads then, in place.

    onnx-ir's own pass leaves what the graphs inside of a removed node read in use, and takes outputs away that nothing
    reads: of an Attention with a cache, which onnxruntime runs with all of them alone.
    """
    caches = {
        node: [(o.name, o.type, o.shape) for o in node.outputs] for node in model.graph.all_nodes() if _continues(node)
    }
    holders = [node for node in model.graph.all_nodes() if has_subgraph(node)]
    while True:
        common.RemoveUnusedNodesPass()(model)
        removed = [node for node in holders if node.graph is None]
        if not removed:
            break
        for node in removed:
            detach_subgraphs(node)
            holders.remove(node)
    for node, outputs in caches.items():
        if node.graph is not None:
            node.resize_outputs(len(outputs))
            for output, (name, kind, shape) in zip(node.outputs, outputs, strict=True):
                output.name, output.type, output.shape = name, kind, shape


def _continues(node: ir.Node) -> bool:
    """Whether it is an Attention that continues a cache."""
    return node.op_type == "Attention" and any(value is not None for value in list(node.inputs)[_PAST : _PAST + 2])

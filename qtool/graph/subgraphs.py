"""The graphs inside of nodes: the branches of If, the bodies of Loop and Scan."""

import onnx_ir as ir


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

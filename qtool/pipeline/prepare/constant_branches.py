"""An If whose condition is constant is replaced by the branch that it takes: exporters leave training flags behind.

Its layers can then be quantised. Works in the bodies of loops too. Declines for conditions that are computed.
"""

from qtool.graph import edit
from qtool.graph.edit import Graph, Model, Node, Value


def apply(model: Model) -> int:
    """Replace each If whose condition is constant by the branch that it takes; return how many were replaced.

    Names must be unique in the whole model, and are afterwards.
    """
    names = edit.Names(model.graph)
    count = 0
    # the nodes of a branch that is taken come up in their turn
    waiting = list(model.graph.all_nodes())
    for node in waiting:
        condition = edit.constant_or_none(node.inputs[0]) if edit.is_main_op(node, "If") else None
        if condition is not None and condition.size == 1 and node.graph is not None and node.inputs[0] is not None:
            _take(node, edit.attribute(node, "then_branch" if condition.reshape(())[()] else "else_branch"), names)
            count += 1
    return count


def _take(node: Node, branch: Graph, names: edit.Names) -> None:
    graph = node.graph
    assert graph is not None
    results = list(branch.outputs)
    branch.outputs.clear()
    for name, value in list(branch.initializers.items()):
        del branch.initializers[name]
        graph.register_initializer(value)
    inside = list(branch)
    branch.remove(inside)
    graph.insert_before(node, inside)
    for taken in inside:
        edit.take_origins(taken, node)
    for old, new in zip(node.outputs, results, strict=True):
        _hand_out(node, old, new, names)
    edit.remove_node(node)


def _hand_out(node: Node, old: Value, new: Value, names: edit.Names) -> None:
    """Let `new` stand for the output `old`; a graph output keeps its name, and is made in its own graph by one node."""
    new.type = old.type if new.type is None else new.type
    new.shape = old.shape if new.shape is None else new.shape
    if old.is_graph_output():
        maker, shape = new.producer(), old.shape
        if maker is None or maker.graph is not node.graph or new.is_graph_output():
            name = names.fresh(f"{old.name}_handed_out")
            copy = edit.new_node("Identity", [new], name, name=names.fresh(f"{name}_node"))
            copy.outputs[0].type = new.type
            assert node.graph is not None
            node.graph.insert_before(node, copy)
            new = copy.outputs[0]
        new.shape = new.shape if shape is None else shape
    edit.replace_uses(old, new)

"""Nodes that qtool makes."""

import onnx_ir as ir

from qtool.graph import edit


def test_numbers_of_a_node_are_those_that_its_file_holds():
    """Else a node that was written and read again would differ from the one that was made."""
    node = edit.new_node("LayerNormalization", [], "y", name="n", attributes={"epsilon": 1e-12, "axis": -1})
    again = ir.from_proto(ir.to_proto(node))
    assert edit.attribute_values(node) == edit.attribute_values(again)

"""The executed graph with the time of each node."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from qtool.graph.serialized import Serialized
from qtool.runtime.profile import timed_nodes


def choice() -> Serialized:
    """An If whose bodies multiply, and a Relu behind it."""

    def body(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", "x"], [name], name=f"product_{name}")
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("If", ["c"], ["m"], name="choose", then_branch=body("a"), else_branch=body("b")),
        helper.make_node("Relu", ["m"], ["y"], name="last"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return Serialized(model.SerializeToString(), {}, None)


def test_nodes_in_bodies_have_their_own_time_and_their_holder_the_rest():
    example = {"x": np.ones((64, 64), np.float32), "c": np.array(True)}
    nodes, times = timed_nodes(choice(), [example], 0.01)
    place = {node.name: number for number, node in enumerate(nodes)}
    assert nodes[place["product_a"]].inside == nodes[place["choose"]].label
    assert nodes[place["last"]].inside == ""
    assert nodes[place["product_a"]].reads == ("float", "float")
    assert times[place["product_a"]] > 0.0
    assert times[place["product_b"]] == 0.0, "that branch does not run"
    assert all(time >= 0.0 for time in times)

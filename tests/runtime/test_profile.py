"""The executed graph with the time of each node."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph.serialized import Serialized
from qtool.runtime.profile import _events, timed_nodes


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


@pytest.mark.parametrize("name", ['"', '\\"', "two\nlines", "{'a\": 1}", "plain"])
def test_a_node_of_any_name_has_its_time(name):
    nodes = [
        helper.make_node("MatMul", ["x", "x"], [f"m{name}"], name=f"product{name}"),
        helper.make_node("Relu", [f"m{name}"], ["y"], name=f"last{name}"),
    ]
    infos = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [64, 64]) for value in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", infos[:1], infos[1:]), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    example = {"x": np.ones((64, 64), np.float32)}
    found, times = timed_nodes(Serialized(model.SerializeToString(), {}, None), [example], 0.01)
    assert [node.name for node in found] == [f"product{name}", f"last{name}"]
    assert all(time > 0.0 for time in times)


def test_a_convolution_that_is_called_as_its_output_has_its_time():
    name = 'of "it"'
    nodes = [helper.make_node("Conv", ["x", "w"], [name], name="product"), helper.make_node("Relu", [name], ["y"])]
    infos = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 16, 32, 32]) for value in ("x", "y")]
    weights = numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    example = {"x": np.ones((1, 16, 32, 32), np.float32)}
    found, times = timed_nodes(Serialized(model.SerializeToString(), {}, None), [example], 0.01)
    took = [time for node, time in zip(found, times, strict=True) if node.op_type in ("Conv", "FusedConv")]
    assert len(took) == 1 and took[0] > 0.0


def test_names_that_onnxruntime_does_not_escape_are_read_as_they_are():
    """As 1.24 writes them."""

    def event(name, us, op):
        return (
            f'{{"cat" : "Node","pid" :1,"tid" :1,"dur" :{us},"ts" :9,"ph" : "X","name" :"{name}","args" : '
            f'{{"output_type_shape" : [{{"float":[1,16]}}],"node_index" : "6","op_name" : "{op}"}}}},\n'
        )

    session = '{"cat" : "Session","pid" :1,"tid" :1,"dur" :7,"ts" :1,"ph" : "X","name" :"model_run","args" : {}},\n'
    lines = [('a"b\n_kernel_time', 3, "Conv"), ('"_fence_before', 1, "Conv"), ("\\_kernel_time", 4, "Relu")]
    profile = "[\n" + session + "".join(event(*line) for line in lines) + session
    assert list(_events(profile)) == [('a"b\n', "Conv", 3.0), ("\\", "Relu", 4.0)]

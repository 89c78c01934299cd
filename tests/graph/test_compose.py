"""Parts of models, and values by their names."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph import compose, edit, model_io, shapes
from qtool.graph.edit import Model
from qtool.graph.serialized import deserialize
from qtool.runtime.session import Session


def branching() -> Model:
    """y = inner + 1 or inner, by the sign of the sum of b = 2 x; the branches read inner = b * w from outside."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])])

    more = branch("more", helper.make_node("Add", ["inner", "one"], ["more"], name="add"))
    same = branch("same", helper.make_node("Identity", ["inner"], ["same"], name="keep"))
    nodes = [
        helper.make_node("Add", ["x", "x"], ["b"], name="double"),
        helper.make_node("Mul", ["b", "w"], ["inner"], name="scale"),
        helper.make_node("ReduceSum", ["b"], ["total"], name="sum", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], name="compare"),
        helper.make_node("If", ["positive"], ["y"], name="choose", then_branch=more, else_branch=same),
    ]
    fed, given = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    constants = {"w": [2.0, 3.0], "one": [1.0, 1.0], "zero": 0.0}
    stored = [numpy_helper.from_array(np.array(array, np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "branching", [fed], [given], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = model_io.from_bytes(model.SerializeToString())
    shapes.infer(result)
    return result


@pytest.mark.parametrize(("b", "y"), [([1.0, 2.0], [3.0, 7.0]), ([-1.0, -2.0], [-2.0, -6.0])])
def test_a_part_brings_what_graphs_inside_of_its_nodes_read(b, y):
    model = branching()
    before = model_io.to_bytes(model)
    part = compose.part(model, ["b"], ["y"])
    assert [node.name for node in part.graph] == ["scale", "sum", "compare", "choose"]
    assert list(part.graph.initializers) == ["w", "one", "zero"]
    found = Session(model_io.to_bytes(part)).run({"b": np.array(b, np.float32)})
    assert found["y"].tolist() == y
    assert model_io.to_bytes(model) == before


def test_a_part_has_its_constants_in_the_order_of_the_model():
    """Not in that of their addresses in memory, which would be that of the bytes that are written."""
    model = branching()
    names = [f"c{i}" for i in range(40)]
    values = [edit.add_initializer(model.graph, name, np.full(2, 1.0, np.float32)) for name in names]
    last = model.graph.initializers["w"]
    for name, value in zip(names, reversed(values), strict=True):
        node = edit.new_node("Add", [last, value], f"{name}_sum", name=f"add_{name}")
        model.graph.insert_before(model.graph[0], node)
        last = node.outputs[0]
    model.graph.sort()
    origin = compose.origin(model, last, smaller_than=10**6)
    assert list(origin.initializers) == ["w", *names]


def test_a_part_is_refused_where_its_outputs_depend_on_more():
    with pytest.raises(ValueError, match="not properly bounded"):
        compose.part(branching(), ["total"], ["y", "inner"])
    with pytest.raises(ValueError, match="not found"):
        compose.part(branching(), ["b"], ["elsewhere"])


def test_values_are_those_of_the_main_graph_without_constants():
    assert set(edit.named_values(branching().graph)) == {"x", "b", "inner", "total", "positive", "y"}


def test_an_attention_with_a_cache_keeps_the_outputs_that_nothing_reads():
    """onnxruntime runs it with all of them alone; where it is not needed it goes as everything does."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node(
            "Attention",
            ["x", "x", "x", "", "k", "v"],
            ["y", "nk", "nv"],
            q_num_heads=2,
            kv_num_heads=2,
            name="attention",
        ),
        helper.make_node("Relu", ["y"], ["after"], name="relu"),
        helper.make_node("Tanh", ["x"], ["beside"], name="tanh"),
    ]
    cache = [1, 2, "P", 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            info("x", TensorProto.FLOAT, [1, "T", 8]),
            info("k", TensorProto.FLOAT, cache),
            info("v", TensorProto.FLOAT, cache),
        ],
        [info("after", TensorProto.FLOAT, None), info("beside", TensorProto.FLOAT, None)],
    )
    model = model_io.from_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11).SerializeToString()
    )
    kept = deserialize(compose.with_outputs(model, ["y"]))
    assert [[output.name for output in node.outputs] for node in kept.graph] == [["y", "nk", "nv"]]
    other = deserialize(compose.with_outputs(model, ["beside"]))
    assert [node.op_type for node in other.graph] == ["Tanh"]

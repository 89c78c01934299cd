"""Parts of models, and values by their names."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph import compose, edit, model_io, shapes
from qtool.graph.edit import Model
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
    assert set(part.graph.initializers) == {"w", "one", "zero"}
    found = Session(model_io.to_bytes(part)).run({"b": np.array(b, np.float32)})
    assert found["y"].tolist() == y
    assert model_io.to_bytes(model) == before


def test_a_part_is_refused_where_its_outputs_depend_on_more():
    with pytest.raises(ValueError, match="not properly bounded"):
        compose.part(branching(), ["total"], ["y", "inner"])
    with pytest.raises(ValueError, match="not found"):
        compose.part(branching(), ["b"], ["elsewhere"])


def test_values_are_those_of_the_main_graph_without_constants():
    assert set(edit.named_values(branching().graph)) == {"x", "b", "inner", "total", "positive", "y"}

"""Shapes that the file states wrongly, which onnxruntime takes with a warning, decide nothing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.graph import edit, model_io
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from tests.support.patterns import Net


def stale(source: Path, **shapes: list[int | str] | None) -> Path:
    """State shapes of inner tensors and of outputs."""
    model = onnx.load(source)
    for name, shape in shapes.items():
        found = [output for output in model.graph.output if output.name == name]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        (found[0].CopyFrom if found else model.graph.value_info.append)(value)
    onnx.save(model, source)
    return source


def two_layers(net: Net) -> str:
    return net.conv(net("Relu", net.conv("x", 3, 8, name="c1"), name="r"), 8, 4, name="c2")


def head(net: Net) -> str:
    return net(
        "Flatten", net("Conv", net("Relu", net.conv("x", 3, 8), name="r"), net.weight(4, 8, 1, 1, inputs=8)), name="f"
    )


WRONG: dict[str, dict[str, list[int | str] | None]] = {
    "another size": {"r_out": ["N", 8, 5, 3]},
    "another rank": {"r_out": ["N", 8]},
    "ones": {"r_out": ["N", 8, 1, 1]},
    "of the first layer": {"c1_out": [1, 2, 3]},
    "of the output": {"c2_out": ["N", 4, 1, 1]},
    "of the output, another rank": {"c2_out": [7]},
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("exclude", [(), ("c1",), ("c2",)], ids=["none", "first", "last"])
def test_stale_shapes(name, exclude, tmp_path):
    net = Net()
    source = stale(net.save(tmp_path / "m.onnx", two_layers(net)), **WRONG[name])
    fed = net.samples()
    result = qtool.quantize(source, tmp_path / "q.onnx", data=fed, calibrator="max", exclude=exclude)
    assert result.verification.integer_layers == 2 - len(exclude)
    wanted, got = (Session(path).run(fed)["c2_out"] for path in (source, tmp_path / "q.onnx"))
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 25


def test_a_stale_shape_makes_no_head_of_a_layer(tmp_path):
    net = Net()
    source = stale(net.save(tmp_path / "m.onnx", head(net)), r_out=["N", 8, 1, 1])
    calibration = qtool.calibrate(source, net.samples()).statistics
    qtool.quantize(source, tmp_path / "q.onnx", calibration=calibration)
    assert len(qtool.sensitivity(source, net.samples(), calibration=calibration).layers) == 2
    wanted, got = (Session(path).run(net.samples())["f_out"] for path in (source, tmp_path / "q.onnx"))
    assert wanted.shape == got.shape == (6, 256)


def test_behind_an_operator_that_onnx_does_not_know_onnxruntime_is_asked(tmp_path):
    net = Net(4, 12)
    made = net("FusedMatMul", "x", net.weight(12, 8, inputs=12), name="fused", domain="com.microsoft")
    nodes = [*net.nodes, helper.make_node("Relu", [made], ["y"])]
    fed = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 12])
    graph = helper.make_graph(nodes, "g", [fed], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [onnx.numpy_helper.from_array(a, n) for n, a in net.constants.items()])  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    values = edit.named_values(prepare(model_io.load(stale(tmp_path / "m.onnx", fused_out=[1, 2]))).model.graph)
    for name in ("fused_out", "y"):
        assert edit.is_float32(values[name]) and edit.rank(values[name]) == 3
        assert [edit.static_dim(values[name], axis) for axis in range(3)] == [None, 4, 8]


def test_declared_dimensions_stay_where_inference_has_none(tmp_path):
    net = Net(4, 12)
    rows = net(
        "Squeeze", net("NonZero", net("ReduceMax", "x", axes=[1, 2], keepdims=0)), net.const([0], dtype=np.int64)
    )
    net("MatMul", net("Gather", "x", rows), net.weight(12, 8, inputs=12), name="y")
    source = stale(net.save(tmp_path / "m.onnx", "y_out"), y_out=["rows", 4, 9])
    (output,) = prepare(model_io.load(source)).model.graph.outputs
    assert [str(dim) for dim in output.shape or ()] == ["rows", "4", "8"]

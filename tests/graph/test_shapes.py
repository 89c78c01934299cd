"""Shapes that the file states wrongly, which onnxruntime takes with a warning, decide nothing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.core.errors import ModelError
from qtool.graph import edit, model_io, shapes
from qtool.graph.protos import from_proto
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
@pytest.mark.parametrize("exclude", [(), ("c2",)], ids=["none", "last"])
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


def test_an_unknown_rank_is_not_that_of_a_scalar(tmp_path):
    """onnxruntime, which is asked since Gelu is its own, says the same of both."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,3,4] x) => (float[N,3,3] y) <int64 count = {2}, bool go = {1}> {
            a = com.microsoft.Gelu(x)
            b = Loop <body = steps (int64 i, bool on, float[r,s,t] h) => (bool still, float[r,s,t] next) {
                still = Identity(on)  next = Tanh(h) }> (count, go, a)
            c = Einsum <equation: string = "abc,adc->abd"> (b, b)
            y = MatMul(c, w)
        }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    prepared = prepare(model_io.load(tmp_path / "m.onnx"))
    assert edit.named_values(prepared.model.graph)["b"].shape is None
    data = {"x": np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)}
    qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=data)
    wanted, got = (Session(tmp_path / name).run(data)["y"] for name in ("m.onnx", "q.onnx"))
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 25


@pytest.mark.parametrize(("length", "numbers"), [(5, 2 * 5 * 7), (30, 2 * 30 * 30), (None, 3)])
def test_the_largest_tensor_that_inputs_lead_to(length, numbers):
    net = Net("T", 7)
    flat = net("Reshape", "x", net.const([0, -1, 7], dtype=np.int64))
    y = net("MatMul", flat, net("Transpose", flat, perm=[0, 2, 1]))
    net("Reshape", y, net("Shape", y))
    fed = {} if length is None else {"x": (2, length, 7)}
    assert shapes.most_numbers(from_proto(net.model(y)), fed) == numbers


def test_declared_dimensions_stay_where_inference_has_none(tmp_path):
    net = Net(4, 12)
    rows = net(
        "Squeeze", net("NonZero", net("ReduceMax", "x", axes=[1, 2], keepdims=0)), net.const([0], dtype=np.int64)
    )
    net("MatMul", net("Gather", "x", rows), net.weight(12, 8, inputs=12), name="y")
    source = stale(net.save(tmp_path / "m.onnx", "y_out"), y_out=["rows", 4, 9])
    (output,) = prepare(model_io.load(source)).model.graph.outputs
    assert [str(dim) for dim in output.shape or ()] == ["rows", "4", "8"]


def test_what_a_scan_makes_of_an_unknown_rank_has_the_shape_that_its_body_says(tmp_path):
    """onnxruntime allocates the outputs of a Scan by it, and runs none whose body says no shape."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4] x) => (float[N,3,4] y) <int64 count = {2}, bool go = {1}> {
            b = Loop <body = steps (int64 i, bool on, float[r,s,t] h) => (bool still, float[r,s,t] next) {
                still = Identity(on)  next = Tanh(h) }> (count, go, x)
            c = Scan <num_scan_inputs = 1, body = rows (float[p,q] row) => (float[p,q] out) { out = Relu(row) }> (b)
            y = MatMul(c, w)
        }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)}
    qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=data)
    wanted, got = (Session(tmp_path / name).run(data)["y"] for name in ("m.onnx", "q.onnx"))
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 25


def test_an_output_of_no_type_is_refused_as_onnxruntime_does(tmp_path):
    net = Net(3, 8, 8)
    path = net.save(tmp_path / "m.onnx", net("Relu", net.conv("x", 3, 4)))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UNDEFINED
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"m\.onnx.*onnxruntime cannot load it: [^\n]*$"):
        qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(8), calibrator="max")

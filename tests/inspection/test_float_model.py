"""A float model inspected: what each target makes of it, where its time goes, and what is unusual."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import qtool
from qtool.core.errors import UsageError
from qtool.core.records.results import Asked
from qtool.graph import model_io
from qtool.inspection.unusual import prepared_in_words, unusual
from qtool.report.inspect_float import as_options, float_text
from qtool.targets.tables import TARGETS, find_target
from tests.support.patterns import Net


def attention(tmp_path):
    """A convolution, a layer over its pixels, and a product of what that gives with itself."""
    net = Net(3, 8, 8, batch=1)
    x = net("Relu", net("Conv", "x", net.weight(16, 3, 3, 3, inputs=27), net.bias(16), pads=[1, 1, 1, 1]))
    x = net("Transpose", net("Flatten", x, axis=2), perm=[1, 0])
    x = net("MatMul", x, net.weight(16, 16, inputs=16))
    y = net("MatMul", x, net("Transpose", x, perm=[1, 0]))
    path = tmp_path / "attention.onnx"
    onnx.save(net.model(y), path)
    return path


def of(result, target):
    return next(one for one in result.targets if one.target == target)


def test_what_each_target_makes_of_it(tmp_path):
    result = qtool.inspect_model(attention(tmp_path))
    assert result.kind == "float"
    assert [one.target for one in result.targets] == list(TARGETS)
    arm = of(result, "arm64")
    macs = [64 * 16 * 27, 64 * 16 * 16, 64 * 64 * 16]
    assert [layer.macs for layer in result.layers] == macs
    assert result.macs == sum(macs)
    assert (arm.layers, arm.integer_layers) == (3, 2)
    assert arm.macs_share == pytest.approx(sum(macs[:2]) / sum(macs))
    assert list(arm.floats.values()) == [
        "no integer layer reads what it makes",
        "it multiplies two computed tensors",
    ]
    # times were measured of no other target
    assert of(result, "x86").layers_speedup is not None
    assert arm.layers_speedup is None and arm.speedup is None
    assert result.not_measured == ()
    assert result.inputs_from == "made-up inputs (x [1, 3, 8, 8])"
    assert all(layer.ms is None and layer.kernel for layer in result.layers)


def test_it_says_what_quantize_does(tmp_path):
    """One planner: before data is seen, the layers are those that `quantize` quantises for the same target."""
    path = attention(tmp_path)
    data = {"x": np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    result = qtool.inspect_model(path)
    for target in ("x86", "arm64", "portable"):
        made = qtool.quantize(path, tmp_path / "q.onnx", data=data, target=target, calibrator="max", partial=False)
        assert sum(name in made.plan.integer for name in made.plan.layers) == of(result, target).integer_layers


def test_what_no_target_knows_is_a_layer_as_in_a_report_of_quantize(tmp_path):
    net = Net(3, 8, 8)
    fused = net("FusedConv", "x", net.weight(8, 3, 3, 3, inputs=27), domain="com.microsoft", activation="Relu")
    path = net.save(tmp_path / "m.onnx", net.gemm(net("Flatten", net("GlobalAveragePool", fused)), 8, 5))
    result = qtool.inspect_model(path, data={"x": net.samples(8)["x"]})
    proof = qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(8), target="x86").verification
    own = of(result, "x86")
    assert (own.integer_layers, own.layers) == (proof.integer_layers, proof.layers) == (1, 2)
    assert own.macs_share == pytest.approx(proof.integer_share)
    assert of(result, find_target().name).layers == 2 and " 1 of 2 layers" in result.verdict


def test_the_time_of_float_is_shared_out(tmp_path):
    path = attention(tmp_path)
    data = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    result = qtool.inspect_model(path, data=data, latency=True)
    assert result.speed is not None and result.speed.float_ms is None
    assert all(node.ms is not None for node in result.nodes)
    assert [layer.ms is not None for layer in result.layers] == [True] * 3
    assert sum(finding.ms_share for finding in result.findings) <= 1.0
    assert {finding.rule for finding in result.findings} <= {"stays-float"}
    own, others = of(result, find_target().name), [one for one in result.targets if one.target != find_target().name]
    assert own.speedup > 0 and [one.speedup for one in others] == [None] * len(others)
    assert f"a draft of it runs at {own.speedup:.2g}x the speed of float" in result.verdict
    text = float_text(result)
    assert "float's time, one thread: " in text and "operator" in text


def test_the_page_names_the_next_command_with_its_options(tmp_path):
    graph = """(float[1,4] x, float[1,4] h) => (float[1,4] y, float[1,4] hn)
      {s = Add(x, h) y = MatMul(s, w) hn = Relu(y)}"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    result = qtool.inspect_model(tmp_path / "m.onnx")
    assert float_text(result).splitlines()[-1] == (
        f"next: with your samples as --data: qtool quantize {tmp_path / 'm.onnx'} --state h=hn"
    )
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["schema"] == "qtool.inspect"
    assert document["suggestions"] == ["state='h=hn': their names and shapes say that it is fed back"]
    assert as_options(document["suggestions"][0]).startswith("--state h=hn: ")


def test_the_next_command_reads_data_as_it_was_read(tmp_path):
    graph = """(float[1,3,32,32] x) => (float[1,4,30,30] y) {y = Conv(x, w)}"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    result = qtool.inspect_model(tmp_path / "m.onnx")
    command = f"next: qtool quantize {tmp_path / 'm.onnx'} --data "
    lacking = "with your samples as --data and what suits your pictures as --preprocess"
    assert float_text(result).splitlines()[-1] == f"next: {lacking}: qtool quantize {tmp_path / 'm.onnx'}"
    assert float_text(result, Asked(data="a b.npz")).splitlines()[-1] == f"{command}'a b.npz'"
    read = Asked(data="pictures", reading=(("preprocess", "yolo"),))
    assert float_text(result, read).splitlines()[-1] == f"{command}pictures --preprocess yolo"


def test_a_float_model_has_no_float_model(tmp_path):
    path = attention(tmp_path)
    with pytest.raises(UsageError, match="is a float model itself"):
        qtool.inspect_model(path, path)


def test_nothing_to_quantise_is_said_with_the_reason(tmp_path):
    graph = """(float[N,4] x) => (float[N,4] y) {y = Sigmoid(x)}"""
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}'), tmp_path / "m.onnx")
    result = qtool.inspect_model(tmp_path / "m.onnx")
    assert result.layers == () and result.macs is None
    assert all(one.integer_layers == 0 and one.macs_share is None for one in result.targets)
    assert result.verdict.startswith("float; nothing would be integer on ")
    assert result.next == "use it as it is"


def test_what_preparation_refuses_still_has_a_page(tmp_path):
    """bfloat16, with which onnxruntime does not compute here."""
    graph = """(bfloat16[N,4] x) => (bfloat16[N,4] y) {y = Relu(x)}"""
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}'), tmp_path / "m.onnx")
    result = qtool.inspect_model(tmp_path / "m.onnx")
    assert result.targets == ()
    assert result.verdict == "float; what would be quantised is not known"
    assert any("bfloat16" in text for text in result.not_measured)
    assert "tensors of bfloat16" in " ".join(result.unusual)
    assert "unknown" in float_text(result)


def test_what_is_unusual(tmp_path):
    weight = numpy_helper.from_array(np.full((4, 4), np.nan, np.float32), "w")
    table = numpy_helper.from_array(np.zeros((50, 4), np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="second"),
        helper.make_node("Gelu", ["b"], ["y"], domain="com.microsoft"),
    ]
    inputs = [
        helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("unread", onnx.TensorProto.FLOAT, None),
        helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]),
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", inputs, [output], [weight, table])
    opsets = [helper.make_opsetid("", 9), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    assert unusual(model_io.load(path).model, path) == (
        "opset 9: it is raised to 13, where integers are",
        "1 node of another domain than ONNX's: com.microsoft.Gelu (1)",
        "3 nodes without a name: they are called by their outputs, or numbered",
        "1 constant that is an input as well: onnxruntime folds nothing into them, and qtool makes them constant",
        "input 'unread' has no stated number of dimensions",
        "nothing reads input 'unread'",
        "1 weight that several layers read ('w': 2), which is stored once",
        "a table, 'table', is 93 % of all parameters: stored in 8 bits, it makes the file smaller and nothing faster",
        "1 weight with NaN or Inf ('w'): repair the model",
    )


def test_one_is_one_and_two_are_several():
    told = prepared_in_words({"no_ops": 1, "constant_branches": 2, "opset": 13})
    assert told == "preparation: 1 node that does nothing removed, 2 Ifs decided"
    assert prepared_in_words({"opset": 13}) == ""


def test_pictures_of_any_size_are_made_up_in_a_usual_one(tmp_path):
    graph = (
        """(float[N,3,H,W] x, float[N,3,48,W] y) => (float[N,3,H,W] a, float[N,3,48,W] b) {a = Relu(x) b = Relu(y)}"""
    )
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}'), tmp_path / "m.onnx")
    result = qtool.inspect_model(tmp_path / "m.onnx")
    assert result.inputs_from == "made-up inputs (x [1, 3, 224, 224], y [1, 3, 48, 224])"


def test_a_share_of_work_that_is_not_all_known_is_said_to_be_one(tmp_path):
    """What the file multiplies in the bodies of an If is not counted, until preparation has decided it."""
    net = Net(3, 8, 8, batch=1)
    body = [
        helper.make_node("Conv", [net("Relu", "x"), net.weight(8, 3, 3, 3, inputs=27)], [f"{name}_made"], name)
        for name in ("first", "second")
    ]
    made = [helper.make_tensor_value_info(f"{one.name}_made", onnx.TensorProto.FLOAT, None) for one in body]
    branches = [helper.make_graph([one], one.name, [], [end]) for one, end in zip(body, made, strict=True)]
    rank = net("Size", net("Shape", "x"))
    decided = net("Equal", rank, net.const(4, dtype=np.int64))
    y = net("If", decided, then_branch=branches[0], else_branch=branches[1])
    path = tmp_path / "branches.onnx"
    onnx.save(net.model(net("Relu", y)), path)
    result = qtool.inspect_model(path)
    assert result.macs is None and of(result, find_target().name).macs_share == 1.0
    assert "100.0 % of the multiply-accumulates that are known, can be integer" in result.verdict
    text = float_text(result)
    assert "multiply-accumulates unknown" in text and "  of the known MACs  " in text


def test_what_stays_float_is_named_as_in_the_file(tmp_path):
    """onnxruntime calls a convolution in blocks of channels after its output."""
    net = Net(1, 64, 64)
    first = net("Relu", net.conv("x", 1, 16), name="first")
    path = net.save(tmp_path / "m.onnx", net.conv(first, 16, 16))
    result = qtool.inspect_model(path, data={"x": np.zeros((1, 1, 64, 64), np.float32)}, latency=True)
    names = {layer.name for layer in result.layers}
    said = [name for one in result.findings for name in one.where if one.what.startswith("1 Conv")]
    assert said and set(said) <= names
    assert not any("_nchwc" in name for one in result.findings for name in one.where if "Conv" in one.what)

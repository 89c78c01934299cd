"""Nodes in any order, malformed nodes, functions that lack what they read, and names that are no text."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import ModelError
from qtool.evaluation.evaluate import evaluate
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from tests.support.patterns import Net
from tests.support.since import has

FLOATS = TensorProto.FLOAT


def saved(path: Path, nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] | None = None) -> Path:
    """A model of x and y [N, 4], with a matrix w and a vector b."""
    fed, made = (helper.make_tensor_value_info(name, FLOATS, ["N", 4]) for name in "xy")
    rng = np.random.default_rng(0)
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in (("w", (4, 4)), ("b", 4))]
    graph = helper.make_graph(nodes, "g", [fed], [made], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions or []), path)
    return path


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_{outputs}", **attributes)


def computes_the_same(source: Path) -> None:
    fed = {"x": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)}
    wanted, got = (
        Session(one).run(fed)["y"] for one in (source, model_io.to_bytes(prepare(model_io.load(source)).model))
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_unsorted_nodes_are_sorted_and_a_branch_waits_for_what_it_reads(tmp_path):
    inner = [node("MatMul", "h w", "p"), node("Relu", "h", "q"), node("Add", "p q", "r")]
    branch = helper.make_graph(inner, "b", [], [helper.make_tensor_value_info("r", FLOATS, ["N", 4])])
    other = helper.make_graph([node("Neg", "h", "o")], "o", [], [helper.make_tensor_value_info("o", FLOATS, ["N", 4])])
    nodes = [
        node("If", "c", "y", then_branch=branch, else_branch=other),
        node("Greater", "s b0", "c"),
        node("ReduceSum", "h", "s", keepdims=0),
        node("Constant", "", "b0", value_float=0.0),
        node("Tanh", "x", "h"),
    ]
    computes_the_same(saved(tmp_path / "m.onnx", nodes))


MALFORMED = {
    "Conv of one input": node("Conv", "h", "k"),
    "MatMul of one input": node("MatMul", "h", "k"),
    "Pad of none": node("Pad", "", "k"),
    "Add of one": node("Add", "h", "k"),
    "BatchNormalization of one": node("BatchNormalization", "h", "k"),
    "Clip of four": node("Clip", "h b b b", "k"),
    "Shape of none": node("Shape", "", "k"),
    "If of none": node("If", "", "k"),
    "Cast to nothing": node("Cast", "h", "k"),
    "Relu with an axis": node("Relu", "h", "k", axis=1),
    "an input left out": helper.make_node("MatMul", ["", "w"], ["k"]),
    "an output left out": helper.make_node("Relu", ["h"], [""]),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("kind", ["unsorted", "beside an unknown domain", "sorted"])
def test_a_malformed_node_is_refused_whatever_stands_beside_it(name, kind, tmp_path):
    odd, first = MALFORMED[name], node("Tanh", "x", "h")
    unknown = [helper.make_node("Own", ["x"], ["u"], domain="elsewhere")] if "domain" in kind else []
    nodes = [odd, first] if kind == "unsorted" else [*unknown, first, odd]
    with pytest.raises(ModelError, match=r"m\.onnx: not a valid ONNX model \(.*\); export it again") as caught:
        model_io.load(saved(tmp_path / "m.onnx", [*nodes, node("Relu", "h", "y")]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("op", ["Split", "If"])
def test_one_of_any_number_of_outputs_needs_a_name(op, tmp_path):
    """onnxruntime ends the process at such a node; with a name that nothing reads it runs."""
    parts = [helper.make_tensor_value_info(name, FLOATS, None) for name in "pq"]
    branch = helper.make_graph([helper.make_node("Split", ["x"], ["p", "q"], axis=1)], "b", [], parts)

    def model(*outputs: str) -> Path:
        kind = {"axis": 1} if op == "Split" else {"then_branch": branch, "else_branch": branch}
        made = helper.make_node(op, ["x" if op == "Split" else "c"], ["h", *outputs], name="odd", **kind)
        yes = node("Constant", "", "c", value=numpy_helper.from_array(np.array(True)))
        wide = helper.make_node("Concat", ["h", "h"], ["k"], axis=1)
        return saved(tmp_path / "m.onnx", [yes, made, wide, node("MatMul", "k w", "y")])

    with pytest.raises(ModelError, match=rf"m\.onnx: {op} node 'odd' has an output without a name, .*; name it"):
        model_io.load(model(""))
    with pytest.raises(ModelError, match="has an output without a name"):
        evaluate(tmp_path / "m.onnx", tmp_path / "m.onnx", tmp_path / "data.npz")
    computes_the_same(model("unused"))


def test_nodes_that_wait_for_each_other(tmp_path):
    nodes = [node("Add", "x k", "h"), node("Relu", "h", "k"), node("Relu", "k", "y")]
    with pytest.raises(ModelError, match=r"node 'Add_h' waits for its own output"):
        model_io.load(saved(tmp_path / "m.onnx", nodes))


def test_a_node_without_a_name_is_called_after_what_it_makes(tmp_path):
    lost, waiting = (node("Add", f"x {name}", "y") for name in ("gone", "y"))
    for odd in (lost, waiting):
        odd.name = ""
        with pytest.raises(ModelError, match=r"node 'y' (reads 'gone', which nothing makes|waits for its own output)"):
            model_io.load(saved(tmp_path / "m.onnx", [odd]))


@pytest.mark.parametrize("inside", [False, True])
def test_what_nothing_makes(inside, tmp_path, capsys):
    odd = node("Add", "x gone", "y")
    if inside:
        branch = helper.make_graph(
            [node("Add", "x gone", "r")], "b", [], [helper.make_tensor_value_info("r", FLOATS, None)]
        )
        odd = node("If", "c", "y", then_branch=branch, else_branch=branch)
    nodes = [node("Cast", "b", "c", to=TensorProto.BOOL), odd]
    with pytest.raises(ModelError, match=r"reads 'gone', which nothing makes"):
        model_io.load(saved(tmp_path / "m.onnx", nodes))
    with pytest.raises(ModelError, match=r"nothing makes output 'y'"):
        model_io.load(saved(tmp_path / "m.onnx", nodes[:1]))
    assert capsys.readouterr().err == ""


FUNCTIONS = {
    "unsorted": ([node("Relu", "c", "o"), node("MatMul", "i v", "c")], "x w", None),
    "reads what it does not get": ([node("MatMul", "i zzz", "c"), node("Relu", "c", "o")], "x w", "reads 'zzz'"),
    "makes no output": ([node("MatMul", "i v", "c")], "x w", "nothing makes output 'o'"),
    "called with too few": ([node("MatMul", "i v", "o")], "x", r"m\.onnx: node .* lacks an input"),
    "called with too many": ([node("MatMul", "i v", "o")], "x w b", r"m\.onnx: a function cannot be inlined"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, tmp_path):
    body, inputs, message = FUNCTIONS[name]
    function = helper.make_function("own", "Block", ["i", "v"], ["o"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("Block", inputs.split(), ["y"], name="call", domain="own")
    source = saved(tmp_path / "m.onnx", [call], [function])
    if message is None:
        prepared = prepare(model_io.load(source)).model
        assert [n.op_type for n in prepared.graph] == ["MatMul", "Relu"]
        return
    with pytest.raises(ModelError, match=message):
        prepare(model_io.load(source))


@pytest.mark.parametrize("text", [b"Relu_y", b"ABCDE"], ids=["a node's name", "a description"])
def test_text_that_is_not_utf_8(text, tmp_path):
    source = saved(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], name="Relu_y", doc_string="ABCDE")])
    source.write_bytes(source.read_bytes().replace(text, text[:-1] + b"\xff"))
    if text == b"ABCDE":
        computes_the_same(source)
        return
    with pytest.raises(ModelError, match=r"NodeProto\.name b'Relu_.xff' is not UTF-8; export the model again"):
        model_io.load(source)


def test_values_without_a_shape_or_type(tmp_path):
    source = saved(tmp_path / "m.onnx", [node("MatMul", "x w", "h"), node("Relu", "h", "y")])
    model = onnx.load(source)
    for kind in ("shape", "type"):
        model.graph.output[0].type.tensor_type.ClearField("shape")
        if kind == "type":
            model.graph.output[0].ClearField("type")
        onnx.save(model, source)
        computes_the_same(source)


def test_a_digest_of_external_data_is_the_same_each_time(tmp_path):
    """The file's names are taken before another thread reads the tensors in, which then name none."""
    source = tmp_path / "m.onnx"
    model = onnx.load(saved(source, [node("MatMul", "x w", "h"), node("Add", "h b", "y")]))
    onnx.save(model, source, save_as_external_data=True, location="m.data", size_threshold=0, convert_attribute=True)
    assert len({model_io.load(source).digest for _ in range(60)}) == 1


@pytest.mark.parametrize(
    ("shape", "attributes"), [((8, 27), {}), ((8, 3, 3, 3), {"group": 5}), ((8, 3, 3, 3), {"group": 2**40})]
)
def test_a_convolution_that_onnxruntime_loads_and_cannot_run_is_refused(shape, attributes, tmp_path):
    net = Net(3, 8, 8)
    made = helper.make_node("Conv", ["x", net.const(np.ones(shape))], ["h"], name="odd", **attributes)
    nodes = [made, helper.make_node("Mul", ["h", net.const(2.0)], ["y"])]
    fed = helper.make_tensor_value_info("x", FLOATS, ["N", 3, 8, 8])
    stored = [numpy_helper.from_array(a, n) for n, a in net.constants.items()]
    graph = helper.make_graph(nodes, "g", [fed], [helper.make_tensor_value_info("y", FLOATS, None)], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(qtool.QtoolError, match=r"nothing to quantise|onnxruntime"):
        qtool.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", data=net.samples(), calibrator="max")


def test_a_convolution_without_output_channels_is_left(tmp_path):
    net = Net(3, 8, 8)
    empty = net.const(np.zeros((0, 3, 3, 3)))
    source = net.save(tmp_path / "m.onnx", net("Conv", "x", empty), net.conv("x", 3, 4))
    if not has("empty-convolution"):
        with pytest.raises(ModelError, match="onnxruntime cannot load it"):
            qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), calibrator="max")
        return
    result = qtool.quantize(source, tmp_path / "q.onnx", data=net.samples(), calibrator="max")
    assert list(result.verification.float_layers.values()) == ["its weight is empty"]

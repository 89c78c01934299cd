"""quantize without data: made-up inputs, and what is said where none fit. What is unknown is never 0 or 100 %."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.records.verification import percent
from qtool.report.quantize import quantized_text
from qtool.runtime.session import Session
from tests.support.since import has

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(64, 32)).astype(np.float32)


def node(op, inputs, output, **options):
    return helper.make_node(op, inputs, [output], name=f"{output}_{op}", **options)


def save(path, nodes, fed, outputs, *, domains=(), **constants):
    """Write a model that ends in a MatMul of "c" with a weight [64, 32]; `fed`: (name, shape) or a ValueInfo."""
    made = [helper.make_tensor_value_info(f[0], FLOAT, f[1]) if isinstance(f, tuple) else f for f in fed]
    given = [helper.make_tensor_value_info("y", FLOAT, [None] * outputs)]
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in {"w": WEIGHT, **constants}.items()]
    graph = helper.make_graph([*nodes, helper.make_node("MatMul", ["c", "w"], ["y"], "head")], "g", made, given, held)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def tensor(name, *shape, kind=INT64):
    return helper.make_tensor_value_info(name, kind, shape)


FIT = {
    "axes that share no name": (
        [node("Gather", ["x", "i"], "g"), node("Mul", ["g", "d"], "c")],
        [("x", ["atoms", 64]), tensor("i", "edges"), ("d", ["e2", 64])],
        2,
        {},
    ),
    "a shape inside": ([node("Reshape", ["x", "s"], "c")], [("x", ["n", 10])], 2, {"s": np.array([-1, 64])}),
    "-1": ([node("Relu", ["x"], "c")], [("x", [-1, 64])], 2, {}),
    "77 positions": ([node("Add", ["x", "p"], "c")], [("x", ["n", "t", 64])], 3, {"p": np.ones((1, 77, 64), "f")}),
    "a table of one row": (
        [node("Gather", ["t", "i"], "c")], [tensor("i", "n", "t")], 3, {"t": RNG.normal(size=(1, 64)).astype("f")},
    ),
    "square roots": ([node("Sqrt", ["x"], "c")], [("x", ["n", 64])], 2, {}),
    # a node that nobody reads takes 5 rows only, and the model as it came computes it
    "a dead branch": (
        [node("Add", ["x", "p"], "dead"), node("Relu", ["x"], "c")], [("x", ["n", "t", 64])], 3,
        {"p": np.ones((1, 5, 64), "f")},
    ),
    "booleans": (
        [node("Where", ["b", "x", "z"], "c")], [("x", ["n", 64]), tensor("b", "n", 64, kind=TensorProto.BOOL)], 2,
        {"z": np.float32(0.0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIT)
def test_made_up_inputs_fit(name, tmp_path):
    nodes, fed, rank, constants = FIT[name]
    source = save(tmp_path / "m.onnx", nodes, fed, rank, **constants)
    proof = qtool.quantize(source, tmp_path / "q.onnx", form="dynamic").verification
    assert (proof.unchecked, proof.integer_share, proof.steps) == ("", 1.0, 0)
    assert proof.macs > 0


@pytest.mark.long
def test_made_up_inputs_exhaust_no_memory(tmp_path, monkeypatch):
    """No square picture fits, and the products of all its places with each other would soon take gigabytes."""
    nodes = [
        node("Reshape", ["x", "flat"], "p"),
        node("Transpose", ["p"], "t", perm=[0, 2, 1]),
        node("MatMul", ["p", "t"], "s"),
        node("MatMul", ["s", "p"], "h"),
        node("Transpose", ["h"], "u", perm=[0, 2, 1]),
        node("MatMul", ["u", "places"], "c"),
    ]
    constants = {"flat": np.array([0, -1, 64]), "places": np.ones((6, 64), "f")}
    source = save(tmp_path / "m.onnx", nodes, [("x", ["n", "height", "width", 64])], 3, **constants)
    fed, run = [], Session.run
    monkeypatch.setattr(
        Session, "run", lambda self, feeds, **more: fed.append(feeds["x"].shape) or run(self, feeds, **more)
    )
    result = qtool.quantize(source, tmp_path / "q.onnx", form="weight-only")
    proof = result.verification
    assert "do not fit" in proof.unchecked
    assert 32 * 32 < max(height * width for _, height, width, _ in fed) < 2**13


SEQUENCE = helper.make_tensor_sequence_value_info("s", FLOAT, None)
UNFIT = {
    # 1088 rows would
    "no shape fits": (
        [node("Reshape", ["x", "s"], "c")], [("x", ["n", 7])], 3, {"s": np.array([-1, 17, 64])},
        "made-up inputs do not fit",
    ),
    "nan": ([node("Log", ["x"], "l"), node("Sqrt", ["l"], "c")], [("x", [1, 64])], 2, {}, "not finite"),
    "empty": ([node("Relu", ["x"], "c")], [("x", [0, 64])], 2, {}, "empty"),
    "huge": ([node("Relu", ["x"], "c")], [("x", [2**40, 64])], 2, {}, "too large"),
    "70 axes": ([node("Relu", ["x"], "c")], [("x", [1] * 69 + [64])], 70, {}, "70 dimensions"),
    "sequence": ([node("ConcatFromSequence", ["s"], "c", axis=0)], [SEQUENCE], 2, {}, "no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["dynamic", "weight-only"])
@pytest.mark.parametrize("name", UNFIT)
def test_what_was_not_run_is_not_checked(name, form, tmp_path):
    nodes, fed, rank, constants, why = UNFIT[name]
    source = save(tmp_path / "m.onnx", nodes, fed, rank, **constants)
    result = qtool.quantize(source, tmp_path / "q.onnx", form=form)
    proof, text = result.verification, quantized_text(result)
    assert why in proof.unchecked
    assert (proof.integer_share, proof.macs, proof.steps) == (None, None, None)
    assert np.isnan(proof.preparation_sqnr_db) and np.isnan(proof.optimized_sqnr_db)
    assert "an unknown share of multiply-accumulates, run" in text
    assert f"not checked in a run: {proof.unchecked}" in text
    assert " % of" not in text and " steps" not in text
    found = json.loads(json.dumps(result.to_dict()))["verification"]
    assert found["integer_share"] is None and found["macs"] is None and found["steps"] is None
    assert "unknown share" in repr(proof) and "arithmetic not checked" in repr(proof)


def test_the_remedy_is_data(tmp_path):
    nodes, fed, rank, constants, _ = UNFIT["no shape fits"]
    source = save(tmp_path / "m.onnx", nodes, fed, rank, **constants)
    result = qtool.quantize(source, tmp_path / "q.onnx", form="dynamic")
    assert result.verification.data_helps and quantized_text(result).count("; give data\n") == 1
    data = {"x": RNG.normal(size=(1088, 7)).astype(np.float32)}
    proof = qtool.quantize(source, tmp_path / "d.onnx", form="dynamic", data=data, batch_size=1088).verification
    assert (proof.unchecked, proof.integer_share) == ("", 1.0)
    assert proof.output_sqnr_db > 30.0


def optimised(path):
    """What onnxruntime saves of Conv, Relu and a Gemm: FusedConv of another domain."""
    held = {"w1": RNG.normal(size=(8, 3, 3, 3)) / 5, "b1": np.zeros(8), "w2": RNG.normal(size=(8, 4))}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "FusedConv" in {n.op_type for n in onnx.load(path).graph.node}
    return path


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_what_the_table_does_not_know_is_float_work(form, tmp_path):
    source = optimised(tmp_path / "m.onnx")
    data = {"data": {"x": RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)}} if form == "static" else {}
    result = qtool.quantize(source, tmp_path / "q.onnx", form=form, calibrator=None if not data else "max", **data)
    proof = result.verification
    assert (proof.layers, proof.integer_layers) == (2, 1)
    assert proof.float_layers == {"first": "no integer form of FusedConv"}
    assert proof.macs == 8 * 8 * 8 * 27 + 8 * 4 and proof.integer_macs == 8 * 4
    assert f"1 of 2 layers, {percent(proof.integer_share)} of" in quantized_text(result)


@pytest.mark.parametrize("sequence", [False, True])
def test_nodes_in_bodies_count_as_often_as_they_run(sequence, tmp_path):
    """Where a body reads what is no tensor, it cannot be run by itself, and nobody knows how often it runs."""
    inner = helper.make_node("MatMul", ["s", "w2"], ["m"], name="inner")
    taken = helper.make_node("SequenceAt", ["several", "first"], ["u"])
    last = [taken, helper.make_node("Add", ["m", "u"], ["t"])] if sequence else [helper.make_node("Relu", ["m"], ["t"])]
    body = helper.make_graph(
        [inner, *last, helper.make_node("Identity", ["go"], ["on"])], "body",
        [tensor("i"), tensor("go", kind=TensorProto.BOOL), tensor("s", None, None, kind=FLOAT)],
        [tensor("on", kind=TensorProto.BOOL), tensor("t", None, None, kind=FLOAT)],
    )  # fmt: skip
    nodes = [node("Loop", ["trips", "", "x"], "c", body=body)]
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["several"]), *nodes] if sequence else nodes
    constants = {"trips": np.array(3), "first": np.array(0), "w2": np.eye(64, dtype=np.float32)}
    source = save(tmp_path / "m.onnx", nodes, [("x", ["n", 64])], 2, **constants)
    result = qtool.quantize(source, tmp_path / "q.onnx", form="dynamic")
    proof = result.verification
    if sequence:
        assert (proof.integer_share, proof.uncounted, proof.unchecked) == (None, ("inner",), "")
        assert "an unknown share of multiply-accumulates (those of inner depend on" in quantized_text(result)
    else:
        assert (proof.integer_share, proof.uncounted, proof.unchecked) == (1.0, (), "")
        assert proof.macs == 3 * 64 * 64 + 64 * 32
    # onnxruntime multiplies such weights in blocks of integers
    result = qtool.quantize(source, tmp_path / "q.onnx", form="weight-only")
    proof = result.verification
    if not has("blocks-by-channel"):
        assert (proof.integer_share, proof.integer_layers) == (0.0, 0)
        return
    assert (proof.integer_share, proof.integer_layers) == ((None, 1) if sequence else (1.0, 2))
    assert f"{'an unknown share' if sequence else '100.0 %'} of multiply-accumulates" in quantized_text(result)


def test_shares_in_words():
    said = [percent(share) for share in (None, 0.0, 0.00003, 0.001, 0.9994, 0.99999, 1.0)]
    assert said == [
        "an unknown share", "0.0 %", "less than 0.1 %", "0.1 %", "99.9 %", "more than 99.9 %", "100.0 %",
    ]  # fmt: skip

"""Weights in blocks: what is written, what onnxruntime runs of it, and what proves it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qtool
from qtool.cli import main
from qtool.core.errors import LayerError, NothingToQuantizeError, UsageError, VerificationError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.plan import load_plan
from qtool.graph import edit, model_io
from qtool.graph.serialized import deserialize
from qtool.inspection.diff_plans import diff_plans
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.static import shift_biases
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify.blocks import check_blocks, rounded_input
from qtool.pipeline.verify.structure import check_structure
from qtool.report.quantize import quantized_text
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from tests.support.since import has

WORDS, WIDTH, HIDDEN, CLASSES = 1100, 60, 100, 24


def network(*, conv: bool = False, opset: int = 17) -> onnx.ModelProto:
    """A table, a product of rank 3 with a bias, one that shares its weight, a Gemm with its weight turned, one not."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_t(5, shape) / np.sqrt(shape[-1])).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="table_of_words"),
        helper.make_node("MatMul", ["rows", "a"], ["product"], name="rank3"),
        helper.make_node("Add", ["product", "a_bias"], ["hidden"], name="add"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "twice"], ["once"], name="first"),
        helper.make_node("Tanh", ["once"], ["bent"], name="bend"),
        helper.make_node("MatMul", ["bent", "twice"], ["again"], name="second"),
        helper.make_node("ReduceMean", ["again"], ["mean"], name="mean_of_words", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "turned", "turned_bias"], ["wide"], name="turned_gemm", transB=1),
        helper.make_node("Tanh", ["wide"], ["wide_bent"], name="bend_wide"),
        helper.make_node("Gemm", ["wide_bent", "straight"], ["scores"], name="gemm"),
    ]
    initializers = [
        weight("table", WORDS, WIDTH), weight("a", WIDTH, HIDDEN), weight("a_bias", HIDDEN),
        weight("twice", HIDDEN, HIDDEN), weight("turned", HIDDEN, HIDDEN), weight("turned_bias", HIDDEN),
        weight("straight", HIDDEN, CLASSES),
    ]  # fmt: skip
    if conv:
        nodes[8].input[0] = "convolved"
        nodes[7:8] = [
            helper.make_node("Transpose", ["again"], ["across"], name="across", perm=[0, 2, 1]),
            helper.make_node("Conv", ["across", "kernel"], ["filtered"], name="conv"),
            helper.make_node("GlobalMaxPool", ["filtered"], ["pooled"], name="pool"),
            helper.make_node("Flatten", ["pooled"], ["convolved"], name="flat"),
        ]
        initializers.append(weight("kernel", HIDDEN, HIDDEN, 1))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "words"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


FEEDS = [{"ids": np.random.default_rng(n).integers(0, WORDS, (2, 5))} for n in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("blockwise") / "model.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture(scope="module")
def calibration(model):
    return qtool.calibrate(model, FEEDS).statistics


@pytest.fixture(scope="module")
def quantized(model, tmp_path_factory):
    """Without data, with zero points, of the nearest integers."""
    output = tmp_path_factory.mktemp("blockwise") / "int4.onnx"
    return qtool.quantize(model, output, weights="int4", rounding="nearest")


def noise_db(exact: Path, other: Path) -> float:
    a, b = Session(exact), Session(other)
    return signal_to_noise(*(np.concatenate([s.run(feed)["scores"] for feed in FEEDS]) for s in (a, b)))


def stored(path: Path) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def test_what_onnxruntime_runs(model, quantized):
    proof = quantized.verification
    assert proof.kernels["MatMulNBits"] == 5 and proof.kernels["GatherBlockQuantized"] == 1
    assert proof.integer_layers == proof.layers == 5 and proof.integer_share == 1.0
    assert proof.blocks_sqnr_db > 80.0
    nodes = {n.name: n for n in onnx.load(quantized.output).graph.node}
    attributes = {a.name: helper.get_attribute_value(a) for a in nodes["turned_gemm"].attribute}
    assert attributes == {"bits": 4, "block_size": 32, "K": HIDDEN, "N": HIDDEN, "accuracy_level": 4}
    # 60 and 100 products a sum are no whole number of blocks; the weight that two layers read is there once
    assert stored(quantized.output)["turned_blocks"].shape == (HIDDEN, 4, 16)
    assert nodes["first"].input[1] == nodes["second"].input[1]
    assert noise_db(model, quantized.output) > 12.0
    assert quantized.size < 0.27 * model.stat().st_size
    assert "weights in blocks of 32" in quantized_text(quantized)


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_the_same_integers_as_onnxruntimes_own_quantizer(tmp_path, model, scheme):
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    tool = quantizer.MatMulNBitsQuantizer(
        onnx.load(model), block_size=32, is_symmetric=scheme == "symmetric", accuracy_level=4
    )
    tool.process()
    theirs = {i.name: numpy_helper.to_array(i) for i in tool.model.model.graph.initializer}
    node = next(n for n in tool.model.model.graph.node if n.op_type == "MatMulNBits" and n.name.startswith("rank3"))
    output = tmp_path / "int4.onnx"
    qtool.quantize(model, output, weights="int4", rounding="nearest", scheme=qtool.Scheme(scheme))
    mine = stored(output)
    assert (mine["a_scales"].reshape(-1) == theirs[node.input[2]].reshape(-1)).all()
    # what fills the last block up means nothing
    assert (mine["a_blocks"][:, 0] == theirs[node.input[1]][:, 0]).all()
    assert (mine["a_blocks"][:, 1, :14] == theirs[node.input[1]][:, 1, :14]).all()
    if scheme == "affine":
        assert (mine["a_zero_points"].reshape(-1) == theirs[node.input[3]].reshape(-1)).all()
    else:
        assert "a_zero_points" not in mine and len(node.input) == 3


@pytest.mark.parametrize(
    ("bits", "scheme"),
    [
        ("int4", "affine"),
        pytest.param("int4", "symmetric", marks=pytest.mark.long),
        pytest.param("int8", "affine", marks=pytest.mark.long),
    ],
)
def test_dequantize_linear_in_blocks(tmp_path, model, bits, scheme):
    """The file is of opset 21, ONNX's reference evaluator computes the float weights that the plan says."""
    output = tmp_path / "qdq.onnx"
    result = qtool.quantize(model, output, weights=bits, weight_format="qdq", scheme=qtool.Scheme(scheme), block=16)
    if bits == "int8" and not has("gemm-of-blocks"):
        assert result.plan.blocks == () and {row.tensor for row in result.plan.stored} >= {"a", "turned", "straight"}
        return
    written = onnx.load(output)
    assert written.opset_import[0].version == 21
    onnx.checker.check_model(written, full_check=True)
    # onnxruntime fuses no DequantizeLinear that two layers read, and takes no rows of one
    gemms = {"gemm", "turned_gemm"} if has("gemm-of-blocks") else set()
    shared = {"first", "second"} if has("blocks-by-channel") and not has("shared-by-channel") else set()
    assert result.verification.kernels["MatMulNBits"] == len({"rank3"} | gemms | shared)
    assert {n for n, why in result.plan.skipped.items() if "8 bits by channel" in why} == {
        "first", "second", "table_of_words", *({"gemm", "turned_gemm"} - gemms),
    }  # fmt: skip
    kind = TensorProto.INT4 if bits == "int4" else TensorProto.INT8
    assert {i.data_type for i in written.graph.initializer if i.name.endswith("_blocks")} == {kind}
    reference = ReferenceEvaluator(written)
    exact = Session(output, optimize=False)
    for feed in FEEDS[:2]:
        assert signal_to_noise(reference.run(None, feed)[0], exact.run(feed)["scores"]) > 100.0


@pytest.mark.long
def test_both_formats_hold_the_same_numbers(tmp_path, model):
    plans = [
        qtool.quantize(model, tmp_path / f"{form}.onnx", weights="int4", weight_format=form).plan
        for form in ("qoperator", "qdq")
    ]
    operators, dequantized = ({row.tensor: row for row in plan.blocks} for plan in plans)
    assert set(dequantized) == {"a", "turned", "straight"} and set(operators) > set(dequantized)
    assert all(replace(row, written="qoperator") == operators[name] for name, row in dequantized.items())


@pytest.mark.long
def test_a_convolution_keeps_8_bits_and_it_is_said(tmp_path):
    path = tmp_path / "conv.onnx"
    onnx.save(network(conv=True), path)
    result = qtool.quantize(path, tmp_path / "int4.onnx", weights="int4")
    assert result.plan.skipped["conv"] == "weight-only, 8 bits by channel: no kernel of Conv reads blocks"
    assert stored(tmp_path / "int4.onnx")["kernel_quantized"].dtype == np.int8
    assert result.verification.kernels["MatMulNBits"] == 5


def test_nothing_that_can_be_in_blocks_is_an_error(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "w")],
    )
    path = tmp_path / "conv.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(NothingToQuantizeError, match=r"no weight can be in blocks.*no kernel of Conv.*form"):
        qtool.quantize(path, tmp_path / "int4.onnx", weights="int4")


@pytest.mark.long
def test_a_saved_plan_gives_the_same_bytes(tmp_path, model, calibration):
    plan, first, second = tmp_path / "plan.json", tmp_path / "a.onnx", tmp_path / "b.onnx"
    result = qtool.quantize(model, first, weights="int4", rounding="gptq", calibration=calibration, save_plan=plan)
    assert load_plan(plan) == result.plan and all(row.integers for row in result.plan.blocks if row.tensor != "table")
    qtool.quantize(model, second, plan=plan)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("block", 64, "which is not that of its scales"),
        ("axis", 1, "which is not that of its scales|do not sum over axis 1"),
        ("bits", 5, "bits: one of 4, 8 is needed"),
        ("scale", "****", "scale: base64 is needed"),
        ("readers", (("first", 1),), "integer: node 'rank3' .* runs as"),
        ("written", "qlinear", "written: one of qoperator, qdq is needed"),
    ],
)
def test_a_damaged_row_is_refused_in_a_line(tmp_path, model, quantized, field, value, message):
    rows = tuple(replace(row, **{field: value}) if row.tensor == "a" else row for row in quantized.plan.blocks)
    with pytest.raises(UsageError, match=message) as caught:
        qtool.quantize(model, tmp_path / "int4.onnx", plan=replace(quantized.plan, blocks=rows))
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_gptq_is_better_than_the_nearest_integers(tmp_path, model, calibration):
    figures = {
        rounding: qtool.quantize(
            model, tmp_path / f"{rounding}.onnx", weights="int4", rounding=rounding, calibration=calibration,
            partial=False, exclude_ops="Gather",
        ).verification.output_sqnr_db
        for rounding in ("nearest", "gptq")
    }  # fmt: skip
    assert figures["gptq"] > figures["nearest"] + 1.0


@pytest.mark.long
def test_the_noisiest_weights_have_8_bits_where_that_is_needed(tmp_path, model, calibration):
    outputs = {
        aim: qtool.quantize(model, tmp_path / f"{aim}.onnx", weights="int4", calibration=calibration, min_sqnr=aim)
        for aim in (1.0, 24.0)
    }
    low, high = (result.plan.blocks for result in outputs.values())
    assert {row.bits for row in low} == {4}
    assert {row.bits for row in high} == {4, 8}
    assert outputs[24.0].verification.output_sqnr_db > 22.0
    assert outputs[24.0].trials[0].wide == sum(row.bits == 8 for row in high)
    text = quantized_text(outputs[24.0], verbose=True)
    assert "in 8 bits for the accuracy" in text and "max-float-macs" not in text


@pytest.mark.long
def test_as_many_bits_as_are_asked_for_without_partial(tmp_path, model, calibration):
    result = qtool.quantize(
        model, tmp_path / "int4.onnx", weights="int4", calibration=calibration, min_sqnr=40.0, partial=False
    )
    assert {row.bits for row in result.plan.blocks} == {4}
    assert not result.passed and {t.rounding for t in result.trials} == {"nearest", "scales", "gptq"}


def damaged(model: Path, quantized, damage) -> tuple:
    prepared = prepare(model_io.load(model), transposed=True)
    written, _ = rewritten(prepared.model, quantized.plan)
    changed = deserialize(written)
    damage(changed.graph.initializers)
    return prepared.model, changed


def test_the_structure_check_sees_another_integer(model, quantized):
    def damage(initializers) -> None:
        array = edit.constant(initializers["straight_blocks"]).copy()
        array[0, 0, 0] ^= 1
        edit.set_constant(initializers["straight_blocks"], array)

    prepared, changed = damaged(model, quantized, lambda _: None)
    check_structure(shift_biases(prepared, quantized.plan), changed)
    prepared, changed = damaged(model, quantized, damage)
    with pytest.raises(VerificationError, match="blocks that node 'gemm' reads are not what the plan says"):
        check_structure(shift_biases(prepared, quantized.plan), changed)


def test_the_arithmetic_check_sees_a_kernel_that_computes_otherwise(model, quantized):
    def damage(initializers) -> None:
        value = initializers["twice_scales"]
        edit.set_constant(value, edit.constant(value) * np.float32(1.02))

    prepared, fine = damaged(model, quantized, lambda _: None)
    figures = check_blocks(prepared, model_io.serialize(fine), quantized.plan, FEEDS[:2], {})
    assert set(figures) == {"table_of_words", "rank3", "first", "second", "turned_gemm", "gemm"}
    assert min(figures.values()) > 80.0
    prepared, wrong = damaged(model, quantized, damage)
    with pytest.raises(
        LayerError, match="'first': onnxruntime computes something else with weights in blocks"
    ) as caught:
        check_blocks(prepared, model_io.serialize(wrong), quantized.plan, FEEDS[:2], {})
    assert set(caught.value.layers) == {"first", "second"}


def test_the_input_is_rounded_block_by_block():
    x = np.array([[0.0, 127.0, 63.4, -1.2, 0.0, 0.5]], np.float32)
    assert rounded_input(x, 4).tolist() == [[0.0, 127.0, 63.0, -1.0, 0.0, 0.5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--block", "64"], "--block 64 says nothing without --weights"),
        (["--weights", "int4", "--block", "48"], "choose one of 16, 32, 64, 128, 256"),
        (["--weights", "int4", "--rounding", "gptq"], "--rounding gptq: is found on data"),
        (["--weights", "int4", "--dynamic"], "--weights int4 stores weights alone, and says nothing to --dynamic"),
        (["--weights", "int4", "--target", "tensorrt"], "target tensorrt has only layers with calibrated ranges"),
        (
            ["--weights", "int4", "--granularity", "per-tensor"],
            "--granularity per-tensor says nothing to --weights int4",
        ),
        (["--weights", "int4", "--min-sqnr", "20"], "--min-sqnr says nothing without data"),
    ],
)
def test_what_says_nothing_is_refused_in_a_line(tmp_path, model, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(model), "-o", str(tmp_path / "out.onnx"), *options])
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


def test_a_plan_beside_it_is_refused(tmp_path, model, quantized):
    with pytest.raises(UsageError, match=r"weights.*says nothing to.*plan"):
        qtool.quantize(model, tmp_path / "out.onnx", plan=quantized.plan, weights="int4")
    with pytest.raises(UsageError, match=r"max_float_macs.*says nothing to.*weights"):
        qtool.quantize(model, tmp_path / "out.onnx", data=FEEDS, weights="int4", max_float_macs=0.1)


@pytest.mark.long
def test_two_plans_in_blocks_differ_in_words(tmp_path, model, quantized):
    other = qtool.quantize(model, tmp_path / "int8.onnx", weights="int8").plan
    difference = diff_plans(quantized.plan, other, ("a", "b"))
    rows = {row.name: (row.a, row.b) for row in difference.layers}
    assert rows["gemm"] == ("weights in blocks of 32, 4 bits", "weights in blocks of 32, 8 bits")


def test_the_census_of_the_file_is_that_of_the_proof(quantized):
    assert take_census(quantized.output.read_bytes())[1].kernels == quantized.verification.kernels

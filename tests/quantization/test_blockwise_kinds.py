"""Weights in blocks, of models of other kinds: which are in blocks, which by channel instead, and why."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import LayerError, ModelError, UsageError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.plan import load_plan
from qtool.core.records.results import FilePart
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify.blocks import check_blocks
from qtool.report.inspect import inspection_text
from qtool.report.quantize import quantized_text
from qtool.runtime.session import Session
from tests.support.since import has

WIDTH, HIDDEN = 64, 48


def weight(name: str, *shape: int, seed: int = 0, kind: type = np.float32) -> onnx.TensorProto:
    rng = np.random.default_rng(seed)
    return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(shape[-2])).astype(kind), name)


def saved(
    path: Path, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], kind: int = TensorProto.FLOAT
) -> Path:
    """With input x, [batch, 3, WIDTH], and output y."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, WIDTH])],
        [helper.make_tensor_value_info("y", kind, None)],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def noise_db(exact: Path, other: Path) -> float:
    x = np.random.default_rng(1).standard_normal((4, 3, WIDTH))
    kind = np.float16 if onnx.load(exact).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16 else "f4"
    return signal_to_noise(*(Session(path).run({"x": x.astype(kind)})["y"] for path in (exact, other)))


def loop_behind_a_product(path: Path) -> Path:
    """A product, and one in the body of a Loop that runs twice on what it makes."""
    none = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner"], ["moved"], name="inside"),
            helper.make_node("Tanh", ["moved"], ["next"], name="bend"),
            helper.make_node("Identity", ["go"], ["go_on"], name="same"),
        ],
        "body",
        [
            none("step", TensorProto.INT64, []),
            none("go", TensorProto.BOOL, []),
            none("state", TensorProto.FLOAT, ["batch", 3, HIDDEN]),
        ],
        [none("go_on", TensorProto.BOOL, []), none("next", TensorProto.FLOAT, ["batch", 3, HIDDEN])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "outer"], ["first"], name="around"),
        helper.make_node("Loop", ["twice", "yes", "first"], ["y"], name="loop", body=body),
    ]
    more = [numpy_helper.from_array(np.array(2), "twice"), numpy_helper.from_array(np.array(True), "yes")]
    return saved(path, nodes, [weight("outer", WIDTH, HIDDEN), weight("inner", HIDDEN, HIDDEN, seed=1), *more])


def test_what_stands_in_a_body_is_in_blocks_and_proven_there(tmp_path):
    model = loop_behind_a_product(tmp_path / "loop.onnx")
    saved_plan = tmp_path / "plan.json"
    result = qtool.quantize(model, tmp_path / "int4.onnx", weights="int4", save_plan=saved_plan)
    proof = result.verification
    assert [row.tensor for row in result.plan.blocks] == ["outer", "inner"] and not result.plan.skipped
    assert proof.kernels["MatMulNBits"] == 2 and proof.integer_share == 1.0 and proof.blocks_sqnr_db > 80.0
    assert noise_db(model, result.output) > 14.0
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=saved_plan)
    assert again.output.read_bytes() == result.output.read_bytes()
    # the layer in the body is held against its definition: other integers than the plan's are found
    prepared = prepare(model_io.load(model)).model
    written, _ = rewritten(prepared, result.plan)
    outer, inner = result.plan.blocks
    examples = [{"x": np.ones((2, 3, WIDTH), np.float32)}]
    assert set(check_blocks(prepared, written, result.plan, examples, {})) == {"around", "inside"}
    other = inner.holding(np.full((HIDDEN, HIDDEN), 3, np.uint8))
    with pytest.raises(LayerError, match="layer 'inside'"):
        check_blocks(prepared, written, replace(result.plan, blocks=(outer, other)), examples, {})


@pytest.mark.long
def test_what_stands_in_a_body_is_stored_by_channel_as_dequantize_linear(tmp_path):
    model = loop_behind_a_product(tmp_path / "loop.onnx")
    saved_plan = tmp_path / "plan.json"
    result = qtool.quantize(model, tmp_path / "int4.onnx", save_plan=saved_plan, weights="int4", weight_format="qdq")
    plan = load_plan(saved_plan)
    assert [row.tensor for row in plan.blocks] == ["outer"] and [row.tensor for row in plan.stored] == ["inner"]
    reason = "weight-only, 8 bits by channel: it is in a body of If, Loop or Scan"
    assert plan.skipped == {"inside": reason}
    assert f"inside ({reason})" in quantized_text(result)
    assert noise_db(model, result.output) > 15.0
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=saved_plan)
    assert again.output.read_bytes() == result.output.read_bytes()


def two_products(path: Path, kind: type) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["first"], name="first"),
        helper.make_node("Tanh", ["first"], ["bent"], name="bend"),
        helper.make_node("MatMul", ["bent", "b"], ["y"], name="second"),
    ]
    initializers = [weight("a", WIDTH, HIDDEN, kind=kind), weight("b", HIDDEN, WIDTH, seed=1, kind=kind)]
    return saved(path, nodes, initializers, helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def test_float16_is_in_blocks_as_its_float32_twin_is(tmp_path):
    figures = {}
    for kind in (np.float16, np.float32):
        model = two_products(tmp_path / f"{kind.__name__}.onnx", kind)
        result = qtool.quantize(model, tmp_path / "int4.onnx", weights="int4")
        assert result.verification.kernels["MatMulNBits"] == 2 and not result.verification.float_layers
        assert not [i.name for i in onnx.load(result.output).graph.initializer if i.dims == [WIDTH, HIDDEN]]
        figures[kind] = noise_db(model, result.output)
    assert figures[np.float16] == pytest.approx(figures[np.float32], abs=0.5) and figures[np.float16] > 15.0


def test_weight_only_counts_what_the_census_finds(tmp_path):
    """As `inspect` does: onnxruntime makes a MatMulNBits of a MatMul behind a weight by channel, and not of a Gemm."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["first"], name="first"),
        helper.make_node("Flatten", ["first"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "b"], ["y"], name="second", transB=1),
    ]
    model = saved(tmp_path / "model.onnx", nodes, [weight("a", WIDTH, HIDDEN), weight("b", 16, 3 * HIDDEN, seed=1)])
    result = qtool.quantize(model, tmp_path / "weights.onnx", form="weight-only")
    proof, found = result.verification, qtool.inspect_model(result.output)
    integer = {layer.name for layer in found.layers if layer.integer}
    counted = sum(layer.share for layer in found.layers if layer.integer)
    if not has("blocks-by-channel"):
        assert integer == set() and proof.integer_layers == 0 and "MatMulNBits" not in proof.kernels
        assert proof.integer_kernels == () and proof.integer_share == 0.0 == counted
        assert proof.float_layers == dict.fromkeys(["first", "second"], "weight-only: its input stays float")
        return
    assert integer == {"first"} and proof.integer_layers == 1 and proof.kernels["MatMulNBits"] == 1
    assert proof.integer_kernels == ("MatMulNBits",)
    assert proof.float_layers == {"second": "weight-only: its input stays float"}
    share = 3 * WIDTH * HIDDEN / (3 * WIDTH * HIDDEN + 16 * 3 * HIDDEN)
    assert proof.integer_share == pytest.approx(share) == counted


def uneven_products(path: Path, middle: int) -> Path:
    """Sums of 64 and of `middle`."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["first"], name="first"),
        helper.make_node("Tanh", ["first"], ["bent"], name="bend"),
        helper.make_node("MatMul", ["bent", "b"], ["y"], name="second"),
    ]
    return saved(path, nodes, [weight("a", WIDTH, middle), weight("b", middle, HIDDEN, seed=1)])


def test_what_padding_makes_larger_is_stored_by_channel(tmp_path):
    model = uneven_products(tmp_path / "model.onnx", 130)
    reason = "weight-only, 8 bits by channel: a sum of 64, padded to whole blocks of 256, takes more bytes; smaller "
    coarse = qtool.quantize(model, tmp_path / "coarse.onnx", weights="int4", block=256)
    assert coarse.plan.skipped == {"first": f"{reason}blocks take fewer"}
    assert [row.tensor for row in coarse.plan.blocks] == ["b"]
    said = "not in blocks: first" if has("blocks-by-channel") else "float       first"
    assert f"{said} ({reason}" in quantized_text(coarse)
    fine = qtool.quantize(model, tmp_path / "fine.onnx", weights="int4", block=128)
    assert [row.tensor for row in fine.plan.blocks] == ["a", "b"]
    # all of it would be larger: it is done as asked, and the file says what its bytes are
    narrow = uneven_products(tmp_path / "narrow.onnx", 50)
    wide = qtool.quantize(narrow, tmp_path / "wide.onnx", weights="int8", block=256)
    assert [row.tensor for row in wide.plan.blocks] == ["a", "b"]
    parts = {part.what: part.size for part in wide.parts}
    assert parts[FilePart.PADDING] == 50 * (256 - 64) + HIDDEN * (256 - 50)
    stored = sum(i.ByteSize() for i in onnx.load(wide.output).graph.initializer)
    assert parts[FilePart.IN_BLOCKS] + parts[FilePart.PADDING] == pytest.approx(stored, rel=0.03)
    text = quantized_text(wide)
    assert "are padding, which fills blocks up (b_blocks the largest)" in text
    assert "a smaller --block takes fewer bytes" in text


@pytest.mark.long
def test_what_onnxruntime_does_not_fuse_in_blocks_is_stored_by_channel(tmp_path):
    """It makes no MatMulNBits of a DequantizeLinear and a MatMul in front of a Relu."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["first"], name="first"),
        helper.make_node("Relu", ["first"], ["positive"], name="relu"),
        helper.make_node("MatMul", ["positive", "b"], ["y"], name="second"),
    ]
    model = saved(tmp_path / "model.onnx", nodes, [weight("a", WIDTH, HIDDEN), weight("b", HIDDEN, WIDTH, seed=1)])
    saved_plan = tmp_path / "plan.json"
    result = qtool.quantize(
        model, tmp_path / "int4.onnx", weights="int4", weight_format="qdq", rounding="nearest", save_plan=saved_plan
    )
    assert [row.tensor for row in result.plan.blocks] == ["b"] and [row.tensor for row in result.plan.stored] == ["a"]
    assert result.plan.skipped["first"].startswith("weight-only, 8 bits by channel: onnxruntime ")
    kinds = {i.name: i.data_type for i in onnx.load(result.output).graph.initializer}
    assert kinds["a_quantized"] == TensorProto.INT8 and kinds["b_blocks"] == TensorProto.INT4
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=saved_plan)
    assert again.output.read_bytes() == result.output.read_bytes()


def test_refusals_speak_of_what_was_asked_for(tmp_path):
    model = two_products(tmp_path / "model.onnx", np.float32)
    with pytest.raises(UsageError, match="weights='int4': target tensorrt has only layers with calibrated ranges"):
        qtool.quantize(model, tmp_path / "no.onnx", weights="int4", target="tensorrt")
    with pytest.raises(UsageError, match="weights='int4' stores weights alone, and says nothing to form='static'"):
        qtool.quantize(model, tmp_path / "no.onnx", weights="int4", form="static")


def test_recurrent_layers_with_batches_first_are_refused_with_a_remedy(tmp_path):
    nodes = [helper.make_node("GRU", ["x", "w", "r"], ["y"], name="gru", hidden_size=4, layout=1)]
    model = saved(tmp_path / "model.onnx", nodes, [weight("w", 1, 12, WIDTH), weight("r", 1, 12, 4)])
    with pytest.raises(ModelError, match="export its LSTM, GRU and RNN with layout=0"):
        qtool.quantize(model, tmp_path / "no.onnx", form="dynamic")


def test_the_headline_names_narrow_weights_beside_others(tmp_path):
    model = uneven_products(tmp_path / "model.onnx", 130)
    result = qtool.quantize(model, tmp_path / "int4.onnx", weights="int4", block=256, rounding="nearest")
    assert "int4.onnx: uint4 and int8, weight-only, by qtool" in inspection_text(qtool.inspect_model(result.output))

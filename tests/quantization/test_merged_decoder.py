"""A merged decoder: both branches of its If in integers, the weights that they share stored once."""

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from tests.support.merged_decoder import LAYERS, WIDTH, WORDS, merged_decoder, steps

# the products of a layer with weights: four of each attention, two behind it; and what follows the last layer
WEIGHTS = LAYERS * (8 * WIDTH * WIDTH + 2 * 4 * WIDTH * WIDTH) + WIDTH * WORDS
PRODUCTS = 2 * LAYERS * 2 * 2


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return merged_decoder(tmp_path_factory.mktemp("decoder") / "m.onnx")


def bodies(path):
    (node,) = [node for node in onnx.load(path).graph.node if node.op_type == "If"]
    return [attribute.g for attribute in node.attribute]


def check(source, path, least):
    """It computes what the model computes in both branches; each weight is stored once, as bytes."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    tensors = [t for graph in (model.graph, *bodies(path)) for t in graph.initializer]
    stored = sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.INT8)
    assert WEIGHTS <= stored <= 1.05 * WEIGHTS
    exact, ours = ort.InferenceSession(source), ort.InferenceSession(path)
    # other words than these have other ranges
    for feeds in steps(4):
        for a, b in zip(exact.run(None, feeds), ours.run(None, feeds), strict=True):
            assert a.shape == b.shape
            assert np.array_equal(a, b) or signal_to_noise(a, b) > least


@pytest.mark.parametrize(
    "form",
    ["static", pytest.param("dynamic", marks=pytest.mark.long), pytest.param("weight-only", marks=pytest.mark.long)],
)
def test_both_branches(decoder, form, tmp_path):
    given = {"data": steps(8), "calibrator": "max"} if form == "static" else {"form": form}
    proof = qtool.quantize(decoder, tmp_path / "q.onnx", target="x86", **given).verification
    check(decoder, tmp_path / "q.onnx", 25.0)
    # weights that one branch alone reads, onnxruntime multiplies in blocks of integers
    assert len(proof.float_layers) == (PRODUCTS if form != "weight-only" else proof.layers - 2)
    if form == "static":
        assert proof.integer_share >= 0.95 and proof.steps <= 1 and proof.idle_bodies == ()
    if form == "dynamic":
        # made-up inputs take one branch; the other one is not said to be checked
        assert proof.idle_bodies in (("optimum::if.then_branch",), ("optimum::if.else_branch",))


@pytest.mark.long
def test_a_branch_that_the_data_never_takes(decoder, tmp_path):
    proof = qtool.quantize(
        decoder, tmp_path / "q.onnx", data=steps(8)[::2], calibrator="max", target="x86"
    ).verification
    idle = {why for name, why in proof.float_layers.items() if name.startswith("/then.") and "scores" not in name}
    assert "the data never runs the body 'optimum::if.then_branch'" in idle
    exact, ours = ort.InferenceSession(decoder), ort.InferenceSession(tmp_path / "q.onnx")
    cached = steps(8)[1]
    for a, b in zip(exact.run(None, cached), ours.run(None, cached), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_blocks_are_shared_by_the_branches(decoder, tmp_path):
    """In 4 bits; table and products of both branches read the same bytes, and each body is proven."""
    result = qtool.quantize(decoder, tmp_path / "q.onnx", target="x86", data=steps(8), weights="int4", partial=False)
    proof = result.verification
    assert proof.kernels["MatMulNBits"] == 2 * (8 * LAYERS + 2 * LAYERS + 1) - 2 * LAYERS
    assert proof.idle_bodies == () and proof.integer_share >= 0.95 and proof.blocks_sqnr_db > 80.0
    tensors = [t for graph in (onnx.load(result.output).graph, *bodies(result.output)) for t in graph.initializer]
    stored = sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.UINT8)
    # 4 bits a number, and a zero point for 32 of them; the table is too small for 8 bits and stays float
    assert WEIGHTS / 2 <= stored <= 1.05 * WEIGHTS / 2 * (1 + 1 / 32)
    exact, ours = ort.InferenceSession(decoder), ort.InferenceSession(result.output)
    for feeds in steps(4):
        assert signal_to_noise(*(session.run(["logits"], feeds)[0] for session in (exact, ours))) > 13.0


@pytest.mark.parametrize(
    "form",
    ["weight-only", pytest.param("dynamic", marks=pytest.mark.long), pytest.param("static", marks=pytest.mark.long)],
)
def test_a_weight_that_one_branch_reads_in_float_is_stored_once(decoder, form, tmp_path):
    """The integers of the others are made of it when the model is loaded."""
    given = {"data": steps(8), "calibrator": "max"} if form == "static" else {"form": form}
    result = qtool.quantize(decoder, tmp_path / "q.onnx", target="x86", exclude=["/then.0.up.m/MatMul"], **given)
    tensors = [t for graph in (onnx.load(result.output).graph, *bodies(result.output)) for t in graph.initializer]
    numbers = 4 * WIDTH * WIDTH
    assert [t.data_type for t in tensors if math.prod(t.dims) == numbers and t.name.startswith("0.up")] == [1]
    exact, ours = ort.InferenceSession(decoder), ort.InferenceSession(result.output)
    for feeds in steps(2):
        assert signal_to_noise(*(session.run(["logits"], feeds)[0] for session in (exact, ours))) > 25.0

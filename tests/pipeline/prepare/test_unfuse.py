"""What onnxruntime's transformer optimiser fused is written apart, and computes the same; what is not known stays."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.runtime.session import Session
from tests.pipeline.rewrite.test_dynamic import kernels

N, S, WIDTH, HEADS, PAST = 2, 5, 16, 2, 3
ORT = "com.microsoft"
RNG = np.random.default_rng(3)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def saved(path, nodes, feeds, constants, results, opset=17):
    """A model whose axes are open; `results`: name -> element type."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), AXES.get(name, a.shape))
        for name, a in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in results.items()]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "fused", inputs, outputs, held)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ORT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


AXES = {"x": ["N", "S", WIDTH], "lengths": ["N"], "keys": ["N", "T"], "pairs": ["N", "S", "T"], "ends": ["M"]}


def attention(path, mask=None, *, past=False, **attributes):
    """Attention of com.microsoft, and inputs for it."""
    reach = S + PAST * past
    masks = {
        "lengths": np.array([reach, reach - 2], np.int32),
        "keys": (np.arange(reach) < np.array([[reach], [reach - 2]])).astype(np.int32),
        "pairs": np.tril(np.ones((N, S, reach), np.int32), PAST * past),
        "ends": np.array([reach, reach - 2, 0, 1], np.int32),
    }
    values = sum(attributes.get("qkv_hidden_sizes", [WIDTH] * 3))
    feeds = {"x": floats(N, S, WIDTH)} | ({} if mask is None else {mask: masks[mask]})
    inputs, results = ["x", "w", "b", mask or ""], {"y": TensorProto.FLOAT}
    if past:
        feeds["past"] = floats(2, N, HEADS, PAST, WIDTH // HEADS)
        inputs.append("past")
        results["present"] = TensorProto.FLOAT
    node = helper.make_node("Attention", inputs, list(results), "fused", domain=ORT, num_heads=HEADS, **attributes)
    return saved(path, [node], feeds, {"w": 0.3 * floats(WIDTH, values), "b": floats(values)}, results), feeds


def compared(path, feeds):
    """The operators of the prepared graph, whose outputs are those of the model."""
    graph = prepare(model_io.load(path)).model
    exact, found = Session(path).run(feeds), Session(model_io.serialize(graph), name="prepared").run(feeds)
    for name, array in exact.items():
        np.testing.assert_allclose(found[name], array, atol=2e-6)
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "lengths", "keys", "pairs"])
def test_attention_gives_its_weights_back(mask, causal, past, tmp_path):
    path, feeds = attention(tmp_path / "a.onnx", mask, past=past, unidirectional=causal)
    operators = compared(path, feeds)
    assert "Attention" not in operators
    assert operators.count("MatMul") == operators.count("MultiHeadAttention") == 1


@pytest.mark.parametrize(
    "attributes", [{"scale": 0.4}, {"qkv_hidden_sizes": [WIDTH, WIDTH, 24]}, {"mask_filter_value": -5.0}]
)
def test_attention_keeps_its_attributes(attributes, tmp_path):
    path, feeds = attention(tmp_path / "a.onnx", "keys", **attributes)
    assert "MultiHeadAttention" in compared(path, feeds)


def test_a_mask_of_ends_and_starts_stays(tmp_path):
    path, feeds = attention(tmp_path / "a.onnx", "ends")
    assert compared(path, feeds) == ["Attention"]


def test_its_projection_becomes_an_integer_kernel(tmp_path):
    path, feeds = attention(tmp_path / "a.onnx", "keys")
    result = qtool.quantize(path, tmp_path / "int8.onnx", form="dynamic")
    found = kernels(tmp_path / "int8.onnx")
    assert found["DynamicQuantizeMatMul"] == found["MultiHeadAttention"] == 1
    # the layer keeps the name, so that it can be excluded
    assert result.plan.layers == ("fused",)
    assert list(result.verification.float_layers.values()) == ["no integer form of MultiHeadAttention"]
    exact, run = (Session(file).run(feeds)["y"] for file in (path, tmp_path / "int8.onnx"))
    assert 10 * np.log10((exact**2).sum() / ((exact - run) ** 2).sum()) > 25.0


@pytest.mark.parametrize("opset", [13, 17])
def test_embeddings_sums_and_biases_stand_apart(opset, tmp_path):
    vocabulary = {"words": floats(9, WIDTH), "places": floats(8, WIDTH), "kinds": floats(2, WIDTH)}
    constants = vocabulary | {name: floats(WIDTH) for name in ("scale", "shift", "bias")}
    norm = ["scale", "shift"]
    nodes = [
        helper.make_node(
            "EmbedLayerNormalization", ["ids", "segments", *vocabulary, *norm, "mask"], ["e", "counts"], domain=ORT
        ),
        helper.make_node("BiasGelu", ["e", "bias"], ["g"], domain=ORT),
        helper.make_node("FastGelu", ["g", "bias"], ["f"], domain=ORT),
        helper.make_node("SkipLayerNormalization", ["f", "e", *norm, "bias"], ["y", "", "", "sum"], domain=ORT),
    ]
    ids = {"ids": RNG.integers(0, 9, (N, S)), "segments": RNG.integers(0, 2, (N, S)), "mask": np.tri(N, S, 2)}
    feeds = {name: array.astype(np.int32) for name, array in ids.items()}
    results = {"y": TensorProto.FLOAT, "sum": TensorProto.FLOAT, "counts": TensorProto.INT32}
    operators = compared(saved(tmp_path / "a.onnx", nodes, feeds, constants, results, opset), feeds)
    assert not {"EmbedLayerNormalization", "SkipLayerNormalization", "BiasGelu"} & set(operators)
    assert operators.count("LayerNormalization") == (2 if opset == 17 else 0)


def test_a_normalisation_whose_means_are_read_stays(tmp_path):
    node = helper.make_node("SkipLayerNormalization", ["x", "z", "scale", "shift"], ["y", "m"], "n", domain=ORT)
    feeds = {"x": floats(N, S, WIDTH), "z": floats(N, S, WIDTH)}
    constants = {"scale": floats(WIDTH), "shift": floats(WIDTH)}
    path = saved(tmp_path / "a.onnx", [node], feeds, constants, {"y": TensorProto.FLOAT, "m": TensorProto.FLOAT})
    graph = prepare(model_io.load(path)).model
    assert [n.op_type for n in graph.graph] == ["SkipLayerNormalization"]

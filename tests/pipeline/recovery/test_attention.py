"""Attention in one kernel: the same function, whatever its mask, and only where the table of times says so."""

import numpy as np
import onnx
import pytest

import qtool
from bench.attention_speed import attention, inputs_of
from qtool.core.errors import UsageError
from qtool.core.records.plan import load_plan
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.attention import attentions, faster_joined, join_attention
from qtool.runtime.session import Session
from qtool.targets.costs import costs_of
from tests.pipeline.rewrite.test_dynamic import kernels
from tests.support.patterns import Net
from tests.support.token_models import encoder, sentences

LENGTHS = (2, 3, 5, 7, 8, 4)


def prepared(model, path):
    onnx.save(model, path)
    return prepare(model_io.load(path)).model


def outputs(model, feeds):
    return Session(model_io.serialize(model), name="a model").run(feeds)["y"]


@pytest.mark.parametrize("mask", ["none", "keys", "whole"])
def test_one_kernel_computes_the_same(mask, tmp_path):
    model = attention(LENGTHS, mask)
    graph, feeds = prepared(model, tmp_path / "a.onnx"), inputs_of(model)
    (found,) = attentions(graph)
    assert (found.kind, found.name) == (mask, "context")
    joined = join_attention(graph, ["context"])
    operators = [node.op_type for node in joined.graph]
    assert operators.count("MultiHeadAttention") == 1
    assert not {"MatMul", "Softmax"} & set(operators)
    exact = Session(tmp_path / "a.onnx").run(feeds)["y"]
    np.testing.assert_allclose(outputs(joined, feeds), exact, atol=1e-6)
    # the graph that was given is as it was
    assert [node.op_type for node in graph.graph].count("Softmax") == 1


@pytest.mark.parametrize("least", [-np.inf, np.finfo(np.float32).min, -10000.0])
def test_what_is_masked_by_any_number_takes_no_part(least, tmp_path):
    model = attention(LENGTHS, "keys")
    feeds = inputs_of(model)
    feeds["mask"] = np.where(np.arange(7) < np.array([[4], [7]]), np.float32(0), np.float32(least))[:, None, None, :]
    joined = join_attention(prepared(model, tmp_path / "a.onnx"), ["context"])
    exact = Session(tmp_path / "a.onnx").run(feeds)["y"]
    np.testing.assert_allclose(outputs(joined, feeds), exact, atol=1e-6)


def variant(name):
    """An attention with something about it that keeps it apart."""
    model = attention(LENGTHS, "keys")
    nodes = {node.name: node for node in model.graph.node}
    if name == "weights are an output":
        model.graph.output.append(onnx.helper.make_tensor_value_info("weights", 1, None))
    elif name == "over another axis":
        nodes["weights"].attribute[0].i = 2
    elif name == "scores are read twice":
        model.graph.node.append(onnx.helper.make_node("Relu", ["scaled"], ["z"], "z"))
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    elif name == "mask for some heads":
        model.graph.input[3].type.tensor_type.shape.dim[1].dim_value = 3
    elif name == "mask of others":
        model.graph.input[3].type.tensor_type.shape.dim[0].dim_value = 1
    return model


ODD = ("weights are an output", "over another axis", "scores are read twice", "mask for some heads", "mask of others")


@pytest.mark.parametrize("name", ODD)
def test_what_does_not_fit_stays(name, tmp_path):
    assert attentions(prepared(variant(name), tmp_path / "a.onnx")) == []


def test_short_ones_stay_and_long_ones_do_not():
    costs = costs_of("x86")
    assert costs is not None
    assert not costs.joins((1, 12, 16, 16, 64, 64), "keys")
    assert costs.joins((1, 12, 512, 512, 64, 64), "keys")
    assert costs.joins((1, 12, 512, 512, 32, 32), "none")


def test_what_has_no_known_shape_stays(tmp_path):
    found = attentions(prepared(attention(LENGTHS), tmp_path / "a.onnx"))
    costs = costs_of("x86")
    assert costs is not None
    assert faster_joined(found, {}, costs) == ()
    shapes = {str(value.name): size for value, size in zip(found[0].read, _LONG, strict=True)}
    assert faster_joined(found, shapes, costs) == ("context",)


_LONG = ((1, 12, 512, 64), (1, 12, 64, 512), (1, 12, 512, 64))


@pytest.mark.long
def test_quantize_joins_by_length_and_its_plan_goes_round(tmp_path):
    onnx.save(encoder(4.0), tmp_path / "float.onnx")
    results = {}
    for length in (12, 320):
        feeds = sentences(2, padded=True, longest=length)
        output = tmp_path / f"{length}.onnx"
        plan = tmp_path / f"{length}.json"
        results[length] = qtool.quantize(
            tmp_path / "float.onnx", output, data=feeds, calibrator="max", target="x86", save_plan=plan,
            smoothing="off", form="static",
        )  # fmt: skip
        assert kernels(output)["MultiHeadAttention"] == (length == 320)
    assert results[12].plan.recipe.attention is None
    assert results[320].plan.recipe.attention == ("context",)
    assert results[320].verification.float_layers["context"] == "no integer form of MultiHeadAttention"
    again = tmp_path / "again.onnx"
    qtool.quantize(tmp_path / "float.onnx", again, plan=tmp_path / "320.json", data=feeds)
    assert again.read_bytes() == (tmp_path / "320.onnx").read_bytes()
    net = Net()
    other = net.save(tmp_path / "other.onnx", net.conv("x", 3, 4))
    plan = load_plan(tmp_path / "320.json")
    foreign = qtool.quantize(other, tmp_path / "o.onnx", data=net.samples(), calibrator="max").plan
    object.__setattr__(foreign, "recipe", plan.recipe)
    with pytest.raises(UsageError, match=r"damaged preparation .*the model holds no such attention"):
        qtool.quantize(other, tmp_path / "o.onnx", plan=foreign)

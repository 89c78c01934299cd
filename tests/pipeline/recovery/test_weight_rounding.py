"""Refined weights: what they are made from, what onnxruntime makes of them, and where they are left alone."""

import json

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.errors import UsageError
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.numerics.weights import saturating_channels
from qtool.graph import model_io
from qtool.graph.layers import Layer
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery import weight_rounding
from qtool.pipeline.recovery.weight_rounding import columns
from qtool.runtime.session import Session
from tests.support.patterns import Net

PER_TENSOR = qtool.Scheme(granularity="per-tensor")


def uneven():
    """Layers whose channels differ in size, so that one scale is coarse for most of them."""
    net = Net(4, 10, 10)
    rng, x, channels = np.random.default_rng(2), "x", 4
    for outputs, group, kernel in ((12, 1, 3), (12, 12, 3), (12, 1, 3), (6, 1, 1)):
        size = rng.lognormal(0.0, 2.0, (outputs, 1, 1, 1))
        weight = net.const(rng.normal(size=(outputs, channels // group, kernel, kernel)) * size / 6.0)
        x = net("Conv", x, weight, net.bias(outputs), pads=[kernel // 2] * 4, group=group)
        x, channels = (net("Relu", x), outputs) if outputs == 12 else (x, outputs)
    return net, x


def pictures(count, seed):
    """Waves, so that neighbours hang together."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:10, :10] / 10.0
    turns = rng.uniform(0.0, 6.28, (count, 1, 4, 1, 1))
    return [{"x": np.sin(4.0 * x + 2.0 * y + turn).astype(np.float32)} for turn in turns]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(the path of the network, its statistics)."""
    net, y = uneven()
    path = net.save(tmp_path_factory.mktemp("uneven") / "m.onnx", y)
    return path, qtool.calibrate(path, pictures(32, 0)).statistics


def made(source, path, **asked):
    given = {"calibrator": "max", "target": "x86", "partial": False, "optimize_for": "size", **asked}
    return qtool.quantize(source[0], path, calibration=source[1], **given)


def figure(source, path):
    """SQNR in dB on new data."""
    float_model, session = Session(source[0]), Session(path)
    exact, other = ([next(iter(s.run(e).values())) for e in pictures(100, 1)] for s in (float_model, session))
    return signal_to_noise(np.stack(exact), np.stack(other))


def test_one_scale_a_tensor_loses_less_on_new_data(source, tmp_path):
    plain = made(source, tmp_path / "off.onnx", scheme=PER_TENSOR, refine="off")
    found = made(source, tmp_path / "auto.onnx", scheme=PER_TENSOR)
    assert plain.plan.refined == 0 and plain.unrefined == {} and found.plan.refined >= 3
    assert figure(source, found.output) > figure(source, plain.output) + 1.5
    # the best of what was measured on one and the same examples
    assert found.trials[0].refined == found.plan.refined
    assert found.trials[0].sqnr_db == max(trial.sqnr_db for trial in found.trials)
    assert found.to_dict()["refined"] == found.plan.refined
    assert set(found.unrefined) == {row.tensor for row in found.plan.weights if row.integers is None}


def test_a_saved_plan_gives_the_same_model(source, tmp_path):
    made(source, tmp_path / "a.onnx", scheme=PER_TENSOR, refine="on", save_plan=tmp_path / "p.json")
    made(source, tmp_path / "again.onnx", scheme=PER_TENSOR, refine="on")
    qtool.quantize(source[0], tmp_path / "b.onnx", plan=tmp_path / "p.json")
    first = (tmp_path / "a.onnx").read_bytes()
    assert first == (tmp_path / "b.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    rows = json.loads((tmp_path / "p.json").read_text())["weights"]
    assert sum(row.get("integers") is not None for row in rows) >= 3


def test_a_scale_for_each_channel_is_refined_only_where_it_is_asked_for(source, tmp_path):
    plain, same = made(source, tmp_path / "a.onnx"), made(source, tmp_path / "b.onnx", refine="off")
    assert plain.plan == same.plan and plain.plan.refined == 0
    assert made(source, tmp_path / "c.onnx", refine="on").plan.refined > 0


@pytest.mark.parametrize("scheme", [qtool.Scheme(), PER_TENSOR])
def test_no_channel_overflows_sixteen_bits(source, tmp_path, scheme):
    found = made(source, tmp_path / "q.onnx", scheme=scheme, target="x86-avx2", refine="on")
    assert found.plan.refined > 0
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "q.onnx").graph.initializer}
    weights = [array for array in stored.values() if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == 4 and max(np.abs(w.astype(int)).max() for w in weights) >= 64
    assert not any(saturating_channels(w, 0).any() for w in weights)


def test_without_bias_correction_biases_stay(source, tmp_path):
    found = made(source, tmp_path / "q.onnx", scheme=PER_TENSOR, refine="on", bias_correction="off")
    assert found.plan.refined > 0 and found.plan.shifts == ()


def test_what_two_nodes_read_is_left_alone(tmp_path):
    net = Net(8)
    weight = net.const(np.random.default_rng(0).normal(size=(8, 8)) * np.logspace(0, 1, 8))
    hidden = net("Relu", net("MatMul", net("Relu", net("MatMul", "x", weight)), weight))
    path = net.save(tmp_path / "m.onnx", net.gemm(hidden, 8, 3))
    data = [{"x": row[None].astype(np.float32)} for row in np.random.default_rng(1).normal(size=(32, 8))]
    found = qtool.quantize(path, tmp_path / "q.onnx", data=data, scheme=PER_TENSOR, form="static", refine="on")
    assert found.unrefined.get(weight) == "several nodes read it"
    assert next(row for row in found.plan.weights if row.tensor == weight).integers is None


def test_a_single_example_that_chooses_is_too_few(source, tmp_path):
    found = qtool.quantize(source[0], tmp_path / "q.onnx", data=pictures(2, 0), refine="on", optimize_for="size")
    assert found.plan.refined == 0
    assert set(found.unrefined.values()) == {"it takes two examples that choose"} and len(found.unrefined) == 4


def test_layers_that_read_nothing_have_no_columns(source):
    model = prepare(model_io.load(source[0])).model
    layer = next(found for node in model.graph if (found := Layer.of(node)))
    assert columns(layer, np.zeros((0, 4, 10, 10), np.float32), 128).shape == (1, 36, 0)


def test_what_the_model_computes_from_less_and_long_sums_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_rounding, "_LONGEST", 600)
    net = Net(512)
    row = net.const(np.random.default_rng(0).normal(size=(1, 24)) * np.logspace(0, 1, 24))
    hidden = net("Relu", net("MatMul", "x", net("Expand", row, net.const([512, 24], dtype=np.int64))))
    path = net.save(tmp_path / "m.onnx", net.gemm(net("Relu", net.gemm(hidden, 24, 700)), 700, 3))
    data = [{"x": row[None].astype(np.float32)} for row in np.random.default_rng(1).normal(size=(32, 512))]
    asked = {"scheme": PER_TENSOR, "form": "static", "target": "x86", "optimize_for": "size", "refine": "on"}
    found = qtool.quantize(path, tmp_path / "q.onnx", data=data, **asked)
    whys = list(found.unrefined.values())
    assert "the model computes it from less" in whys and "700 products a sum, more than 600" in whys
    assert found.plan.refined + len(whys) == len(found.plan.weights) == 3


@pytest.mark.parametrize(
    "given",
    [{"form": "dynamic"}, {"form": "weight-only"}],
)
def test_forms_without_calibrated_ranges_have_nothing_to_refine(source, tmp_path, given):
    with pytest.raises(UsageError, match="refine='on' says nothing to form="):
        qtool.quantize(source[0], tmp_path / "q.onnx", calibration=source[1], refine="on", **given)


def test_nothing_is_refined_without_data_or_beside_a_plan(source, tmp_path):
    with pytest.raises(UsageError, match="refining and latency are measured on data"):
        qtool.quantize(source[0], tmp_path / "q.onnx", form="dynamic", refine="on")
    plan = made(source, tmp_path / "q.onnx").plan
    with pytest.raises(UsageError, match="refine says nothing to plan"):
        qtool.quantize(source[0], tmp_path / "p.onnx", plan=plan, refine="off")


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((4, 9, 8), (6, 4, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
        ((4, 9, 8), (8, 1, 3, 3), {"group": 4, "dilations": [2, 1]}),
        ((4, 9, 8), (4, 2, 3, 3), {"group": 2, "strides": [2, 3], "auto_pad": "SAME_LOWER"}),
        ((3, 11), (5, 3, 4), {"strides": [2], "auto_pad": "SAME_UPPER"}),
    ],
)
def test_columns_times_the_weight_are_the_outputs(tmp_path, shape, weight, attributes):
    net = Net(*shape)
    path = net.save(tmp_path / "m.onnx", net("Conv", "x", net.const(net.rng.normal(size=weight)), **attributes))
    x = net.rng.normal(size=(2, *shape)).astype(np.float32)
    expected = next(iter(Session(path, optimize=False).run({"x": x}).values()))
    model = prepare(model_io.load(path)).model
    layer = next(found for node in model.graph if (found := Layer.of(node)))
    array = layer.weight.const_value.numpy()
    found = columns(layer, x.reshape(2, *x.shape[1:], *[1] * (array.ndim - x.ndim)), 10**6)
    rows = layer.output_channels(array)
    made = rows.reshape(*rows.shape[:2], -1) @ found
    outputs = np.moveaxis(made.reshape(weight[0], 2, -1), 0, 1).reshape(expected.shape)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    assert columns(layer, x.reshape(2, *x.shape[1:], *[1] * (array.ndim - x.ndim)), 7).shape[2] <= 2 * 7

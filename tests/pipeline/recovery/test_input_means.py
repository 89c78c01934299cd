"""Means of layers' inputs: against the layer itself, run by onnxruntime with the change as its weight."""

import math

import numpy as np
import onnx
import pytest

import qtool
from qtool.graph import edit, model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.pipeline.recovery.input_means import biased_layers, input_sums, mean_shift, smoothed_means
from qtool.pipeline.recovery.smoothing import smooth
from qtool.runtime.session import Session
from tests.support.patterns import Net
from tests.support.token_models import encoder, sentences

CONVOLUTIONS = {
    "plain": ((4, 9, 9), (6, 4, 3, 3), {}),
    "padded": ((4, 9, 9), (6, 4, 3, 3), {"pads": [1, 0, 2, 1]}),
    "padded by more than the kernel": ((4, 5, 5), (6, 4, 2, 2), {"pads": [3, 3, 3, 3]}),
    "strided": ((4, 9, 8), (6, 4, 3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilated": ((4, 9, 9), (6, 4, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "depthwise": ((6, 7, 7), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "grouped": ((4, 7, 7), (6, 2, 3, 3), {"group": 2}),
    "same upper": ((4, 8, 7), (6, 4, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((4, 8, 7), (6, 4, 3, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((4, 8, 7), (6, 4, 3, 2), {"auto_pad": "VALID"}),
    "one axis": ((4, 20), (6, 4, 5), {"strides": [3], "pads": [2, 1]}),
    "three axes": ((3, 5, 6, 4), (4, 3, 2, 3, 2), {"pads": [1, 0, 1, 0, 1, 1]}),
}


def check(net, y, tmp_path):
    """The shift that a change of the weight makes, against the mean over samples and positions of the changed layer."""
    model = prepare(model_io.load(net.save(tmp_path / "layer.onnx", y))).model
    (layer,) = biased_layers(model)
    x = net.samples(5)["x"] + 0.5
    sums, count = input_sums(layer, x)
    change = net.rng.normal(size=edit.constant(layer.weight).shape).astype(np.float32)
    shift = mean_shift(layer, change, sums / count)
    before = Session(model_io.to_bytes(model), optimize=False).run({"x": x})[y]
    changed = edit.add_initializer(model.graph, "changed", edit.constant(layer.weight) + change)
    layer.node.replace_input_with(1, changed)
    after = Session(model_io.to_bytes(model), optimize=False).run({"x": x})[y]
    others = tuple(i for i in range(before.ndim) if i != 1)
    found = after.mean(axis=others, dtype=np.float64) - before.mean(axis=others, dtype=np.float64)
    assert count == before.size // before.shape[1]
    np.testing.assert_allclose(shift, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, tmp_path):
    shape, weight, attributes = CONVOLUTIONS[name]
    net = Net(*shape)
    kernel = net.weight(*weight, inputs=math.prod(weight[1:]))
    check(net, net("Conv", "x", kernel, net.bias(weight[0]), **attributes), tmp_path)


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5}, {"transA": 1}])
def test_matrices(attributes, tmp_path):
    net = Net(7, batch=5)
    summed = 5 if "transA" in attributes else 7
    shape = (4, summed) if "transB" in attributes else (summed, 4)
    check(net, net("Gemm", "x", net.weight(*shape, inputs=summed), net.bias(4), **attributes), tmp_path)


def test_samples_of_different_sizes_count_by_their_positions(tmp_path):
    net = Net(3, "H", "W")
    y = net("Conv", "x", net.weight(4, 3, 1, 1, inputs=3), net.bias(4))
    model = prepare(model_io.load(net.save(tmp_path / "layer.onnx", y))).model
    runs = [{"x": np.full((1, 3, 2, 2), 1.0, np.float32)}, {"x": np.full((1, 3, 4, 8), 10.0, np.float32)}]
    (means,) = observe_examples(model, runs).means.values()
    assert means.reshape(-1) == pytest.approx([(4 * 1.0 + 32 * 10.0) / 36] * 3)


def test_a_survey_of_a_smoothed_graph_follows_from_the_graph_before(tmp_path):
    """What is divided is known without another run: means, squares and extremes."""
    onnx.save(encoder(40.0), tmp_path / "encoder.onnx")
    model = prepare(model_io.load(tmp_path / "encoder.onnx")).model
    runs = sentences(3)
    seen = observe_examples(model, runs)
    assert len(seen.outputs) == 3 and seen.channels
    scales = {t: tuple(np.exp2(np.arange(len(c.squares)) % 4)) for t, c in seen.channels.items()}
    expected, found = observe_examples(smooth(model, scales), runs), seen.smoothed(model, scales)
    assert found.channels.keys() == expected.channels.keys()
    for tensor, channels in expected.channels.items():
        for part in ("squares", "lows", "highs"):
            np.testing.assert_allclose(
                getattr(found.channels[tensor], part), getattr(channels, part), rtol=1e-3, atol=1e-5
            )
    assert found.means.keys() == expected.means.keys() and found.means
    for layer, means in expected.means.items():
        np.testing.assert_allclose(found.means[layer], means, rtol=1e-3, atol=1e-5)
    assert smoothed_means(model, seen.means, {}).keys() == seen.means.keys()


def test_nothing_is_run_where_no_layer_has_a_bias(tmp_path):
    net = Net(3, 6, 6)
    source = net.save(tmp_path / "m.onnx", net.conv("x", 3, 4, bias=False))
    statistics = qtool.calibrate(source, [net.samples(1)]).statistics
    plan = qtool.quantize(source, tmp_path / "q.onnx", calibration=statistics, calibrator="max").plan
    model = prepare(model_io.load(source)).model
    assert plan.weights and biased_layers(model) == []
    assert correct_biases(model, plan, ()) is plan


def test_a_vector_is_a_matrix_of_one_row(tmp_path):
    """ONNX wants a matrix in front of a Gemm; onnxruntime runs a vector too."""
    net = Net(7, batch=1)
    y = net("Gemm", "x", net.weight(7, 4, inputs=7), net.bias(4))
    (layer,) = biased_layers(prepare(model_io.load(net.save(tmp_path / "layer.onnx", y))).model)
    vector = np.arange(7, dtype=np.float32)
    sums, count = input_sums(layer, vector)
    assert count == 1 and sums.tolist() == vector.tolist()

"""Bias correction: what it computes, and that it is kept only where it measures better."""

from dataclasses import replace

import numpy as np
import pytest

import qtool
from qtool.core.numerics.affine import dequantize
from qtool.core.numerics.calibrators import Max
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.numerics.weights import quantize_weight
from qtool.graph import edit, model_io
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.plan import make_plan
from qtool.pipeline.planning.ranges import choose
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.pipeline.rewrite.static import rewrite, shift_biases
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net

OFF = Max()


def planned(net, tmp_path, *outputs):
    """(prepared model, plan without correction, samples)."""
    path = net.save(tmp_path / "float.onnx", *outputs)
    statistics = qtool.calibrate(path, net.samples()).statistics
    ready = prepare(model_io.load(path))
    target, scheme = TARGETS["x86"], qtool.Scheme()
    placement = place(ready.model, target, scheme)
    ranges = choose(placement, statistics, OFF)
    return (
        ready.model,
        make_plan(ready.model, placement, ranges, digest=ready.digest, target=target, scheme=scheme, calibrator=OFF),
        [net.samples()],
    )


def two_convolutions(depthwise=True):
    """Positive inputs of the second convolution: their mean times the rounding is what shifts its outputs."""
    net = Net(3, 12, 12)
    hidden = net("Relu", net.conv("x", 3, 8))
    return net, net.conv(hidden, 8, 8, group=8 if depthwise else 1)


@pytest.mark.parametrize("depthwise", [True, False])
def test_the_mean_of_each_channel_is_what_it_was(depthwise, tmp_path):
    net, y = two_convolutions(depthwise)
    model, plan, examples = planned(net, tmp_path, y)
    corrected = correct_biases(model, plan, examples)
    # the second layer's weight alone: rounding the first one changes what the second one sees
    second = replace(
        corrected, activations=(), biases=(), constants=(), weights=plan.weights[1:], shifts=corrected.shifts[1:]
    )

    def mean(graph):
        session = Session(model_io.to_bytes(graph), optimize=False)
        return session.run(examples[0])[y].mean(axis=(0, 2, 3), dtype=np.float64)

    exact = mean(model)
    before = np.abs(mean(rewrite(model, replace(second, shifts=()))) - exact).max()
    after = np.abs(mean(rewrite(model, second)) - exact).max()
    assert after < before / 100


def test_the_shift_is_the_rounding_times_the_mean_input(tmp_path):
    """For a Gemm the layer has no padding: the shift is the matrix of rounding errors times the mean of the inputs."""
    net = Net(8)
    y = net.gemm("x", 8, 5, trans=1)
    model, plan, examples = planned(net, tmp_path, y)
    (shift,) = correct_biases(model, plan, examples).shifts
    exact = edit.constant(model.graph.initializers[plan.weights[0].tensor])
    rounding = dequantize(quantize_weight(exact, plan.weights[0].params), plan.weights[0].params) - exact
    expected = -rounding.astype(np.float64) @ examples[0]["x"].mean(axis=0)
    assert np.asarray(shift.shift) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert shift.reader[1] == 2


def test_a_shifted_graph_is_the_graph_with_other_biases(tmp_path):
    net, y = two_convolutions()
    model, plan, examples = planned(net, tmp_path, y)
    corrected = correct_biases(model, plan, examples)
    shifted = shift_biases(model, corrected)
    for old, new, shift in zip(model.graph[0:1], shifted.graph[0:1], corrected.shifts[:1], strict=True):
        difference = edit.constant(new.inputs[2]) - edit.constant(old.inputs[2])
        assert difference == pytest.approx(np.asarray(shift.shift), abs=1e-6)
    assert [n.name for n in shifted.graph] == [n.name for n in model.graph]


def test_layers_without_a_bias_and_shared_biases(tmp_path):
    """One bias read by two layers gets a shift for each; a layer without a bias is left alone."""
    net = Net(4, 8, 8)
    weight, bias = net.weight(4, 4, 1, 1, inputs=4), net.bias(4)
    a = net("Conv", "x", weight, bias, name="a")
    b = net("Conv", net("Relu", a), net.weight(4, 4, 1, 1, inputs=4), bias, name="b")
    c = net.conv(b, 4, 4, bias=False, name="c")
    model, plan, examples = planned(net, tmp_path, c)
    corrected = correct_biases(model, plan, examples)
    assert {shift.reader[0] for shift in corrected.shifts} == {"a", "b"}
    path = tmp_path / "int8.onnx"
    result = qtool.quantize(
        tmp_path / "float.onnx", path, calibration=statistics_of(net, tmp_path), bias_correction="on"
    )
    assert len(result.plan.shifts) == 2  # and it verified


def statistics_of(net, tmp_path):
    return qtool.calibrate(tmp_path / "float.onnx", net.samples()).statistics


def test_it_is_kept_only_where_it_measures_better(tmp_path):
    net, y = two_convolutions()
    source = net.save(tmp_path / "float.onnx", y)
    statistics = statistics_of(net, tmp_path)
    results = {
        mode: qtool.quantize(
            source, tmp_path / f"{mode}.onnx", calibration=statistics, calibrator="max", bias_correction=mode
        )
        for mode in ("on", "off", "auto")
    }
    assert results["on"].plan.shifts and not results["off"].plan.shifts
    assert results["on"].trials == results["off"].trials == ()
    tried = {trial.bias_correction: trial.sqnr_db for trial in results["auto"].trials}
    assert set(tried) == {True, False}
    assert bool(results["auto"].plan.shifts) == (tried[True] >= tried[False])
    assert results["auto"].trials[0].sqnr_db == max(tried.values())
    choosing = {"x": np.concatenate([example["x"] for example in statistics.examples[::2]])}
    exact = Session(source).run(choosing)[y]

    def executed(mode):
        return signal_to_noise(exact, Session(tmp_path / f"{mode}.onnx").run(choosing)[y])

    assert executed("auto") == pytest.approx(max(tried.values()), abs=0.01)
    assert executed("on") == pytest.approx(tried[True], abs=0.01)
    assert executed("off") == pytest.approx(tried[False], abs=0.01)


def test_auto_tries_all_calibrators_and_keeps_the_best(tmp_path):
    net, y = two_convolutions()
    source = net.save(tmp_path / "float.onnx", y)
    result = qtool.quantize(source, tmp_path / "auto.onnx", calibration=statistics_of(net, tmp_path))
    tried = [(str(t.calibrator), t.bias_correction) for t in result.trials]
    names = ["entropy", "max", "mse", "percentile 99.99", "percentile 99.999"]
    for wanted in (True, False):
        assert sorted(name for name, corrected in tried if corrected is wanted) == names
    figures = [t.sqnr_db for t in result.trials]
    assert figures == sorted(figures, reverse=True)
    assert result.plan.calibrator == str(result.trials[0].calibrator)
    assert bool(result.plan.shifts) == result.trials[0].bias_correction


def test_float_biases_are_shifted_too(tmp_path):
    """TensorRT's biases are float: the shift stands in them."""
    net, y = two_convolutions()
    source = net.save(tmp_path / "float.onnx", y)
    statistics = statistics_of(net, tmp_path)
    result = qtool.quantize(
        source, tmp_path / "trt.onnx", calibration=statistics, target="tensorrt", bias_correction="on"
    )
    biases = [
        edit.constant(node.inputs[2])
        for node in model_io.from_bytes((tmp_path / "trt.onnx").read_bytes()).graph
        if node.op_type == "Conv"
    ]
    exact = [
        edit.constant(node.inputs[2]) for node in prepare(model_io.load(source)).model.graph if node.op_type == "Conv"
    ]
    for new, old, shift in zip(biases, exact, result.plan.shifts, strict=True):
        assert new - old == pytest.approx(np.asarray(shift.shift), abs=1e-6)

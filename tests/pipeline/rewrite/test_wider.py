"""Convolutions that are written with more channels than they have: the same numbers, by a kernel that is faster."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.errors import ModelError
from qtool.core.records.plan import WiderPlan
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.static import LONGEST
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.runtime.session import Session
from tests.support.patterns import Net

PLAIN = {"calibrator": "max", "bias_correction": "off", "target": "x86", "partial": False, "form": "static"}


def last(net, x):
    """As in a network that makes images larger: many channels in, three out."""
    return (net.conv(x, 32, 3, name="few"),)


def clipped(net, x):
    return (net("Clip", net.conv(x, 32, 3, name="few"), net.const(np.float32(0)), net.const(np.float32(6))),)


def between(net, x):
    y = net("Relu", net.conv(x, 32, 3, name="few", bias=False))
    return (net.conv(y, 3, 20, name="behind"),)


def read_twice(net, x):
    y = net("Relu", net.conv(x, 32, 18, kernel=(1, 1), name="few"))
    return net.conv(y, 18, 20, name="behind"), net("GlobalAveragePool", y)


KINDS = (last, clipped, between, read_twice)


def built(tmp_path, make):
    net = Net(3, 24, 24)
    x = net("Relu", net.conv("x", 3, 32, name="first"))
    return net.save(tmp_path / "m.onnx", *make(net, x)), net.samples(4)


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("make", KINDS)
def test_what_comes_out_is_the_same_to_the_last_bit(tmp_path, make, granularity):
    path, data = built(tmp_path, make)
    scheme = qtool.Scheme(granularity=granularity)
    options = {**PLAIN, "scheme": scheme, "optimize_for": "size"}
    plain = qtool.quantize(path, tmp_path / "plain.onnx", data=data, **options)
    assert plain.plan.wider == () and plain.verification.integer_share == 1.0
    plan = replace(plain.plan, wider=(WiderPlan("few", 20),))
    plan.save(tmp_path / "plan.json")
    wide = qtool.quantize(path, tmp_path / "wide.onnx", plan=tmp_path / "plan.json")
    assert wide.plan.wider == plan.wider and wide.verification.kernels["QLinearConv"] >= 2
    assert wide.verification.integer_share == 1.0 and wide.verification.steps in (0, 1)
    onnx.checker.check_model(onnx.load(tmp_path / "wide.onnx"), full_check=True)
    before, after = (Session(tmp_path / name).run(data) for name in ("plain.onnx", "wide.onnx"))
    assert list(before) == list(after)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


@pytest.mark.parametrize("make", KINDS)
def test_onnxruntime_drops_the_channels_of_integers(tmp_path, make):
    path, data = built(tmp_path, make)
    plan = qtool.quantize(path, tmp_path / "q.onnx", data=data, optimize_for="size", **PLAIN).plan
    model, _ = rewritten(prepare(model_io.load(path)).model, replace(plan, wider=(WiderPlan("few", 20),)))
    model_io.write(model, tmp_path / "wide.onnx")
    Session(tmp_path / "wide.onnx", save_optimized=tmp_path / "optimised.onnx")
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    kernels = [node.op_type for node in graph.node]
    # no DequantizeLinear but those of the outputs, and no QuantizeLinear but that of the input
    assert kernels.count("Slice") == 1 and kernels.count("QuantizeLinear") == 1
    assert kernels.count("DequantizeLinear") == len(graph.output)
    (slicing,) = (node for node in graph.node if node.op_type == "Slice")
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert makers[slicing.input[0]] in ("QLinearConv", "Transpose")


def test_a_plan_that_widens_what_is_not_there_is_refused(tmp_path):
    path, data = built(tmp_path, last)
    plan = qtool.quantize(path, tmp_path / "q.onnx", data=data, **PLAIN).plan
    prepared = prepare(model_io.load(path)).model
    for row, why in ((WiderPlan("nobody", 16), "does not hold"), (WiderPlan("first", 16), "32 channels")):
        with pytest.raises(ModelError, match=why):
            rewritten(prepared, replace(plan, wider=(row,)))


def test_names_that_are_made_do_not_repeat_long_ones(tmp_path):
    """Exporters name what they fused by all that it was made of."""
    net = Net(3, 8, 8)
    names = ["a" * 300 + str(number) for number in range(2)]
    y = net.conv(net.conv("x", 3, 8, name=names[0]), 8, 8, name=names[1])
    path = net.save(tmp_path / "m.onnx", y)
    model = onnx.load(path)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "t" * 400
    onnx.save(model, path)
    qtool.quantize(path, tmp_path / "q.onnx", data=net.samples(), optimize_for="size", **PLAIN)

    def named(graph):
        return {n for node in graph.node for n in (node.name, *node.output)} | {one.name for one in graph.initializer}

    fresh = named(onnx.load(tmp_path / "q.onnx").graph) - named(model.graph)
    assert len(fresh) > 20 and max(map(len, fresh)) <= LONGEST + len("_1")

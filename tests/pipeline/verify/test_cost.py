"""What verification finds without running everything: shapes from those of inputs, layers on enough examples."""

import importlib
from weakref import WeakSet

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.numerics.weights import WeightMemo
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify import macs
from qtool.pipeline.verify.original import Original
from qtool.runtime.session import Session
from tests.support.patterns import Net

measure = importlib.import_module("qtool.pipeline.verify.measure")


def network(tmp_path, batch="N"):
    net = Net(3, 9, 9, batch=batch)
    hidden = net("Relu", net("Conv", "x", net.weight(8, 3, 3, 3, inputs=27), net.bias(8), strides=[2, 2], name="first"))
    pooled = net("Flatten", net("GlobalAveragePool", net.conv(hidden, 8, 8, group=8, name="second")))
    y = net("MatMul", net.gemm(pooled, 8, 5, name="third"), net.weight(5, 4, inputs=5), name="fourth")
    return net, net.save(tmp_path / "m.onnx", y)


MACS = {"first": 2 * 8 * 16 * 27, "second": 2 * 8 * 16 * 9, "third": 2 * 5 * 8, "fourth": 2 * 4 * 5}


def no_session(*_, **__):
    raise AssertionError("the graph was run")


@pytest.mark.parametrize("batch", ["N", 2])
def test_shapes_follow_from_those_of_the_inputs(batch, tmp_path, monkeypatch):
    net, source = network(tmp_path, batch)
    model = prepare(model_io.load(source)).model
    monkeypatch.setattr(macs, "Session", no_session)
    assert macs.count_macs(model, [net.samples(2)]) == MACS


def test_the_graph_is_run_where_shapes_do_not_follow(tmp_path):
    net, source = network(tmp_path)
    model = prepare(model_io.load(source)).model
    for node in model.graph:
        if node.name in ("second", "fourth"):
            node.outputs[0].shape = None
    assert macs.count_macs(model, [net.samples(2)]) == MACS


def test_every_layer_is_compared_on_the_first_example_at_least(tmp_path, monkeypatch):
    net, source = network(tmp_path, batch=1)
    # one half chooses
    runs = [net.samples(1) for _ in range(12)]
    statistics = qtool.calibrate(source, runs).statistics
    counted = []
    run = measure._Layers.run

    def spy(self, example):
        counted.append(example)
        return run(self, example)

    monkeypatch.setattr(measure._Layers, "run", spy)
    whole = qtool.quantize(source, tmp_path / "a.onnx", calibration=statistics, calibrator="max").verification
    assert len(counted) == 6
    monkeypatch.setattr(measure, "ENOUGH", 1)
    counted.clear()
    less = qtool.quantize(source, tmp_path / "b.onnx", calibration=statistics, calibrator="max").verification
    assert len(counted) == 1
    assert [(t.tensor, t.sqnr_db) for t in less.tensors] == [(t.tensor, t.sqnr_db) for t in whole.tensors]
    assert (less.output_sqnr_db, less.examples) == (whole.output_sqnr_db, whole.examples)


def test_two_graphs_are_in_memory_at_once(tmp_path, monkeypatch):
    net, source = network(tmp_path, batch=1)
    alive, most = WeakSet(), []

    class Counted(Session):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(measure, "Session", Counted)
    runs = [net.samples(1) for _ in range(6)]
    proof = qtool.quantize(source, tmp_path / "q.onnx", data=runs, calibrator="max").verification
    assert proof.steps is not None and proof.examples == 3
    assert len(most) == 4 and max(most) == 2


def test_the_original_is_run_once(tmp_path, monkeypatch):
    net, source = network(tmp_path)
    runs = [net.samples(2), net.samples(3)]
    original = Original(source, None, runs)
    first = original.outputs
    monkeypatch.setattr(Session, "run", no_session)
    assert original.outputs is first and original.halves == ()
    assert [len(next(iter(outputs.values()))) for outputs in first] == [2, 3]


def test_what_is_remembered_of_weights_changes_nothing(tmp_path):
    net, source = network(tmp_path)
    statistics = qtool.calibrate(source, [net.samples(3)]).statistics
    plans = [
        qtool.quantize(source, tmp_path / "a.onnx", calibration=statistics, calibrator=name).plan
        for name in ("max", "mse")
    ]
    model, memo = prepare(model_io.load(source)).model, WeightMemo()
    for plan in plans:
        for _ in range(2):
            assert model_io.to_bytes(rewrite(model, plan, memo)) == model_io.to_bytes(rewrite(model, plan))
    assert memo.integers
    for array in memo.integers.values():
        assert array.dtype == np.int8


BRANCHES = """<ir_version: 8, opset_import: ["": 17]> g (float[N,8] x, bool k) => (float[N,4] y) {
    a = MatMul(x, w1)
    i = If(k)<then_branch = t () => (float[N,8] p) { u = MatMul(a, w2)  p = MatMul(u, w2) },
              else_branch = e () => (float[N,8] q) { q = MatMul(a, w2) }>
    y = MatMul(i, w3) }"""


def branching(path):
    model = onnx.parser.parse_model(BRANCHES)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (8, 8), "w2": (8, 8), "w3": (8, 4)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    onnx.save(model, path)
    x = rng.normal(size=(8, 1, 8)).astype(np.float32)
    return path, [{"x": row, "k": np.array(n < 2)} for n, row in enumerate(x)]


def test_what_runs_in_some_examples_counts_for_these_in_any_order(tmp_path):
    source, data = branching(tmp_path / "m.onnx")
    model = prepare(model_io.load(source)).model
    wanted = {"a": 64, "u": 64 // 4, "p": 64 // 4, "q": 64 * 3 // 4, "y": 32}
    assert macs.count_macs(model, data) == macs.count_macs(model, data[::-1]) == wanted
    assert macs.count_macs(model, data[2:]) == {"a": 64, "u": 0, "p": 0, "q": 64, "y": 32}
    # in one of many is not never
    assert macs.count_macs(model, data[1:2] + 70 * data[2:3])["u"] == 1


def test_shares_do_not_depend_on_the_order_of_the_data(tmp_path):
    source, data = branching(tmp_path / "m.onnx")
    shares = []
    for order in (data, data[::-1]):
        found = qtool.sensitivity(source, order, calibration=qtool.calibrate(source, order).statistics)
        shares.append({layer.name: layer.macs for layer in found.layers})
    assert shares[0] == shares[1] == {"a": 64, "u": 16, "p": 16, "q": 48, "y": 32}
    # half of the examples report, and some of these take either branch
    scheme = qtool.Scheme(exclude=("u", "p"))
    for order in (data, data[::-1]):
        proof = qtool.quantize(
            source, tmp_path / "q.onnx", data=[*order, *order[:2]] * 2, scheme=scheme, form="static", target="x86"
        ).verification
        # means, each rounded up
        assert 160 < proof.macs < 224 and 0 <= proof.macs + proof.integer_macs - 2 * 160 <= 4

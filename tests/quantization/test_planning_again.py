"""A valid model is never refused for what onnxruntime does with one of its layers: it is planned again, and said so."""

import json

import numpy as np
import pytest

import qtool
from qtool.core.errors import LayerError, NothingToQuantizeError, VerificationError
from qtool.core.numerics.calibrators import Max
from qtool.core.records.options import Scheme
from qtool.graph import model_io
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.pipeline.verify.measure import LayerSteps, Measured
from qtool.report.quantize import quantized_text
from qtool.report.tune import tuned_text
from qtool.targets.tables import TARGETS
from tests.support.patterns import Net

PLAIN = {"calibrator": "max", "bias_correction": "off", "smoothing": "off"}


def computed_vector(net: Net) -> str:
    """A Gemm, and a product to which a computed vector is added: onnxruntime makes a float Gemm of the two."""
    x = net("Reshape", net.gemm("x", 8, 40), net.const([1, 5, 8], dtype=np.int64))
    vector = net("ReduceMean", x, net.const([0, 1], dtype=np.int64), keepdims=0)
    return net("Tanh", net("Add", net("MatMul", x, net.weight(8, 8, inputs=8), name="product"), vector))


def resized(net: Net) -> str:
    """A Resize by axes to a size that only data tells: the model does not load behind a QLinearConv."""
    larger = net("Resize", net.conv("x", 3, 4, name="before"), "", "", sizes(net), axes=[2, 3], mode="nearest")
    return net.conv(larger, 4, 4, name="after")


def sizes(net: Net) -> str:
    """[6, 6], computed from the input."""
    zero = net("ReduceMin", net("Mul", "x", net.const(0.0)), net.const([0, 1, 2, 3], dtype=np.int64), keepdims=0)
    return net("Cast", net("Add", zero, net.const([6.0, 6.0])), to=7)


CASES = {"runs in float": (computed_vector, (8,), "product"), "does not load": (resized, (3, 8, 8), "before")}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """The model, its statistics, its samples and the layer."""
    build, shape, layer = CASES[request.param]
    net = Net(*shape, batch=1, opset=18)
    model = net.save(tmp_path / "m.onnx", build(net))
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(1, *shape)).astype(np.float32)} for _ in range(8)]
    return model, qtool.calibrate(model, samples).statistics, samples, layer


def test_the_layer_is_float_and_the_work_goes_on(case, tmp_path):
    model, statistics, _, layer = case
    done = qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, **PLAIN)
    reason = done.plan.skipped[layer]
    assert "onnxruntime" in reason
    assert done.verification.integer_layers == 1
    assert done.verification.float_layers == {layer: reason}
    assert json.loads(json.dumps(done.to_dict()))["plan"]["skipped"][layer] == reason
    assert f"{layer} ({reason})" in quantized_text(done)


def test_where_no_form_is_asked_for_the_layer_may_be_dynamic(case, tmp_path):
    model, statistics, _, layer = case
    done = qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics)
    assert layer in (done.plan.skipped if layer == "before" else done.plan.integer)


def test_sensitivity_and_tune_go_on(case, tmp_path):
    model, statistics, samples, layer = case
    found = qtool.sensitivity(model, samples, calibration=statistics, calibrator="max", bias_correction="off")
    assert layer in found.unranked and "onnxruntime" in found.unranked[layer]
    assert [bool(row.alone and row.without) for row in found.layers] == [True]
    tuned = qtool.tune(model, samples, tmp_path / "t.onnx", min_sqnr=10, max_drop=0.9, calibrators="max")
    assert tuned.met
    why = tuned.plan.skipped.get(layer)
    assert (
        "DynamicQuantizeMatMul" in tuned.verification.kernels
        if why is None
        else f"{layer} ({why})" in tuned_text(tuned)
    )


def test_a_given_plan_is_planned_again_too(case, tmp_path):
    model, statistics, _, layer = case
    planner = Planner(prepare(model_io.load(model)), statistics, TARGETS["x86"], Scheme())
    plan = planner.plan(Max(), corrected=False)
    assert layer in plan.integer
    done = qtool.quantize(model, tmp_path / "q.onnx", plan=plan, save_plan=tmp_path / "p.json")
    assert "onnxruntime" in done.plan.skipped[layer] and layer not in done.plan.integer
    again = qtool.quantize(model, tmp_path / "r.onnx", plan=tmp_path / "p.json")
    assert (tmp_path / "r.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    assert again.plan == done.plan


def test_nothing_is_left(tmp_path):
    net = Net(5, 8, batch=1)
    vector = net("ReduceMean", "x", axes=[0, 1], keepdims=0)
    model = net.save(tmp_path / "m.onnx", net("Add", net("MatMul", "x", net.weight(8, 8, inputs=8)), vector))
    statistics = qtool.calibrate(model, [{"x": np.ones((1, 5, 8), np.float32)}]).statistics
    with pytest.raises(NothingToQuantizeError, match=r"nothing to quantise for target .* runs it in float here"):
        qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, **PLAIN)
    assert not (tmp_path / "q.onnx").exists()


@pytest.fixture
def broken(monkeypatch):
    """Lets the arithmetic of one layer be wrong whenever it is integer."""

    def breaking(layer):
        check = Measured.check

        def wrong(self, prepared, plan, rounding):
            check(self, prepared, plan, rounding)
            if layer in plan.integer:
                raise LayerError(f"tensor of {layer}", {layer: "it computes something else"})

        monkeypatch.setattr(Measured, "check", wrong)

    return breaking


def test_a_layer_that_computes_something_else_is_left_in_float(broken, tmp_path):
    broken("last")
    net = Net()
    model = net.save(tmp_path / "m.onnx", net.conv(net("Relu", net.conv("x", 3, 4, name="first")), 4, 4, name="last"))
    data = net.samples()
    statistics = qtool.calibrate(model, data).statistics
    done = qtool.quantize(model, tmp_path / "q.onnx", calibration=statistics, **PLAIN)
    assert done.plan.skipped == {"last": "it computes something else"} and "first" in done.plan.integer
    given = Planner(prepare(model_io.load(model)), statistics, TARGETS["x86"], Scheme()).plan(Max(), corrected=False)
    assert qtool.quantize(model, tmp_path / "q.onnx", plan=given).plan.skipped == done.plan.skipped
    data = {"x": np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    tuned = qtool.tune(model, data, tmp_path / "t.onnx", min_sqnr=10, max_drop=0.9, calibrators="max")
    assert tuned.plan.skipped == done.plan.skipped


def test_what_no_other_plan_mends_is_an_error(monkeypatch, tmp_path):
    def wrong(*_):
        raise VerificationError("something is wrong; please report this model")

    monkeypatch.setattr(Measured, "check", wrong)
    net = Net()
    model = net.save(tmp_path / "m.onnx", net.conv("x", 3, 4))
    with pytest.raises(VerificationError, match="please report"):
        qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), **PLAIN)


def test_what_a_run_reads_may_be_nothing_but_roundings(tmp_path):
    """A mean of what its own mean was taken from: onnxruntime's sums leave another rest than the model's."""
    net = Net(opset=16)
    h = net("Relu", net.conv("x", 3, 3))
    rest = net("ReduceMean", net("Sub", h, net("GlobalAveragePool", h)), axes=[2, 3], keepdims=0)
    last = net("Gemm", rest, net.weight(3, 16, inputs=3), net.bias(16), name="of the rest")
    other = net.gemm(net("Flatten", "x"), 192, 16, name="of the input")
    model = net.save(tmp_path / "m.onnx", last, other)
    done = qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), form="dynamic")
    assert "of the input" in done.plan.integer
    why = done.plan.skipped.get("of the rest")
    assert why in (None, "what it reads depends on how onnxruntime rounds")


def test_a_dynamic_layer_that_computes_something_else_is_left_in_float(monkeypatch, tmp_path):
    monkeypatch.setattr(LayerSteps, "wrong", property(lambda steps: steps.count % 7 == 0))
    net = Net(8)
    model = net.save(tmp_path / "m.onnx", net.gemm(net("Relu", net.gemm("x", 8, 7, name="first")), 7, 4, name="second"))
    done = qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), form="dynamic")
    assert done.plan.skipped == {"second": "what it reads depends on how onnxruntime rounds"}
    assert "first" in done.plan.integer


def test_where_it_was_the_only_one_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(LayerSteps, "wrong", True)
    net = Net(8)
    model = net.save(tmp_path / "m.onnx", net.gemm("x", 8, 5, name="first"))
    with pytest.raises(NothingToQuantizeError, match=r"nothing to quantise .* how onnxruntime rounds"):
        qtool.quantize(model, tmp_path / "q.onnx", data=net.samples(), form="dynamic")

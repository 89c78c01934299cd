"""Sensitivity of layers that are not static: dynamic, recurrent, stored; and that what is ranked is what is written."""

import onnx
import pytest

import qtool
from qtool.core.errors import ModelError, VerificationError
from qtool.core.numerics.calibrators import Max
from qtool.core.records.options import Scheme
from qtool.core.records.sensitivity import VIEWS
from qtool.feeds import open_feeds
from qtool.graph import edit, model_io
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import prepare
from qtool.targets.tables import TARGETS
from qtool.tuning.sensitivity.analyze import measure_layers
from tests.support.naive_sensitivity import naive
from tests.support.patterns import Net
from tests.support.recurrent_models import LSTM_STATE, lstm, sequences
from tests.support.token_models import encoder, recurrent, sentences

DENSE = ("query", "key", "value", "attended", "widen", "narrow")
ROUNDING_DB = 0.05
"""Float sums of a part and of the whole are taken in another order, which a dynamic range can turn into a step."""


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "encoder.onnx"
    onnx.save(encoder(), path)
    return path


@pytest.mark.parametrize("form", ["dynamic", "mixed", "weight-only"])
def test_figures_are_those_of_the_naive_way(text_model, form):
    """Each view of each layer; with an embedding whose rows are stored as integers beside them."""
    prepared = prepare(model_io.load(text_model))
    statistics = qtool.calibrate(text_model, sentences(8)).statistics
    scheme = Scheme(dynamic=("query", "widen")) if form == "mixed" else Scheme(form=form)
    planner = Planner(prepared, statistics, TARGETS["x86"], scheme)
    feeds = open_feeds(sentences(4), edit.input_specs(prepared.model))

    def plan_of(floating):
        return planner.plan(Max(), floating=floating, corrected=False)

    assert plan_of(()).stored
    found = measure_layers(prepared, plan_of, TARGETS["x86"], feeds)
    assert {*DENSE} < {layer.name for layer in found.layers}
    for view in VIEWS:
        slow = dict(naive(prepared, plan_of, TARGETS["x86"], list(feeds), None, view))
        for layer in found.layers:
            assert layer.unmeasured == {}
            assert abs(layer.figures(view).sqnr_db - slow[layer.name].sqnr_db) < ROUNDING_DB, (layer.name, view)
    costs = {layer.alone.sqnr_db for layer in found.layers}
    assert len(costs) == len(found.layers)


def test_a_transformer_is_ranked_by_default_as_it_is_quantised(text_model, tmp_path):
    statistics = qtool.calibrate(text_model, sentences(8)).statistics
    written = qtool.quantize(text_model, tmp_path / "int8.onnx", calibration=statistics)
    found = qtool.sensitivity(text_model, sentences(6), calibration=statistics)
    assert {layer.name for layer in found.layers} == set(written.plan.quantized)
    assert all(layer.unmeasured == {} and layer.alone and layer.without for layer in found.layers)
    assert (found.calibrator, found.scheme) == (written.plan.calibrator, written.plan.scheme)
    (result,) = qtool.evaluate(text_model, [tmp_path / "int8.onnx"], sentences(6)).candidates
    assert found.quantized.sqnr_db == pytest.approx(result.sqnr_db, abs=1e-3)


def test_a_recurrent_layer_is_ranked(tmp_path):
    model = lstm(tmp_path / "m.onnx")
    data = {"x": sequences()}
    statistics = qtool.calibrate(model, data, state=LSTM_STATE).statistics
    found = qtool.sensitivity(model, data, calibration=statistics, state=LSTM_STATE)
    assert {layer.name for layer in found.layers} == {"first", "lstm", "last"}
    assert all(layer.unmeasured == {} for layer in found.layers)
    assert len({layer.alone.sqnr_db for layer in found.layers}) == 3


def test_a_recurrent_layer_without_a_kernel_is_listed_as_not_ranked(tmp_path):
    net = recurrent("GRU")
    net = recurrent("GRU")
    head = net.gemm(net("Flatten", "y_out", axis=3), 24, 4, name="head")
    model = net.save(tmp_path / "m.onnx", head)
    statistics = qtool.calibrate(model, net.samples()).statistics
    found = qtool.sensitivity(model, net.samples(), calibration=statistics)
    assert [layer.name for layer in found.layers] == ["head"]
    assert found.unranked == {"recurrent": "it has no integer kernel for calibrated ranges"}
    assert found.to_dict()["unranked"] == found.unranked


def test_where_no_layer_can_be_measured_it_is_an_error(tmp_path, monkeypatch):
    net = Net(12)
    source = net.save(tmp_path / "f.onnx", net.gemm("x", 12, 6))
    statistics = qtool.calibrate(source, net.samples()).statistics

    def fail(*_):
        raise ModelError("no such piece")

    monkeypatch.setattr("qtool.tuning.sensitivity.run.PieceChain", fail)
    with pytest.raises(VerificationError, match=r"no layer could be measured; of 'Gemm_0': no such piece"):
        qtool.sensitivity(source, net.samples(), calibration=statistics)


def test_tune_leaves_recurrent_models_layers_in_float_by_what_they_cost(tmp_path):
    """Not in graph order: the layer that is left in float first is the one whose SQNR alone is least."""
    model = lstm(tmp_path / "m.onnx")
    data = {"x": sequences(8)}
    result = qtool.tune(
        model, data, tmp_path / "q.onnx", state=LSTM_STATE, calibrators=[Max()], min_sqnr=500.0,
        max_float_macs=0.9,
    )  # fmt: skip
    tried = [step.what.removeprefix("float: ") for step in result.steps if step.what.startswith("float: ")]
    assert tried, [step.what for step in result.steps]
    statistics = qtool.calibrate(model, data, state=LSTM_STATE).statistics
    ranking = qtool.sensitivity(model, data, calibration=statistics, state=LSTM_STATE).ranking("alone")
    assert set(tried[0].split(", ")) <= set(ranking) and ranking[0] in tried[0]


def test_tune_says_that_nothing_could_be_ranked(tmp_path, monkeypatch):
    net = Net(12)
    h = net("Tanh", net.gemm("x", 12, 12))
    source = net.save(tmp_path / "f.onnx", net.gemm(h, 12, 6))

    def fail(*_):
        raise ModelError("no such piece")

    monkeypatch.setattr("qtool.tuning.sensitivity.run.PieceChain", fail)
    result = qtool.tune(source, net.samples(16), tmp_path / "q.onnx", min_sqnr=500.0, max_float_macs=0.9)
    assert not result.met
    assert result.stopped is not None and "no layer could be measured" in result.stopped

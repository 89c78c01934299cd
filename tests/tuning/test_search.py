"""What tune does with plans that fail, with no room for float, and with recurrent layers; what it did not try."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.core.errors import DataError, ModelError, UsageError, VerificationError
from qtool.pipeline.planning.planner import Planner
from qtool.quantization.halves import original_of
from qtool.report.tune import tuned_text
from qtool.runtime.session import Session
from qtool.tuning.judge import Judge
from qtool.tuning.tune import tune
from tests.support.detectors import detector, squares
from tests.support.patterns import Net
from tests.support.refusals import SAMPLES, classifier, network

DATA = {"x": SAMPLES}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two convolutions, the second with 57 % of the multiply-accumulates; no output says classes."""
    return network(tmp_path_factory.mktemp("search") / "m.onnx")


def tuned(model, output, **options):
    return tune(model, DATA, output, **{"calibrators": "max", "min_sqnr": 80.0, **options})


def test_a_layer_that_cannot_be_left_in_float_is_skipped_and_said(model, tmp_path, monkeypatch):
    made = Planner.plan

    def plan(self, calibrator, *, floating=(), **options):
        if floating:
            raise ModelError("node 'last' cannot be kept float")
        return made(self, calibrator, floating=floating, **options)

    monkeypatch.setattr(Planner, "plan", plan)
    result = tuned(model, tmp_path / "q.onnx", max_float_macs=0.6)
    assert not result.met
    (skipped,) = [what for what in result.untried if "float: " in what]
    assert result.untried[skipped] == "node 'last' cannot be kept float"
    assert result.untried["layers in float"] == "no layer can be, while another is quantised"
    assert Session(tmp_path / "q.onnx").outputs == Session(model).outputs


@pytest.mark.parametrize("error", [ModelError, VerificationError])
def test_a_plan_that_fails_ends_no_search(model, tmp_path, monkeypatch, error):
    wrote, tries = Judge.write, []

    def write(self, plan, output, save_plan):
        tries.append(plan)
        if len(tries) == 1:
            raise error("not as planned")
        return wrote(self, plan, output, save_plan)

    monkeypatch.setattr(Judge, "write", write)
    result = tuned(model, tmp_path / "q.onnx", min_sqnr=10.0)
    assert result.met
    assert result.untried == {"max, corrected": "not as planned"}
    assert [step.what for step in result.steps] == ["max"]


def test_where_every_plan_fails_the_first_failure_is_raised(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Judge, "judge", lambda *_: (_ for _ in ()).throw(VerificationError("not as planned")))
    with pytest.raises(VerificationError, match="not as planned"):
        tuned(model, tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_float_is_said(model, tmp_path):
    result = tuned(model, tmp_path / "q.onnx", max_float_macs=0.1)
    assert result.untried["layers in float"].startswith("the worst layer, ")
    assert result.untried["layers in float"].endswith(" of the multiply-accumulates, and 10 % may stay in float")


@pytest.mark.parametrize("threads", [1, 3])
def test_layers_are_ranked_by_the_boxes_that_outputs_are_decoded_to(tmp_path, threads):
    data = {"x": (squares(6)[0].transpose(0, 3, 1, 2) / 255).astype(np.float32)}
    target = {"metric": "box_agreement", "decode": "yolov8", "min_sqnr": 200.0}
    result = tune(
        detector(tmp_path / "m.onnx"), data, tmp_path / "q.onnx", calibrators="max", threads=threads, **target
    )
    assert [step.metric for step in result.steps] == [1.0] * len(result.steps)
    assert result.evaluation.candidates[0].scores[0].metric == "box_agreement"
    assert result.untried == {"layers in float": "no layer can be, while another is quantised"}


def test_the_decibels_are_named(model, tmp_path):
    result = tuned(model, tmp_path / "q.onnx")
    assert result.target == "SQNR at least 80 dB"
    assert (result.metric, result.max_drop, result.min_sqnr) == ("sqnr", None, 80.0)
    found = result.evaluation.candidates[0].sqnr_db
    assert result.missed == (f"SQNR {found:.1f} dB, asked at least 80 dB ({80.0 - found:.1f} dB short)",)
    assert {step.measured for step in result.steps} == {"sqnr"} and {step.drop for step in result.steps} == {None}
    assert result.best.metric == result.best.sqnr_db
    assert result.to_dict()["min_sqnr"] == 80.0


def test_both_parts_of_a_target_are_named(tmp_path):
    model = classifier(tmp_path / "m.onnx")
    alone = tuned(model, tmp_path / "q.onnx", min_sqnr=10.0)
    assert (alone.target, alone.met) == ("SQNR at least 10 dB", True)
    both = tuned(model, tmp_path / "q.onnx", min_sqnr=80.0, max_drop="50%")
    assert both.target == "agreement drop at most 50%, SQNR at least 80 dB"
    assert len(both.missed) == 1 and both.best.drop == 1.0 - both.best.metric
    without = tuned(model, tmp_path / "q.onnx", min_sqnr=None, max_drop=0.9)
    assert (without.target, without.met) == ("agreement drop at most 0.9", True)


def test_one_sample_calibrates_chooses_and_reports(model, tmp_path):
    result = tune(model, {"x": SAMPLES[:1]}, tmp_path / "q.onnx", calibrators="max", min_sqnr=10.0)
    assert result.met and result.evaluation.samples == 1
    assert "the only sample" in result.split


def test_what_the_data_lacks_is_said_before_any_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr("qtool.tuning.starts.count_prepared", None)
    labelled = {**DATA, "labels": np.zeros(len(SAMPLES), np.int64)}
    with pytest.raises(UsageError, match="neither labels nor class scores to aim at; give min_sqnr"):
        tune(model, DATA, tmp_path / "q.onnx")
    with pytest.raises(DataError, match="has no labels"):
        tune(classifier(tmp_path / "m.onnx"), labelled, tmp_path / "q.onnx", eval_data=DATA, metric="top1")


def test_the_float_model_runs_once_for_a_form(model, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("qtool.tuning.starts.original_of", lambda *a: made.append(original_of(*a)) or made[-1])
    result = tuned(model, tmp_path / "q.onnx")
    assert [step.what for step in result.steps][:4:2] == ["max, corrected", "equalised, max, corrected"]
    assert len(made) == 3  # as it came, equalised, and with biases absorbed, which found nothing to do


def recurrent(path, op, gates):
    """One layer, time-major: x [t, batch, 4] -> its last state."""
    rng = np.random.default_rng(5)
    weights = {"w": rng.normal(size=(1, gates * 6, 4)) / 2, "r": rng.normal(size=(1, gates * 6, 6)) / 2}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w", "r"], ["", "last"], op, hidden_size=6)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["t", "batch", 4])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, "batch", 6])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_of_recurrent_layers_alone(tmp_path):
    """An LSTM has no calibrated ranges: its statistics hold examples, which choose and rank all the same."""
    lstm = recurrent(tmp_path / "lstm.onnx", "LSTM", 4)
    data = [{"x": np.random.default_rng(i).normal(size=(5, 1, 4)).astype(np.float32)} for i in range(4)]
    statistics = qtool.calibrate(lstm, data, tmp_path / "c").statistics
    assert (len(statistics.tensors), len(statistics.examples)) == (0, 4)
    loaded = qtool.quantize(lstm, tmp_path / "q.onnx", calibration=tmp_path / "c")
    assert loaded.plan.integer == {"LSTM": ("DynamicQuantizeLSTM",)}
    ranked = qtool.sensitivity(lstm, data, calibration=statistics)
    assert [layer.name for layer in ranked.layers] == ["LSTM"] and ranked.layers[0].alone.sqnr_db < 60.0
    assert tune(lstm, data, tmp_path / "t.onnx", min_sqnr=20.0).met


def test_a_recurrent_layer_without_an_integer_kernel(tmp_path):
    """The remedy is tried."""
    gru = recurrent(tmp_path / "gru.onnx", "GRU", 3)
    with pytest.raises(
        ModelError, match=r"nothing to quantise .*; quantise it with form='weight-only', which needs no"
    ):
        qtool.calibrate(gru, {"x": np.zeros((5, 1, 4), np.float32)})
    assert qtool.quantize(gru, tmp_path / "q.onnx", form="weight-only").plan.stored


def test_no_two_trials_have_one_name(tmp_path, monkeypatch):
    """Layers in float are named until no other trial is called so."""
    net = Net(3, 8, 8)
    last = "x"
    for i in range(6):
        last = net.conv(last, 3, 3, name=f"c{i}")
    model = net.save(tmp_path / "m.onnx", last)
    steps = []
    data = {"x": net.samples(24)["x"]}
    aim = {"min_sqnr": 39, "max_float_macs": 1.0}
    regions = tune(model, data, tmp_path / "r.onnx", calibrators="max", **aim)
    assert any("max, float as by `quantize`: " in step.what for step in regions.steps)
    monkeypatch.setattr("qtool.tuning.search.regions_by_quantize", lambda *_, **__: None)
    result = tune(model, data, tmp_path / "q.onnx", calibrators="max", tell=steps.append, **aim)
    names = [step.what for step in result.steps]
    assert len(set(names)) == len(names)
    assert sum("float: " in name for name in names) > 3
    assert tuple(steps) == result.steps


@pytest.fixture(scope="module")
def louder():
    """Samples that choose in turn with the same ones, louder than what calibrates, which report."""
    return {"x": np.stack([SAMPLES, 1.3 * SAMPLES], 1).reshape(-1, *SAMPLES.shape[1:])}


def test_it_goes_on_where_the_data_that_reports_misses_the_target(model, louder, tmp_path):
    aim = {"eval_data": louder, "max_float_macs": 0.6}
    first = tuned(model, tmp_path / "first.onnx", min_sqnr=20.0, **aim)
    assert (first.met, first.reports, len(first.steps)) == (True, 1, 2)
    asked = first.evaluation.candidates[0].sqnr_db + 0.5
    result = tuned(model, tmp_path / "q.onnx", min_sqnr=asked, **aim)
    assert all(step.met for step in result.steps)  # on the data that chooses, from the first on
    assert result.met and result.reports == 2 and len(result.steps) > 2
    assert result.evaluation.candidates[0].sqnr_db >= asked
    assert result.best.sqnr_db >= first.best.sqnr_db + 1.0


def test_what_would_have_to_stay_in_float_is_said(model, tmp_path):
    """The second convolution has 57 % of the multiply-accumulates; with it in float the noise is much less."""
    few = tuned(model, tmp_path / "q.onnx", min_sqnr=33.0)
    assert few.float_needed == pytest.approx(0.571, abs=0.03)
    assert not any(step.met for step in few.steps) and few.best.float_layers == 0
    more = tuned(model, tmp_path / "q.onnx", min_sqnr=33.0, max_float_macs=few.float_needed)
    assert more.best.met and more.float_needed is None


def test_the_plan_of_the_best_is_saved_with_it(model, tmp_path):
    result = tuned(model, tmp_path / "q.onnx", min_sqnr=10.0, save_plan=tmp_path / "q.json")
    again = qtool.quantize(model, tmp_path / "again.onnx", plan=tmp_path / "q.json")
    assert again.plan == result.plan
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()
    with pytest.raises(UsageError, match="is output already"):
        tuned(model, tmp_path / "q.onnx", save_plan=tmp_path / "q.onnx")


def test_any_number_of_threads_gives_the_same(model, louder, tmp_path):
    found = []
    for threads in (1, 3):
        result = tuned(model, tmp_path / "q.onnx", min_sqnr=36.0, eval_data=louder, threads=threads)
        found.append((result.steps, result.evaluation, result.plan, (tmp_path / "q.onnx").read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize(("drop", "worth"), [("10%", 1 / 3 / 1.0), (0.1, 1 / 3)])
def test_what_one_sample_is_worth(tmp_path, drop, worth):
    result = tuned(classifier(tmp_path / "m.onnx"), tmp_path / "q.onnx", min_sqnr=None, max_drop=drop)
    assert (result.one_sample, result.one_chosen) == (pytest.approx(worth), pytest.approx(worth))
    report = tuned_text(result)
    shown = "33.33 %" if isinstance(drop, str) else "0.3333"
    assert f"one sample that reports is worth {shown}, one that chooses {shown}; the target is {drop}" in report


def test_the_next_command_is_the_same_call_with_as_much_float_as_is_needed(model, tmp_path):
    result = replace(tuned(model, tmp_path / "q.onnx"), met=False, missed=("a drop",), float_needed=0.1234)
    typed = ["tune", "a b.onnx", "--data", "d.npz", "--max-float-macs", "5%", "--max-drop", "1%"]
    line = next(text for text in tuned_text(result, typed).splitlines() if text.startswith("  next: "))
    same = "qtool tune 'a b.onnx' --data d.npz --max-drop 1%"
    assert line.startswith(f"  next: `{same} --max-float-macs 12.4%` meets the target on the data that chooses")
    # as Python calls it, what was given makes the command
    line = next(text for text in tuned_text(result).splitlines() if text.startswith("  next: "))
    assert line.startswith(f"  next: `qtool tune {model} --data DATA ") and "--max-float-macs 12.4%`" in line

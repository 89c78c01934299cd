"""tune: the paper's workflow on networks that the plain way fails, and what it promises when it is stopped."""

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import qtool
from qtool.cli import app
from qtool.core.errors import ModelError, UsageError
from qtool.core.numerics.calibrators import Max
from qtool.feeds import open_feeds
from qtool.runtime.session import Session
from qtool.tuning.search import Search
from qtool.tuning.split import subsets
from qtool.tuning.trail import better
from qtool.tuning.tune import tune
from tests.support.places import SHIPPED

CALIB, EVAL = SHIPPED / "digits_calib.npz", SHIPPED / "digits_eval.npz"
ONE = (Max(),)


def skewed(path, before, after, exponents):
    """The digits network with the channels between two convolutions scaled by powers of two, and back: exact.

    before: BatchNormalization whose gamma and beta are scaled; after: the convolution behind the Relu.
    """
    model = onnx.load(SHIPPED / "digits_cnn.onnx")
    nodes = {node.name: node for node in model.graph.node}
    scale = 2.0 ** np.asarray(exponents, np.float32)
    rows = {i.name: i for i in model.graph.initializer}
    for name in nodes[before].input[1:3]:
        rows[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(rows[name]) * scale, name))
    weight = nodes[after].input[1]
    array = numpy_helper.to_array(rows[weight]) / scale.reshape(1, -1, 1, 1)
    rows[weight].CopyFrom(numpy_helper.from_array(array.astype(np.float32), weight))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Float outputs are the same; the per-tensor range of one activation holds channels 2**14 apart."""
    exponents = [14 if i % 16 == 0 else 0 for i in range(64)]
    path = skewed(tmp_path_factory.mktemp("hard") / "skewed.onnx", *SKEW, exponents)
    x = np.load(EVAL)["input"]
    same = Session(path).run({"input": x})["logits"], Session(SHIPPED / "digits_cnn.onnx").run({"input": x})["logits"]
    assert np.array_equal(same[0].argmax(1), same[1].argmax(1))
    return path


SKEW = ("basic_1_bn", "basic_2_conv")


def drop_of(model, candidate):
    evaluation = qtool.evaluate(model, [candidate], EVAL, metrics=["top1"])
    return evaluation.candidates[0].scores[0].relative_drop


@pytest.mark.long
def test_a_hard_case_that_the_plain_way_fails_and_tune_solves(hard, tmp_path):
    statistics = qtool.calibrate(hard, CALIB).statistics
    qtool.quantize(hard, tmp_path / "plain.onnx", calibration=statistics, partial=False)
    assert drop_of(hard, tmp_path / "plain.onnx") > 0.05
    result = tune(hard, CALIB, tmp_path / "tuned.onnx", eval_data=EVAL, max_drop="1%", max_float_macs=0.5)
    assert result.met and result.best.met
    assert drop_of(hard, tmp_path / "tuned.onnx") <= 0.01
    assert result.steps[0].drop > 0.05
    assert result.verification.integer_share >= 0.5


@pytest.mark.long
def test_layers_are_left_in_float_where_ranges_cannot_help(hard, tmp_path):
    """Without equalisation: the worst layer, and no more than need be, is float as executed."""
    result = searched(hard, tmp_path / "tuned.onnx", max_float_macs=0.6)
    assert result.best is not None and result.best.met and result.best.float_layers >= 1
    assert result.best.float_macs == pytest.approx(1.0 - result.proof.integer_share, abs=1e-9)
    assert SKEW[1] in result.proof.float_layers
    assert not any(step.met for step in result.steps[:2])
    fewer = [s for s in result.steps if s.met and s.float_macs < result.best.float_macs]
    assert fewer == []


@pytest.mark.long
def test_the_limit_of_float_is_kept(hard, tmp_path):
    result = searched(hard, tmp_path / "tuned.onnx", max_float_macs=0.001)
    assert result.best is not None and not result.best.met
    assert result.best.float_macs <= 0.001
    assert not any(step.met for step in result.steps if step.float_macs > 0.001)
    assert (tmp_path / "tuned.onnx").exists()


def searched(model, output, *, max_float_macs):
    """The trail of a search over the plain form alone, with one calibrator."""
    kept = {}

    class Plain(Search):
        def complete(self, calibrators):
            self.attempts = [attempt for attempt in self.attempts if not attempt.label]
            kept["trail"] = self.trail
            super().complete(calibrators)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qtool.tuning.tune.Search", Plain)
        tune(model, CALIB, output, eval_data=EVAL, calibrators=ONE, max_float_macs=max_float_macs)
    return kept["trail"]


@pytest.mark.long
def test_what_chooses_does_not_report(tmp_path):
    """Of four samples two calibrate, one chooses and one reports; eval_data reports, or takes turns."""
    result = tune(SHIPPED / "digits_cnn.onnx", EVAL, tmp_path / "a.onnx", calibrators=ONE)
    assert result.evaluation.samples == 125
    result = tune(SHIPPED / "digits_cnn.onnx", CALIB, tmp_path / "b.onnx", eval_data=EVAL, calibrators=ONE)
    assert result.evaluation.samples == 500 and result.split.endswith("digits_eval.npz reports")
    unlabelled = {"input": np.load(CALIB)["input"]}
    result = tune(SHIPPED / "digits_cnn.onnx", unlabelled, tmp_path / "c.onnx", eval_data=EVAL, calibrators=ONE)
    assert result.evaluation.samples == 250
    specs = Session(SHIPPED / "digits_cnn.onnx").inputs
    found = [list(part()) for part in subsets(open_feeds(EVAL, specs, batch_size=3), 4, (0, 1), (2,), (3,))]
    rows = [np.concatenate([record["input"] for record in records]) for records in found]
    whole = np.load(EVAL)["input"]
    assert [len(r) for r in rows] == [250, 125, 125]
    # each block of four gives each part its own, with its label; no sample is in two
    known = {row.tobytes(): i for i, row in enumerate(whole)}
    places = [[known[row.tobytes()] for row in part] for part in rows]
    assert sorted(i for part in places for i in part) == list(range(500))
    assert [i // 4 for i in places[2]] == list(range(125))
    labels = np.concatenate([record["labels"] for record in found[2]])
    assert np.array_equal(labels, np.load(EVAL)["labels"][places[2]])


def test_without_labels_the_float_models_predictions_count(tmp_path):
    unlabelled = {"input": np.load(CALIB)["input"]}
    result = tune(SHIPPED / "digits_cnn.onnx", unlabelled, tmp_path / "q.onnx", calibrators=ONE)
    assert result.met and result.metric == "agreement"
    assert result.best.drop == 0.0  # every prediction as float's


@pytest.mark.long
def test_asking_for_a_signal_to_noise_ratio(tmp_path):
    result = tune(
        SHIPPED / "digits_cnn.onnx", CALIB, tmp_path / "q.onnx", calibrators=ONE, min_sqnr=90.0, max_float_macs=0.05
    )
    assert not result.met and result.best.sqnr_db < 90.0
    assert len(result.steps) > 2  # it went on to mix ranges and to leave layers in float


@pytest.mark.long
def test_interrupted_or_out_of_time_the_best_so_far_is_there(hard, tmp_path, monkeypatch):
    output = tmp_path / "q.onnx"
    result = tune(hard, CALIB, output, eval_data=EVAL, calibrators=ONE, time_budget=1e-3)
    assert result.stopped == "the time budget is used up" and not result.met
    assert Session(output).outputs == ["logits"]
    output.unlink()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "qtool.pipeline.calibration.run.decide", interrupt
    )  # between the first form and the equalised one
    result = tune(hard, CALIB, output, eval_data=EVAL, calibrators=ONE)
    assert result.stopped == "interrupted" and not result.met
    assert Session(output).outputs == ["logits"]


def test_which_of_two_is_better():
    from qtool.core.records.tuning import Step

    step = Step("a", 0.9, 0.005, 30.0, 0, 0.0, met=True, measured="top1", relative=True)
    assert better(step, replace(step, met=False, drop=0.0))
    assert better(step, replace(step, float_macs=0.1, sqnr_db=50.0))
    assert better(step, replace(step, drop=0.0, sqnr_db=29.0))  # drops within the target are noise
    missed = replace(step, met=False, drop=0.05)
    assert better(missed, replace(missed, drop=0.06, sqnr_db=40.0))


def run(*words):
    return CliRunner().invoke(app, ["tune", *map(str, words)])


def test_the_command(hard, tmp_path):
    output, report = tmp_path / "q.onnx", tmp_path / "q.json"
    model = SHIPPED / "digits_cnn.onnx"
    answer = run(
        model, "--data", CALIB, "--eval-data", EVAL, "--calibrators", "max,mse", "-o", output, "--json", report
    )
    assert answer.exit_code == 0, answer.output
    assert "target met" in answer.output and "mse, corrected" in answer.output
    assert re.search(
        r"^measured: \w+, float \d\.\d{4}, on \d+ samples of \S.*, which chooses$", answer.output, re.MULTILINE
    )
    assert re.search(
        r"^  measured: \w+ \d\.\d{4}, float \d\.\d{4}, SQNR .* dB; on \d+ samples of", answer.output, re.MULTILINE
    )
    document = json.loads(report.read_text())
    assert document["met"] is True and len(document["steps"]) == 4
    assert document["best"]["what"] in {step["what"] for step in document["steps"]}
    missed = run(hard, "--data", CALIB, "--eval-data", EVAL, "--calibrators", "max", "--time-budget", "1s", "-q",
                 "--max-float-macs", "0%", "-o", output)  # fmt: skip
    assert missed.stdout == ""
    # on a busy machine a second is so few samples that warnings follow
    first, *more = missed.stderr.splitlines()
    assert re.fullmatch(r"\S+q.onnx: target missed \(top1 drop at most 1%\): .*; nearest: max.*", first)
    assert all(text.startswith("warning: ") for text in more)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibrators", "max:3"], "calibrator 'max:3' makes no sense"),
        (["--calibrators", "best"], "unknown calibrator"),
        (["--time-budget", "soon"], "no time"),
        (["--target", "tensorrt"], "does not run on this machine"),
    ],
)
def test_bad_usage_writes_nothing(words, message, tmp_path):
    answer = run(SHIPPED / "digits_cnn.onnx", "--data", CALIB, "-o", tmp_path / "q.onnx", *words)
    assert answer.exit_code != 0 and message in f"{answer.output} {answer.exception}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_float_macs": 5}, "max_float_macs: a share of '5' makes no sense"),
        ({"max_float_macs": -0.1}, "a share of '-0.1' makes no sense"),
        ({"max_float_macs": float("nan")}, "max_float_macs=nan: give a finite number"),
        ({"max_float_macs": "200%"}, "a share of '200%' makes no sense"),
        ({"max_drop": 1}, "max_drop='1': would pass every model"),
        ({"max_drop": "100%"}, "max_drop='100%': would pass every model"),
        ({"max_drop": 1, "metric": "top1"}, "would pass every model, as top1 lies between 0 and 1"),
        ({"max_drop": 1, "metric": "sqnr"}, "would pass every model"),
        ({"min_sqnr": float("inf")}, "min_sqnr=inf: give a finite number"),
        ({"time_budget": 0}, "time_budget=0: give more than 0 seconds"),
        ({"time_budget": float("nan")}, "time_budget=nan: give a finite number"),
        ({"calibrators": ()}, "there is no calibrator to try"),
        ({"calibrators": "max,best"}, "unknown calibrator 'best'"),
    ],
)
def test_impossible_targets_are_refused_before_any_work(options, message, tmp_path):
    with pytest.raises(UsageError, match=re.escape(message)):
        tune("no such model", CALIB, tmp_path / "q.onnx", **options)


def test_a_drop_of_more_than_one_is_a_target_where_the_metric_has_no_end(tmp_path):
    """An error of the user's own metric may grow by 2, a correlation drop from 1 to -0.5."""
    for metric, drop in ((_error, 2.0), ("matthews", 1.5)):
        with pytest.raises(ModelError, match="no such model"):
            tune("no such model", CALIB, tmp_path / "q.onnx", metric=metric, max_drop=drop)


def _error(outputs, labels):
    return (outputs["logits"].argmax(1) != labels["labels"]) * 9.0


_error.lower_is_better = True


def test_the_data_is_called_by_its_own_name(tmp_path):
    report = tmp_path / "r.json"
    model = SHIPPED / "digits_cnn.onnx"
    answer = run(model, "--data", CALIB, "--calibrators", "max", "-o", tmp_path / "q.onnx", "--json", report)
    assert answer.exit_code == 0, answer.output
    name = f"{CALIB} (1 of every 4 samples)"
    assert json.loads(report.read_text())["evaluation"]["data"] == name
    assert f"{name}: 50 samples" in answer.output
    assert not re.search("Subset|Part", answer.output + report.read_text())

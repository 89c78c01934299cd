"""`quantize --max-drop`: the gate on a metric with labels, on the samples that did not choose the plan."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import qtool
from qtool.core.errors import UsageError
from tests.support.evaluation_models import linear
from tests.support.recurrent_models import lstm, lstm_scores, sequences
from tests.support.schemas import schema_faults

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 16)).astype(np.float32)
WEIGHTS = RNG.normal(size=(16, 5)).astype(np.float32)
CLASSES = np.argmax(X @ WEIGHTS, axis=1)
CHOOSE = 20
"""Of 40 samples every other one: all are examples, and half of these choose."""
QUANTIZE = ("quantize", "float.onnx", "--data", "d.npz", "--optimize-for", "size", "-o", "q.onnx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """float.onnx, which scores classes, d.npz with the classes that it scores highest, and plain.npz without any."""
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "float.onnx", WEIGHTS, output_name="logits")
    np.savez(tmp_path / "d.npz", x=X, labels=CLASSES)
    np.savez(tmp_path / "plain.npz", x=X)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_metric_is_of_what_did_not_choose(folder, run):
    code, out, _ = run(*QUANTIZE, "--max-drop", "100.1%", "--metric", "auc", "--json", "q.json")
    assert code == 2 and out == "" and names(folder) == ["d.npz", "float.onnx", "plain.npz", "q.json"]
    code, out, err = run(*QUANTIZE, "--max-drop", "60%", "--json", "q.json", "--junit", "q.xml")
    assert (code, err) == (0, "")
    document = json.loads((folder / "q.json").read_text())
    assert schema_faults(document) == []
    found = document["evaluation"]
    assert (found["samples"], found["data"]) == (len(X) - CHOOSE, "d.npz (those that did not choose the plan)")
    assert [metric["name"] for metric in found["metrics"]] == ["top1"]
    assert found["float_model"]["metrics"]["top1"]["value"] == 1.0
    (gate,) = document["gates"]
    assert (gate["rule"], gate["metric"], gate["limit"], gate["relative"]) == ("max-drop", "top1", 0.6, True)
    own = found["candidates"][0]["metrics"]["top1"]
    assert gate["found"] == own["relative_drop"] == pytest.approx(1.0 - own["value"])
    assert (found["candidates"][0]["name"], found["candidates"][0]["path"]) == ("q.onnx", "q.onnx")
    assert f"top1 {own['value']:.4f}, float 1.0000, on 20 samples of d.npz (those that did not choose the plan)" in out
    assert f"PASS {gate['message']}" in out
    suite = ET.parse(folder / "q.xml").getroot().find("testsuite")
    properties = {row.get("name"): row.get("value") for row in suite.iter("property")}
    assert properties["top1"] == str(own["value"]) and properties["top1.float"] == "1.0"
    assert [case.get("name") for case in suite.iter("testcase")] == ["top1 max-drop 60%"]


def test_float_and_int8_are_those_of_eval_on_the_same_samples(folder):
    seen = []

    def data():
        for x, label in zip(X, CLASSES, strict=True):
            yield {"x": x[None], "labels": np.array([label])}

    def metric(outputs, labels):
        seen.append(labels["labels"].tolist())
        return outputs["logits"].argmax(1) == labels["labels"]

    made = qtool.quantize("float.onnx", "q.onnx", data=data, metric=metric, max_drop=0.9)
    told = made.evaluation
    # a sample that runs as a batch of its own has been told of float and of int8
    assert told.samples == len(X) - CHOOSE
    assert all(
        one == other for one, other in zip(seen[-2 * told.samples :: 2], seen[-2 * told.samples + 1 :: 2], strict=True)
    )
    whole = qtool.evaluate("float.onnx", "q.onnx", "d.npz", metrics="top1")
    wrong = round((1 - whole.candidates[0].score("top1").value) * len(X))
    assert round((1 - told.candidates[0].score("metric").value) * told.samples) <= wrong
    assert made.passed and [gate.metric for gate in made.gates] == ["metric"]
    assert names(folder) == ["d.npz", "float.onnx", "plain.npz", "q.onnx"]


def test_a_drop_that_is_missed_ends_with_1_and_the_model_is_written(folder, run):
    """Labels that the float model meets and no 8-bit model can: classes that differ by less than a step."""
    weights = np.repeat(WEIGHTS[:, :1], 2, axis=1)
    weights[:, 1] += RNG.normal(size=16).astype(np.float32) * np.float32(1e-4)
    linear(folder / "float.onnx", weights, output_name="logits")
    np.savez(folder / "d.npz", x=X, labels=np.argmax(X @ weights, axis=1))
    code, out, _ = run(*QUANTIZE, "--max-drop", "0.01", "--metric", "top1", "--junit", "q.xml")
    assert code == 1 and "FAIL q.onnx: top1: drop " in out and "asked at most 0.01" in out
    assert (folder / "q.onnx").exists()
    suite = ET.parse(folder / "q.xml").getroot().find("testsuite")
    assert [failure.get("type") for failure in suite.iter("failure")] == ["max-drop"]
    code, out, err = run(*QUANTIZE, "--max-drop", "0.01", "-q")
    assert (code, out) == (1, "") and "FAIL q.onnx: top1: drop " in err


def test_where_all_samples_chose_all_report_and_it_is_said(folder, run):
    np.savez(folder / "d.npz", x=X[:8], labels=CLASSES[:8])
    code, out, err = run(*QUANTIZE, "--max-drop", "90%", "--batch-size", "8")
    assert code == 0 and "on 8 samples of d.npz\n" in out
    assert "d.npz: every sample chose the plan too; give more, so that others tell the drop" in err


@pytest.mark.usefixtures("folder")
def test_a_check_asks_the_gate_too(run):
    asked = ("--max-drop", "60%")
    assert run(*QUANTIZE, *asked)[0] == 0
    code, out, _ = run(*QUANTIZE, *asked, "--check")
    assert code == 0 and "byte for byte" in out and "PASS q.onnx: top1: drop " in out


def test_a_gate_does_not_change_the_model(folder, run):
    assert run(*QUANTIZE)[0] == 0
    before = (folder / "q.onnx").read_bytes()
    assert run(*QUANTIZE, "--max-drop", "60%", "--metric", "f1_macro")[0] == 0
    assert (folder / "q.onnx").read_bytes() == before


def test_the_page_shows_the_metric_and_its_gate(folder, run):
    pytest.importorskip("jinja2")
    assert run(*QUANTIZE, "--max-drop", "60%", "--json", "q.json", "--html", "q.html", "-q") == (0, "", "")
    (gate,) = json.loads((folder / "q.json").read_text())["gates"]
    page = (folder / "q.html").read_text()
    assert "d.npz (those that did not choose the plan)" in page and gate["message"].removeprefix("q.onnx: ") in page
    assert run("report", "q.json", "-o", "r.html", "-q") == (0, "", "")


def test_a_configuration_may_ask_for_it(folder, run):
    (folder / "c.toml").write_text('[quantize]\nmax-drop = "60%"\nmetric = "f1_macro"\n')
    code, out, _ = run(*QUANTIZE, "--config", "c.toml")
    assert code == 0 and "PASS q.onnx: f1_macro: drop " in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "plain.npz", "--max-drop", "1%"), "--max-drop 1%: needs labels, and --data has none; add an array"),
        (("--data", "plain.npz", "--max-drop", "1%", "--metric", "top1"), "--metric top1: --data has no labels"),
        (("--data", "d.npz", "--metric", "top1"), "--metric says nothing without --max-drop"),
        (("--data", "d.npz", "--decode", "yolov8"), "--decode says nothing without --max-drop"),
        (("--data", "d.npz", "--max-drop", "1%", "--metric", "sqnr"), "sqnr compares with float's outputs"),
        (("--data", "d.npz", "--max-drop", "1%", "--metric", "top1,f1"), "names 2 metrics; give one of them"),
        (("--data", "d.npz", "--max-drop", "1", "--metric", "top1"), "would pass every model"),
        (("--data", "d.npz", "--max-drop", "1%", "--metric", "map"), "say how the outputs become boxes with --decode"),
        (("--calibration", "m.calib", "--max-drop", "1%"), "--max-drop needs --data with labels; give that instead"),
        (("--dynamic", "--max-drop", "1%"), "--max-drop needs --data with labels"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(folder, run, words, says):
    code, out, err = run("quantize", "float.onnx", *words, "-o", "q.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err, err
    assert names(folder) == ["d.npz", "float.onnx", "plain.npz"]


def test_labels_that_are_no_classes_of_the_model_are_found_before_anything_is_written(folder, run):
    labels = CLASSES.copy()
    labels[-2:] = 9
    np.savez(folder / "d.npz", x=X, labels=labels)
    code, out, err = run(*QUANTIZE, "--max-drop", "1%")
    assert (code, out, err.count("\n")) == (2, "", 1) and "9" in err
    assert names(folder) == ["d.npz", "float.onnx", "plain.npz"]


def test_of_sequences_those_report_of_which_no_step_chose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x = lstm(tmp_path / "float.onnx"), sequences(70, 3)
    labels = np.stack([lstm_scores(model, row)[0].argmax(axis=1) for row in x])
    states = ["h=hn", "c=cn"]
    asked = {"state": states, "metric": "token_accuracy", "max_drop": 0.9}
    made = qtool.quantize("float.onnx", "q.onnx", data={"x": x, "labels": labels}, **asked)
    # 64 sequences of 70 give an example each, a step, of which every other one chooses
    assert (made.evaluation.samples, made.evaluation.steps) == (70 - 32, (70 - 32) * 3)
    assert made.evaluation.float_model.score("token_accuracy").value == 1.0


@pytest.mark.usefixtures("folder")
def test_python_refuses_it_with_a_calibration(tmp_path):
    made = qtool.calibrate("float.onnx", "d.npz")
    with pytest.raises(UsageError, match="is measured on labels, which no calibration file holds"):
        qtool.quantize("float.onnx", tmp_path / "q.onnx", calibration=made.statistics, max_drop="1%")
    assert not (tmp_path / "q.onnx").exists()

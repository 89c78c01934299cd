"""Gates on metrics of every direction and scale, and agreement of tokens: `evaluate`, `tune`, `sensitivity`, `eval`."""

import json
import math
import pickle

import numpy as np
import pytest

import qtool
from qtool.cli import main
from qtool.core.errors import DataError, UsageError
from qtool.core.records.codec import noting
from qtool.core.records.evaluation import MaxDrop, ModelResult, Score
from qtool.core.records.tuning import Step
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import NAMES, resolve_metrics
from qtool.tuning.aim import Aim
from tests.support.evaluation_models import linear, per_token

RNG = np.random.default_rng(11)
WEIGHTS = RNG.normal(size=(6, 5))
OTHER = WEIGHTS + RNG.normal(scale=0.8, size=WEIGHTS.shape)
X = RNG.normal(size=(30, 7, 6)).astype(np.float32)
SAID = (X @ WEIGHTS).argmax(-1)
# float is wrong at every seventh token
LABELS = np.where(np.arange(210).reshape(30, 7) % 7 == 0, (SAID + 1) % 5, SAID)


@pytest.fixture
def tokens(tmp_path, monkeypatch):
    """float.onnx, worse.onnx and d.npz in the current folder: class scores for every token, and its labels."""
    monkeypatch.chdir(tmp_path)
    per_token(tmp_path / "float.onnx", WEIGHTS)
    per_token(tmp_path / "worse.onnx", OTHER)
    np.savez(tmp_path / "d.npz", x=X, labels=LABELS)
    return tmp_path


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_tokens_are_what_is_counted(batch_size):
    result = qtool.evaluate("float.onnx", "worse.onnx", "d.npz", batch_size=batch_size)
    found = (X @ OTHER).argmax(-1)
    (candidate,) = result.candidates
    assert [m.name for m in result.metrics] == ["token_accuracy"]
    assert result.class_output == "logits"
    assert result.float_model.score("token_accuracy").value == pytest.approx(6 / 7)
    assert candidate.score("token_accuracy").value == pytest.approx((found == LABELS).mean())
    assert candidate.agreement == pytest.approx((found == SAID).mean())
    unlabelled = qtool.evaluate("float.onnx", "worse.onnx", {"x": X}, batch_size=batch_size)
    assert [m.name for m in unlabelled.metrics] == ["sqnr"]
    assert unlabelled.candidates[0].agreement == pytest.approx((found == SAID).mean())


@pytest.mark.usefixtures("tokens")
def test_more_errors_are_a_drop():
    wer = qtool.evaluate("float.onnx", ["worse.onnx", "float.onnx"], "d.npz", metrics=["wer"], max_drop="1%")
    float_value, worse = wer.float_model.score("wer").value, wer.candidates[0].score("wer")
    assert worse.value > float_value > 0
    assert worse.drop == pytest.approx(worse.value - float_value)
    assert worse.relative_drop == pytest.approx(worse.value / float_value - 1)
    assert [gate.passed for gate in wer.gates] == [False, True]
    # the other way round the "worse" model is better, which no gate minds
    better = qtool.evaluate("worse.onnx", "float.onnx", "d.npz", metrics=["wer"], max_drop=0.0)
    assert better.candidates[0].score("wer").drop < 0
    assert better.passed


@pytest.mark.usefixtures("tokens")
def test_from_no_error_any_error_is_too_much():
    perfect = {"x": X, "labels": SAID}
    result = qtool.evaluate("float.onnx", ["worse.onnx", "float.onnx"], perfect, metrics=["wer"], max_drop="50%")
    assert result.candidates[0].score("wer").relative_drop is None
    assert [(gate.passed, gate.found) for gate in result.gates] == [(False, math.inf), (True, 0.0)]


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(("drop", "code"), [("500%", 0), ("1%", 1), ("0.9", 0), ("0.01", 1)])
def test_the_exit_code(capsys, drop, code):
    words = ["eval", "float.onnx", "worse.onnx", "--data", "d.npz", "--metric", "wer", "--max-drop", drop]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--metric", "token_agreement", "--json", "-"])
    document = json.loads(capsys.readouterr().out)
    assert (caught.value.code, document["passed"]) == (code, not code)
    assert document["metrics"][0].items() >= {"name": "wer", "kind": "accuracy", "lower_is_better": True}.items()
    assert document["candidates"][0]["metrics"]["token_agreement"]["drop"] is None


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(
    ("metric", "drop", "refused"),
    [
        ("token_accuracy", "1", True),
        ("token_accuracy", "100%", True),
        ("token_accuracy", "0.99", False),
        ("wer", "1", False),
        ("wer", "100%", False),
    ],
)
def test_a_gate_that_no_model_can_fail_is_refused(metric, drop, refused):
    if refused:
        with pytest.raises(UsageError, match=f"would pass every model, as {metric} lies between 0 and 1"):
            qtool.evaluate("float.onnx", "worse.onnx", "d.npz", metrics=[metric], max_drop=drop)
    else:
        assert qtool.evaluate("float.onnx", "worse.onnx", "d.npz", metrics=[metric], max_drop=drop).gates


def test_correlations_lie_between_minus_1_and_1(tmp_path):
    models = [linear(tmp_path / f"{name}.onnx", WEIGHTS[:, :1] * sign) for name, sign in (("float", 1), ("turned", -1))]
    data = {"x": X[:, 0], "labels": X[:, 0] @ WEIGHTS[:, 0] + RNG.normal(size=30)}
    for metric in ("pearson", "spearman"):
        result = qtool.evaluate(models[0], models, data, metrics=[metric], max_drop="100%")
        scores = [candidate.score(metric) for candidate in result.candidates]
        assert scores[1].value == pytest.approx(-scores[0].value)
        assert scores[1].relative_drop == pytest.approx(2.0)
        assert [gate.passed for gate in result.gates] == [True, False]
        with pytest.raises(UsageError, match=f"{metric} lies between -1 and 1"):
            qtool.evaluate(models[0], models, data, metrics=[metric], max_drop=2)
    with pytest.raises(DataError, match="all labels are the same"):
        qtool.evaluate(models[0], models, {**data, "labels": np.ones(30)}, metrics=["pearson"])


OTHERS = (
    "top5",
    "map",
    "map50",
    "box_agreement",
    "miou",
    "pixel_accuracy",
    "psnr",
    "ssim",
    "cer",
    "bleu",
    "chrf",
    "recall",
    "ranking",
)
"""What needs other outputs, or texts."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERS])
def test_memory_grows_where_all_scores_are_needed_and_there_alone(name):
    """By what an accumulator holds after ten times as many samples."""
    tokens = name in ("wer", "exact_match", "token_accuracy", "token_agreement")
    shape = (100, 3, 4) if tokens else (100, 1)
    sizes = []
    for batches in (10, 100):
        rng, sums = np.random.default_rng(0), None
        for start in range(batches):
            y = {"y": rng.random(shape)}
            labels = {"labels": rng.integers(0, 2, shape[:2] if tokens else 100)}
            sums = sums or resolve_metrics([name])[0].start(find_heads(y, labels, 100))
            sums.update(Observation("m", y, y, labels, start * 100, 100))
        sizes.append(len(pickle.dumps(sums)))
    kept = {"auc": 8, "spearman": 16}.get(name, 0)
    assert sizes[1] - sizes[0] == pytest.approx(kept * 9000, abs=100)


def test_a_model_without_correlation_never_stays_the_best():
    aim = Aim("pearson", MaxDrop.parse("1%"), None, 1.0)
    broken = ModelResult("m", "m", 1, (Score("pearson", math.nan, math.nan, math.nan),))
    assert aim.reached(broken).drop == math.inf
    assert aim.misses(broken)
    step = Step("max", math.nan, math.inf, -math.inf, 0, 0.0, met=False, measured="pearson", relative=True)
    assert noting(step)[1] == {"/metric": "nan", "/drop": "inf", "/sqnr_db": "-inf"}


@pytest.mark.usefixtures("tokens")
def test_without_labels_tuning_holds_the_agreement_of_tokens():
    result = qtool.tune("float.onnx", {"x": X}, "q.onnx", max_drop="20%")
    assert result.met
    assert result.metric == "agreement"
    agreement = result.evaluation.candidates[0].agreement
    assert agreement is not None and agreement >= 0.8
    assert result.best.drop <= 0.2


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("metric", [None, "wer"])
def test_sensitivity_ranks_by_them(metric):
    calibrated = qtool.calibrate("float.onnx", "d.npz")
    result = qtool.sensitivity("float.onnx", "d.npz", calibration=calibrated.statistics, metric=metric, threads=1)
    wanted = "token_accuracy" if metric is None else metric
    assert result.metric is not None and result.metric.name == wanted
    direct = qtool.evaluate("float.onnx", "float.onnx", "d.npz", metrics=[wanted]).float_model.score(wanted).value
    assert result.float_value == pytest.approx(direct)


@pytest.mark.parametrize("activation", ["Sigmoid", None])
def test_the_line_says_where_quantize_judges_more(tmp_path, activation):
    weights = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    models = [linear(tmp_path / f"{i}.onnx", weights * (1 + i / 50), activation=activation) for i in range(2)]
    found = qtool.evaluate(models[0], models[1], {"x": np.ones((3, 6), np.float32)}, min_sqnr=5)
    (gate,) = found.gates
    more = " (outputs as they are; quantize judges in front of the end of 'scores' too)"
    assert gate.passed and gate.message.endswith("asked at least 5 dB" + (more if activation else ""))


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({}, "--data has none; add an array 'labels'"),
        ({"target": np.linspace(0, 1, 6)}, "--data has no class a sample, but 'target' (float64 a sample); call"),
        ({"kind": np.arange(6) % 3}, "but 'kind' (int64 a sample); call the classes 'labels'"),
        ({"y": np.zeros((6, 2), np.int64)}, "but 'y' (int64 [2] a sample)"),
        ({"labels": np.array(list("abcabc"))}, "but 'labels' (string a sample)"),
    ],
)
def test_a_drop_without_labels_says_what_there_is_instead(tmp_path, run, monkeypatch, others, says):
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "m.onnx", np.eye(4, 3, dtype=np.float32), output_name="logits")
    np.savez(tmp_path / "d.npz", x=np.eye(6, 4, dtype=np.float32), **others)
    code, out, err = run("eval", "m.onnx", "m.onnx", "--data", "d.npz", "--max-drop", "1%")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--max-drop 1%: needs labels, and " in err and says in err, err


def test_labels_are_called_what_the_data_calls_them(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "m.onnx", np.eye(4, 3, dtype=np.float32), output_name="logits")
    np.savez(tmp_path / "d.npz", x=np.eye(6, 4, dtype=np.float32), target=np.zeros((6, 2), np.int64))
    _, _, err = run("eval", "m.onnx", "m.onnx", "--data", "d.npz", "--metric", "top1")
    assert "'target' in --data has shape (1, 2)" in err

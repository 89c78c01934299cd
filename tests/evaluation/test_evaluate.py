"""`evaluate` over small models: against numpy, and what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.core.errors import DataError, ModelError, QtoolError, UsageError
from qtool.core.records.evaluation import MaxDrop
from qtool.evaluation.evaluate import evaluate
from qtool.report.evaluation import evaluation_text
from tests.support.evaluation_models import linear, predicts_class, two_outputs
from tests.support.patterns import Net

RNG = np.random.default_rng(3)
X = RNG.normal(size=(23, 6)).astype(np.float32)
WEIGHTS = RNG.normal(size=(6, 8)).astype(np.float32)
OTHER = (WEIGHTS + RNG.normal(scale=0.3, size=(6, 8))).astype(np.float32)
# float is right on 20 of 23 samples
LABELS = (X @ WEIGHTS).argmax(1)
LABELS[:3] = (LABELS[:3] + 1) % 8


@pytest.fixture
def float_model(tmp_path: Path) -> Path:
    return linear(tmp_path / "float.onnx", WEIGHTS)


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    return linear(tmp_path / "candidate.onnx", OTHER)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save(tmp_path / "data.npz", x=X, labels=LABELS)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("batch_size", [1, 5, 23])
def test_numbers_are_numpys_whatever_the_batch(float_model, candidate, data, batch_size):
    result = evaluate(float_model, candidate, data, metrics=["top1", "top5", "cosine", "mse"], batch_size=batch_size)
    wanted, found = X.astype(float) @ WEIGHTS, X.astype(float) @ OTHER
    model = result.candidates[0]
    assert result.samples == 23
    assert result.class_output == "scores"
    assert result.float_model.score("top1").value == pytest.approx(20 / 23)
    right = (found.argmax(1) == LABELS).mean()
    assert model.score("top1").value == pytest.approx(right)
    assert model.score("top1").drop == pytest.approx(20 / 23 - right)
    assert model.score("top1").relative_drop == pytest.approx(1 - right * 23 / 20)
    best = np.argsort(-found, axis=1)[:, :5]
    assert model.score("top5").value == pytest.approx((best == LABELS[:, None]).any(1).mean())
    assert model.score("mse").value == pytest.approx(((wanted - found) ** 2).mean(), rel=1e-4)
    assert model.sqnr_db == pytest.approx(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()), abs=1e-3)
    assert model.agreement == pytest.approx((wanted.argmax(1) == found.argmax(1)).mean())
    assert model.size_bytes == candidate.stat().st_size


def test_float_is_perfect_by_definition_and_so_is_its_copy(float_model, data):
    result = evaluate(float_model, [float_model], data, metrics=["cosine", "sqnr", "mse"], min_sqnr=200)
    perfect = {"cosine": 1.0, "sqnr": math.inf, "mse": 0.0}
    for model in (result.float_model, result.candidates[0]):
        assert {score.metric: score.value for score in model.scores} == perfect
        assert all(score.drop is None for score in model.scores)
    assert result.passed
    assert result.candidates[0].agreement == 1.0
    assert result.float_model.name != result.candidates[0].name


def test_the_default_metric_is_top1_with_labels_and_sqnr_without(float_model, candidate, data, tmp_path):
    assert [m.name for m in evaluate(float_model, candidate, data).metrics] == ["top1"]
    unlabelled = save(tmp_path / "unlabelled.npz", x=X)
    assert [m.name for m in evaluate(float_model, candidate, unlabelled).metrics] == ["sqnr"]
    with pytest.raises(UsageError, match="min_sqnr"):
        evaluate(float_model, candidate, unlabelled, max_drop="1%")


def test_one_metric_needs_no_list(float_model, candidate, data):
    """A text is no sequence of letters."""

    def best(outputs, _):
        return outputs["scores"].max(axis=1)

    for one in ("cosine", best):
        alone = evaluate(float_model, [candidate], data, metrics=one)
        assert alone == evaluate(float_model, [candidate], data, metrics=[one])
    assert [m.name for m in alone.metrics] == ["best"]
    with pytest.raises(UsageError, match="metrics='top9': is none of"):
        evaluate(float_model, [candidate], data, metrics="top9")


def test_only_the_first_samples(float_model, candidate, data):
    result = evaluate(float_model, candidate, data, samples=3, batch_size=2)
    assert (result.samples, result.float_model.score("top1").value) == (3, 0.0)


def test_class_scores_may_be_the_second_output(tmp_path, data):
    maps = RNG.normal(size=(6, 6))
    float_model = two_outputs(tmp_path / "a.onnx", maps, WEIGHTS)
    candidate = two_outputs(tmp_path / "b.onnx", maps, OTHER)
    result = evaluate(float_model, candidate, data)
    assert result.class_output == "scores"
    assert result.float_model.score("top1").value == pytest.approx(20 / 23)
    by_output = dict(result.candidates[0].sqnr_db_by_output)
    assert by_output["map"] == math.inf
    assert 0 < by_output["scores"] < 40


def test_a_binary_score(tmp_path):
    column = RNG.normal(size=(6, 1))
    float_model = linear(tmp_path / "a.onnx", column, activation="Sigmoid")
    candidate = linear(tmp_path / "b.onnx", -column, activation="Sigmoid")
    labels = (X @ column > 0)[:, 0].astype(np.int64)
    result = evaluate(float_model, candidate, save(tmp_path / "binary.npz", x=X, labels=labels))
    assert result.float_model.score("top1").value == 1.0
    assert result.candidates[0].score("top1").value == 0.0
    assert result.candidates[0].agreement == 0.0


def test_a_model_that_gives_the_class_itself(tmp_path, data):
    models = [predicts_class(tmp_path / f"{i}.onnx", w) for i, w in enumerate((WEIGHTS, OTHER))]
    result = evaluate(models[0], models[1], data)
    assert result.float_model.score("top1").value == pytest.approx(20 / 23)
    assert result.candidates[0].agreement == pytest.approx(((X @ WEIGHTS).argmax(1) == (X @ OTHER).argmax(1)).mean())


def test_agreement_is_left_out_where_no_output_has_class_scores(tmp_path, data):
    maps = RNG.normal(size=(6, 6))
    model = two_outputs(tmp_path / "a.onnx", maps, WEIGHTS[:, :1] * 50)
    result = evaluate(model, model, data, metrics=["sqnr"])
    assert result.candidates[0].agreement is None


def test_a_user_metric_of_python(float_model, candidate, data):
    class Errors:
        lower_is_better = True

        def __init__(self):
            self.wrong = 0

        def update(self, outputs, labels):
            self.wrong += int((outputs["scores"].argmax(1) != labels["labels"]).sum())

        def result(self):
            return self.wrong

    result = evaluate(float_model, candidate, data, metrics=[Errors], max_drop=0)
    wrong = int(((X @ OTHER).argmax(1) != LABELS).sum())
    assert wrong > 3
    assert result.float_model.score("Errors").value == 3
    assert result.candidates[0].score("Errors").drop == wrong - 3
    assert not result.passed


def test_a_user_metric_cannot_spoil_what_the_others_see(float_model, candidate, data):
    def vandal(outputs, labels):  # noqa: ARG001
        outputs["scores"][:] = 0
        return 1.0

    with pytest.raises(DataError, match="metrics='vandal'"):
        evaluate(float_model, candidate, data, metrics=[vandal])


def test_the_drop_may_be_exactly_what_is_allowed(float_model, candidate, data):
    drop = evaluate(float_model, candidate, data).candidates[0].score("top1").drop
    assert evaluate(float_model, candidate, data, max_drop=drop).passed
    assert not evaluate(float_model, candidate, data, max_drop=drop - 1e-6).passed
    assert evaluate(float_model, candidate, data, max_drop=f"{100 * drop * 23 / 20}%").passed


def test_gates_are_put_to_every_candidate_and_metric(float_model, data, tmp_path):
    candidate = linear(tmp_path / "candidate.onnx", -WEIGHTS)
    result = evaluate(
        float_model,
        [float_model, candidate],
        data,
        metrics=["top1", "top5", "sqnr"],
        max_drop=MaxDrop(0.01, relative=True),
        min_sqnr=100,
    )
    answers = [(gate.model, gate.rule.value, gate.metric, gate.passed) for gate in result.gates]
    names = [model.name for model in result.candidates]
    assert [answer[:3] for answer in answers] == [
        (name, *gate) for name in names for gate in (("max-drop", "top1"), ("max-drop", "top5"), ("min-sqnr", "sqnr"))
    ]
    assert [answer[3] for answer in answers[:3]] == [True, True, True]
    assert [answer[3] for answer in answers[3:]] == [False, False, False]
    assert not result.passed


def test_a_relative_drop_from_nothing_is_no_pass(float_model, data):
    result = evaluate(float_model, float_model, data, samples=3, max_drop="1%")
    assert not result.passed
    assert "check the labels" in result.gates[0].message
    assert evaluate(float_model, float_model, data, samples=3, max_drop=0.01).passed


def test_nan_in_a_candidate_fails_its_gates(tmp_path):
    # sqrt gives NaN on sample 4 and 7 of the candidate alone
    x = np.ones((9, 2), np.float32)
    x[[4, 7], 0] = -1
    weights = np.array([[0.0], [1.0]])
    reference = linear(tmp_path / "a.onnx", weights, activation="Sqrt")
    broken = linear(tmp_path / "b.onnx", np.array([[1.0], [0.5]]), activation="Sqrt")
    data = save(tmp_path / "nan.npz", x=x, labels=np.ones(9, np.int64))

    def mean(outputs, labels):  # noqa: ARG001
        return outputs["scores"][:, 0]

    result = evaluate(reference, broken, data, metrics=["top1", mean], max_drop=0.9, min_sqnr=-100, batch_size=4)
    assert result.candidates[0].nan is not None
    assert (result.candidates[0].nan.sample, result.candidates[0].nan.samples) == (4, 2)
    assert [gate.passed for gate in result.gates] == [False, False, False]
    assert all("NaN in 2 samples, first in output 'scores' of sample 4" in g.message for g in result.gates)
    assert math.isnan(result.candidates[0].score("mean").value)
    (found,) = evaluate(broken, reference, data).candidates
    assert str(found.nan) == "a number for NaN or Inf in 2 samples, first in output 'scores' of sample 4"
    (same,) = evaluate(broken, broken, data).candidates
    assert (same.nan, same.sqnr_db) == (None, math.inf), "NaN for NaN is the same"


def test_the_batch_that_a_candidate_fixes(float_model, data, tmp_path):
    one = linear(tmp_path / "one.onnx", OTHER, batch=1)
    assert evaluate(float_model, one, data).samples == 23
    with pytest.raises(ModelError, match=r"one\.onnx: input 'x' has a fixed batch of 1.*batch_size=1"):
        evaluate(float_model, one, data, batch_size=4)
    four = linear(tmp_path / "four.onnx", OTHER, batch=4)
    with pytest.raises(ModelError, match=r"four\.onnx: input 'x' has a fixed batch of 4"):
        evaluate(float_model, four, data, batch_size=4)
    assert evaluate(four, float_model, data, samples=20, latency=True, latency_runs=1).latency.batch == 4


def test_models_are_called_by_what_tells_them_apart(float_model, data, tmp_path):
    (tmp_path / "sub").mkdir()
    other = linear(tmp_path / "sub" / "float.onnx", OTHER)
    result = evaluate(float_model, [other], data)
    assert [result.float_model.name, result.candidates[0].name] == [str(float_model), str(other)]
    result = evaluate(float_model, [float_model], data)
    assert [result.float_model.name, result.candidates[0].name] == ["float.onnx", "float.onnx (2)"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_name": "image"}, "its inputs are image, float's are x"),
        ({"output_name": "logits"}, "its outputs are logits, float's are scores"),
    ],
)
def test_other_names_are_refused(float_model, data, tmp_path, options, says):
    other = linear(tmp_path / "other.onnx", WEIGHTS, **options)
    with pytest.raises(ModelError, match=says):
        evaluate(float_model, other, data)


def test_other_shapes_are_refused(float_model, data, tmp_path):
    with pytest.raises(ModelError, match=r"has shape \[N, 5\], float's has \[N, 6\]"):
        evaluate(float_model, linear(tmp_path / "o.onnx", WEIGHTS[:5]), data)
    with pytest.raises(ModelError, match=r"output 'scores' has shape \[1, 4\], float's has \[1, 8\]"):
        evaluate(float_model, linear(tmp_path / "p.onnx", WEIGHTS[:, :4]), data)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"candidates": []}, UsageError, "at least one candidate"),
        ({"candidates": ["absent.onnx"]}, ModelError, "absent.onnx: no such file"),
        ({"samples": 0}, UsageError, "samples=0: give 1 or more"),
        ({"threads": 0}, UsageError, "threads=0: give 1 or more"),
        ({"metrics": ["top3"]}, UsageError, "metrics='top3'"),
        ({"max_drop": "lots"}, UsageError, "'lots'"),
        ({"max_drop": "-1%"}, UsageError, "makes no sense"),
        ({"max_drop": math.nan}, UsageError, "max_drop=nan: give a MaxDrop"),
        ({"max_drop": 1}, UsageError, "would pass every model"),
        ({"max_drop": "100%"}, UsageError, "would pass every model"),
        ({"max_drop": "1%", "metrics": ["sqnr", "mse", "cosine"]}, UsageError, "min_sqnr"),
        ({"min_sqnr": math.nan}, UsageError, "min_sqnr=nan"),
    ],
)
def test_requests_that_make_no_sense(float_model, candidate, data, options, error, says):
    with pytest.raises(error, match=says) as caught:
        evaluate(float_model, data=data, **{"candidates": [candidate], **options})
    assert "\n" not in str(caught.value)


def test_labels_missing_for_top1(float_model, candidate, tmp_path):
    unlabelled = save(tmp_path / "unlabelled.npz", x=X)
    with pytest.raises(DataError, match=r"data has no labels.*'labels'.*metrics='sqnr'"):
        evaluate(float_model, candidate, unlabelled, metrics=["top1"])


def test_top5_of_few_classes_means_nothing(tmp_path, data):
    model = linear(tmp_path / "m.onnx", WEIGHTS[:, :5])
    with pytest.raises(UsageError, match="use metrics='top1'"):
        evaluate(model, model, data, metrics=["top5"])


def test_top1_without_class_scores(tmp_path):
    maps = RNG.normal(size=(6, 6))
    model = two_outputs(tmp_path / "a.onnx", maps, RNG.normal(size=(6, 2)))
    data = save(tmp_path / "d.npz", x=X, labels=RNG.integers(0, 2, (23, 5)))
    with pytest.raises(QtoolError, match="one class a sample"):
        evaluate(model, model, data, metrics=["top1"])
    assert evaluate(model, model, data).metrics[0].name == "sqnr"


def test_latency_is_taken_of_every_model(float_model, candidate, data):
    steps = []
    result = evaluate(
        float_model,
        candidate,
        data,
        latency=True,
        latency_runs=3,
        batch_size=10,
        progress=lambda *step: steps.append(step),
    )
    assert (result.latency.runs, result.latency.batch) == (3, 1)
    assert result.float_model.latency.speedup == 1.0
    assert all(m.latency.median_ms > 0 for m in (result.float_model, *result.candidates))
    assert [step for step in steps if step[0] == "evaluating"] == [
        ("evaluating", 10, 23),
        ("evaluating", 20, 23),
        ("evaluating", 23, 23),
    ]
    assert steps[-1] == ("timing", 13, 13)
    assert evaluate(float_model, candidate, data).float_model.latency is None


@pytest.mark.parametrize("form", [np.int64, np.float32, bool])
def test_one_hot_labels_are_classes(float_model, candidate, tmp_path, form):
    x = np.random.default_rng(0).normal(size=(6, WEIGHTS.shape[0])).astype(np.float32)
    classes = np.arange(6) % WEIGHTS.shape[1]
    np.savez(tmp_path / "classes.npz", x=x, labels=classes)
    np.savez(tmp_path / "hot.npz", x=x, y=np.eye(WEIGHTS.shape[1])[classes].astype(form))
    plain, hot = (evaluate(float_model, candidate, tmp_path / f"{name}.npz") for name in ("classes", "hot"))
    assert [metric.name for metric in hot.metrics] == ["top1"]
    assert hot.float_model.scores == plain.float_model.scores and hot.candidates[0].scores == plain.candidates[0].scores


def test_names_of_metrics_with_commas(float_model, candidate, data):
    joined = evaluate(float_model, candidate, data, metrics="top1,sqnr")
    assert joined == evaluate(float_model, candidate, data, metrics=["top1", "sqnr"])
    with pytest.raises(UsageError, match="metrics='top1,best': is none of"):
        evaluate(float_model, candidate, data, metrics="top1,best")
    with pytest.raises(UsageError, match="metric='top1,sqnr': names 2 metrics; give one of them"):
        qtool.tune(float_model, data, "o", metric="top1,sqnr")


def test_a_quantised_float_model_is_told(tmp_path):
    network = Net(3, 8, 8)
    model = network.save(tmp_path / "m.onnx", network.conv("x", 3, 4))
    qtool.quantize(model, tmp_path / "q.onnx", data=network.samples(), calibrator="max")
    told = evaluation_text(evaluate(tmp_path / "q.onnx", model, network.samples()))
    assert "q.onnx: is quantised itself; the others are compared with it, not with float" in told
    assert "itself" not in evaluation_text(evaluate(model, tmp_path / "q.onnx", network.samples()))

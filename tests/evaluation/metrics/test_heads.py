"""The output whose classes are compared with float's: what says that it holds classes, and what looks like it."""

import numpy as np
import pytest

from qtool.core.errors import DataError
from qtool.core.records.evaluation import Evaluation
from qtool.evaluation.evaluate import evaluate
from qtool.evaluation.metrics.classes import Agreement
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metrics
from tests.support.evaluation_models import linear
from tests.support.odd_models import MODELS

RNG = np.random.default_rng(8)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def scores(*shape):
    return RNG.normal(size=shape).astype(np.float32)


LOGITS = scores(6, 5)


@pytest.mark.parametrize(
    ("outputs", "labels", "name"),
    [
        ({"y": softmax(LOGITS)}, None, "y"),
        ({"y": np.log(softmax(LOGITS))}, None, "y"),
        ({"embedding": scores(6, 32), "y": softmax(LOGITS)}, None, "y"),
        ({"bbox": scores(6, 4)}, None, None),
        ({"pose_angles": scores(6, 3)}, None, None),
        ({"cls_embedding": scores(6, 32)}, None, None),
        ({"masked_lm_logits": scores(6, 7, 16)}, None, "masked_lm_logits"),
        ({"bbox": scores(6, 4)}, np.arange(6) % 4, "bbox"),
        ({"y": LOGITS}, np.linspace(0, 1, 6), None),
        ({"y": LOGITS}, np.arange(6.0), "y"),
        # tokens: detectors, hidden states, language models
        ({"boxes": scores(6, 50, 4)}, None, None),
        ({"output0": scores(6, 12, 30)}, None, None),
        ({"hidden": scores(6, 7, 16)}, None, None),
        ({"boxes": scores(6, 50, 4), "y": softmax(scores(6, 50, 3))}, None, "y"),
        ({"logits": scores(6, 7, 16)}, None, "logits"),
        # maps
        ({"y": scores(6, 3, 8, 8)}, None, None),
        ({"probabilities": scores(6, 3, 8, 8)}, None, None),
        ({"y": np.zeros((6, 8, 8), np.int64)}, None, None),
        # what is compared as it is
        ({"y": np.zeros(6, np.int64)}, None, "y"),
        ({"y": np.array(["a", "b"] * 3, object)}, None, "y"),
        ({"y": np.zeros((6, 4), bool)}, None, "y"),
    ],
)
def test_classes_are_compared_where_something_says_that_they_are(outputs, labels, name):
    heads = find_heads(outputs, {} if labels is None else {"labels": labels}, 6)
    found = heads.predicted
    assert (found.name if found else None) == name
    assert not heads.likely


def measured(weights, tmp_path, data) -> Evaluation:
    float_model = linear(tmp_path / "a.onnx", weights, output_name="y")
    candidate = linear(tmp_path / "b.onnx", weights + 1e-4, output_name="y")
    return evaluate(float_model, candidate, data, metrics="sqnr")


def test_logits_are_told_from_measurements_by_their_values(tmp_path):
    x = RNG.normal(size=(12, 4)).astype(np.float32)
    weights = RNG.normal(size=(4, 3))
    result = measured(weights, tmp_path, {"x": x})
    assert (result.candidates[0].agreement, result.class_output) == (1.0, "y")
    for positive in ({"x": np.abs(x)}, {"x": x, "labels": np.linspace(0, 1, 12)}):
        result = measured(np.abs(weights), tmp_path, positive)
        assert (result.candidates[0].agreement, result.class_output) == (None, None)
        assert result.to_dict()["candidates"][0]["agreement"] is None


def test_a_length_that_differs_says_no_classes(tmp_path):
    odd = MODELS["another length each sample"]()
    odd.save(tmp_path / "m.onnx")
    result = evaluate(tmp_path / "m.onnx", tmp_path / "m.onnx", odd.data)
    assert (result.candidates[0].agreement, result.class_output) == (None, None)
    assert result.candidates[0].sqnr_db == np.inf
    labelled = [{**sample, "labels": np.array([0])} for sample in odd.data]
    with pytest.raises(DataError, match=r"output 'y' is \[1, 3\] here, and has 5 columns in the first batch.*'sqnr'"):
        evaluate(tmp_path / "m.onnx", tmp_path / "m.onnx", labelled)
    assert evaluate(tmp_path / "m.onnx", tmp_path / "m.onnx", labelled, metrics="sqnr").samples == 8


def test_nan_in_both_agrees_and_in_one_alone_does_not():
    wanted, found = LOGITS.copy(), LOGITS.copy()
    wanted[:3, 1] = found[:2, 1] = found[4, 0] = np.nan
    heads = find_heads({"logits": softmax(LOGITS)}, {}, 6)
    agreement = Agreement(heads.predicted)
    agreement.update(Observation("m", {"logits": found}, {"logits": wanted}, {}, 0, 6))
    best = [np.nanargmax(a, axis=1) for a in (wanted, found)]
    assert agreement.result() == pytest.approx(((best[0] == best[1]) & (np.arange(6) != 4)).mean())


@pytest.mark.parametrize("metric", ["top1", "f1", "token_accuracy", "pearson"])
@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e30, 0.5])
@pytest.mark.filterwarnings("error")
def test_labels_that_are_no_classes_are_refused_without_a_warning(metric, bad):
    shape = (2, 3) if metric == "token_accuracy" else (2,)
    labels = {"labels": np.full(shape, bad)}
    y = scores(2, 3, 4) if metric == "token_accuracy" else scores(2, 1)
    sums = resolve_metrics([metric])[0].start(find_heads({"y": y}, labels, 2))
    with pytest.raises(DataError, match="label"):
        sums.update(Observation("m", {"y": y}, {"y": y}, labels, 0, 2))
        sums.result()

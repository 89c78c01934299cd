"""f1, matthews, auc, pearson and spearman against scikit-learn and SciPy; ties, one class, NaN, what does not fit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from qtool.core.errors import DataError, QtoolError, UsageError
from qtool.core.records.evaluation import ConfusedClasses, Confusion
from qtool.evaluation.metrics.classes import Agreement
from qtool.evaluation.metrics.heads import NO_HEADS, ClassOutput, find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metrics

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning"),
    pytest.mark.filterwarnings("ignore:A single label was found:UserWarning"),
]
# few values, so that there are ties
LEVELS = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0])
CLOSE = {"rel": 1e-9, "abs": 1e-12}


def measure(name, outputs, labels, size=4):
    """The metric over batches of `size`."""
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    (metric,) = resolve_metrics([name])
    sums = metric.start(find_heads({"y": outputs[:size]}, {"labels": labels[:size]}, len(outputs[:size])))
    for start in range(0, len(outputs), size):
        y, wanted = {"y": outputs[start : start + size]}, {"labels": labels[start : start + size]}
        sums.update(Observation("m.onnx", y, y, wanted, start, len(y["y"])))
    return sums.result()


@st.composite
def classified(draw, classes):
    """(scores [N, classes], labels [N]), ties among the scores."""
    count = draw(st.integers(1, 20))
    scores = draw(st.lists(st.lists(LEVELS, min_size=classes, max_size=classes), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return np.array(scores, np.float32), np.array(labels)


@given(classified(2), st.integers(1, 7))
def test_f1_of_two_classes_is_that_of_class_1(data, size):
    scores, labels = data
    wanted = sklearn.f1_score(labels, scores.argmax(1), zero_division=0)
    assert measure("f1", scores, labels, size) == pytest.approx(wanted, **CLOSE)
    macro = sklearn.f1_score(labels, scores.argmax(1), average="macro", zero_division=0)
    assert measure("f1_macro", scores, labels, size) == pytest.approx(macro, **CLOSE)


@given(classified(5), st.integers(1, 7))
def test_f1_of_more_classes_is_macro(data, size):
    scores, labels = data
    wanted = sklearn.f1_score(labels, scores.argmax(1), average="macro", zero_division=0)
    assert measure("f1", scores, labels, size) == pytest.approx(wanted, **CLOSE)
    assert measure("f1_macro", scores, labels, size) == pytest.approx(wanted, **CLOSE)


@given(st.sampled_from([2, 3, 6]).flatmap(classified), st.integers(1, 7))
def test_matthews_is_scikit_learns(data, size):
    scores, labels = data
    wanted = sklearn.matthews_corrcoef(labels, scores.argmax(1))
    assert measure("matthews", scores, labels, size) == pytest.approx(wanted, **CLOSE)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20))
def test_a_model_that_gives_the_class_itself(pairs):
    found, labels = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    assert measure("matthews", found, labels) == pytest.approx(sklearn.matthews_corrcoef(labels, found), **CLOSE)
    binary = labels.max() <= 1
    wanted = (
        sklearn.f1_score(labels == 1, found == 1, zero_division=0)
        if binary
        else sklearn.f1_score(labels, found, average="macro", zero_division=0)
    )
    assert measure("f1", found, labels) == pytest.approx(wanted, **CLOSE)


def test_one_sigmoid_column_is_class_1_above_one_half():
    scores, labels = np.array([[0.1], [0.5], [0.7], [0.9]], np.float32), [0, 1, 1, 0]
    assert measure("f1", scores, labels) == pytest.approx(sklearn.f1_score(labels, [0, 0, 1, 1]))
    assert measure("matthews", scores, labels) == pytest.approx(sklearn.matthews_corrcoef(labels, [0, 0, 1, 1]))


def test_a_sample_with_nan_is_predicted_as_no_class():
    scores, labels = np.array([[1, 0, 0], [0, np.nan, 0], [0, 0, 1]], np.float32), [0, 1, 2]
    assert measure("f1", scores, labels) == pytest.approx(2 / 3)
    assert measure("matthews", scores, labels) == pytest.approx(sklearn.matthews_corrcoef(labels, [0, 3, 2]))


@given(classified(2), st.integers(1, 7))
def test_auc_of_two_columns_ranks_by_their_difference(data, size):
    scores, labels = data
    if len(set(labels)) == 1:
        with pytest.raises(DataError, match=f"metric='auc': all labels are {labels[0]}"):
            measure("auc", scores, labels, size)
        return
    wanted = sklearn.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    assert measure("auc", scores, labels, size) == pytest.approx(wanted, **CLOSE)
    # logits, and the same as one column
    assert measure("auc", (scores[:, 1] - scores[:, 0])[:, None], labels, size) == pytest.approx(wanted, **CLOSE)


def test_auc_of_logits_is_that_of_softmax():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(500, 2)), rng.integers(0, 2, 500)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = sklearn.roc_auc_score(labels, probability[:, 1])
    assert measure("auc", logits.astype(np.float32), labels) == pytest.approx(wanted, abs=1e-5)
    assert measure("auc", probability, labels) == pytest.approx(wanted)


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=30), st.integers(1, 7))
def test_correlations_are_scipys(pairs, size):
    scores, labels = np.array(pairs, np.float64).T
    for name, wanted in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        if len(set(labels)) == 1:
            with pytest.raises(DataError, match=f"metric='{name}': all labels are the same"):
                measure(name, scores[:, None], labels, size)
        elif len(set(scores)) == 1:
            assert measure(name, scores[:, None], labels, size) == 0.0
        else:
            assert measure(name, scores[:, None], labels, size) == pytest.approx(
                wanted(scores, labels).statistic, rel=1e-9, abs=1e-9
            )


def test_pearson_far_from_zero_loses_nothing():
    rng = np.random.default_rng(5)
    scores, labels = rng.normal(size=300), rng.normal(size=300)
    wanted = stats.pearsonr(scores, labels).statistic
    assert measure("pearson", scores + 1e6, labels - 1e6, 7) == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("name", ["auc", "pearson", "spearman"])
def test_nan_among_the_scores_is_nan(name):
    assert math.isnan(measure(name, np.array([[0.1], [np.nan], [0.3]]), [0, 1, 1]))


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "says"),
    [
        ("auc", np.zeros((2, 3)), [0, 1], "has 3 columns"),
        ("auc", np.zeros((2, 1), np.int64), [0, 1], "holds the class itself"),
        ("auc", np.zeros((2, 1)), [0, 2], "label 2 of sample 1 is no class"),
        ("f1", np.zeros((2, 3, 4)), [0, 1], "no output has the shape of class scores"),
        ("matthews", np.zeros((2, 3)), [0, 3], "label 3 of sample 1 is no class"),
        ("f1", np.zeros((2, 3)), [0.5, 1], "not whole numbers"),
        ("pearson", np.zeros((2, 3)), [0.5, 1], "no output has one value a sample"),
        ("pearson", np.zeros((2, 1)), ["a", "b"], "give one number a sample"),
        ("spearman", np.zeros((2, 1)), [[1.0, 2.0]] * 2, "give one number a sample"),
        ("spearman", np.zeros((2, 1)), [1.0, np.inf], "label of sample 1 is inf"),
    ],
)
def test_what_does_not_fit_is_one_line(name, outputs, labels, says):
    with pytest.raises(QtoolError, match=says) as caught:
        measure(name, outputs, labels)
    assert str(caught.value).startswith(f"metric='{name}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["f1", "matthews", "auc", "pearson", "spearman"])
def test_without_labels_it_says_so(name):
    (metric,) = resolve_metrics([name])
    outputs = {"y": np.zeros((2, 1), np.float32)}
    sums = metric.start(find_heads(outputs, {}, 2))
    with pytest.raises(DataError, match="has no labels"):
        sums.update(Observation("m.onnx", outputs, outputs, {}, 0, 2))
    with pytest.raises(UsageError):
        metric.start(NO_HEADS)


def test_confused_classes_are_counted_where_a_model_says_another_than_float():
    agreement = Agreement(ClassOutput("y", 3, holds_class=False))
    exact = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]]
    found = np.eye(3, dtype=np.float32)[[0, 2, 2, 2, 1]]
    for rows in (slice(0, 3), slice(3, 5)):
        agreement.update(
            Observation("m.onnx", {"y": found[rows]}, {"y": exact[rows]}, {}, rows.start, len(exact[rows]))
        )
    assert agreement.confusion() == Confusion(5, (ConfusedClasses("1", "2", 2), ConfusedClasses("0", "1", 1)), 0)
    assert agreement.result() == 0.4


def test_where_agreement_has_no_meaning_nothing_is_confused():
    agreement = Agreement(ClassOutput("y", 1, holds_class=False))
    agreement.update(Observation("m.onnx", {"y": np.full((2, 1), 7.0)}, {"y": np.full((2, 1), 5.0)}, {}, 0, 2))
    assert agreement.result() is None and agreement.confusion() is None

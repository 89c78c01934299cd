"""token_accuracy, token_agreement and wer against their definitions, written another way."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.core.errors import DataError, QtoolError, UsageError
from qtool.evaluation.metrics.classes import Agreement
from qtool.evaluation.metrics.heads import NO_HEADS, ClassOutput, default_metric, find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metrics
from qtool.evaluation.metrics.transcripts import edit_distance

RNG = np.random.default_rng(9)
TOKENS = st.lists(st.integers(0, 3), max_size=7)


def measure(name, outputs, labels=None, reference=None, size=3):
    """The metric over batches of `size`."""
    (metric,) = resolve_metrics([name])
    reference = outputs if reference is None else reference
    sums = None
    for start in range(0, len(outputs), size):
        y, exact = outputs[start : start + size], reference[start : start + size]
        known = {} if labels is None else {"labels": np.asarray(labels)[start : start + size]}
        sums = sums or metric.start(find_heads({"y": y}, known, len(y)))
        sums.update(Observation("m.onnx", {"y": y}, {"y": exact}, known, start, len(y)))
    return sums.result()


def spoken(rows, classes=4, length=7):
    """Scores [N, length, classes] whose largest are the rows, padded with class 0."""
    tokens = np.array([[*row, *[0] * (length - len(row))] for row in rows])
    return np.eye(classes, dtype=np.float32)[tokens]


def padded(rows, length=9):
    return np.array([[*row, *[-1] * (length - len(row))] for row in rows])


@functools.cache
def naive_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    change = naive_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(change, naive_distance(a[1:], b) + 1, naive_distance(a, b[1:]) + 1)


@given(TOKENS, TOKENS)
def test_the_edit_distance_is_its_recursive_definition(a, b):
    assert edit_distance(np.array(a, int), np.array(b, int)) == naive_distance(tuple(a), tuple(b))


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6), st.integers(1, 4))
def test_wer_is_edits_over_tokens(pairs, size):
    wanted, said = ([pair[i] for pair in pairs] for i in (0, 1))
    tokens = sum(map(len, wanted))
    # an integer output holds the tokens themselves
    outputs = padded(said, 8)
    if not tokens:
        with pytest.raises(DataError, match="the labels hold no token"):
            measure("wer", outputs, padded(wanted), size=size)
        return
    edits = sum(naive_distance(tuple(a), tuple(b)) for a, b in pairs)
    assert measure("wer", outputs, padded(wanted), size=size) == pytest.approx(edits / tokens)


def test_wer_reads_the_largest_score_of_every_position():
    outputs = spoken([[1, 2, 3], [3, 3, 1]], length=3)
    assert measure("wer", outputs, padded([[1, 2, 3], [3, 1]])) == pytest.approx(1 / 5)


@pytest.mark.parametrize(("name", "blank"), [("wer:ctc", 0), ("wer:ctc=2", 2), ("wer:ctc=-1", 3)])
def test_ctc_merges_repeats_then_drops_blanks(name, blank):
    a, b = [token for token in range(4) if token != blank][:2]
    heard = [[a, a, blank, a, b, b, blank], [blank, blank, b, blank, b, a, a]]
    assert measure(name, spoken(heard), padded([[a, a, b], [b, b, a]])) == 0.0
    assert measure(name, spoken(heard), padded([[a, b], [b, b, a]])) == pytest.approx(1 / 5)


def test_end_cuts_both_sides():
    outputs = spoken([[1, 2, 3, 1, 1], [3, 1, 2]], length=5)
    assert measure("wer:end=3", outputs, padded([[1, 2, 3], [1, 3, 2]])) == pytest.approx(1 / 3)


def test_a_sample_with_nan_said_nothing():
    outputs = spoken([[1, 2], [1, 2]], length=2)
    outputs[1, 0, 0] = np.nan
    assert measure("wer", outputs, padded([[1, 2], [1, 2]])) == pytest.approx(2 / 4)


def test_wer_counts_down():
    info = resolve_metrics(["wer:ctc=3"])[0].info
    assert (info.name, info.lower_is_better, info.worst) == ("wer:ctc=3", True, None)


@pytest.mark.parametrize("spec", ["wer:", "wer:ctc=", "wer:ctc=x", "wer:end", "wer:end=-1", "wer:blank=3"])
def test_what_is_no_wer_is_a_usage_error(spec):
    with pytest.raises(UsageError, match="wer:ctc=BLANK or wer:end=TOKEN"):
        resolve_metrics([spec])


@pytest.mark.parametrize("size", [1, 4, 11])
def test_token_accuracy_is_over_the_labelled_tokens(size):
    outputs, labels = RNG.normal(size=(11, 6, 5)).astype(np.float32), RNG.integers(-2, 5, (11, 6))
    mask = labels >= 0
    wanted = (outputs.argmax(-1) == labels)[mask].mean()
    assert measure("token_accuracy", outputs, labels, size=size) == pytest.approx(wanted)
    assert measure("token_accuracy", outputs.argmax(-1), labels, size=size) == pytest.approx(wanted)


def test_maps_with_the_classes_last_have_tokens_too():
    outputs, labels = RNG.normal(size=(3, 4, 5, 2)), RNG.integers(0, 2, (3, 4, 5))
    assert measure("token_accuracy", outputs, labels) == pytest.approx((outputs.argmax(-1) == labels).mean())
    scores = RNG.random(size=(3, 6, 1))
    labels = RNG.integers(0, 2, (3, 6))
    assert measure("token_accuracy", scores, labels) == pytest.approx(((scores[..., 0] > 0.5) == labels).mean())


@pytest.mark.parametrize("labels", [None, RNG.integers(-1, 5, (7, 6))])
def test_token_agreement_is_with_float_where_no_label_is_negative(labels):
    reference = RNG.normal(size=(7, 6, 5))
    outputs = reference + RNG.normal(scale=0.7, size=reference.shape)
    outputs[2, 1, 0] = np.nan
    same = (outputs.argmax(-1) == reference.argmax(-1)) & ~np.isnan(outputs).any(-1)
    counted = np.ones((7, 6), bool) if labels is None else labels >= 0
    assert measure("token_agreement", outputs, labels, reference) == pytest.approx(same[counted].mean())


def test_a_first_batch_of_one_token_does_not_matter():
    reference = [RNG.normal(size=(1, length, 5)) for length in (1, 4, 2)]
    outputs = [array + RNG.normal(scale=0.7, size=array.shape) for array in reference]
    (metric,) = resolve_metrics(["token_agreement"])
    for agreement in (metric, None):
        heads = find_heads({"y": reference[0]}, {}, 1)
        assert heads.predicted == ClassOutput("y", 5, holds_class=False)
        sums = Agreement(heads.predicted) if agreement is None else metric.start(heads)
        for start, (found, wanted) in enumerate(zip(outputs, reference, strict=True)):
            sums.update(Observation("m", {"y": found}, {"y": wanted}, {}, start, 1))
        same = [(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in zip(outputs, reference, strict=True)]
        assert sums.result() == pytest.approx(np.concatenate(same).mean())


@pytest.mark.parametrize(
    ("output", "labels", "name"),
    [
        (np.zeros((4, 6, 5), np.float32), np.zeros((4, 6), int), "token_accuracy"),
        (np.zeros((4, 6), np.int64), np.zeros((4, 6), int), "token_accuracy"),
        (np.zeros((4, 1, 5), np.float32), np.zeros((4, 1), int), "token_accuracy"),
        (np.zeros((4, 5), np.float32), np.zeros(4, int), "top1"),
        (np.zeros((4, 5), np.float32), np.zeros((4, 1), int), "top1"),
        (np.zeros((4, 6, 5), np.float32), np.zeros((4, 7), int), "sqnr"),
        (np.zeros((4, 6, 5), np.float32), np.zeros(4, int), "sqnr"),
        (np.zeros((4, 6, 5), np.float32), None, "sqnr"),
    ],
)
def test_the_default_metric_is_what_the_labels_are_for(output, labels, name):
    known = {} if labels is None else {"labels": labels}
    assert default_metric(find_heads({"y": output}, known, 4), known, 4) == name


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "says"),
    [
        ("token_accuracy", np.zeros((2, 3, 4)), None, "no labels"),
        ("token_accuracy", np.zeros((2, 3, 4)), [[0, 1], [1, 0]], r"shape \[2, 2\] from sample 0, .* has \[2, 3, 4\]"),
        ("token_accuracy", np.zeros((2, 3, 4)), [0, 1], "a row of tokens a sample"),
        ("token_accuracy", np.zeros((2, 3, 4)), [[0, 1, 2], [0, 4, 0]], "label 4 of sample 1 is no class"),
        ("token_accuracy", np.zeros((2, 3, 4)), [[-1] * 3] * 2, "no label is 0 or more"),
        ("token_accuracy", np.zeros((2, 3, 4)), [[0.5] * 3] * 2, "not whole numbers"),
        ("token_accuracy", np.zeros((2, 4)), [[0] * 3] * 2, r"no output has the shape \[N, T, classes\]"),
        ("token_agreement", np.zeros((2, 4)), None, r"no output has the shape \[N, T, classes\]"),
        ("token_agreement", np.zeros((2, 3, 4)), [[-1] * 3] * 2, "there are no tokens"),
        ("wer", np.zeros((2, 3, 4)), [[0, 7], [0, 1]], "label 7 of sample 0 is no class"),
        ("wer:ctc=4", np.zeros((2, 3, 4)), [[0, 1], [0, 1]], "has the classes 0 to 3"),
        ("wer:ctc=1", np.zeros((2, 3, 4)), [[0, 2], [0, 1]], "labels of sample 1 hold the blank 1"),
    ],
)
def test_what_does_not_fit_is_one_line(name, outputs, labels, says):
    with pytest.raises(QtoolError, match=says) as caught:
        measure(name, outputs, labels)
    assert str(caught.value).startswith(f"metric='{name}': ")
    assert "\n" not in str(caught.value)


def test_without_any_output_it_says_so():
    for name in ("token_accuracy", "wer", "token_agreement"):
        with pytest.raises(UsageError, match="no output has the shape"):
            resolve_metrics([name])[0].start(NO_HEADS)

"""Classes of pixels against masks, held against scikit-learn over all pixels at once."""

import math
import pickle

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metric

RNG = np.random.default_rng(4)
SCORES = RNG.normal(size=(7, 4, 6, 9)).astype(np.float32)
SAID = SCORES.argmax(1)
MASKS = np.where(RNG.random(SAID.shape) < 0.6, SAID, RNG.integers(0, 3, SAID.shape))
"""Class 3 is said of some pixels, and none has it but by what is said."""


def measured(name, outputs, masks, *, size=7, reference=None, key="masks"):
    metric, sums = resolve_metric(name), None
    for start in range(0, len(masks), size):
        cut = slice(start, start + size)
        y, labels = {"y": outputs[cut]}, {key: masks[cut]}
        exact = y if reference is None else {"y": reference[cut]}
        sums = sums or metric.start(find_heads(exact, labels, len(masks[cut])))
        sums.update(Observation("m.onnx", y, exact, labels, start, len(masks[cut])))
    return sums


@pytest.mark.parametrize("form", ["channels", "channels-last", "classes", "classes-1", "half"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_it_is_what_scikit_learn_computes(form, size):
    outputs = {
        "channels": SCORES,
        "channels-last": SCORES.transpose(0, 2, 3, 1),
        "classes": SAID.astype(np.int32),
        "classes-1": SAID[:, None].astype(np.uint8),
        "half": SCORES.astype(np.float16),
    }[form]
    said = outputs.argmax(1) if form == "half" else SAID
    for key in ("masks", "labels"):
        sums = measured("miou", outputs, MASKS, size=size, key=key)
        each = jaccard_score(MASKS.ravel(), said.ravel(), average=None)
        assert sums.result() == pytest.approx(each.mean())
        assert list(sums.by_class().values()) == pytest.approx(each)
        accuracy = measured("pixel_accuracy", outputs, MASKS, size=size, key=key)
        assert accuracy.result() == pytest.approx(accuracy_score(MASKS.ravel(), said.ravel()))
        assert accuracy.by_class() == {}


def test_pixels_without_a_class_are_left_out():
    masks = MASKS.copy()
    masks[:, :2] = 255
    masks[:, 2] = -1
    for kind in (np.int64, np.int16):
        found = measured("miou", SCORES, masks.astype(kind)).result()
        assert found == pytest.approx(jaccard_score(MASKS[:, 3:].ravel(), SAID[:, 3:].ravel(), average="macro"))
    wrapped = np.where(masks < 0, 255, masks).astype(np.uint8)[..., None]
    found = measured("pixel_accuracy", SCORES, wrapped, size=2).result()
    assert found == pytest.approx(accuracy_score(MASKS[:, 3:].ravel(), SAID[:, 3:].ravel()))


@pytest.mark.parametrize("logits", [False, True])
def test_one_channel_says_class_1(logits):
    score = RNG.normal(size=(5, 1, 8, 8)) * 4
    masks = ((score[:, 0] + RNG.normal(size=(5, 8, 8))) > 0).astype(np.uint8)
    outputs = score if logits else 1 / (1 + np.exp(-score))
    wanted = jaccard_score(masks.ravel(), (score > 0).ravel(), average="macro")
    for form in (outputs, outputs[:, 0], outputs.transpose(0, 2, 3, 1)):
        # masks of 0 and 255, too
        for truth in (masks, masks * 255, masks.astype(bool)):
            assert measured("miou", form, truth, size=2).result() == pytest.approx(wanted)


def test_outputs_of_another_size_are_compared_at_their_own_pixels():
    masks = np.kron(MASKS, np.ones((1, 4, 4), np.int64))
    assert measured("miou", SCORES, masks).result() == measured("miou", SCORES, MASKS).result()


def test_a_pixel_with_nan_is_wrong():
    broken = SCORES.copy()
    broken[0, 2, :3] = np.nan
    found = measured("pixel_accuracy", broken, MASKS, reference=SCORES).result()
    right = MASKS == SAID
    right[0, :3] = False
    assert found == pytest.approx(right.mean())
    assert measured("miou", broken, MASKS, reference=SCORES).result() < measured("miou", SCORES, MASKS).result()
    table = confusion_matrix(MASKS[right], SAID[right])
    assert table.trace() == right.sum()


def test_memory_does_not_grow():
    sizes = [
        len(pickle.dumps(measured("miou", np.tile(SCORES, (n, 1, 1, 1)), np.tile(MASKS, (n, 1, 1))))) for n in (1, 9)
    ]
    assert sizes[1] - sizes[0] < 100


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros(7, int), "has no masks; add an array 'masks'"),
        (np.full((7, 6, 9), 0.5), r"the masks in data are float64 \[7, 6, 9\]"),
        (np.zeros((7, 3, 6, 9), int), r"the masks in data are int64 \[7, 3, 6, 9\]"),
        (np.full((7, 6, 9), 4), r"class 4 in the mask of sample 0 is no class of output 'y', which has 4 \(0 to 3\)"),
        (np.full((7, 6, 9), 255), "no pixel of the masks in data has a class"),
    ],
)
def test_masks_that_do_not_fit(masks, message):
    with pytest.raises(DataError, match=message):
        measured("miou", SCORES, masks, key="labels").result()


def test_outputs_that_are_no_masks():
    with pytest.raises(
        UsageError, match=r"no output says classes of pixels for masks of \[7, 6, 9\].*found 'y' \[7, 4\]"
    ):
        measured("miou", SCORES[:, :, 0, 0], MASKS)
    assert not math.isnan(measured("miou", SCORES, MASKS).result())

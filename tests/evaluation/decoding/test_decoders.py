"""Each decoder on outputs that are made of known boxes, and what is said where a model's outputs are unlike."""

import sys

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.decoding.decoders import DECODERS
from qtool.evaluation.decoding.user import resolve_decoder
from qtool.evaluation.metrics.observation import Observation

SIZE = 64
BOXES = np.array(
    [[[8, 16, 24, 40], [30, 4, 50, 28], [0, 0, 0, 0]], [[4, 4, 60, 60], [0, 0, 0, 0], [0, 0, 0, 0]]], float
)
"""Of two pictures: two and one; where there is none, the score is 0."""
SCORES = np.array([[0.9, 0.6, 0.0], [0.75, 0.0, 0.0]])
CLASSES = np.array([[2, 0, 0], [1, 0, 0]])
KNOWN = 3
SHAPES = {"x": (2, 3, SIZE, SIZE)}


def seen(outputs, *, size=2, shapes=SHAPES):
    outputs = {name: np.asarray(array) for name, array in outputs.items()}
    return Observation("m.onnx", outputs, outputs, {}, 0, size, shapes)


def centred(boxes):
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def one_hot(extra=0):
    scores = np.zeros((2, 3, KNOWN + extra))
    np.put_along_axis(scores, CLASSES[..., None], SCORES[..., None], axis=-1)
    return scores


def filled(rows, count=84):
    """More rows, of which none says anything."""
    return np.concatenate([rows, np.zeros((2, count - rows.shape[1], rows.shape[2]))], axis=1)


def yolox():
    output = np.zeros((2, 84, 5 + KNOWN))
    for image, (boxes, scores, classes) in enumerate(zip(BOXES, SCORES, CLASSES, strict=True)):
        for box, score, label in zip(boxes, scores, classes, strict=True):
            x, y, width, height = centred(box)
            # a cell of stride 16, behind the 64 of stride 8
            cell = 64 + int(y // 16) * 4 + int(x // 16)
            place = [x / 16 - x // 16, y / 16 - y // 16, np.log(max(width, 1) / 16), np.log(max(height, 1) / 16)]
            if score:
                output[image, cell, :4] = place
                output[image, cell, 4:] = [score, *(np.arange(KNOWN) == label)]
    return {"y": output}


def yolov5():
    return {"y": filled(np.concatenate([centred(BOXES), SCORES[..., None], one_hot() > 0], axis=-1))}


def yolov8():
    return {"y": filled(np.concatenate([centred(BOXES), one_hot()], axis=-1)).swapaxes(1, 2)}


def yolov8_masks():
    columns = np.concatenate([centred(BOXES), one_hot(), np.full((2, 3, 5), 9.0)], axis=-1)
    return {"y": filled(columns).swapaxes(1, 2), "protos": np.ones((2, 5, 16, 16))}


def yolo_nms():
    return {"y": np.concatenate([BOXES, SCORES[..., None], CLASSES[..., None]], axis=-1)}


def end_to_end():
    rows = [[i, *BOXES[i, k], CLASSES[i, k], SCORES[i, k]] for i in range(2) for k in range(3) if SCORES[i, k]]
    return {"y": np.array(rows)}


def ssd():
    scores = np.concatenate([1 - SCORES[..., None], one_hot()], axis=-1)
    return {"scores": filled(scores), "boxes": filled(BOXES / SIZE)}


def ssd_logits():
    scores = np.concatenate([np.maximum(1 - SCORES[..., None], 1e-12), one_hot()], axis=-1)
    return {"boxes": BOXES / SIZE, "logits": np.log(np.maximum(scores, 1e-12))}


def detr():
    logits = np.log(np.maximum(np.concatenate([one_hot(), 1 - SCORES[..., None]], axis=-1), 1e-12))
    return {"pred_logits": logits, "pred_boxes": centred(BOXES) / SIZE}


def ready():
    return {"boxes": BOXES, "scores": SCORES, "classes": CLASSES}


def tensorrt():
    return {"num_dets": np.array([[2], [1]]), "det_boxes": BOXES, "det_scores": SCORES + 0.05, "det_classes": CLASSES}


def tensorflow():
    return {
        "detection_boxes:0": BOXES[..., [1, 0, 3, 2]] / SIZE,
        "detection_classes:0": CLASSES.astype(float),
        "detection_scores:0": SCORES,
        "num_detections:0": np.array([3.0, 3.0]),
        "raw_detection_boxes:0": np.zeros((2, 90, 4)),
        "detection_anchor_indices:0": np.zeros((2, 3)),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("yolox", yolox),
        ("yolov5", yolov5),
        ("yolov8", yolov8),
        ("yolov8", yolov8_masks),
        ("yolo-nms", yolo_nms),
        ("yolo-nms", end_to_end),
        ("ssd", ssd),
        ("ssd", ssd_logits),
        ("detr", detr),
        ("boxes", ready),
        ("boxes", tensorrt),
        ("boxes", tensorflow),
    ],
)
def test_it_finds_the_boxes_that_the_outputs_are_made_of(name, made, dtype):
    outputs = {key: a.astype(dtype) if a.dtype.kind == "f" else a for key, a in made().items()}
    found = DECODERS[name].detections(seen(outputs))
    least = 0.01
    for index, one in enumerate(found.pictures):
        good = one.among(np.flatnonzero(one.scores > least))
        count = int((SCORES[index] > 0).sum())
        np.testing.assert_allclose(good.boxes[:count], BOXES[index][:count], atol=0.1)
        np.testing.assert_allclose(good.scores[:count], SCORES[index][:count], atol=0.06)
        np.testing.assert_array_equal(good.classes[:count], CLASSES[index][:count])
        assert good.classes.dtype == np.int64 and good.boxes.dtype == np.float64
        assert len(good.scores) == count or name == "detr"
    assert found.classes in (None, KNOWN)


def test_a_single_picture_may_lack_the_axis_of_samples():
    found = DECODERS["boxes"].detections(seen({"b": BOXES[0], "labels": CLASSES[0], "s": SCORES[0]}, size=1))
    np.testing.assert_array_equal(found.pictures[0].classes, [2, 0])
    alone = DECODERS["boxes"].detections(seen({"b": BOXES[0], "s": SCORES[0]}, size=1))
    np.testing.assert_array_equal(alone.pictures[0].classes, [0, 0])
    none = {"b": np.zeros((0, 4)), "labels": np.zeros(0, np.int64), "s": np.zeros(0)}
    assert DECODERS["boxes"].detections(seen(none, size=1)).pictures[0].boxes.shape == (0, 4)


def test_few_boxes_of_many_classes():
    rows = np.concatenate([centred(BOXES), one_hot(), np.zeros((2, 3, 60))], axis=-1)
    assert DECODERS["yolov8"].detections(seen({"y": rows.swapaxes(1, 2)})).classes == 63
    found = DECODERS["yolov5"].detections(seen({"y": rows + 0.5}))
    assert found.classes == 62


def test_overlapping_boxes_are_thinned_out_a_class():
    rows = np.concatenate([centred(BOXES)[:, [0, 0, 0]], one_hot()[:, [0, 0, 0]]], axis=-1)
    rows[0, 1, 4:] = [0.5, 0, 0.7]
    found = DECODERS["yolov8"].detections(seen({"y": filled(rows).swapaxes(1, 2)})).pictures[0]
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    np.testing.assert_array_equal(found.classes, [2, 0])


def test_strides_follow_from_the_number_of_cells():
    for cells, strides in ((16 + 4 + 1, (16, 32, 64)), (64, (8,)), (64 + 16 + 4 + 1, (8, 16, 32, 64))):
        output = np.zeros((2, cells, 6))
        output[..., 4:] = 1
        (one, _) = DECODERS["yolox"].detections(seen({"y": output})).pictures
        sides = {int(side) for side in one.boxes[:, 2] - one.boxes[:, 0]}
        assert sides == set(strides)
    # a picture that no stride divides: cells at its edge are cut or whole
    for side in (8 * 8 + 4 * 4 + 2 * 2, 9 * 9 + 5 * 5 + 3 * 3):
        outputs = {"y": np.zeros((2, side, 6))}
        DECODERS["yolox"].detections(seen(outputs, shapes={"x": (2, 3, 68, 68)}))


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        (
            "yolov8",
            yolov5(),
            r"one output \[N, 4 \+ classes, boxes\]; found 'y' \[2, 84, 8\]; use decode='yolox' or decode='yolov5'",
        ),
        (
            "yolov5",
            yolov8(),
            r"expected one output \[N, boxes, 5 \+ classes\]; found 'y' \[2, 7, 84\]; use decode='yolov8'",
        ),
        ("yolox", {"y": np.zeros((2, 83, 8))}, "83 boxes are the cells of no strides for pictures of 64 x 64"),
        ("yolox", {"y": np.zeros((3, 84, 8))}, "found 'y'"),
        ("yolo-nms", {"y": np.zeros((2, 6, 10))}, "found 'y'"),
        ("ssd", {"y": np.zeros((2, 84, 4))}, "found 'y'"),
        ("ssd", {"boxes": np.zeros((2, 84, 4)), "scores": np.zeros((2, 83, 3))}, "not of one number"),
        ("ssd", {"a": np.zeros((2, 84, 4)), "b": np.zeros((2, 84, 4))}, "found 'a'"),
        ("detr", yolov8(), "use decode='yolov8'"),
        ("boxes", {"scores": np.zeros((2, 10))}, r"expected outputs \[N, n, 4\], scores"),
        (
            "boxes",
            {"b": BOXES, "s": SCORES, "t": SCORES},
            "2 outputs have one number a box; scores and classes are told",
        ),
        ("boxes", {"y": np.array(["a", "b"])}, "found 'y' .2.; use another decoder"),
        ("yolov8", {"y": yolov8()["y"], "z": yolov8()["y"]}, "2 outputs have such a shape"),
    ],
)
def test_outputs_that_are_unlike(name, outputs, message):
    with pytest.raises(UsageError, match=message) as error:
        DECODERS[name].detections(seen(outputs))
    assert str(error.value).startswith(f"decode='{name}': m.onnx: expected ")
    assert "file.py:FUNCTION" in str(error.value)


def test_a_model_without_pictures():
    for name, outputs in (("yolox", yolox()), ("detr", detr()), ("ssd", ssd())):
        with pytest.raises(UsageError, match="the model has no input of pictures"):
            DECODERS[name].detections(seen(outputs, shapes={"x": (2, 8)}))


def mine(outputs):
    return [(boxes[:1], outputs["s"][i][:1], [2]) for i, boxes in enumerate(outputs["b"])]


def test_a_function_of_the_user():
    outputs = {"b": BOXES, "s": SCORES}
    found = resolve_decoder(mine).detections(seen(outputs))
    np.testing.assert_array_equal(found.pictures[1].boxes, BOXES[1][:1])
    single = resolve_decoder(lambda outputs: mine(outputs)[0]).detections(
        seen({k: a[:1] for k, a in outputs.items()}, size=1)
    )
    np.testing.assert_array_equal(single.pictures[0].classes, [2])
    nothing = resolve_decoder(lambda _: [([], [], [])] * 2).detections(seen(outputs))
    assert nothing.pictures[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: None, "gave a NoneType; return"),
        (lambda _: [], "gave 0 results for 2 pictures"),
        (lambda _: [None, None], "something else than three arrays"),
        (lambda _: [([[1, 2, 3, 4]], [0.5])] * 2, "something else than three arrays"),
        (lambda _: [([[1, 2, 3]], [0.5], [1])] * 2, r"arrays of shapes \[1, 3\], \[1\] and \[1\]"),
        (lambda _: [([[1, 2, 3, 4]], [0.5, 0.4], [1])] * 2, "arrays of shapes"),
        (lambda _: [([[1, 2, 3, 4]], [0.5], [-1])] * 2, "a class that is no whole number from 0"),
        (lambda _: [([[1, 2, 3, 4]], [0.5], ["cat"])] * 2, "something else than three arrays"),
        (lambda _: sys.exit(), "SystemExit"),
    ],
)
def test_a_function_that_gives_something_else(given, message):
    with pytest.raises(DataError, match=message) as error:
        resolve_decoder(given).detections(seen({"b": BOXES}))
    assert str(error.value).startswith("decode='<lambda>': on m.onnx, sample 0: ")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "yolo8",
            "no such decoder .did you mean 'yolov8'.*; use yolox, yolov5, yolov8, yolo-nms, ssd, detr, boxes, or a fun",
        ),
        ("nowhere.py:f", "nowhere.py: does not exist"),
        ("no_module_of_this_name:f", "no such module"),
        ("json:nothing", "json has no function 'nothing'"),
    ],
)
def test_decoders_that_there_are_not(spec, message):
    with pytest.raises(UsageError, match=message):
        resolve_decoder(spec)

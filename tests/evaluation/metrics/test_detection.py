"""mAP against pycocotools, and the agreement of boxes: labels of all kinds, empty sets, crowds, NaN."""

import contextlib
import io
import math
import pickle
import sys

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.metrics.heads import Heads, find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import check_decode, resolve_metric, resolve_metrics

pytest.importorskip("faster_coco_eval", reason="pip install '.[detection]'")
RNG = np.random.default_rng(11)


def scene(pictures, classes=4, objects=6, detections=40, seed=0, crowds=0.1):
    """Labels and detections near them, as arrays that end in -1, and with scores of which many are equal."""
    rng = np.random.default_rng(seed)
    corner = rng.random((pictures, objects, 2)) * 200
    boxes = np.concatenate([corner, corner + 5 + rng.random((pictures, objects, 2)) * 80], axis=-1)
    labels = rng.integers(0, classes, (pictures, objects))
    labels[rng.random(labels.shape) < 0.2] = -1
    crowd = rng.random(labels.shape) < crowds
    picked = rng.integers(0, objects, (pictures, detections))
    found = np.take_along_axis(boxes, picked[..., None], axis=1) + rng.normal(0, 6, (pictures, detections, 4))
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2])
    said = np.take_along_axis(labels, picked, axis=1)
    said = np.where((rng.random(said.shape) < 0.2) | (said < 0), rng.integers(0, classes + 1, said.shape), said)
    scores = np.round(rng.random(said.shape), 2) + 0.001
    wanted = {"boxes": boxes, "classes": labels, "crowd": crowd}
    return wanted, {"boxes": found, "scores": scores, "classes": said}


def measured(name, wanted, found, *, size=1, reference=None, decode="boxes"):
    metric = resolve_metric(name)
    sums, count = None, len(found["boxes"])
    for start in range(0, count, size):
        cut = slice(start, start + size)
        outputs, labels = ({k: a[cut] for k, a in arrays.items()} for arrays in (found, wanted))
        exact = outputs if reference is None else {k: a[cut] for k, a in reference.items()}
        sums = sums or metric.start(find_heads(exact, labels, size, decode=decode))
        here = min(size, count - start)
        sums.update(Observation("m.onnx", outputs, exact, labels, start, here, {"x": (here, 3, 256, 256)}))
    return sums


def by_pycocotools(wanted, found, overlaps=None):
    """COCO's mean over all sizes and 100 detections, and each class's."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(arrays, extra):
        for image, (boxes, classes) in enumerate(zip(arrays["boxes"], arrays["classes"], strict=True)):
            for place, (box, label) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
                if label >= 0:
                    corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                    yield {"image_id": image, "category_id": label, "bbox": corner} | extra(image, place, corner)

    labels = list(rows(wanted, lambda i, k, c: {"iscrowd": int(wanted["crowd"][i, k]), "area": c[2] * c[3]}))
    for number, row in enumerate(labels, 1):
        row["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(wanted["boxes"]))],
            "annotations": labels,
            "categories": [{"id": c} for c in sorted({row["category_id"] for row in labels})],
            "info": {},
        }
        truth.createIndex()
        run = COCOeval(
            truth, truth.loadRes(list(rows(found, lambda i, k, _: {"score": found["scores"][i, k]}))), "bbox"
        )
        if overlaps is not None:
            run.params.iouThrs = np.array(overlaps)
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]
    each = {
        str(label): precision[:, :, k].mean() for k, label in enumerate(run.params.catIds) if precision[0, 0, k] > -1
    }
    return precision[precision > -1].mean(), each


@pytest.mark.parametrize(
    "options",
    [
        {"pictures": 6},
        {"pictures": 5, "classes": 1, "objects": 9},
        # more than count of a class
        {"pictures": 2, "classes": 1, "objects": 3, "detections": 260},
        {"pictures": 4, "classes": 12, "objects": 3, "crowds": 0.6},
    ],
)
def test_it_is_what_pycocotools_computes(options):
    wanted, found = scene(**options)
    for name, overlaps in (("map", None), ("map50", [0.5])):
        mean, each = by_pycocotools(wanted, found, overlaps)
        sums = measured(name, wanted, found, size=1 if name == "map" else 4)
        assert sums.result() == pytest.approx(mean, abs=1e-9)
        assert sums.by_class() == pytest.approx(each, abs=1e-9)


def test_what_is_perfect_and_what_finds_nothing():
    wanted, found = scene(4, crowds=0)
    exact = {
        "boxes": wanted["boxes"],
        "classes": np.maximum(wanted["classes"], 0),
        "scores": (wanted["classes"] >= 0) * 0.9,
    }
    assert measured("map", wanted, exact).result() == 1.0
    nothing = {"boxes": np.zeros((4, 0, 4)), "scores": np.zeros((4, 0)), "classes": np.zeros((4, 0), int)}
    sums = measured("map", wanted, nothing)
    assert sums.result() == 0.0 and set(sums.by_class().values()) == {0.0}
    sums = measured("map", wanted, {**found, "scores": found["scores"] * 0})
    assert sums.result() == 0.0


def test_pictures_without_objects_count_false_detections():
    wanted, found = scene(6, classes=1, crowds=0)
    before = measured("map", wanted, found).result()
    wanted["classes"][::2] = -1
    mean, _ = by_pycocotools(wanted, found)
    assert measured("map", wanted, found).result() == pytest.approx(mean, abs=1e-9)
    assert mean < before


def test_labels_are_read_from_narrow_types():
    wanted, found = scene(5)
    narrow = {"boxes": wanted["boxes"].astype(np.float16), "classes": wanted["classes"].astype(np.int8)}
    low = {k: a.astype(np.float16) if a.dtype.kind == "f" else a for k, a in found.items()}
    exact = {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in (narrow | {}).items()}
    mean, _ = by_pycocotools(
        exact | {"crowd": np.zeros_like(wanted["crowd"])},
        {k: a.astype(float) if a.dtype.kind == "f" else a for k, a in low.items()},
    )
    assert measured("map", narrow, low).result() == pytest.approx(mean, abs=1e-9)


def test_one_picture_and_no_axis_of_samples():
    wanted, found = scene(1)
    flat = {name: array[0] for name, array in wanted.items()}
    sums = resolve_metric("map").start(find_heads(found, flat, 1, decode="boxes"))
    sums.update(Observation("m.onnx", found, found, flat, 0, 1, {"x": (1, 3, 256, 256)}))
    assert sums.result() == measured("map", wanted, found).result()


def test_boxes_without_end():
    wanted, found = scene(3)
    found["boxes"][0, 0] = [-np.inf, 0, np.inf, np.inf]
    found["boxes"][1, 0] = [50, 50, 10, 10]
    assert 0 < measured("map", wanted, found).result() < 1


def test_nan_that_float_has_not_fails():
    wanted, found = scene(3)
    broken = {**found, "scores": found["scores"].copy()}
    broken["scores"][1, 0] = np.nan
    for name in ("map", "box_agreement"):
        assert math.isnan(measured(name, wanted, broken, reference=found).result())
    assert measured("map", wanted, broken).result() > 0


def test_memory_grows_by_the_detections():
    sizes = []
    for pictures in (10, 100):
        wanted, found = scene(pictures, detections=80)
        # what is kept, without the last batch
        sums = measured("map", wanted, found)
        sizes.append(len(pickle.dumps((sums._truths, sums._found))))
    assert sizes[1] - sizes[0] < 90 * (80 * 48 + 6 * 41 + 700)


def test_agreement_is_that_of_pairs():
    _, found = scene(6)
    assert measured("box_agreement", {}, found, reference=found).result() == 1.0
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60], [80, 80, 90, 90]]], float)
    one = {"boxes": boxes, "scores": np.array([[0.9, 0.8, 0.7, 0.2]]), "classes": np.array([[0, 1, 1, 1]])}
    # moved by a little, moved too far, of another class, and below what counts
    other = {**one, "boxes": boxes + np.array([[[1], [9], [0], [0]]]), "classes": np.array([[0, 1, 0, 1]])}
    assert measured("box_agreement", {}, other, reference=one).result() == pytest.approx(2 / 6)
    # two of the model's do not share one of float's
    twice = {k: a[:, [0, 0]] for k, a in one.items()}
    single = {k: a[:, [0]] for k, a in one.items()}
    assert measured("box_agreement", {}, twice, reference=single).result() == pytest.approx(2 / 3)
    none = {**one, "scores": one["scores"] * 0.1}
    with pytest.raises(DataError, match="no model finds a box of a score of"):
        measured("box_agreement", {}, none, reference=none).result()


def test_several_metrics_decode_a_batch_once():
    calls = []

    def decode(outputs):
        calls.append(1)
        return [
            (boxes, s, c) for boxes, s, c in zip(outputs["boxes"], outputs["scores"], outputs["classes"], strict=True)
        ]

    wanted, found = scene(4)
    heads = find_heads(found, wanted, 4, decode=decode)
    sums = [metric.start(heads) for metric in resolve_metrics("map,map50")]
    seen = Observation("m.onnx", found, found, wanted, 0, 4)
    for one in sums:
        one.update(seen)
    assert len(calls) == 1
    assert sums[0].result() == measured("map", wanted, found).result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": None}, "has no boxes; it has classes, crowd; add arrays 'boxes' .samples, most, 4. and 'classes'"),
        ({"boxes": np.zeros((2, 6, 4))}, r"'boxes' in data is float64 \[2, 6, 4\] for 3 samples from sample 0"),
        ({"boxes": np.zeros((3, 6, 5))}, r"'boxes' in data is float64 \[3, 6, 5\]"),
        ({"boxes": np.full((3, 6, 4), "a")}, r"'boxes' in data is <U1"),
        (
            {"classes": np.zeros((3, 5), int)},
            r"'classes' in data is int64 \[3, 5\] from sample 0, and 'boxes' is \[3, 6, 4\]",
        ),
        ({"classes": np.full((3, 6), 0.5)}, "the classes of the boxes of sample 0 are no whole numbers"),
        ({"classes": np.full((3, 6), np.nan)}, "are no whole numbers"),
        ({"crowd": np.zeros(3)}, r"'crowd' in data is float64 \[3\]"),
        ({"boxes": np.tile([5.0, 5, 1, 9], (3, 6, 1))}, r"the box \[5.0, 5.0, 1.0, 9.0\] of sample \d is none"),
        ({"boxes": np.full((3, 6, 4), np.nan)}, "is none; give x1, y1, x2, y2"),
        ({"classes": np.full((3, 6), -1)}, "no picture of data has a labelled box"),
        ({"crowd": np.ones((3, 6), bool)}, "no picture of data has a labelled box"),
    ],
)
def test_labels_that_do_not_fit(change, message):
    wanted, found = scene(3)
    labels = {name: array for name, array in (wanted | change).items() if array is not None}
    with pytest.raises(DataError, match=message):
        measured("map", labels, found, size=3).result()


def test_a_label_that_the_model_has_no_class_for():
    wanted = {"boxes": np.array([[[0.0, 0, 8, 8]]]), "classes": np.array([[3]])}
    with pytest.raises(
        DataError, match=r"label 3 of sample 0 is no class of m.onnx, .* decode='yolov8' has 3 \(0 to 2\)"
    ):
        measured("map", wanted, {"boxes": np.zeros((1, 7, 20))}, decode="yolov8")


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    wanted, found = scene(1)
    with pytest.raises(UsageError, match=r"metric='map50': needs faster-coco-eval: pip install faster-coco-eval"):
        measured("map50", wanted, found)


def test_a_decoder_and_a_metric_need_one_another():
    with pytest.raises(
        UsageError, match="metric='map': reads boxes; say how the outputs become boxes with decode: yolox"
    ):
        check_decode(resolve_metrics("top1,map"), None)
    with pytest.raises(UsageError, match="decode='yolox': says nothing to top1, f1; add metric='map'"):
        check_decode(resolve_metrics("top1,f1"), "yolox")
    check_decode((), "yolox")
    check_decode(resolve_metrics("map,top1"), "yolox")
    with pytest.raises(UsageError, match="decode='yolox': does not go with state"):
        find_heads({}, {}, 1, in_steps=True, decode="yolox")
    assert isinstance(find_heads({}, {}, 1, decode="yolox"), Heads)


def test_boxes_of_parts_of_the_picture_are_refused():
    wanted, found = scene(2)
    with pytest.raises(
        DataError, match="no labelled box in data reaches further than 1; give x1, y1, x2, y2 in pixels"
    ):
        measured("map", {**wanted, "boxes": wanted["boxes"] / 300}, found).result()


def test_boxes_of_one_class_need_no_classes():
    wanted, found = scene(4, classes=1, crowds=0)
    found["classes"] = found["classes"] * 0
    alone = {"boxes": np.where(wanted["classes"][..., None] < 0, 0, wanted["boxes"])}
    assert measured("map", alone, found, size=2).result() == measured("map", wanted, found).result()
    first = {"boxes": wanted["boxes"][:, 0]}
    single = {"boxes": wanted["boxes"][:, :1], "classes": np.zeros((4, 1), int)}
    for size in (1, 3):
        assert measured("map", first, found, size=size).result() == measured("map", single, found).result()

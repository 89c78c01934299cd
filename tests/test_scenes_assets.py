"""The detector, the U-Net and the scenes that they see: what calib_data/README.md says of them is true."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import qtool
from tests.support.places import SHIPPED
from tests.support.scenes import boxes, masks, script

DATA = script()
MODELS = {"scenes_detector": ["N", 14, 180], "scenes_unet": ["N", 11, 96, 96]}


@pytest.fixture(scope="module")
def scenes():
    return DATA.evaluation_scenes(12)


def test_the_same_scenes_each_time_and_the_first_ones_do_not_depend_on_how_many_there_are(scenes):
    more = DATA.evaluation_scenes(15)
    for name in ("pictures", "boxes", "classes", "masks"):
        np.testing.assert_array_equal(getattr(more, name)[:12], getattr(scenes, name))


def test_the_scenes_are_those_that_the_figures_are_of():
    readme = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for name, made in (("calibration", DATA.calibration_scenes(40)), ("evaluation", DATA.evaluation_scenes(40))):
        digest = hashlib.sha256()
        for array in (made.pictures, made.boxes, made.classes, made.masks):
            digest.update(array.tobytes())
        assert f"{digest.hexdigest()}  the first 40 of {name}" in readme


def test_a_box_lies_tightly_around_the_pixels_of_its_digit(scenes):
    alone = np.flatnonzero((scenes.classes >= 0).sum(1) == 1)
    assert len(alone) > 2
    for number in alone:
        rows, columns = np.nonzero(scenes.masks[number])
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scenes.boxes[number, 0].tolist() == expected
        assert set(np.unique(scenes.masks[number])) == {0, scenes.classes[number, 0] + 1}


def test_boxes_and_classes_are_those_of_one_to_five_digits_inside_the_picture(scenes):
    there = scenes.classes >= 0
    assert set(there.sum(1)) <= set(range(1, 6))
    x1, y1, x2, y2 = scenes.boxes[there].T
    assert ((x1 >= 0) & (y1 >= 0) & (x2 <= 96) & (y2 <= 96) & (x2 - x1 >= 3) & (y2 - y1 >= 8)).all()
    assert scenes.classes.max() <= 9
    for number in range(len(there)):
        assert set(np.unique(scenes.masks[number])) - {0} <= set(scenes.classes[number] + 1)


def test_the_evaluation_digits_are_not_those_of_training(monkeypatch):
    """Only digits_eval.npz, which test_demo_assets.py holds against the training digits, is read."""
    read = []
    monkeypatch.setattr(np, "load", lambda path, load=np.load: read.append(Path(path).name) or load(path))
    DATA.evaluation_scenes(1), DATA.calibration_scenes(1)
    assert read == ["digits_eval.npz", "digits_calib.npz"]


@pytest.mark.parametrize(("name", "shape"), MODELS.items())
def test_a_model_is_valid_small_and_has_a_dynamic_batch(name, shape, scenes):
    model = onnx.load(SHIPPED / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (output,) = model.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == shape
    session = onnxruntime.InferenceSession(SHIPPED / f"{name}.onnx", providers=["CPUExecutionProvider"])
    (many,) = session.run(None, {"images": scenes.input[:3]})
    (one,) = session.run(None, {"images": scenes.input[2:3]})
    np.testing.assert_allclose(many[2:], one, atol=1e-3)
    assert many.shape == (3, *shape[1:])
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)


def test_both_models_are_under_two_megabytes_together():
    assert sum((SHIPPED / f"{name}.onnx").stat().st_size for name in MODELS) < 2_000_000


def test_the_detector_has_the_parts_of_a_yolov8():
    model = onnx.load(SHIPPED / "scenes_detector.onnx")
    nodes = {node.output[0]: node for node in model.graph.node}
    last = nodes["output0"]
    assert last.op_type == "Concat"
    assert [nodes[name].op_type for name in last.input] == ["Mul", "Sigmoid"]
    softmax = nodes["dfl_softmax_out"]
    assert softmax.op_type == "Softmax" and nodes[softmax.input[0]].op_type == "Transpose"
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MaxPool") == 3 and kinds.count("Resize") == 1
    silu = [n for n in model.graph.node if n.op_type == "Mul" and f"{n.name}_sigmoid_out" in n.input]
    assert len(silu) == kinds.count("BatchNormalization") == kinds.count("Conv") - 5


def test_the_unet_joins_what_it_halved_with_what_it_doubled():
    kinds = [node.op_type for node in onnx.load(SHIPPED / "scenes_unet.onnx").graph.node]
    assert [kinds.count(op) for op in ("MaxPool", "ConvTranspose", "Concat")] == [3, 3, 3]


def test_files_hold_what_arrays_hold(scenes, tmp_path):
    """Pictures through the preset, and labels in each of their three forms, give the figures of the arrays."""
    pytest.importorskip("faster_coco_eval", reason="pip install '.[detection]'")
    DATA.write_pictures(tmp_path, DATA.calibration_scenes(2), scenes)
    assert len(list((tmp_path / "calibration").iterdir())) == 2
    read = {"preprocess": "yolo", "decode": "yolov8"}
    model = SHIPPED / "scenes_detector.onnx"
    arrays = qtool.evaluate(model, model, boxes(scenes), metrics=["map", "map50"], decode="yolov8").float_model
    for labels in ("instances.json", "labels"):
        found = qtool.evaluate(
            model, model, str(tmp_path / "images"), metrics=["map", "map50"], labels=tmp_path / labels, **read
        ).float_model
        assert [s.value for s in found.scores] == pytest.approx([s.value for s in arrays.scores], abs=1e-12)
    model = SHIPPED / "scenes_unet.onnx"
    arrays = qtool.evaluate(model, model, masks(scenes), metrics=["miou"]).float_model
    found = qtool.evaluate(
        model, model, str(tmp_path / "images"), metrics=["miou"], labels=tmp_path / "masks", preprocess="unet"
    ).float_model
    assert found.scores[0].value == arrays.scores[0].value
    document = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    assert len(document["annotations"]) == (scenes.classes >= 0).sum()
    assert np.asarray(Image.open(tmp_path / "masks" / "003.png")).max() == scenes.masks[3].max()


def test_the_readme_has_the_digests_of_the_models():
    readme = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for name in MODELS:
        digest = hashlib.sha256((SHIPPED / f"{name}.onnx").read_bytes()).hexdigest()
        assert re.search(rf"{digest} +{name}\.onnx", readme)

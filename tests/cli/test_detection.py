"""A detector and a segmenter from pictures to figures: the commands with `--decode` and `--labels`."""

import json
import runpy

import numpy as np
import pytest

from qtool.cli import main
from tests.support import detectors
from tests.support.places import REPOSITORY, SHIPPED

pytest.importorskip("faster_coco_eval", reason="pip install '.[detection]'")
PICTURES, FOUND = detectors.squares(10)
READ = ["--data", "images", "--preprocess", "yolo", "--decode", "yolov8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models, pictures, and their labels in every form."""
    folder = tmp_path_factory.mktemp("detection")
    detectors.detector(folder / "float.onnx")
    detectors.detector(folder / "bad.onnx", flip=True)
    detectors.segmenter(folder / "masks.onnx")
    detectors.write_pictures(folder / "images", PICTURES)
    detectors.write_pictures(folder / "unlabelled", PICTURES[:4])
    detectors.write_yolo(folder / "labels", FOUND)
    detectors.write_coco(folder / "coco.json", FOUND)
    detectors.write_masks(folder / "truth", detectors.masks_of(FOUND))
    fed = (PICTURES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    np.savez(folder / "fed.npz", x=fed, **detectors.boxes_of(FOUND))
    (folder / "records").mkdir()
    for index, own in enumerate(FOUND):
        # as many rows as there are squares
        labels = {name: array[0] for name, array in detectors.boxes_of([own]).items()}
        np.savez(folder / "records" / f"{index}.npz", x=fed[index], **labels)
    (folder / "mine.py").write_text(
        "import numpy as np\n"
        "def decode(outputs):\n"
        "    y = outputs['y_out']\n"
        "    half = y[:, 2:4] / 2\n"
        "    boxes = np.concatenate([y[:, :2] - half, y[:, :2] + half], 1)\n"
        "    found = [(b.T, s.max(0), s.argmax(0)) for b, s in zip(boxes, y[:, 4:])]\n"
        "    return [(b[s > 0.5], s[s > 0.5], c[s > 0.5]) for b, s, c in found]\n"
        "def broken(outputs):\n"
        "    return 3\n"
    )
    return folder


@pytest.fixture
def run(capsys, made, monkeypatch):
    """Runs `qtool ...` beside the files: the exit code, stdout, stderr."""
    monkeypatch.chdir(made)

    def call(*words):
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        streams = capsys.readouterr()
        return caught.value.code, streams.out, streams.err

    return call


@pytest.mark.parametrize(
    "words",
    [
        READ,
        [*READ, "--labels", "coco.json", "--batch-size", "3"],
        pytest.param([*READ, "--labels", "labels", "--workers", "1"], marks=pytest.mark.slow),
        ["--data", "fed.npz", "--decode", "yolov8", "--batch-size", "4"],
        ["--data", "records", "--decode", "yolov8", "--batch-size", "2"],
        ["--data", "fed.npz", "--decode", "mine.py:decode", "--batch-size", "10"],
    ],
)
def test_every_form_of_labels_gives_the_same_figures(words, run):
    code, out, err = run("eval", "float.onnx", "bad.onnx", *words, "--metric", "map,map50", "--json", "-")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["samples"] == 10
    perfect = {"value": 1.0, "drop": None, "relative_drop": None, "by_class": {"0": 1.0, "1": 1.0}}
    assert document["float_model"]["metrics"] == {"map": perfect, "map50": perfect}
    worst = {"value": 0.0, "drop": 1.0, "relative_drop": 1.0, "by_class": {"0": 0.0, "1": 0.0}}
    assert document["candidates"][0]["metrics"]["map50"] == worst


def test_a_detector_is_quantised_measured_and_gated(run):
    assert run("calibrate", "float.onnx", "--data", "unlabelled", "--preprocess", "yolo", "-o", "c.calib", "-q")[0] == 0
    assert run("quantize", "float.onnx", "--calibration", "c.calib", "-o", "int8.onnx", "-q")[0] == 0
    code, out, _ = run("eval", "float.onnx", "int8.onnx", "bad.onnx", *READ, "--max-drop", "1%")
    rows = [line.split() for line in out.splitlines()]
    assert code == 1 and rows[0][:3] == ["model", "map", "drop"]
    assert [row[1] for row in rows[1:4]] == ["1.0000", "1.0000", "0.0000"]
    assert "PASS int8.onnx: map: drop 0%" in out and "FAIL bad.onnx: map: drop 100%" in out
    # without labels: what both find
    read = ["--data", "unlabelled", "--preprocess", "yolo", "--decode", "yolov8"]
    code, out, _ = run("eval", "float.onnx", "int8.onnx", "bad.onnx", *read)
    assert code == 0 and out.splitlines()[0].split()[:2] == ["model", "box_agreement"]
    assert [line.split()[1] for line in out.splitlines()[1:4]] == ["1.0000", "1.0000", "0.0000"]
    code, out, _ = run("sensitivity", "float.onnx", "--calibration", "c.calib", *READ, "-o", "s.json")
    assert code == 0 and "map 1.0000 (float 1.0000, drop 0.0000)" in out
    again = [*READ[:-1], "mine.py:decode"]
    code, _, err = run("sensitivity", "float.onnx", "--calibration", "c.calib", *again, "-o", "s.json")
    assert code == 2 and "holds an analysis with another decoder" in err


def test_quantize_limits_what_map_loses(made, run):
    words = ("--labels", "coco.json", "--max-drop", "5%", "--json", "g.json")
    code, out, err = run("quantize", "float.onnx", *READ, *words, "-o", "gated.onnx")
    assert code == 0, err
    # ten pictures are ten examples, of which every other one chose
    assert "map 1.0000, float 1.0000, on 5 samples of images (those that did not choose the plan)" in out
    (gate,) = json.loads((made / "g.json").read_text())["gates"]
    assert (gate["rule"], gate["metric"], gate["passed"]) == ("max-drop", "map", True)


def test_a_float_model_that_finds_nothing_is_not_silent(run):
    code, _, err = run("eval", "bad.onnx", "bad.onnx", *READ)
    assert code == 0
    assert "warning: bad.onnx: map is 0 in float; check how pictures are preprocessed and outputs decoded" in err


@pytest.mark.parametrize(
    ("data", "measure"), [("unlabelled", "box_agreement"), pytest.param("images", "map", marks=pytest.mark.slow)]
)
def test_tune_holds_map_or_the_agreement_of_boxes(data, measure, run):
    words = ["--data", data, *READ[2:], "--calibrators", "max", "-o", "t.onnx", "--json", "-"]
    code, out, _ = run("tune", "float.onnx", *words)
    document = json.loads(out)
    assert code == 0 and document["metric"] == measure and document["met"]
    beside = ["--data", "unlabelled", "--eval-data", "images", "--labels", "coco.json", *words[2:]]
    code, out, _ = run("tune", "float.onnx", *beside)
    assert code == 0 and json.loads(out)["metric"] == "map"


def test_masks_are_the_default_of_miou(run):
    words = ["eval", "masks.onnx", "masks.onnx", "--data", "images", "--preprocess", "unet", "--labels", "truth"]
    code, out, _ = run(*words)
    assert code == 0 and out.splitlines()[1].split()[:2] == ["masks.onnx", "1.0000"]
    assert out.startswith("model") and out.split()[1] == "miou"
    code, out, _ = run(*words, "--metric", "miou,pixel_accuracy", "--json", "-")
    assert json.loads(out)["float_model"]["metrics"]["miou"]["by_class"] == {"0": 1.0, "1": 1.0, "2": 1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--metric", "map"],
            "--metric map: reads boxes; say how the outputs become boxes with --decode: yolox, yolov5",
        ),
        (["--decode", "yolov8", "--metric", "top1"], "--decode yolov8: says nothing to top1; add --metric map"),
        (["--decode", "yolo8"], "--decode yolo8: no such decoder (did you mean 'yolov8'?)"),
        (["--decode", "yolox"], "--decode yolox: float.onnx: expected one output [N, cells, 5 + classes]"),
        (["--decode", "detr"], "found 'y_out' [1, 6, 49]; use --decode yolov8, or a function of your own"),
        (["--decode", "mine.py:nothing"], "--decode mine.py:nothing: mine.py has no function 'nothing'"),
        (["--decode", "mine.py:broken"], "--decode mine.py:broken: on float.onnx, sample 0: gave a int; return"),
        (["--decode", "yolov8", "--labels", "no.json"], "--labels no.json: does not exist; give a COCO .json"),
        (["--labels", "coco.json"], "--labels are boxes; say how the outputs become boxes with --decode"),
        (
            ["--labels", "truth", "--decode", "yolov8", "--metric", "map"],
            "--metric map: --data has no boxes; it has masks",
        ),
        (["--labels", "coco.json", "--metric", "miou"], "--metric miou: --data has no masks"),
    ],
)
def test_what_is_wrong_is_one_line(words, message, run):
    read = ["--data", "images", "--preprocess", "yolo"]
    code, out, err = run("eval", "float.onnx", "bad.onnx", *read, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_what_is_left_out_and_what_is_not_decoded_are_told(made, run):
    document = detectors.coco(FOUND)
    document["images"] = [image for image in document["images"] if image["id"] != 103]
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] != 103]
    (made / "fewer.json").write_text(json.dumps(document))
    code, out, err = run("eval", "float.onnx", "float.onnx", *READ, "--labels", "fewer.json", "--json", "-")
    line = "images: 1 of 10 pictures has no labels and is left out: 003.png"
    assert (code, err, json.loads(out)["warnings"]) == (0, f"warning: {line}\n", [line])
    words = ["--data", "unlabelled", "--preprocess", "yolo"]
    _, _, err = run("eval", "float.onnx", "float.onnx", *words)
    assert err.startswith("warning: preprocess yolo is for detectors") and "decode (yolov8, yolov5, yolo-nms, or" in err
    assert run("eval", "float.onnx", "float.onnx", *words, "--metric", "sqnr")[2] == ""
    code, _, err = run("tune", "float.onnx", *words, "--max-drop", "5%", "-o", "t.onnx")
    assert code == 2 and "give --min-sqnr, --decode where the outputs are boxes, or labels and --metric" in err
    _, _, err = run("tune", "float.onnx", *words, "--calibrators", "max", "--min-sqnr", "5", "-o", "t.onnx")
    assert "warning: preprocess yolo is for detectors" in err


def test_labels_are_for_pictures(run):
    code, _, err = run(
        "eval", "float.onnx", "bad.onnx", "--data", "fed.npz", "--labels", "coco.json", "--decode", "yolov8"
    )
    assert code == 2 and "--labels coco.json: is for a folder of pictures, which the data is not" in err
    code, _, err = run("calibrate", "float.onnx", "--data", "images", "--preprocess", "yolo", "--labels", "coco.json")
    assert code == 2 and "--labels" in err


@pytest.mark.slow
def test_what_the_page_shows_works(tmp_path, monkeypatch, capsys):
    """Every command of the how-to, as it stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calib_data").symlink_to(SHIPPED)
    page = (REPOSITORY / "docs" / "detection.md").read_text(encoding="utf-8")
    section = page.partition("## To try it")[2].partition("\n## ")[0].replace("\\\n", "")
    commands = [line.split() for line in section.splitlines() if line.startswith("    ")]
    assert [words[:2] for words in commands[:2]] == [["pip", "install"], ["python", "calib_data/scenes_data.py"]]
    monkeypatch.setattr("sys.argv", commands[1][1:])
    runpy.run_path(commands[1][1], run_name="__main__")
    for name, command, *words in commands[2:]:
        assert name == "qtool"
        with pytest.raises(SystemExit) as caught:
            main([command, *words])
        assert caught.value.code == 0, (command, words)
    assert {words[1] for words in commands[2:]} == {"calibrate", "quantize", "eval", "sensitivity", "tune"}
    assert "target met (map drop at most 1%)" in capsys.readouterr().out

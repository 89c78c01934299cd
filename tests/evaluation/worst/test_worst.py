"""`--save-worst`: which samples are chosen, what is drawn of them, and what is refused; without files of ours."""

import json

import numpy as np
import pytest
from PIL import Image

from qtool.cli import main
from qtool.core.errors import OutputError, UsageError
from qtool.evaluation.evaluate import evaluate
from qtool.evaluation.worst.keep import _file_names
from tests.support import detectors
from tests.support.evaluation_models import linear
from tests.support.patterns import Net

PICTURES, FOUND = detectors.squares(5)
FED = (PICTURES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
LABELS, FLOAT, MODEL = (90, 230, 90), (60, 190, 255), (255, 150, 30)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worst")
    detectors.detector(folder / "float.onnx")
    detectors.detector(folder / "bad.onnx", flip=True)
    detectors.segmenter(folder / "masks.onnx")
    detectors.write_pictures(folder / "images", PICTURES)
    detectors.write_yolo(folder / "labels", FOUND)
    detectors.write_masks(folder / "truth", detectors.masks_of(FOUND))
    return folder


def pixels(path):
    return np.asarray(Image.open(path))


def shows(picture, color):
    return bool((picture == color).all(axis=2).any())


def network(path, weights, bias=0.0):
    """x [N, 3, 16, 16] -> three pictures of these weights a channel."""
    net = Net(3, 16, 16)
    kernel = np.diag(weights).astype(np.float32)[:, :, None, None]
    net("Conv", "x", net.const(kernel), net.const(np.full(3, bias, np.float32)), name="y")
    return net.save(path, "y_out")


def test_boxes_that_were_lost_come_first(made, tmp_path):
    """Pictures without a square have none to lose; ranks, names, files and colours."""
    reading = {"decode": "yolov8", "preprocess": "yolo"}
    found = evaluate(
        made / "float.onnx", made / "bad.onnx", made / "images", save_worst=(5, tmp_path / "out"), **reading
    )
    worst = found.worst
    assert [one.rank for one in worst.samples] == list(range(1, 6))
    empty = {index for index, own in enumerate(FOUND) if not len(own)}
    assert empty == {4} and worst.samples[-1].sample == 4
    for one in worst.samples:
        assert (one.float_score, one.score) == (1.0, 1.0 if one.sample in empty else 0.0)
        assert one.picture == f"bad-{one.rank}-sample-{one.sample}.png"
        assert one.source == str(made / "images" / f"{one.sample:03}.png")
        picture = pixels(tmp_path / "out" / one.picture)
        assert [shows(picture, color) for color in (LABELS, FLOAT, MODEL)] == [one.sample not in empty] * 3
    document = json.loads((tmp_path / "out" / "worst.json").read_text())
    assert document["schema"] == "qtool.worst" and document["samples"] == found.to_dict()["worst"]["samples"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "worst.json",
        *(one.picture for one in worst.samples),
    }


def test_any_batch_and_fewer_samples_choose_the_same(made, tmp_path):
    np.savez(tmp_path / "fed.npz", x=FED, **detectors.boxes_of(FOUND))
    files = {}
    for size in (1, 2, 5):
        folder = tmp_path / str(size)
        evaluate(
            made / "float.onnx", made / "bad.onnx", tmp_path / "fed.npz", decode="yolov8", batch_size=size,
            save_worst=(2, folder),
        )  # fmt: skip
        files[size] = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert files[1] == files[2] == files[5] and len(files[1]) == 2


def test_masks_against_labels_and_against_float(made, tmp_path):
    """The model is float with its classes turned round, so that each square is wrong."""
    net = Net(3, detectors.SIDE, detectors.SIDE)
    weights = np.array([[-1, -1, 0], [-1, 1, 0], [1, -1, 0]], np.float32)[:, :, None, None]
    net("Conv", "x", net.const(weights), net.const(np.array([0.8, 0, 0])), name="y")
    model = net.save(tmp_path / "turned.onnx", "y_out")
    reading = {"preprocess": "unit", "labels": made / "truth"}
    found = evaluate(
        made / "masks.onnx", model, made / "images", metrics="miou", save_worst=(5, tmp_path / "out"), **reading
    )
    masks = detectors.masks_of(FOUND)
    for one in found.worst.samples:
        mask = masks[one.sample]
        turned = np.array([0, 2, 1])[mask]
        there = np.union1d(mask, turned)
        overlap = [((mask == c) & (turned == c)).sum() / ((mask == c) | (turned == c)).sum() for c in there]
        assert one.float_score == 1.0 and one.score == pytest.approx(np.mean(overlap))
        # red where both differ, in the last panel, four times as wide as it is high
        differs = pixels(tmp_path / "out" / one.picture)[14:, -324:-4]
        assert (differs == (255, 40, 40)).all(axis=2).sum() == (mask != turned).sum() * 25


def test_pictures_that_are_made(tmp_path):
    """Two models that make the picture brighter; the sample with most light differs most."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 0.4, (5, 3, 16, 16)).astype(np.float32)
    x[3] *= 2
    np.savez(tmp_path / "data.npz", x=x, target=x)
    models = [network(tmp_path / f"{name}.onnx", [g] * 3) for name, g in (("f", 1.0), ("a", 1.1), ("b", 0.9))]
    found = evaluate(models[0], models[1:], tmp_path / "data.npz", metrics="psnr", save_worst=(1, tmp_path / "out"))
    assert [(one.model, one.rank, one.sample) for one in found.worst.samples] == [("a.onnx", 1, 3), ("b.onnx", 1, 3)]
    error = np.mean((0.1 * x[3]) ** 2)
    assert found.worst.samples[0].score == pytest.approx(10 * np.log10(1 / error), abs=1e-3)
    assert found.worst.samples[0].float_score == 100.0
    panels = pixels(tmp_path / "out" / "a-1-sample-3.png")
    # input, target, float, model, difference
    assert panels.shape[1] == 5 * 320 + 6 * 4
    target, model = (panels[14 : 14 + 320, left : left + 320] for left in (4 + 324, 4 + 3 * 324))
    assert np.array_equal(target[10::20, 10::20], np.rint(x[3].transpose(1, 2, 0) * 255))
    assert np.abs(model[10::20, 10::20].astype(float) - x[3].transpose(1, 2, 0) * 1.1 * 255).max() <= 0.51


def test_classes_that_changed(tmp_path):
    models = []
    for name, gains in (("f", [1, 1, 1]), ("g", [0.5, 1, 1])):
        net = Net(3, 8, 8)
        gained = net("Mul", net("Flatten", net("GlobalAveragePool", "x")), net.const(np.float32([gains])))
        models.append(net.save(tmp_path / f"{name}.onnx", gained))
    means = np.array([[3, 1, 0], [3, 2, 0], [0, 1, 5], [1, 0, 2]], np.float32)
    np.savez(tmp_path / "data.npz", x=np.ones((4, 3, 8, 8), np.float32) * means[:, :, None, None], labels=[0, 0, 2, 2])
    found = evaluate(*models, tmp_path / "data.npz", save_worst=(2, tmp_path / "out"))
    assert [(one.sample, one.float_score, one.score) for one in found.worst.samples[:1]] == [(1, 1.0, 0.0)]
    # of those that are right as before the one with the most noise
    assert found.worst.samples[1].sample == 0 and found.worst.samples[1].score == 1.0


def test_the_folder_of_an_earlier_run_is_replaced_and_no_other(made, tmp_path):
    arguments = (made / "float.onnx", made / "bad.onnx", made / "images")
    reading = {"decode": "yolov8", "preprocess": "yolo"}
    out = tmp_path / "out"
    evaluate(*arguments, save_worst=(3, out), **reading)
    evaluate(*arguments, save_worst=(1, out), **reading)
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".png"]
    (out / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match=r"holds other files \(such as mine.txt\)"):
        evaluate(*arguments, save_worst=(2, out), **reading)
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match="its pictures would be data the next time"):
        evaluate(*arguments, save_worst=(2, made / "images" / "worst"), **reading)


def test_names_of_pictures_are_of_one_model_each():
    models = ["m-model-3.onnx", "m.onnx", "M.onnx", "a/m.onnx", "b/m.onnx", "b/m.onnx (2)", "z" * 99 + ".onnx"]
    names = _file_names(models)
    assert names == ["m-model-3", "m", "M-model-4", "a-m", "b-m", "b-m-2", "z" * 60]


def test_another_output_in_the_folder_is_refused_at_once(tmp_path, capsys):
    linear(tmp_path / "f.onnx", np.eye(6, 4, dtype=np.float32))
    np.savez(tmp_path / "d.npz", x=np.ones((3, 6), np.float32))
    words = ["eval", *[str(tmp_path / "f.onnx")] * 2, "--data", str(tmp_path / "d.npz"), "--save-worst", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, str(tmp_path / "w"), "--json", str(tmp_path / "w" / "out.json")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "out.json: is in the folder of --save-worst, which holds its pictures and nothing else" in said
    assert not (tmp_path / "w").exists()


def test_what_is_no_picture_is_refused_and_nothing_written(tmp_path, capsys):
    weights = np.eye(6, 4, dtype=np.float32)
    linear(tmp_path / "f.onnx", weights)
    np.savez(tmp_path / "data.npz", x=np.ones((3, 6), np.float32))
    before = set(tmp_path.iterdir())
    names = [str(tmp_path / name) for name in ("f.onnx", "f.onnx")]
    for words in (["2", str(tmp_path / "out")], ["0", str(tmp_path / "out")], ["2", str(tmp_path / "f.onnx")]):
        with pytest.raises(SystemExit) as ended:
            main(["eval", *names, "--data", str(tmp_path / "data.npz"), "--save-worst", *words])
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
        assert set(tmp_path.iterdir()) == before
        if words[0] == "2" and words[1].endswith("out"):
            assert "no input is a picture" in err and "found 'x'" in err


def test_a_detector_of_which_nobody_says_how_it_is_read(made, tmp_path):
    with pytest.raises(UsageError, match="the outputs are none of these: 'y_out'"):
        evaluate(
            made / "float.onnx", made / "bad.onnx", made / "images", preprocess="yolo", save_worst=(1, tmp_path / "o")
        )
    assert not (tmp_path / "o").exists()


def test_pillow_is_asked_for_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(UsageError, match="pip install pillow"):
        evaluate("none.onnx", "none.onnx", "none", save_worst=(1, tmp_path / "o"))


def test_the_command_prints_what_it_wrote_and_reads_its_own_folder(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(made)
    (tmp_path / "c.toml").write_text(f'[eval]\nsave-worst = [2, "{(tmp_path / "out").as_posix()}"]\n')
    words = ["eval", "float.onnx", "bad.onnx", "--data", "images", "--preprocess", "yolo", "--decode", "yolov8"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--config", str(tmp_path / "c.toml"), "--json", str(tmp_path / "e.json")])
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        assert "out: 2 pictures of the worst samples, worst.json lists them\n" in out
        assert "bad.onnx: worst is sample " in out
    assert len(json.loads((tmp_path / "e.json").read_text())["worst"]["samples"]) == 2


def test_padding_is_cut_off_and_boxes_move_with_the_picture(made, tmp_path):
    """A picture half as wide, which the letterbox puts into the middle."""
    picture = PICTURES[0][:, 16:48].copy()
    picture[:, :] = 0
    picture[8:24, 8:24] = (255, 0, 0)
    detectors.write_pictures(tmp_path / "images", picture[None])
    reading = {"decode": "yolov8", "preprocess": "yolo"}
    evaluate(made / "float.onnx", made / "bad.onnx", tmp_path / "images", save_worst=(1, tmp_path / "o"), **reading)
    drawn = pixels(tmp_path / "o" / "bad-1-sample-0.png")
    # float and the model, each 64 x 32 and enlarged five times
    assert drawn.shape == (14 + 320 + 4, 2 * 160 + 3 * 4, 3)
    first = drawn[14:334, 4:164]
    assert first[41, 60].tolist() == list(FLOAT) and first[80, 80].tolist() == [255, 0, 0]


@pytest.mark.slow
def test_workers_choose_the_same(made, tmp_path):
    from qtool.execution import opened

    reading = {"decode": "yolov8", "preprocess": "yolo"}
    arguments = (made / "float.onnx", made / "bad.onnx", made / "images")
    evaluate(*arguments, save_worst=(2, tmp_path / "here"), **reading)
    with opened(1, None) as executor:
        evaluate(*arguments, save_worst=(2, tmp_path / "there"), executor=executor, **reading)
    files = [{path.name: path.read_bytes() for path in (tmp_path / at).glob("*.png")} for at in ("here", "there")]
    assert files[0] == files[1] and len(files[0]) == 2

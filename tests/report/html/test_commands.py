"""The commands that write pages: what each shows, and that a page that cannot be made harms nothing else."""

import base64
import json

import onnx
import pytest

from qtool.cli import main
from qtool.core.errors import ModelError
from tests.report.html.conftest import CONVS, HOSTILE, document, run
from tests.report.html.test_page import Read


def read(path):
    return Read(path.read_text(encoding="utf-8"))


def test_quantize_shows_each_layer_as_it_is_executed(made):
    page = read(made / "q.html")
    head, *rows = page.table("Layers, in the order of the network")
    found = {row[0]: dict(zip(head, map(str.strip, row), strict=True)) for row in rows}
    first = found[f"{HOSTILE}0"]
    assert (len(rows), first["executed"], first["op"], first["planned"]) == (CONVS + 1, "QLinearConv", "Conv", "int8")
    assert float(first["time ms"]) >= 0 and float(first["float ms"]) >= 0 and float(first["SQNR dB"]) > 20
    assert {one["class"] for one in page.all("i")} >= {"t-int", "t-seam"}
    # the values of each tensor that is quantised, with the range of every calibrator
    names = {row["tensor"] for row in document(made / "q.json")["plan"]["activations"]}
    figures = [one["aria-label"] for one in page.all("svg") if one.get("aria-label", "").startswith("Histogram of ")]
    assert len(figures) == len(names) and all(any(name in label for label in figures) for name in names)


def test_inspect_writes_its_page_and_the_overlay(made, tmp_path):
    page, colours = tmp_path / "i.html", tmp_path / "i.json"
    words = (str(made / "q.onnx"), "--float", str(made / "m.onnx"), "--data", str(made / "d.npz"))
    run("inspect", *words, "--html", str(page), "--model-explorer", str(colours))
    shown = read(page)
    assert len(shown.table("Layers, in the order of the network")) == CONVS + 2
    results = json.loads(colours.read_text(encoding="utf-8"))["results"]
    assert results[f"{HOSTILE}0"]["value"] > 20
    # the nodes of the int8 file that make what is measured, of activations too
    assert len(results.keys() & {node.name for node in onnx.load(made / "q.onnx").graph.node}) > 2 * CONVS
    run("inspect", str(made / "m.calib"), "--html", str(page))
    text = read(page).text
    assert text.index("m.calib") < text.index("Values and ranges"), "it is called by its file, not by a digest"


def test_eval_holds_the_pictures_that_it_draws(made, tmp_path):
    pytest.importorskip("PIL")
    page, folder = tmp_path / "e.html", tmp_path / "worst"
    words = ("--data", str(made / "l.npz"), "--save-worst", "2", str(folder), "--html", str(page))
    run("eval", str(made / "m.onnx"), str(made / "q.onnx"), *words)
    pictures = {base64.b64encode(file.read_bytes()).decode() for file in folder.glob("*.png")}
    assert {one["src"].removeprefix("data:image/png;base64,") for one in read(page).all("img")} == pictures
    assert len(pictures) == 2


def test_tune_shows_its_trail_and_the_model_that_it_kept(made, tmp_path):
    page = tmp_path / "t.html"
    words = ("--data", str(made / "d.npz"), "--min-sqnr", "5", "--calibrators", "max", "-o", str(tmp_path / "t.onnx"))
    run("tune", str(made / "m.onnx"), *words, "--json", str(tmp_path / "t.json"), "--html", str(page))
    shown, steps = read(page), document(tmp_path / "t.json")["steps"]
    assert [row[1] for row in shown.table("The trail, in order")[1:]] == [step["what"] for step in steps]
    assert "Target met" in shown.text
    assert len(shown.table("Layers, in the order of the network")) == CONVS + 2


def test_where_a_model_is_not_inspected_the_page_says_less_and_a_line_says_why(made, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise ModelError("q.onnx: is not for this machine")

    monkeypatch.setattr("qtool.cli.html.inspect_model", fails)
    words = ("--calibration", str(made / "m.calib"), "--calibrator", "max", "-o", str(tmp_path / "q.onnx"))
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(made / "m.onnx"), *words, "-q", "--html", str(tmp_path / "q.html")])
    assert caught.value.code == 0
    assert "the page has no map of" in capsys.readouterr().err
    shown = read(tmp_path / "q.html")
    assert f"{CONVS + 1} of {CONVS + 1} layers run in integer kernels." in shown.text
    assert sum(one["class"] == "t-int" for one in shown.all("i")) >= CONVS + 1

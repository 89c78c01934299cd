"""What a page says of figures: one of several, and where it comes from; estimates; curves; no empty columns."""

import re
import shlex
from dataclasses import replace

import pytest

from qtool.core.records.inspection import BESIDE_FLOAT, Grid, Port, Prospect
from qtool.report.html.blocks import Cell, Column, Listing
from qtool.report.html.documents import Document
from qtool.report.html.documents import made as document_of
from qtool.report.html.measured import noise_of, speed_of
from qtool.report.html.page import page_of
from qtool.report.html.trials import trials
from qtool.report.html.verdicts import headlines
from qtool.report.inspect import inspection_text
from tests.report.html.conftest import document
from tests.report.html.test_page import INSPECTED, Read, layer

RATIO = re.compile(r"(?:(\d+\.\d+)x as fast|SLOWER than float: (\d+\.\d+)x)")
LATENCY = {"median_ms": 1.0, "p10_ms": 0.9, "p90_ms": 1.2, "speedup": 1.0, "noisy": False}


def timed(made, **changed):
    """The documents of a model of which three commands say another speed, and the one of `eval` first."""
    evaluated = document(made / "e.json")
    evaluated["latency"] = {"runs": 50, "batch": 1}
    evaluated["float_model"]["latency"] = dict(LATENCY)
    evaluated["candidates"][0]["latency"] = {**LATENCY, "median_ms": 0.4, "speedup": 2.5, **changed}
    quantized = document(made / "q.json")
    quantized["timing"] |= {"speedup": 1.75, "float_ms": 1.75, "int8_ms": 1.0, "rounds": 9, "noisy": False}
    verdict = f"2 of 2 layers in integers; 0.75x {BESIDE_FLOAT}: SLOWER than float; output SQNR 31.2 dB; 1 float island"
    seen = replace(INSPECTED, model="q.onnx", verdict=verdict, inputs_from="3 samples of d.npz").to_dict()
    return evaluated, quantized, seen


def test_the_speed_is_one_number_from_one_place_which_is_named(made):
    evaluated, quantized, seen = timed(made)
    every = [document_of(quantized, "q.json"), document_of(seen, "i.json"), document_of(evaluated, "e.json")]
    for documents, ratio, source in (
        (
            every,
            "2.50",
            "float 1 over 0.4 ms, medians of 50 runs of qtool eval; p10 to p90: float 0.9 to 1.2, int8 0.9",
        ),
        (every[:2], "1.75", "float 1.75 over 1 ms, medians of 9 rounds of qtool quantize"),
        (every[1:2], "0.75", "float 1.5 over 2 ms, medians of 9 rounds of qtool inspect; p10 to p90: float 1.4 to 1.6"),
    ):
        page = Read(page_of(documents))
        said = {one or other for one, other in RATIO.findall(page.text)}
        assert said == {ratio} and source in page.text and "0.75x the speed" not in page.text
    assert "SLOWER than float: 0.75x; output SQNR 31.2 dB on 3 samples of d.npz; 1 float island" in page.text
    # of another model nothing is said by this one
    assert speed_of(every, "else.onnx") is None and noise_of(every, "else.onnx") is None


def test_what_is_too_noisy_is_no_ratio(made):
    evaluated, *_ = timed(made, noisy=True, speedup=1.04)
    page = Read(page_of([document_of(evaluated, "e.json")]))
    assert page.text.count("too noisy to say which is faster (about 1x)") == 2 and not RATIO.search(page.text)


def test_of_several_models_the_figures_on_top_name_theirs(made):
    evaluated, quantized, _ = timed(made)
    other = {**quantized, "output": "other.onnx", "timing": {**quantized["timing"], "speedup": 0.5}}
    documents = [document_of(other, "o.json"), document_of(quantized, "q.json"), document_of(evaluated, "e.json")]
    page = Read(page_of(documents))
    assert [one for one in page.all("p") if one.get("class") == "cards-of"] == [{"class": "cards-of"}]
    assert "q.onnx top1" in page.text and "; SLOWER than float: 0.50x" in page.text
    assert "; 2.50x as fast as float" in page.text and "1.75x" not in page.text
    # all of them: a model that was not evaluated has no card
    page = Read(page_of(documents[:2]))
    assert "other.onnx SQNR of the outputs" in page.text and page.text.count("SLOWER than float: 0.50x") == 2


def test_what_makes_figures_no_good_stands_on_top(made):
    content = document(made / "e.json")
    content["candidates"][0] |= {
        "nan": {"output": "y", "sample": 3, "samples": 2, "what": "Inf"}, "sqnr_db": None,
        "sqnr_db_by_output": {"y": None, "z": 12.5},
    }  # fmt: skip
    content["float_model"]["quantized"] = True
    page = Read(page_of([document_of(content, "e.json")]))
    found = "Inf in 2 samples, first in output 'y' of sample 3"
    assert page.text.count(found) == 2 and "m.onnx is quantised itself" in page.text
    assert "verdict t-bad" in {one.get("class") for one in page.all("div")}
    assert page.table("SQNR of each output")[1:] == [["y", "-"], ["z", "12.5"]]
    assert "not measured no finite number to compare" in page.text
    content = document(made / "q.json")
    content["verification"] |= {"unlike": {"y": 7}, "sqnr_db_by_output": {"y": 1.5, "z": 2.5}, "output_sqnr_db": None}
    page = Read(page_of([document_of(content, "q.json")]))
    assert "7 entries of output 'y' NaN or Inf unlike float's" in page.text
    assert "outputs hold NaN or Inf where float has numbers, on 3 calibration samples" in page.text
    assert page.table("SQNR of each output")[1:] == [["y", "1.5"], ["z", "2.5"]]


def test_noise_is_of_the_data_that_evaluates_and_else_of_examples(made):
    evaluated, quantized, _ = timed(made)
    both = [document_of(quantized, "q.json"), document_of(evaluated, "e.json")]
    assert noise_of(both).db == evaluated["candidates"][0]["sqnr_db"] and noise_of(both).on == "6 samples of l.npz"
    alone = noise_of(both[:1])
    assert alone.db == quantized["verification"]["output_sqnr_db"]
    assert alone.on == f"{quantized['verification']['examples']} calibration samples"


FLOAT = replace(
    INSPECTED, kind="float", model="m.onnx", form="", verdict="float; 1 of 2 layers can be integer", next="quantise it",
    findings=(), speed=None, errors=(), float_model=None, not_measured=(),
    suggestions=("preprocess='yolo': it takes pictures",), inputs=(Port("x", "float", ("N", 3, 8, 8)),),
    layers=(layer("a", planned=True, kernel="Conv", integer=False), layer("b", planned=False, cause="it is odd")),
    targets=(
        Prospect("x86", 2, 1, 0.75, {"b": "it is odd", "c": "it is odd"}, 2.5, 1.6),
        Prospect("arm64", 2, 2, 1.0, {}),
    ),
)  # fmt: skip


def test_a_float_model_has_its_estimates_and_the_command_that_reads_its_data():
    page = Read(page_of([document_of(FLOAT.to_dict(), "f.json")]))
    head, first, second = page.table("What quantize would do with it")
    assert head[3:5] == ["these layers, estimated", "a draft, timed here"]
    assert first == ["x86", "1 of 2", "75.00 %", "2.5x", "1.6x", "b, c: it is odd"]
    assert second == ["arm64", "2 of 2", "100.00 %", "-", "-", "-"]
    assert "Speed of a draft as int8 1.6x of float's" in page.text
    assert "qtool quantize m.onnx --data DATA --preprocess yolo" in page.text
    assert "Give it --preprocess yolo: it takes pictures" in page.text
    head, one, other = page.table("Layers, in the order of the network")
    assert head[:2] == ["layer", "becomes"] and (one[1], other[1]) == ("integer", "float") and other[-1] == "It is odd"
    assert page.table("Inputs and outputs")[1] == ["input", "x", "float", "[N, 3, 8, 8]"]


def test_a_column_in_which_no_row_says_anything_is_left_out():
    rows = ((Cell("a"), Cell("-"), Cell("")), (Cell("b"), Cell("-"), Cell("c")))
    table = Listing("t", (Column("one"), Column("two"), Column("three")), rows)
    assert [column.title for column in table.columns] == ["one", "three"]
    assert [[cell.text for cell in row] for row in table.rows] == [["a", ""], ["b", "c"]]
    assert len(Listing("t", (Column("one"), Column("two")), ((Cell("-"), Cell("x")),)).columns) == 2


def test_the_worst_samples_are_told_in_the_name_of_the_metric(made, tmp_path):
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\npixels")
    row = {
        "model": "q.onnx", "rank": 1, "sample": 7, "source": None, "picture": "1.png", "float_score": 1.0, "score": 0.5,
        "sqnr_db": 9.0, "pixels": "as fed",
        "said": ["label 3", "class 3, score 2.5: float", "class 8, score 2: q.onnx"],
    }  # fmt: skip
    worst = {"folder": str(tmp_path), "measure": "share that is right", "score": "top1", "samples": [row]}
    page = Read(page_of([document_of({**document(made / "e.json"), "worst": worst}, "e.json")]))
    said = "label 3; class 3, score 2.5: float; class 8, score 2: q.onnx"
    assert f"1. sample 7: SQNR 9.0 dB; top1 0.5, float 1; {said}" in page.text
    assert page.all("img")[0]["alt"].endswith(said) and "top1: share that is right." in page.text
    assert page.table("The worst samples of each model")[0][3:5] == ["float's top1", "its top1"]


@pytest.mark.parametrize(("losses", "curves"), [((None, 0.5, 0.25), 2), ((None, 0.5, None), 1)])
def test_a_training_shows_its_loss(losses, curves):
    rounds = [{"step": 9 * n, "loss": loss, "held_out_db": 20.0 + n, "metric": None} for n, loss in enumerate(losses)]
    content = {
        "rounds": rounds, "steps": 18, "seconds": 3.0, "learned": {"weights": 8}, "split": "9 train", "untrained": {},
        "metric": None, "output": "q.onnx",
    }  # fmt: skip
    (section,) = trials([Document("f.json", "finetune", content)])
    figures = [block for block in section.blocks if block.kind == "figure"]
    assert [figure.caption for figure in figures] == [
        "SQNR of the samples that choose", "Loss of the samples that train"
    ][:curves]  # fmt: skip
    assert all(sum(shape.tag == "circle" for shape in figure.shapes) >= 2 for figure in figures)


@pytest.mark.parametrize(("shares", "words"), [((0.0, 0.3), "the share of mul"), ((0.0, 0.0), "the steps; none has a")])
def test_tuning_is_shown_against_the_share_in_float_where_there_is_one(shares, words):
    steps = [
        {
            "what": f"try {n}", "metric": 0.5 + n / 10, "drop": 0.0, "sqnr_db": 20.0, "float_macs": share,
            "met": bool(n), "measured": "top1", "relative": True,
        }
        for n, share in enumerate(shares)
    ]  # fmt: skip
    content = {"steps": steps, "best": steps[1], "untried": {}, "split": "half chooses", "output": "q.onnx"}
    (section,) = trials([Document("t.json", "tune", content)])
    figure = section.blocks[0]
    assert figure.caption.startswith(f"top1 against {words}")
    across = [float(shape.attributes["cx"].rstrip("%")) for shape in figure.shapes if shape.tag == "circle"]
    assert across == [0.0, 100.0]


def test_a_slow_model_of_eval_has_a_next_command_that_tells_why(made):
    evaluated, _, seen = timed(made, speedup=0.5)
    (shown,) = headlines([document_of(evaluated, "e.json")])
    paths = evaluated["candidates"][0]["path"], evaluated["float_model"]["path"]
    assert shown.next == f"qtool inspect {shlex.quote(paths[0])} --float {shlex.quote(paths[1])} --latency"
    both = headlines([document_of(evaluated, "e.json"), document_of(seen, "i.json")])
    assert "qtool inspect" not in " ".join(one.next for one in both), "the page shows it already"


def test_what_is_planned_is_said_as_on_the_terminal():
    """A weight of 4 bits with an input in float is not planned as int8, and not as float."""
    blocks = Grid("uint4", (0.1, 0.2), (8, 8), None, 32)
    rows = (layer("a"), layer("b", planned=False, integer=False, weight=blocks), layer("c", planned=False))
    shown = replace(INSPECTED, layers=rows)
    head, *found = Read(page_of([document_of(shown.to_dict(), "i.json")])).table("Layers, in the order of the network")
    assert [row[head.index("planned")] for row in found] == ["int8", "uint4 weight", "float"]
    assert all(words in inspection_text(shown, every=True) for words in ("uint4 weight", "int8", "float"))

"""Pages, read with Python's own parser: whole, of one file, and with every figure of the documents."""

import base64
import functools
import hashlib
import math
import operator
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import onnx
import pytest

from qtool.core.errors import UsageError
from qtool.core.records.evaluation import MetricInfo, MetricKind
from qtool.core.records.inspection import (
    REQUANTISE,
    Finding,
    InspectedLayer,
    InspectedNode,
    Inspection,
    Speed,
    TensorError,
)
from qtool.core.records.sensitivity import Figures, LayerSensitivity, Sensitivity
from qtool.report.html.documents import load_document
from qtool.report.html.documents import made as document_of
from qtool.report.html.overlay import overlay
from qtool.report.html.page import page_of
from qtool.report.html.verdicts import headlines
from qtool.report.sensitivity import sensitivity_text
from tests.report.html.conftest import CONVS, HOSTILE, document

SENSITIVE = "Layers, the most sensitive first"
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Read(HTMLParser):
    """What a browser would make of a page: elements with their attributes, texts, and the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.tables, self.inside = [], [], [], [], {"script": "", "style": ""}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), (tag, attrs)
        self.elements.append((tag, attributes))
        if tag == "table":
            self.tables.append({"name": attributes["aria-label"], "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1]["rows"][-1][-1] += data
        else:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def table(self, name):
        (found,) = [table["rows"] for table in self.tables if table["name"] == name]
        return found

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def pages(made):
    return {name: Read((made / f"{name}.html").read_text(encoding="utf-8")) for name in ("q", "e", "s", "all")}


@pytest.mark.parametrize("name", ["q", "e", "s", "all"])
def test_a_page_is_one_file_that_asks_for_nothing(pages, made, name):
    page, text = pages[name], (made / f"{name}.html").read_text(encoding="utf-8")
    for attributes in page.all(*{tag for tag, _ in page.elements}):
        for key in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,")), attributes
        assert not [key for key in attributes if key.startswith("on") or key == "style"], attributes
    assert "url(" not in page.inside["style"] and "@import" not in page.inside["style"]
    assert len(page.all("script")) == len(page.all("style")) == 1
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.inside[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "prefers-color-scheme: dark" in page.inside["style"] and "@media print" in page.inside["style"]
    assert text.startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("name", ["q", "e", "s", "all"])
def test_what_refers_to_something_finds_it_once(pages, name):
    page = pages[name]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for key in ("for", "aria-controls", "aria-labelledby"):
            assert attributes.get(key, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert [one for one in page.all("svg", "div") if one.get("role") == "img" and not one.get("aria-label")] == []
    assert [one for one in page.all("img") if not one.get("alt")] == []


@pytest.mark.parametrize("name", ["q", "e", "s", "all"])
def test_every_row_of_a_table_has_every_cell(pages, name):
    tables = pages[name].tables
    assert tables
    for table in tables:
        head, *rows = table["rows"]
        assert rows and {len(row) for row in rows} == {len(head)}
        assert all(cell.strip() for row in rows for cell in row), table["name"]


def test_names_of_the_model_do_nothing(pages, made):
    assert HOSTILE in (made / "q.json").read_text(encoding="utf-8").replace('\\"', '"')
    for page in pages.values():
        assert page.all("img") == []
    readers = [row[7] for row in pages["q"].table("Every grid")[1:]]
    assert {f"{HOSTILE}{n}" for n in range(CONVS)} <= set(readers)
    assert {f"{HOSTILE}{n}" for n in range(CONVS)} < {row[1] for row in pages["s"].table(SENSITIVE)[1:]}


def test_the_page_shows_what_the_documents_say(pages, made):
    quantized, evaluated, ranked = (document(made / f"{name}.json") for name in "qes")
    plan, proof, page = quantized["plan"], quantized["verification"], pages["all"]
    grids = sum(len(plan[kind]) for kind in ("activations", "constants", "weights", "dynamic", "stored"))
    assert len(page.table("Every grid")) == 1 + grids
    assert len(page.table("After each tensor")) == 1 + len(proof["tensors"])
    assert len(page.table("The candidates as a table")) == 1 + len(quantized["trials"])
    assert len(page.table(SENSITIVE)) == 1 + len(ranked["layers"])
    measured = f"{proof['output_sqnr_db']:.1f} dB SQNR on {proof['examples']} calibration samples"
    assert f"Accurate: outputs at {measured}, at least 20 dB wanted" in page.text
    assert f"{proof['integer_layers']} of {proof['layers']} layers" in page.text
    float_row, row = page.table("Models")[1:]
    assert float(row[1]) == pytest.approx(evaluated["candidates"][0]["metrics"]["top1"]["value"], abs=1e-4)
    assert float_row[0] == "m.onnx" and row[0] == "q.onnx"
    for tensor in plan["activations"]:
        assert tensor["tensor"] in page.text
    assert plan["model_digest"] in {cell for row in page.table("Documents") for cell in row}


def test_the_page_of_a_command_says_its_options(pages, made):
    options = dict(pages["q"].table("What qtool quantize was given; all else is the default")[1:])
    assert options["--calibration"] == str(made / "m.calib") and options["--html"] == str(made / "q.html")
    read = {row[0]: row[3] for row in pages["q"].table("What qtool quantize read")[1:]}
    assert read["MODEL"] == hashlib.sha256((made / "m.onnx").read_bytes()).hexdigest()
    # what is done already is no next step
    assert f"qtool eval {made / 'm.onnx'}" not in pages["all"].text
    assert f"qtool quantize {made / 'm.onnx'} --calibration" in pages["s"].text


@pytest.mark.parametrize(
    ("speedup", "met", "words", "step"),
    [
        (2.0, True, "Accurate: outputs at", "Next, with your samples as DATA: qtool eval {m} {q} --data DATA"),
        (0.5, True, "SLOWER than float: 0.50x", "qtool quantize {m} --data DATA --optimize-for latency"),
        (2.0, False, "Not accurate: outputs at", "qtool tune {m} --data DATA --min-sqnr 20"),
    ],
)
def test_the_verdict_comes_with_the_next_command(made, speedup, met, words, step):
    content = document(made / "q.json")
    content["timing"] = {"speedup": speedup, "int8_ms": 1.0, "float_ms": speedup, "rounds": 5, "causes": []}
    content["verdict"]["met"] = met
    call = content.pop("call")
    page = Read(page_of([document_of(content, "q.json")]))
    assert words in page.text
    assert step.format(m=made / "m.onnx", q=made / "q.onnx") in page.text
    content["asked"]["reading"] = [["preprocess", "my own.json"]]
    page = Read(page_of([document_of(content, "q.json")]))
    given = re.sub("--data DATA", r"--data DATA --preprocess 'my own.json'", step)
    assert given.format(m=made / "m.onnx", q=made / "q.onnx") in page.text
    if speedup < 1:
        # as it was typed, where that is known
        page = Read(page_of([document_of({**content, "call": call}, "q.json")]))
        typed = ("--calibration", made / "m.calib", "-o", made / "q.onnx", "--json", made / "q.json")
        same = " ".join(map(str, ("qtool quantize", made / "m.onnx", *typed)))
        assert f"{same} --html {made / 'q.html'} -q --optimize-for latency" in page.text


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (
            0.25,
            "Together 25.0 % of multiply-accumulates, more than the 10 % of the default, which counts no layer that",
        ),
        (0.05, "Together 5.0 % of multiply-accumulates."),
    ],
)
@pytest.mark.parametrize("tried", [True, False])
def test_what_is_left_in_float_is_held_against_the_limit(made, share, said, tried):
    """Whether the calibrator was chosen or given."""
    content = document(made / "q.json")
    content["trials"] = content["trials"] if tried else []
    left = {"nodes": ["a", "b"], "macs_share": share, "gain_db": 3.5}
    content["verdict"] |= {"left": [left], "float_macs": share, "max_float_macs": 0.1}
    page = Read(page_of([document_of(content, "q.json")]))
    assert page.table("Left in float")[1][0] == "a, b"
    assert said in page.text and ("keeps to it" in page.text) is (share > 0.1)


def test_a_model_that_is_hardly_quantised_is_not_just_called_accurate(made):
    content = document(made / "q.json")
    assert "Hardly" not in Read(page_of([document_of(content, "q.json")])).text
    content["verification"] |= {"integer_layers": 1, "integer_share": 0.02, "float_layers": {"a": "it is odd"}}
    page = Read(page_of([document_of(content, "q.json")]))
    layers = content["verification"]["layers"]
    found = f"1 of {layers} layers, 2.0 % of multiply-accumulates, in integers; 1 of 1 layer in float: it is odd"
    assert f"Hardly quantised ({found}), though accurate: outputs at " in page.text
    assert "verdict t-warn" in {one.get("class") for one in page.all("div")}
    content["plan"]["stored"] = [content["plan"]["weights"][0] | {"readers": [["a", 1]]}]
    assert "Hardly" not in Read(page_of([document_of(content, "q.json")])).text


def test_the_command_that_compares_is_the_terminal_s_and_one_to_copy(made):
    """With the data that was given, and the decoder that fits; what lacks data is advice."""
    content = document(made / "q.json")
    content["timing"] = {"speedup": 2.0, "int8_ms": 1.0, "float_ms": 2.0, "rounds": 5, "causes": []}
    known = {**content, "asked": {**content["asked"], "data": "my pictures"}, "decoders": ["yolo", "ssd"]}
    page = Read(page_of([document_of(known, "q.json")]))
    said = f"qtool eval {made / 'm.onnx'} {made / 'q.onnx'} --data 'my pictures' --decode yolo"
    assert f"Next {said}" in page.text
    paragraphs = Read(page_of([document_of(content, "q.json")])).all("p")
    assert [one for one in paragraphs if one.get("class") == "advice"] and "next" not in {
        one.get("class") for one in paragraphs
    }


def test_the_next_command_of_an_inspection_reads_its_data_alike():
    content = replace(INSPECTED, next=f"{REQUANTISE} then").to_dict()
    content["call"] = {"command": "inspect", "options": {"--data": ["pictures"], "--preprocess": ["yolo"]}, "read": []}
    page = Read(page_of([document_of(content, "i.json")]))
    assert "qtool quantize m.onnx --data pictures --preprocess yolo" in page.text


def test_a_name_of_ten_megabytes_is_shortened(made):
    content = document(made / "q.json")
    content["plan"]["activations"][0]["tensor"] = "n" * 10_000_000
    content["verification"]["tensors"][0]["tensor"] = "<" * 10_000_000
    text = page_of([document_of(content, "q.json")])
    assert len(text) < 400_000
    assert "(10000000 characters)" in text


def layer(name, **changed):
    values = {
        "name": name, "op": "Conv", "output": f"{name}_out", "inside": "", "macs": 100, "share": 0.5, "planned": True,
        "kernel": "QLinearConv", "integer": True, "input": None, "weight": None, "result": None, "ms": 0.5,
        "float_ms": 1.0, "sqnr_db": 31.25, "alone_db": None, "cause": "", "remedy": "",
    }  # fmt: skip
    return InspectedLayer(**{**values, **changed})


def node(op, name, ms, *, integer=False, seam=False):
    return InspectedNode(name, op, "", integer, seam, name, (), (), ms)


INSPECTED = Inspection(
    model="d/m.int8.onnx", sha256="cd" * 32, bytes=9, kind="int8", maker="somebody", form="QDQ",
    verdict="1 of 2 layers in integers", next="quantise its output", inputs=(), outputs=(), opset={"": 17},
    parameters={"int8": 7}, macs=200, suggestions=(), unusual=("it is odd",),
    layers=(layer("a"), layer("b", kernel="", integer=False, ms=None, float_ms=None, cause="No Q behind it.")),
    nodes=(
        node("QuantizeLinear", "q", 0.25, integer=True, seam=True), node("QLinearConv", "a", 0.5, integer=True),
        node("Conv", "b", 1.25), node("Transpose", "t", 0.0),
    ),
    findings=(Finding("island", ("b",), "One node is float.", "No Q stands behind it.", "Add one.", 1.25, 0.625),),
    speed=Speed((2.0, 1.9, 2.1), (1.5, 1.4, 1.6), 0.75, False, 1, 9), errors=(TensorError("a_out", "Conv", 31.25),),
    targets=(), float_model="m.onnx", inputs_from="made-up inputs", not_measured=("SQNR alone: no data",),
)  # fmt: skip


def test_the_map_shows_each_executed_node_by_its_kind():
    page = Read(page_of([document_of(INSPECTED.to_dict(), "i.json")]))
    squares = [(one["class"], one["title"]) for one in page.all("i")]
    assert squares == [
        ("t-seam", "QuantizeLinear q: 0.25 ms"), ("t-int", "QLinearConv a: 0.5 ms"), ("t-float", "Conv b: 1.25 ms"),
        ("t-move", "Transpose t: 0 ms"),
    ]  # fmt: skip
    shares = "integer kernel 25 %, float kernel 62 %, Q/DQ: the price of changing 12 %"
    assert f"The same by time: 2 ms a run by the profiler; {shares}" in page.text
    parts = [one["width"] for one in page.all("rect") if "part" in one.get("class", "")]
    assert parts == ["12.500%", "25.000%", "62.500%"]
    assert "SLOWER than float: 0.75x" in page.text
    head, first, second = page.table("Layers, in the order of the network")
    one, other = (dict(zip(head, map(str.strip, row), strict=True)) for row in (first, second))
    assert (one["layer"], one["time ms"], one["float ms"], one["SQNR dB"]) == ("a", "0.500", "1.000", "31.2")
    assert (other["executed"], other["time ms"], other["why float, and what to do"]) == (
        "folded away",
        "-",
        "No Q behind it",
    )
    assert page.table("What costs speed, accuracy or trust, the dearest first")[1][:3] == [
        "One node is float. No Q stands behind it", "Add one.", "62.50 %",
    ]  # fmt: skip
    assert "Not measured: SQNR alone: no data" in page.text


def test_shares_and_times_of_layers_are_added_up_as_they_are_known():
    """Ten tenths are all, and a layer that float has not under that name counts on neither side."""
    rows = [layer(str(number), share=0.1, ms=0.5, float_ms=1.0 if number < 4 else None) for number in range(10)]
    # from Python 3.12 on `sum` is exact
    assert functools.reduce(operator.add, (one.share for one in rows)) < 1.0
    page = Read(page_of([document_of(replace(INSPECTED, layers=tuple(rows)).to_dict(), "i.json")]))
    assert "100.0 %" in page.text and "more than 99.9 %" not in page.text
    assert "The 4 layers found in float too take 2 ms, 4 ms in float, by onnxruntime's profiler." in page.text


def test_the_overlay_has_a_value_for_each_node_and_colours_by_what_it_means(made):
    found = overlay([document_of(INSPECTED.to_dict(), "i.json")])
    assert found["results"] == {"a": {"value": 31.25}, "b": {"value": 31.25}, "a_out": {"value": 31.25}}
    # an SQNR has the same colour in every file, whatever else is in it: the poor ones end at 15 dB, the fair ones at 30
    bounds = [one["value"] for one in found["thresholds"]]
    assert bounds == sorted(bounds) and bounds[0] == 15 and 30 in bounds and bounds[-1] >= 200
    assert "gradient" not in found
    unmeasured = document_of({**INSPECTED.to_dict(), "layers": [], "errors": []}, "i.json")
    times = {"q": 0.25, "a": 0.5, "b": 1.25, "t": 0.0}
    timed = overlay([unmeasured])
    assert timed["results"] == {name: {"value": ms} for name, ms in times.items()}
    assert [one["stop"] for one in timed["gradient"]] == [0, 0.5, 1]
    proof = document(made / "q.json")["verification"]["tensors"]
    named = {row["node"] for row in proof} - {""}
    assert set(overlay([load_document(str(made / "q.json"))])["results"]) == {row["tensor"] for row in proof} | named
    # Model Explorer's reader of ONNX knows nodes by their names alone: those of the int8 file
    assert named and named <= {node.name for node in onnx.load(made / "q.onnx").graph.node}
    with pytest.raises(UsageError, match="has neither SQNR nor time of any node"):
        overlay([load_document(str(made / "e.json"))])


def test_pictures_of_the_worst_samples_are_in_the_page(made, tmp_path):
    png = b"\x89PNG\r\n\x1a\n" + b"pixels"
    (tmp_path / "1.png").write_bytes(png)
    (tmp_path / "2.png").write_text("no picture")
    rows = [
        {
            "model": "q.onnx", "rank": rank, "sample": 7, "source": HOSTILE, "picture": f"../else/{rank}.png",
            "float_score": 1.0, "score": 0.5, "sqnr_db": "nan", "pixels": "as fed",
        }
        for rank in (1, 2, 3)
    ]  # fmt: skip
    worst = {"folder": str(tmp_path), "measure": "top1", "samples": rows}
    page = Read(page_of([document_of({**document(made / "e.json"), "worst": worst}, "e.json")]))
    (image,) = page.all("img")
    assert image["src"] == f"data:image/png;base64,{base64.b64encode(png).decode()}"
    assert image["alt"] == "What float and q.onnx say of sample 7, side by side"
    assert f"2 more are in {tmp_path}" in page.text
    assert len(page.table("The worst samples of each model")) == 4


def test_confused_classes_are_listed_by_how_often(made):
    content = document(made / "e.json")
    pairs = [{"float": "3", "model": "8", "count": 4}, {"float": "1", "model": "7", "count": 1}]
    content["candidates"][0]["confusion"] = {"counted": 10, "pairs": pairs, "left_out": 2}
    page = Read(page_of([document_of(content, "e.json")]))
    name = "Classes that q.onnx confuses: where it says another than float; 2 more in other pairs"
    found = [list(map(str.strip, row)) for row in page.table(name)[1:]]
    assert found == [["3", "8", "4", "40.00 %"], ["1", "7", "1", "10.00 %"]]


def test_documents_of_another_model_are_refused(made):
    other = document(made / "s.json")
    other["identity"]["model"] = "ef" * 32
    with pytest.raises(UsageError, match=r"^s.json: is of another model \(SHA-256 efefefefefef\) than q.json"):
        page_of([document_of(document(made / "q.json"), "q.json"), document_of(other, "s.json")])
    # what holds no digest itself says which file its command read
    judged = document(made / "e.json")
    judged["call"] = {"command": "eval", "options": {}, "read": [{"option": "FLOAT", "sha256": "ab" * 32}]}
    with pytest.raises(UsageError, match=r"^e.json: is of another model \(SHA-256 abababababab\) than q.json"):
        page_of([document_of(document(made / "q.json"), "q.json"), document_of(judged, "e.json")])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "is no document that a report shows"),
        ('{"schema": "qtool.unheard-of"}', "is no document that a report shows"),
        ('{"schema": "qtool.quantize", "schema_version": 2}', "plan: is missing; write it again with --json"),
        (
            '{"schema": "qtool.evaluation", "schema_version": 2, "data": 3, "metrics": 7}',
            "data: a text is needed, not 3; write it again with --json",
        ),
        ('{"schema": "qtool.quantize", "schema_version": 1}', "qtool.quantize of version '1', this qtool reads 2"),
        ('{"schema": "qtool.evaluation", "schema_version": 99}', "of version '99', this qtool reads 2; write it again"),
        ('{"schema": "qtool.plan"}', "qtool.plan of version 'None', this qtool reads 1"),
    ],
)
def test_what_is_no_document_is_refused_in_one_line(refused, folder, text, says):
    (folder / "x.json").write_text(text)
    refused("report", "x.json", "-o", "r.html", says=["x.json", says])
    refused("report", "no.json", "-o", "r.html", says=["no.json", "cannot be read"])
    refused("report", "m.onnx", "-o", "r.html", says=["m.onnx", "it is not UTF-8"])


def test_no_document_is_written_over(refused, folder, made):
    shutil.copy(made / "e.json", folder / "e.json")
    refused("report", "e.json", "-o", "e.json", says=["--output e.json: is JSON e.json already", "name another file"])


def test_without_jinja_one_line_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    says = ["a page needs Jinja", "pip install jinja2 (or pip install '.[report]'"]
    refused("quantize", "m.onnx", "--calibration", "m.calib", "-o", "q.onnx", "--html", "q.html", says=says)
    refused("report", "q.json", "-o", "r.html", says=says)


def test_two_documents_of_a_kind_are_told_apart(made):
    first, second = document(made / "q.json"), {**document(made / "q.json"), "output": "d/other.onnx"}
    page = Read(page_of([document_of(first, "a.json"), document_of(second, "b.json")]))
    assert re.search(r"The plan: q\.onnx .* The plan: other\.onnx", page.text)


def test_what_is_exact_is_no_absence(made):
    content = {**document(made / "e.json"), "not_finite": {"/candidates/0/sqnr_db": "inf"}}
    content["candidates"][0]["sqnr_db"] = None
    row = Read(page_of([document_of(content, "e.json")])).table("Models")[2]
    assert row[3] == "inf"


@pytest.mark.parametrize(
    ("gained", "verdict", "advice"),
    [
        (0.0, "Most sensitive of 2 layers: a; no layer in float gains much by itself", None),
        (4.0, "Most sensitive of 2 layers: a; in float b gains most", "--exclude b"),
    ],
)
def test_a_page_advises_to_leave_in_float_what_the_terminal_does(gained, verdict, advice):
    layers = [
        LayerSensitivity(name, "Conv", 5, 0.5, Figures(0.9, 0.0, alone), Figures(0.9, 0.0, 25.0 + more), {})
        for name, alone, more in (("a", 28.0, 0.0), ("b", math.inf, gained))
    ]
    info = MetricInfo("top1", MetricKind.ACCURACY, False, 0.0)
    result = Sensitivity(
        "m.onnx", "d.npz", 9, info, "max", False, "x86", "affine", "per-channel", ("alone", "without"),
        {"model": "ab" * 32}, 0.9, Figures(0.9, 0.0, 25.0), tuple(layers),
    )  # fmt: skip
    page = Read(page_of([document_of(result.to_dict(), "s.json")]))
    assert verdict in page.text
    said = sensitivity_text(result)
    for text in (said, page.text):
        assert ("--exclude" in text) == (advice is not None) and (advice or "no layer in float gains much") in text


def test_a_tensor_next_to_exact_does_not_take_the_room_of_the_others():
    """What is told apart lies between 0 and 60 dB; a Transpose in front has 140."""
    rows = tuple(TensorError(f"t{place}", "Conv", db) for place, db in enumerate((140.0, 34.0, 28.0, 22.0)))
    text = page_of([document_of(replace(INSPECTED, errors=rows).to_dict(), "i.json")])
    page = Read(text)
    heights = [float(one["cy"]) for one in page.all("circle")]
    assert heights[0] < heights[1] < heights[2] < heights[3] and heights[3] - heights[1] > 40
    assert "t0 (Conv): 140.0 dB" in text and "dB; 60 and more in one place" in text
    near = [replace(row, sqnr_db=row.sqnr_db + 60) for row in rows]
    assert "in one place" not in page_of([document_of(replace(INSPECTED, errors=tuple(near)).to_dict(), "i.json")])


@pytest.mark.parametrize(
    ("rule", "remedy", "share", "tone"),
    [("island", "", 0.6, "good"), ("island", "Add one.", 0.6, "warn"), ("accuracy", "Tune it.", None, "bad")],
)
def test_a_model_has_the_tone_of_what_is_to_be_mended(rule, remedy, share, tone):
    finding = replace(INSPECTED.findings[0], rule=rule, remedy=remedy, ms_share=share)
    fast = Speed((2.0, 1.9, 2.1), (1.0, 0.9, 1.1), 2.0, False, 1, 9)
    (shown,) = headlines([document_of(replace(INSPECTED, findings=(finding,), speed=fast).to_dict(), "i.json")])
    assert shown.tone == tone

"""`qtool sensitivity`: the table, the JSON, interruption, and what it refuses."""

import json
from pathlib import Path

import pytest

from qtool.cli import main
from tests.support.places import REPOSITORY
from tests.support.refusals import contents
from tests.support.schemas import schema_faults

DATA = REPOSITORY / "calib_data"
MODEL = DATA / "digits_cnn.onnx"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `qtool ...` beside digits.calib: the exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        streams = capsys.readouterr()
        return caught.value.code, streams.out, streams.err

    made = ("--data", DATA / "digits_calib.npz", "--samples", 20, "-o", "digits.calib", "-q")
    assert call("calibrate", MODEL, *made) == (0, "", "")
    return call


COMMAND = (
    "sensitivity", MODEL, "--calibration", "digits.calib", "--data", DATA / "digits_eval.npz", "--samples", 30,
    "--calibrator", "max", "--bias-correction", "off",
)  # fmt: skip


def strict_json(text: str):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_the_table_of_the_shipped_network(run):
    code, out, err = run(*COMMAND, "-o", "s.json", "--json", "j.json")
    assert (code, err) == (0, "")
    document = strict_json(Path("j.json").read_text())
    kept = strict_json(Path("s.json").read_text())
    assert document.pop("call")["command"] == "sensitivity" and schema_faults(kept) == []
    assert len(kept.pop("checksum")) == 64
    assert kept == document
    assert (document["schema"], document["schema_version"], document["complete"]) == ("qtool.sensitivity", 2, True)
    assert (document["samples"], document["metric"]["name"]) == (30, "top1")
    # 16 convolutions and a classifier in the network's description
    rows = document["layers"]
    assert len(rows) == 17
    assert sorted({row["op"] for row in rows}) == ["Conv", "Gemm"]
    assert sum(row["macs_share"] for row in rows) == pytest.approx(1.0)
    assert all(row["alone"]["sqnr_db"] > document["quantized"]["sqnr_db"] for row in rows)
    table = [line.split() for line in out.splitlines()]
    start = next(i for i, words in enumerate(table) if words[:2] == ["layer", "op"]) + 1
    rest = table[start + len(rows) :]
    table = table[start : start + len(rows)]
    assert [words[0] for words in table] == [row["name"] for row in rows]
    assert [words[5] for words in table] == [f"{row['alone']['sqnr_db']:.2f}" for row in rows]
    assert [words[8] for words in table] == [f"{row['without']['sqnr_db']:.2f}" for row in rows]
    # the option that is ready: what the network is better without, the best first
    (words,) = [words for words in rest if "--exclude" in words]
    named = words[words.index("--exclude") + 1 :: 2]
    by_gain = sorted(rows, key=lambda row: (row["without"]["drop"], -row["without"]["sqnr_db"]))
    assert 1 <= len(named) <= 3 and named == [row["name"] for row in by_gain[: len(named)]]


def test_json_to_stdout_is_alone(run):
    code, out, err = run(*COMMAND, "--view", "without", "--json", "-")
    assert (code, err) == (0, "")
    document = strict_json(out)
    assert document["views"] == ["without"]
    assert all(row["alone"] is None and row["without"]["value"] <= 1.0 for row in document["layers"])


def test_quiet_and_percentile(run):
    assert run(*COMMAND[:-4], "--percentile", "99.9", "--view", "alone", "-q", "-o", "s.json") == (0, "", "")
    assert strict_json(Path("s.json").read_text())["calibrator"].startswith("percentile")


def test_an_interrupt_keeps_what_is_finished(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("qtool.tuning.sensitivity.analyze.Analysis.finish", interrupt)
        code, out, err = run(*COMMAND, "-o", "s.json")
    assert (code, out) == (130, "")
    assert err == "\nqtool: interrupted; what is finished stands in s.json, and the same command goes on\n"
    assert not strict_json(Path("s.json").read_text())["complete"]
    monkeypatch.setattr("qtool.tuning.sensitivity.run.PieceChain", None)  # nothing is left to be measured
    assert run(*COMMAND, "-o", "s.json")[0] == 0
    assert strict_json(Path("s.json").read_text())["complete"]


def test_an_interrupt_without_a_file_leaves_nothing(run, monkeypatch, tmp_path):
    before = contents(tmp_path)
    monkeypatch.setattr("qtool.tuning.sensitivity.analyze.Analysis.overall", interrupt)
    for extra in ((), ("-o", "s.json")):
        code, _, err = run(*COMMAND, *extra)
        assert (code, err.strip()) == (130, "qtool: interrupted; nothing was written")
    assert contents(tmp_path) == before


def interrupt(*_, **__):
    raise KeyboardInterrupt


GOOD = ("sensitivity", "m.onnx", "--calibration", "m.calib", "--data", "good.npz")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sensitivity", "m.onnx", "--data", "good.npz"), ["--calibration"]),
        (("sensitivity", "none.onnx", *GOOD[2:]), ["none.onnx"]),
        (("sensitivity", "m.onnx", "--calibration", "good.npz", "--data", "good.npz"), ["good.npz", "calibrat"]),
        (("sensitivity", "m.onnx", "--calibration", "m.calib", "--data", "none.npz"), ["none.npz"]),
        ((*GOOD, "--metric", "top1"), ["top1", "class scores"]),
        ((*GOOD, "--metric", "nonsense"), ["nonsense"]),
        ((*GOOD, "--target", "tensorrt"), ["tensorrt", "auto"]),
        ((*GOOD, "--view", "sideways"), ["sideways"]),
        ((*GOOD, "--calibrator", "max", "--percentile", "99"), ["--percentile 99"]),
        ((*GOOD, "--threads", "0"), ["--threads"]),
        ((*GOOD, "--memory", "0"), ["--memory"]),
        ((*GOOD, "-o", "-"), ["--json -"]),
        ((*GOOD, "-o", "m.calib"), ["m.calib"]),
        ((*GOOD, "-o", "s.json", "--json", "s.json"), ["s.json"]),
        ((*GOOD, "-o", "missing/s.json"), ["missing"]),
    ],
)
def test_what_is_refused(refused, arguments, says):
    refused(*arguments, says=says)


def test_a_file_that_is_something_else_is_kept(refused, folder):
    (folder / "s.json").write_text("my notes")
    refused(*GOOD, "-o", "s.json", says=["s.json", "remove it or name another --output"])


def test_what_is_ranked_is_what_the_same_options_quantise(run):
    """`sensitivity` and `tune` take the options of `quantize` that say what is quantised, and how."""
    options = ("--exclude", "stem*", "--exclude-op", "Gemm", "--smoothing", "off", "--static")
    code, _, err = run(*COMMAND, *options, "--view", "alone", "--json", "j.json", "-q")
    assert (code, err) == (0, "")
    made = (
        "--calibration",
        "digits.calib",
        "--calibrator",
        "max",
        "--bias-correction",
        "off",
        "--save-plan",
        "p.json",
    )
    assert run("quantize", MODEL, *made, *options, "-o", "q.onnx", "-q")[0] == 0
    document, plan = strict_json(Path("j.json").read_text()), strict_json(Path("p.json").read_text())
    ranked = {row["name"] for row in document["layers"]}
    assert ranked == set(plan["integer"]) & set(plan["layers"]) and len(ranked) < 17
    assert document["unranked"] == {name: why for name, why in plan["skipped"].items() if name in plan["layers"]}
    assert "operator Gemm is excluded" in document["unranked"].values()
    tuned = ("--data", DATA / "digits_calib.npz", "--samples", 80, "--calibrators", "max", "--max-float-macs", "90%")
    assert run("tune", MODEL, *tuned, *options[:4], "-o", "t.onnx", "--json", "t.json", "-q")[0] in (0, 1)
    assert set(strict_json(Path("t.json").read_text())["plan"]["integer"]) & set(plan["layers"]) <= ranked

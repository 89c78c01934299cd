"""`qtool eval` as a person or a script meets it: exit codes, what is on which stream, and the files."""

import io
import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from qtool.cli import bar, main
from tests.support.evaluation_models import linear
from tests.support.places import ZOO
from tests.support.schemas import schema_faults

RNG = np.random.default_rng(5)
X = RNG.normal(size=(20, 6)).astype(np.float32)
WEIGHTS = RNG.normal(size=(6, 7)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """float.onnx, same.onnx (its copy), bad.onnx (never right), and d.npz on which float is always right."""
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "float.onnx", WEIGHTS)
    linear(tmp_path / "same.onnx", WEIGHTS)
    linear(tmp_path / "bad.onnx", -WEIGHTS)
    np.savez(tmp_path / "d.npz", x=X, labels=(X @ WEIGHTS).argmax(1))
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs `qtool eval ...`: the exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["eval", *arguments])
        streams = capsys.readouterr()
        return caught.value.code, streams.out, streams.err

    return call


@pytest.mark.usefixtures("folder")
def test_a_table_and_exit_0(run):
    code, out, err = run("float.onnx", "same.onnx", "bad.onnx", "--data", "d.npz")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:3] == ["model", "top1", "drop"]
    assert rows[1][:3] == ["float.onnx", "1.0000", "-"]
    assert rows[2][:5] == ["same.onnx", "1.0000", "0.0000", "(0.00%)", "inf"]
    assert rows[3][:4] == ["bad.onnx", "0.0000", "1.0000", "(100.00%)"]
    assert out.splitlines()[-1] == "d.npz: 20 samples, 1 thread"


@pytest.mark.usefixtures("folder")
def test_a_failed_gate_is_exit_1_and_says_which(run):
    code, out, _ = run("float.onnx", "same.onnx", "bad.onnx", "--data", "d.npz", "--max-drop", "1%")
    assert code == 1
    assert "PASS same.onnx: top1: drop 0% (1 to 1), asked at most 1%" in out
    assert "FAIL bad.onnx: top1: drop 100% (1 to 0), asked at most 1%" in out
    code, out, _ = run("float.onnx", "bad.onnx", "--data", "d.npz", "--metric", "sqnr", "--min-sqnr", "0")
    assert code == 1
    assert "FAIL bad.onnx: sqnr is -6.021 dB, asked at least 0 dB" in out
    assert run("float.onnx", "same.onnx", "--data", "d.npz", "--max-drop", "0.01", "--min-sqnr", "50")[0] == 0


@pytest.mark.usefixtures("folder")
def test_json_on_stdout_is_alone_there(run):
    code, out, err = run("float.onnx", "bad.onnx", "--data", "d.npz", "--max-drop", "1%", "--json", "-")
    assert code == 1
    document = json.loads(out, parse_constant=pytest.fail)
    assert [document["passed"], document["samples"]] == [False, 20]
    assert document["candidates"][0]["metrics"]["top1"]["drop"] == 1.0
    assert err.startswith("FAIL bad.onnx: top1")


def test_files_are_written_beside_the_table(folder, run):
    code, out, _ = run(
        *("float.onnx", "same.onnx", "bad.onnx", "--data", "d.npz", "--max-drop", "1%", "--latency"),
        *("--latency-runs", "2", "--json", "e.json", "--junit", "e.xml", "--markdown", "e.md"),
    )
    assert code == 1
    assert out.splitlines()[0].split()[-3:] == ["latency", "ms", "speed-up"]
    assert "medians of 2 interleaved runs, batch 1" in out
    document = json.loads((folder / "e.json").read_text(), parse_constant=pytest.fail)
    assert document["candidates"][0]["sqnr_db"] is None and schema_faults(document) == []
    assert document["not_finite"]["/candidates/0/sqnr_db"] == "inf"
    root = ET.parse(folder / "e.xml").getroot()
    assert [len(suite.findall("testcase")) for suite in root] == [1, 1]
    assert len(list(root.iter("failure"))) == 1
    assert (folder / "e.md").read_text().startswith("| model |")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["float.onnx", "same.onnx", "bad.onnx", "d.npz", "e.json", "e.xml", "e.md"]
    )


@pytest.mark.usefixtures("folder")
def test_the_same_evaluation_has_the_same_bytes(run):
    arguments = ("float.onnx", "bad.onnx", "--data", "d.npz", "--json", "-")
    assert run(*arguments) == run(*arguments)


@pytest.mark.usefixtures("folder")
def test_quiet_says_only_what_is_wrong(run):
    assert run("float.onnx", "same.onnx", "--data", "d.npz", "--max-drop", "1%", "-q") == (0, "", "")
    code, out, err = run("float.onnx", "bad.onnx", "--data", "d.npz", "--max-drop", "1%", "-q")
    assert (code, out) == (1, "")
    assert err.startswith("FAIL bad.onnx: top1: drop 100% (1 to 0), asked at most 1%; next: `qtool tune ")
    assert err.count("\n") == 1


def test_a_metric_from_a_file(folder, run):
    (folder / "mine.py").write_text("def best(outputs, labels):\n    return outputs['scores'].max(axis=1)\n")
    code, out, _ = run("float.onnx", "bad.onnx", "--data", "d.npz", "--metric", "mine.py:best", "--metric", "top1")
    assert code == 0
    assert out.splitlines()[0].split()[:4] == ["model", "best", "best", "drop"]
    assert f"{(X @ WEIGHTS).max(1).mean():.4f}" in out.splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["float.onnx", "absent.onnx", "--data", "d.npz"], "qtool: absent.onnx: no such file"),
        (["float.onnx", "d.npz", "--data", "d.npz"], "qtool: d.npz: is NumPy data, not an ONNX model"),
        (["float.onnx", "same.onnx", "--data", "d.npz", "--metric", "top9"], "qtool: --metric top9"),
        (["float.onnx", "same.onnx", "--data", "d.npz", "--max-drop", "some"], "'some' makes no sense"),
        (["float.onnx", "same.onnx", "--data", "d.npz", "--max-drop", "1"], "would pass every model"),
        (["float.onnx", "same.onnx", "--data", "d.npz", "--samples", "0"], "'--samples'"),
        (
            ["float.onnx", "same.onnx", "--data", "d.npz", "--json", "no/e.json"],
            "the folder no does not exist",
        ),
        (
            ["float.onnx", "same.onnx", "--data", "d.npz", "--json", "same.onnx"],
            "--json same.onnx: is CANDIDATE",
        ),
        (["float.onnx", "same.onnx", "--data", "d.npz", "--json", "d.npz"], "--json d.npz: is --data"),
        (
            ["float.onnx", "same.onnx", "--data", "d.npz", "--json", "e", "--junit", "./e"],
            "--junit ./e: is --json already",
        ),
        (
            ["float.onnx", "same.onnx", "--data", "d.npz", "--json", "-", "--markdown", "-"],
            "--markdown standard output: is --json already",
        ),
        (["float.onnx", "--data", "d.npz"], "CANDIDATE..."),
        (["float.onnx", "same.onnx"], "--data"),
    ],
)
def test_bad_usage_is_exit_2_and_writes_nothing(folder, run, arguments, says):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.usefixtures("folder")
def test_outputs_are_checked_before_the_work(run):
    # with the data missing too, the output is what is complained of
    code, _, err = run("float.onnx", "same.onnx", "--data", "absent.npz", "--junit", "no/e.xml")
    assert code == 2
    assert "the folder no does not exist" in err


def test_help_opens_with_a_sentence_then_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    paragraphs = [p.strip() for p in out.split("\n\n")]
    assert paragraphs[1].endswith(".")
    assert paragraphs[2].startswith("Example:")
    for option in (
        "--metric",
        "--max-drop",
        "--min-sqnr",
        "--samples",
        "--latency",
        "--threads",
        "--json",
        "--junit",
    ):
        assert option in out


class Terminal(io.StringIO):
    def isatty(self):
        return True


def steps(quiet=False):
    with bar.progress_bar(quiet) as progress:
        for done in range(1, 4):
            progress("evaluating", done, 3)
        progress("timing", 1, None)


def test_the_bar_shows_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(bar, "_DELAY_S", 0.0)
    terminal, file = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    steps()
    assert "evaluating" in terminal.getvalue()
    assert "timing" in terminal.getvalue()
    shown = terminal.getvalue()
    steps(quiet=True)
    assert terminal.getvalue() == shown
    monkeypatch.setattr(sys, "stderr", file)
    steps()
    assert file.getvalue() == ""


def test_short_work_shows_no_bar(monkeypatch):
    monkeypatch.setattr(bar, "_DELAY_S", 3600.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    steps()
    assert terminal.getvalue() == ""


@pytest.mark.zoo
@pytest.mark.skipif(not ZOO.is_dir(), reason="no model zoo: set QTOOL_ZOO")
def test_a_real_model_scores_what_it_is_known_to():
    model = ZOO / "mlperf_resnet8"
    command = [sys.executable, "-m", "qtool", "eval", str(model / "model.onnx"), str(model / "model.onnx")]
    command += ["--data", str(model / "eval.npz"), "--metric", "top1", "--batch-size", "50", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout, parse_constant=pytest.fail)
    assert document["float_model"]["metrics"]["top1"]["value"] == pytest.approx(0.7775)
    candidate = document["candidates"][0]
    assert (candidate["agreement"], candidate["sqnr_db"]) == (1.0, None)
    assert document["not_finite"]["/candidates/0/sqnr_db"] == "inf"

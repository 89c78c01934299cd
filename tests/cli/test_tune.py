"""What `qtool tune` prints: lines above its bar, the target that was missed, what was not tried, an interrupt."""

import io
import json
import sys

import numpy as np
import pytest

from qtool.cli import main
from qtool.cli.bar import progress_bar
from qtool.tuning.budget import Budget
from tests.support.refusals import SAMPLES, classifier, network


class Terminal(io.StringIO):
    """A terminal: `screen` are the lines that stand there in the end."""

    def isatty(self):
        return True

    @property
    def screen(self):
        lines = []
        for written in self.getvalue().split("\n"):
            line = ""
            for part in written.split("\r"):
                line = part + line[len(part) :]
            lines.append(line.rstrip())
        return lines


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=SAMPLES)
    return tmp_path


@pytest.fixture
def run(place, capsys):  # noqa: ARG001
    """Runs `qtool tune` on the model; returns the exit code and what went to stdout and to stderr."""

    def call(*words):
        with pytest.raises(SystemExit) as caught:
            main(["tune", "m.onnx", "--data", "d.npz", "--calibrators", "max", "-o", "q.onnx", *map(str, words)])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


def test_lines_stand_above_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("qtool.cli.bar._DELAY_S", 0.0)
    monkeypatch.setattr("qtool.cli.bar._REDRAW_S", 0.0)
    with progress_bar(False) as progress:
        progress("try", 1, 4)
        progress.write("first")
        progress("try", 2, 4)
        progress.write("second")
        progress("rank", 1, None)
        progress.write("third")
    assert "try:  50%" in terminal.getvalue()
    assert terminal.screen == ["first", "second", "third", ""]


def test_no_bar_where_nobody_looks(capsys):
    with progress_bar(False) as progress:
        progress("try", 1, 4)
        progress.write("first")
    assert capsys.readouterr() == ("first\n", "")


def test_a_missed_target_is_named(place, run):
    code, out, err = run("--min-sqnr", 80, "--json", "r.json")
    report = json.loads((place / "r.json").read_text())
    assert (code, err) == (1, "")
    assert (report["min_sqnr"], report["max_drop"], report["met"]) == (80.0, None, False)
    assert f"q.onnx: target missed (SQNR at least 80 dB): {report['missed'][0]}; kept: " in out
    assert "  not tried: layers in float (the worst layer, " in out
    typed = next(line for line in out.splitlines() if line.startswith("  next: "))
    same = "qtool tune m.onnx --data d.npz --calibrators max -o q.onnx --min-sqnr 80 --json r.json"
    assert typed == (
        f"  next: `{same} --finetune` trains the best; or ask for less, or for more layers in float: "
        f"`{same} --max-float-macs 100%`"
    )
    assert "metric" not in out and "drop" not in out


@pytest.mark.parametrize("asked", [["-q"], ["--json", "-"]])
def test_a_missed_target_is_said_where_nothing_else_is(run, asked):
    code, _, err = run("--min-sqnr", 80, *asked)
    assert code == 1
    assert err.startswith("q.onnx: target missed (SQNR at least 80 dB): SQNR ")
    assert "; nearest: " in err and err.count("\n") == 1
    assert run("--min-sqnr", 10, "-q") == (0, "", "")


def test_lines_name_the_measure(place, run):
    classifier(place / "m.onnx")
    heading, line = run("--max-drop", "50%")[1].splitlines()[:2]
    assert heading.startswith("measured: agreement, on ") and heading.endswith(", which chooses")
    assert line.startswith("ok  agreement 1.0000  drop   0.00 %  SQNR ")
    said = run("--max-drop", "0.5")[1].splitlines()
    assert "  next: `qtool eval m.onnx q.onnx --data d.npz --latency` times it" in said
    line = said[1]
    assert line.startswith("ok  agreement 1.0000  drop 0.0000  SQNR ")


def test_a_budget_that_is_too_short_has_a_clear_end(run):
    code, out, _ = run("--min-sqnr", 80, "--time-budget", "0.001s")
    assert code == 1
    assert "the time budget let only 1 sample report; stopped early: the time budget is used up" in out
    assert "the time budget let only 1 sample calibrate" in out
    assert "-o q.onnx --min-sqnr 80` has all the time that it needs\n" in out
    assert "equalised; equalised and biases absorbed; ranges mixed; layers in float (the time budget)" in out
    code, out, _ = run("--min-sqnr", 1, "--time-budget", "0.001s")
    assert code == 1  # met by one sample is not shown
    assert "q.onnx: target not shown (SQNR at least 1 dB): the time budget let only 1 sample report" in out


def test_an_interrupt_of_the_last_evaluation_leaves_the_model(place, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("qtool.tuning.tune.compare", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(["tune", "m.onnx", "--data", "d.npz", "--calibrators", "max", "--min-sqnr", "1", "-o", "q.onnx"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "\nqtool: interrupted; the best model so far stands in q.onnx\n"
    assert (place / "q.onnx").exists()


def test_the_start_of_the_program_counts(run, monkeypatch):
    """What is left of the budget once the command begins is what the search is given."""
    given = []
    monkeypatch.setattr("qtool.cli.tune.since_start", lambda: 20.0)
    monkeypatch.setattr("qtool.tuning.tune.Budget", lambda seconds: given.append(seconds) or Budget(seconds))
    assert run("--min-sqnr", 1, "--time-budget", "60s")[0] == 0
    assert given == [40.0]
    run("--min-sqnr", 1, "--time-budget", "15s")
    assert given[1:] == [0.001]


def test_the_plan_is_written_with_the_model(place, run):
    assert run("--min-sqnr", 1, "--save-plan", "p.json", "-q") == (0, "", "")
    assert json.loads((place / "p.json").read_text())["schema"] == "qtool.plan"
    code, _, err = run("--min-sqnr", 1, "--save-plan", "q.onnx")
    assert (code, err) == (2, "qtool: --save-plan q.onnx: is --output already; name another file\n")

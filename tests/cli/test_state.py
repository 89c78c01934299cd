"""`--state` on the command line: what it does from end to end, and what is refused in one line."""

import json

import numpy as np
import pytest

from qtool.cli import main
from tests.support.recurrent_models import lstm, lstm_scores, sequences
from tests.support.refusals import contents

STATES = ("--state", "h=hn", "--state", "c=cn")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """m.onnx, and d.npz with labels for its sequences, in the current folder."""
    monkeypatch.chdir(tmp_path)
    model = lstm(tmp_path / "m.onnx")
    x = sequences(8, 10)
    labels = np.stack([lstm_scores(model, row)[0].argmax(axis=1) for row in x])
    labels[:, 0] = -1
    np.savez("d.npz", x=x, labels=labels)
    return tmp_path


@pytest.fixture
def run(folder, capsys):  # noqa: ARG001
    """Runs `qtool ...`: the exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        streams = capsys.readouterr()
        return caught.value.code, streams.out, streams.err

    return call


def test_every_command_has_it(run, folder):
    assert run("calibrate", "m.onnx", "--data", "d.npz", *STATES)[::2] == (0, "")
    assert run("quantize", "m.onnx", "--calibration", "m.calib", "-o", "a.onnx", "-q") == (0, "", "")
    assert run("quantize", "m.onnx", "--data", "d.npz", *STATES, "-o", "b.onnx", "-q") == (0, "", "")
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    code, out, err = run("eval", "m.onnx", "a.onnx", "--data", "d.npz", *STATES, "--max-drop", "50%")
    assert (code, err) == (0, "")
    assert "token_accuracy" in out.splitlines()[0]
    assert "d.npz: 8 samples of 80 steps in all, 1 thread; state fed back: h=hn, c=cn" in out
    code, out, err = run("eval", "m.onnx", "a.onnx", "--data", "d.npz", *STATES, "--json", "-")
    document = json.loads(out)
    assert (document["samples"], document["steps"], document["states"]) == (8, 80, ["h=hn", "c=cn"])
    assert document["float_model"]["metrics"]["token_accuracy"]["value"] == 1.0
    assert list(document["candidates"][0]["sqnr_db_by_output"]) == ["scores"]
    code, out, err = run("sensitivity", "m.onnx", "--calibration", "m.calib", "--data", "d.npz", *STATES)
    assert (code, err) == (0, "")
    assert "80 samples of d.npz" in out
    code, out, err = run("tune", "m.onnx", "--data", "d.npz", *STATES, "--max-drop", "0.9", "-o", "t.onnx")
    assert (code, err) == (0, "")
    assert (folder / "t.onnx").exists()


def test_from_a_configuration_file(run, folder):
    (folder / "qtool.toml").write_text('[calibrate]\nstate = ["h=hn", "c=cn"]\n')
    assert run("calibrate", "m.onnx", "--data", "d.npz", "--config", "qtool.toml", "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--state", "h"], ["--state h:", "--state INPUT=OUTPUT"]),
        (["--state", "h=hn"], ["'c'", "--state c=cn"]),
        (["--state", "hn=h", "--state", "c=cn"], ["no input 'hn'", "x, h, c"]),
        (["--state", "h=H", "--state", "c=cn"], ["no output 'H'", "scores, hn, cn"]),
        (["--state", "h=scores", "--state", "c=cn"], ["float32 [1, 3]", "float32 [1, 1, 16]"]),
        ([*STATES, "--state", "c=hn"], ["'c' is declared twice"]),
        ([*STATES, "--state", "x=scores"], ["--state x=scores", "float32 [1, 3]"]),
        ([*STATES, "--preprocess", "unit"], ["--preprocess", "--state"]),
        ([*STATES, "--batch-size", "2"], ["--batch-size 2", "--state"]),
        ([], ["no array for the model's input 'h'", "--state h=hn"]),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(run, folder, arguments, words):
    before = contents(folder)
    for command in (
        ["calibrate", "m.onnx", "-o", "c.calib"],
        ["quantize", "m.onnx", "-o", "q.onnx"],
        ["eval", "m.onnx", "m.onnx"],
    ):
        code, out, err = run(*command, "--data", "d.npz", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("qtool: "), err
        assert all(word in err for word in words), err
    assert contents(folder) == before


def test_with_a_calibration_file_it_says_nothing(run, folder):
    assert run("calibrate", "m.onnx", "--data", "d.npz", *STATES, "-q")[0] == 0
    before = contents(folder)
    code, _, err = run("quantize", "m.onnx", "--calibration", "m.calib", *STATES, "-o", "q.onnx")
    assert code == 2
    assert "--state needs --data" in err
    assert contents(folder) == before


def test_sequences_of_no_use(run, folder):
    np.savez("flat.npz", x=np.zeros((8, 8), np.float32))
    before = contents(folder)
    code, _, err = run("calibrate", "m.onnx", "--data", "flat.npz", *STATES)
    assert code == 2
    assert "flat.npz: a sample's 'x' is float32 [8]; with --state a sample is a sequence of T steps" in err
    assert contents(folder) == before

"""Every file that a command reads may be a pipe or a device: it is refused at once, in a line that names it."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from qtool.cli import main
from qtool.core.records.plan import load_plan


def _stop(*_):
    raise AssertionError("it waits for a pipe")


@pytest.fixture(autouse=True)
def impatience():
    old = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("f.npz", ["calibrate", "m.onnx", "--data", "f.npz", "-o", "o"]),
        ("f.npy", ["calibrate", "m.onnx", "--data", "f.npy", "-o", "o"]),
        ("f.jsonl", ["calibrate", "m.onnx", "--data", "f.jsonl", "-o", "o"]),
        ("f.json", ["calibrate", "m.onnx", "--data", "good.npz", "--preprocess", "f.json", "-o", "o"]),
        ("f.toml", ["calibrate", "m.onnx", "--data", "good.npz", "--preprocess", "f.toml", "-o", "o"]),
        ("f.toml", ["calibrate", "m.onnx", "--data", "good.npz", "--config", "f.toml", "-o", "o"]),
        ("t.json", ["calibrate", "m.onnx", "--data", "l.jsonl", "--tokenizer", "t.json", "-o", "o"]),
        ("data/labels.csv", ["calibrate", "m.onnx", "--data", "data", "-o", "o"]),
        ("f.calib", ["quantize", "m.onnx", "--calibration", "f.calib", "-o", "o"]),
        ("f.calib", ["merge", "f.calib", "m.calib", "-o", "o"]),
        ("p.json", ["quantize", "m.onnx", "--calibration", "m.calib", "--plan", "p.json", "-o", "o"]),
        ("f.onnx", ["calibrate", "f.onnx", "--data", "good.npz", "-o", "o"]),
        ("f.onnx", ["eval", "m.onnx", "f.onnx", "--data", "good.npz"]),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file(folder, capsys, name, command, kind):
    (folder / "data").mkdir()
    np.save(folder / "data" / "1.npy", np.zeros((3, 8, 8), np.float32))
    (folder / "l.jsonl").write_text('{"text": "a"}\n')
    if kind == "pipe":
        os.mkfifo(name)
    else:
        Path(name).symlink_to("/dev/zero")
    with pytest.raises(SystemExit) as caught:
        main(command)
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    assert name in err and not Path("o").exists()


def test_a_resumed_analysis_is_a_file(refused):
    os.mkfifo("s.json")
    refused("sensitivity", "m.onnx", "--calibration", "m.calib", "--data", "good.npz", "-o", "s.json", says=["s.json"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("samples = true", "samples must be a whole number, not true"),
        ("samples = 2.7", "samples must be a whole number, not 2.7"),
        ("samples = 1979-05-27", "samples must be a whole number, not 1979-05-27"),
        ("workers = 1.5", "workers must be a whole number, not 1.5"),
        ("checkpoint = true", "checkpoint must be a number, not true"),
        ("checkpoint = nan", "nan is no finite number"),
        ("json = 5", "json must be a text, not 5"),
        ("preprocess = 07:32:00", "preprocess must be a text, not 07:32:00"),
        ("state = [1]", "state must be texts, not 1"),
        ("equalize = 2", "equalize must be true or false, not 2"),
        ('output = "a\\u0000b"', "output holds a null character"),
        ("samples = " + "9" * 5000, "a number has thousands of digits"),
        ("samples = " + "[" * 5000 + "]" * 5000, "it is nested too deeply"),
        ("samples = 1\nsamples = 2", "not TOML"),
    ],
)
def test_values_of_a_configuration(folder, refused, line, says):
    (folder / "c.toml").write_text(f"[calibrate]\n{line}\n")
    refused("calibrate", "m.onnx", "--data", "good.npz", "--config", "c.toml", says=[says])


def test_values_of_the_right_type(folder):
    (folder / "c.toml").write_bytes(b"\xef\xbb\xbf[calibrate]\nsamples = 2\ncheckpoint = 3\nequalize = false\n")
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", "--config", "c.toml", "-q", "-o", "c"])
    assert caught.value.code == 0


@pytest.mark.parametrize("value", ["90", "90.0", "true"])
def test_a_time_has_a_unit(folder, refused, value):
    (folder / "c.toml").write_text(f"[tune]\ntime-budget = {value}\n")
    refused("tune", "m.onnx", "--data", "good.npz", "--config", "c.toml", says=["time-budget must be a text"])


@pytest.mark.parametrize(
    ("file", "words", "calibrator"),
    [
        ("percentile = 99.9", ["--calibrator", "max"], "max"),
        ("calibrator = 'entropy'", ["--percentile", "99.9"], "percentile 99.9"),
        ("percentile = 99.9", ["--calibrator", "percentile"], "percentile 99.9"),
        ("percentile = 99.9", ["--calibrator", "percentile:99.5"], "percentile 99.5"),
        ("calibrator = 'mse'", [], "mse"),
    ],
)
def test_what_is_typed_wins_over_the_file(folder, capsys, file, words, calibrator):
    (folder / "c.toml").write_text(f"[quantize]\n{file}\nsave-plan = 'p.json'\n")
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "m.onnx", "--calibration", "m.calib", "--config", "c.toml", "-o", "q", "-q", *words])
    assert (caught.value.code, capsys.readouterr().err) == (0, "")
    assert load_plan("p.json").calibrator == calibrator


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--calibrator", "percentile:99.99", "--percentile", "99.9"], "says nothing to --calibrator percentile 99.99"),
        (["--calibrator", "percentile:"], "makes no sense; write percentile[:P]"),
        (["--calibrator", "max", "--calibrator", "mse"], "'--calibrator': it is given twice"),
        (["--weight-only", "--optimize-for", "latency"], "--optimize-for latency says nothing to --weight-only"),
        (["--percentile", "nan"], "'--percentile': nan is no finite number"),
    ],
)
def test_options_that_contradict_each_other(refused, words, says):
    refused("quantize", "m.onnx", "--calibration", "m.calib", *words, "-o", "q", says=[says])


def test_the_same_data_twice(refused):
    refused("calibrate", "m.onnx", "--data", "good.npz", "--data", "good.npz", says=["'--data': it is given twice"])
    Path("again.npz").symlink_to("good.npz")
    refused(
        "tune", "m.onnx", "--data", "good.npz", "--eval-data", "again.npz", "-o", "q", says=["--eval-data is --data"]
    )

"""Ctrl-C, whenever it comes, leaves nothing behind and is exit 130."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from qtool.cli import main
from tests.support.places import REPOSITORY
from tests.support.refusals import contents

# a new line first: on a terminal the last one begins with ^C
INTERRUPTED = "\nqtool: interrupted; nothing was written\n"


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("qtool.runtime.session.Session.run_list", "calibrate"),
        ("qtool.runtime.session.Session.run_list", "quantize"),
        ("pathlib.Path.replace", "calibrate"),
        ("pathlib.Path.replace", "quantize"),
        ("pathlib.Path.chmod", "quantize"),
        ("pathlib.Path.write_bytes", "quantize"),
        ("zipfile.ZipFile.writestr", "calibrate"),
        ("qtool.core.records.plan.Plan.save", "quantize"),
    ],
)
def test_an_interrupt_leaves_nothing(folder, monkeypatch, capsys, place, command):
    arguments = {
        "calibrate": ["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"],
        "quantize": ["quantize", "m.onnx", "--calibration", "m.calib", "-o", "new.onnx", "--save-plan", "p.json"],
    }[command]
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        with pytest.raises(SystemExit) as caught:
            main(arguments)
    assert caught.value.code == 130
    assert capsys.readouterr().err == INTERRUPTED
    assert contents(folder) == before


@pytest.mark.usefixtures("folder")
def test_ctrl_c_while_an_extension_is_imported(monkeypatch, capsys):
    """pybind11 makes an ImportError of it."""

    def load(_name):
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("importlib.import_module", load)
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", "m.onnx", "--data", "good.npz", "-o", "new.calib"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == INTERRUPTED


@pytest.mark.parametrize("command", ["calibrate", "quantize"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c(folder, command, threads):
    """A real SIGINT to a process that waits for its data."""
    (folder / "slow.py").write_text(
        "import pathlib, time\nimport numpy\n\n\ndef feed():\n    while True:\n"
        "        yield {'x': numpy.ones((1, 3, 8, 8), 'float32')}\n"
        "        pathlib.Path('feeding').touch()\n        time.sleep(0.05)\n"
    )
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "qtool", command, "m.onnx", "--data", "slow.py:feed", "-o", "new", "--threads", threads],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        while not (folder / "feeding").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, INTERRUPTED)
    (folder / "feeding").unlink()
    assert contents(folder) == before


STOPPED = """
import os, signal, sys
from qtool.cli import run
from qtool.pipeline.calibration import run as counting

{patch}
sys.argv = ["qtool", *{words!r}]
run()
"""
HERE = """
until = counting._Stream.until
def stopped(self, *arguments):
    for number, batch in enumerate(until(self, *arguments)):
        if number == 40:
            os.kill(os.getpid(), signal.{name})
        yield batch
counting._Stream.until = stopped
"""
WORKERS = """
gather = counting.run
def stopped(*arguments):
    for part in gather(*arguments):
        yield part
        os.kill(os.getpid(), signal.{name})
counting.run = stopped
"""


@pytest.mark.parametrize(
    ("patch", "name", "words", "code"),
    [
        pytest.param(HERE, "SIGINT", (), 130, marks=pytest.mark.long),
        (HERE, "SIGTERM", ("--threads", "2"), 143),
        pytest.param(WORKERS, "SIGINT", ("--workers", "1"), 130, marks=pytest.mark.long),
    ],
)
def test_what_calibrate_has_counted_is_kept_at_once(folder, run, patch, name, words, code):
    """However long it is until the next checkpoint; the same command gives the bytes of a run at one go."""
    np.savez(folder / "many.npz", x=np.random.default_rng(2).normal(size=(120, 3, 8, 8)).astype(np.float32))
    line = ["calibrate", "m.onnx", "--data", "many.npz", "-o", "new", "--checkpoint", "1000", *words]
    script = STOPPED.format(patch=patch.format(name=name), words=line)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    kept = "what was counted stands in new.checkpoint, and the same command goes on\n"
    assert done.returncode == code and done.stderr.endswith(kept), done.stderr
    assert (folder / "new.checkpoint").exists() and not (folder / "new").exists()
    code, out, _ = run(*line, "--json", "-")
    assert code == 0 and 0 < json.loads(out)["resumed"] < 120
    assert run(*line[:5], "whole", "-q")[0] == 0
    assert (folder / "new").read_bytes() == (folder / "whole").read_bytes()
    assert not (folder / "new.checkpoint").exists()

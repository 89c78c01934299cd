"""Ctrl-C, whenever it comes, leaves nothing behind and is exit 130."""

import os
import signal
import subprocess
import sys
import time

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

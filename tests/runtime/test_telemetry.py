"""qtool's commands write what they are asked to write, and talk to nobody: onnxruntime's telemetry is off."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from qtool.core.process import without_telemetry
from tests.support.patterns import Net
from tests.support.places import REPOSITORY

STRACE = shutil.which("strace")


@pytest.fixture
def command(tmp_path):
    """Runs `python ...` in a folder of its own, with homes and temporary folders that are empty."""
    net = Net()
    net.save(tmp_path / "m.onnx", net.conv("x", 3, 4))
    np.savez(tmp_path / "d.npz", **net.samples())
    homes = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    for folder in homes.values():
        folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(REPOSITORY)} | {name: str(folder) for name, folder in homes.items()}

    def call(*arguments, prefix=()):
        subprocess.run([*prefix, sys.executable, *arguments], check=True, cwd=tmp_path, env=environment)
        return sorted(str(file.relative_to(tmp_path)) for home in homes.values() for file in home.rglob("*"))

    return call


QUANTIZE = ("-m", "qtool", "quantize", "m.onnx", "--data", "d.npz", "-o", "q.onnx", "-q")


def test_nothing_is_left_in_the_home_or_the_temporary_folder(command, tmp_path):
    assert command(*QUANTIZE) == []
    assert (tmp_path / "q.onnx").exists()


def test_the_library_writes_nothing_either(command):
    assert command("-c", "import qtool; qtool.quantize('m.onnx', 'q.onnx', data='d.npz')") == []


# onnxruntime begins to send some seconds after its first session
SLOW = """
import time
import numpy as np

def samples():
    for _ in range(10):
        time.sleep(1)
        yield {"x": np.ones((1, 3, 8, 8), np.float32)}
"""


@pytest.mark.slow
@pytest.mark.skipif(STRACE is None, reason="strace, which shows the sockets of a process, is not installed")
def test_no_socket_is_connected(command, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    calibrate = ("-m", "qtool", "calibrate", "m.onnx", "--data", "slow.py:samples", "-o", "m.calib", "-q")
    command(*calibrate, prefix=(STRACE, "-f", "-e", "trace=connect,sendto", "-o", str(tmp_path / "calls")))
    calls = (tmp_path / "calls").read_text(errors="replace")
    assert [line for line in calls.splitlines() if "AF_INET" in line] == []


def test_who_has_decided_is_not_overruled(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    without_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    without_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"

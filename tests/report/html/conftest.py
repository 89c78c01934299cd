"""Documents of a small network whose nodes have names that would break a careless page."""

import json

import numpy as np
import pytest

from qtool.cli import main
from tests.support.patterns import Net

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"
"""What a node is called."""
CONVS = 5
"""Enough for a table that can be searched."""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with q.json, e.json and s.json of one model, m.calib, and the page of `quantize --html`."""
    pytest.importorskip("jinja2")
    folder = tmp_path_factory.mktemp("pages")
    net = Net()
    value = "x"
    for layer in range(CONVS):
        conv = net.conv(value, 4 if layer else net.shape[0], 4, name=f"{HOSTILE}{layer}")
        value = net("Relu", conv)
    net.save(folder / "m.onnx", net.gemm(net("Flatten", net("GlobalAveragePool", value)), 4, 3))
    samples = net.samples(6)["x"]
    np.savez(folder / "d.npz", x=samples)
    np.savez(folder / "l.npz", x=samples, labels=np.arange(len(samples)) % 3)
    files = {name: str(folder / name) for name in ("m.onnx", "d.npz", "l.npz", "m.calib", "q.onnx")}
    run("calibrate", files["m.onnx"], "--data", files["d.npz"], "-o", files["m.calib"])
    run(
        "quantize", files["m.onnx"], "--calibration", files["m.calib"], "-o", files["q.onnx"],
        "--json", str(folder / "q.json"), "--html", str(folder / "q.html"),
    )  # fmt: skip
    run(
        "eval", files["m.onnx"], files["q.onnx"], "--data", files["l.npz"], "--max-drop", "90%", "--json",
        str(folder / "e.json"), "--html", str(folder / "e.html"),
    )  # fmt: skip
    run(
        "sensitivity", files["m.onnx"], "--calibration", files["m.calib"], "--data", files["d.npz"], "--view", "alone",
        "--json", str(folder / "s.json"), "--html", str(folder / "s.html"),
    )  # fmt: skip
    given = [str(folder / name) for name in ("q.json", "e.json", "s.json", "m.calib")]
    run("report", *given, "-o", str(folder / "all.html"))
    return folder


def run(*words):
    with pytest.raises(SystemExit) as caught:
        main([*words, "-q"])
    assert caught.value.code == 0


def document(path):
    return json.loads(path.read_text(encoding="utf-8"))

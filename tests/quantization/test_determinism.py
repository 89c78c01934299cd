"""The same inputs and options give the same bytes: again, in another process, at another number of threads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import qtool
from tests.support.patterns import Net
from tests.support.places import REPOSITORY

MODEL = REPOSITORY / "calib_data" / "digits_cnn.onnx"
DATA = REPOSITORY / "calib_data" / "digits_calib.npz"
SAMPLES = 60

# the arguments: model, data, threads, folder, options of the calibration
PROGRAM = """
import sys
from qtool.cli import main

model, data, threads, folder, *options = sys.argv[1:]
feed = ["--data", data, "--threads", threads, *options]
plan = ["--save-plan", folder + "/plan.json", "--json", folder + "/q.json"]
for line in (
    ["calibrate", model, *feed, "-o", folder + "/c.calib", "--json", folder + "/c.json"],
    ["quantize", model, "--calibration", folder + "/c.calib", "-o", folder + "/q.onnx", *plan],
    ["quantize", model, *feed, "-o", folder + "/direct.onnx"],
):
    try:
        main([*line, "-q"])
    except SystemExit as end:
        assert end.code == 0, line
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A model of a few layers and its data: (path, path)."""
    net = Net(3, 12, 12)
    hidden = net("Relu", net.conv("x", 3, 16))
    hidden = net("Add", net.conv(net("Relu", net.conv(hidden, 16, 16, group=16)), 16, 16), hidden)
    pooled = net("Flatten", net("GlobalAveragePool", net("Concat", hidden, net("Sigmoid", hidden), axis=1)))
    folder = tmp_path_factory.mktemp("network")
    np.savez(folder / "data.npz", **net.samples(SAMPLES))
    return net.save(folder / "m.onnx", net.gemm(pooled, 32, 7), hidden), folder / "data.npz"


def outputs(network, folder, *, threads, hash_seed, batch_size=1):
    """Calibrate and quantize in a process of its own; name -> bytes of all that it wrote."""
    folder.mkdir()
    options = ["--samples", str(SAMPLES), "--batch-size", str(batch_size)]
    # the folder is the current one, so that no path is in the JSON
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, network), str(threads), ".", *options],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": str(hash_seed)},
    )
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    document = json.loads(found["q.json"])
    assert document.pop("timing").keys() >= {"speedup"}
    calibrated = json.loads(found["c.json"])
    assert calibrated.pop("call")["options"]["--threads"] == [str(threads)]
    return found | {"q.json": json.dumps(document).encode(), "c.json": json.dumps(calibrated).encode()}


@pytest.mark.parametrize("batch_size", [1, pytest.param(8, marks=pytest.mark.long)])
def test_bytes_do_not_depend_on_the_process_or_the_threads(network, tmp_path, batch_size):
    first = outputs(network, tmp_path / "a", threads=1, hash_seed=1, batch_size=batch_size)
    assert set(first) == {"c.calib", "c.json", "q.onnx", "q.json", "plan.json", "direct.onnx"}
    # the statistics that lie in a file are all that counts
    assert first["direct.onnx"] == first["q.onnx"]
    assert outputs(network, tmp_path / "b", threads=2, hash_seed=2, batch_size=batch_size) == first
    if batch_size == 1:
        assert outputs(network, tmp_path / "c", threads=1, hash_seed=3) == first


def test_two_runs_in_one_process(tmp_path):
    for name in ("a", "b"):
        qtool.quantize(MODEL, tmp_path / name, data=DATA, samples=SAMPLES, threads=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_path_of_the_model_is_not_in_the_files(tmp_path):
    """Another name for the same file changes nothing that is computed from it."""
    copy = tmp_path / "another_name.onnx"
    copy.write_bytes(MODEL.read_bytes())
    for name, model in (("a", MODEL), ("b", copy)):
        qtool.calibrate(model, DATA, tmp_path / f"{name}.calib", samples=SAMPLES)
        qtool.quantize(model, tmp_path / f"{name}.onnx", calibration=tmp_path / "a.calib")
    assert (tmp_path / "a.calib").read_bytes() == (tmp_path / "b.calib").read_bytes()
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_form_of_the_data_does_not_matter(tmp_path):
    """A file, arrays in memory and a function that yields them give the same statistics."""
    images = np.load(DATA)["input"][:SAMPLES]
    forms = {
        "file": DATA,
        "arrays": {"input": images},
        "list": [{"input": image[None]} for image in images],
        "function": lambda: ({"input": image[None]} for image in images),
    }
    for name, data in forms.items():
        qtool.calibrate(MODEL, data, tmp_path / name, samples=SAMPLES)
    assert len({(tmp_path / name).read_bytes() for name in forms}) == 1


@pytest.mark.parametrize("batch_size", [7, 8])
def test_what_the_batch_size_changes(batch_size):
    """onnxruntime may sum in another order for another batch, which moves values by a rounding error.

    Every element is still counted once, extremes agree to float32's accuracy, and less than a hundredth of the elements
    change bins. (Where this was written, even the counts were equal.) The samples kept for verification are whole
    batches.
    """
    alone = qtool.calibrate(MODEL, DATA, samples=SAMPLES).statistics
    together = qtool.calibrate(MODEL, DATA, samples=SAMPLES, batch_size=batch_size).statistics
    assert together.samples == alone.samples == SAMPLES
    assert list(together.tensors) == list(alone.tensors)
    for name, one in alone.tensors.items():
        other = together.tensors[name]
        assert other.count == one.count, name
        assert [other.minimum, other.maximum] == pytest.approx([one.minimum, one.maximum], rel=1e-4, abs=1e-5), name
        assert np.abs(other.counts - one.counts).sum() < 0.02 * one.count, name

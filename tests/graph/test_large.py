"""External data, and a model beyond protobuf's 2 GB: the same commands, memory a small multiple of the model."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.runtime.session import Session
from tests.support.large_models import write_stack

_PEAK = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "qtool", *sys.argv[1:]])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)
"""


def data(width, samples=4):
    return {"x": np.random.default_rng(2).standard_normal((samples, 3, width), np.float32)}


@pytest.mark.parametrize("form", ["auto", "static", "dynamic", "weight-only"])
def test_external_data_gives_what_a_single_file_gives(form, tmp_path):
    outside = write_stack(tmp_path / "outside.onnx", 3, 192)
    inside = tmp_path / "inside.onnx"
    onnx.save(onnx.load(outside), inside)
    found = []
    for source in (outside, inside):
        output = tmp_path / f"{source.stem}.int8.onnx"
        result = qtool.quantize(source, output, data=data(192), form=form)
        session = Session(output)
        found.append(session.run(data(192))["y"])
        assert result.float_size > 3 * 192 * 192 * 4 > 2 * result.size
    np.testing.assert_array_equal(*found)


def test_sensitivity_and_tune_take_external_data(tmp_path):
    source = write_stack(tmp_path / "m.onnx", 3, 192)
    statistics = qtool.calibrate(source, data(192)).statistics
    ranked = qtool.sensitivity(source, data(192), calibration=statistics, metric="sqnr")
    assert len(ranked.layers) == 3
    tuned = qtool.tune(source, data(192, 12), tmp_path / "t.onnx", metric="sqnr", max_drop="99%", min_sqnr=20.0)
    assert tuned.met and (tmp_path / "t.onnx").exists()


@pytest.mark.slow
def test_a_model_beyond_two_gigabytes(tmp_path):
    width, layers = 8192, 9
    source = write_stack(tmp_path / "large.onnx", layers, width)
    size = layers * width * width * 4
    assert size > 2**31
    np.savez(tmp_path / "data.npz", **data(width, 2))
    steps = [
        ["calibrate", "large.onnx", "--data", "data.npz", "-o", "large.calib"],
        ["quantize", "large.onnx", "--calibration", "large.calib", "--calibrator", "max", "-o", "int8.onnx"],
        ["quantize", "large.onnx", "--dynamic", "-o", "dynamic.onnx"],
        ["eval", "large.onnx", "int8.onnx", "dynamic.onnx", "--data", "data.npz", "--min-sqnr", "20"],
    ]
    for step in steps:
        command = [sys.executable, "-c", _PEAK, *step]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peak = int(done.stdout.splitlines()[-1])
        print(step[0], f"{peak / size:.2f} of the model")
        assert peak < 3.5 * size
    fed = data(width, 1)
    exact, got = Session(source).run(fed)["y"], Session(tmp_path / "int8.onnx").run(fed)["y"]
    assert signal_to_noise(exact, got) > 20.0

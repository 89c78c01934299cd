"""A model beyond protobuf's 2 GB, through the commands, in memory that is a small multiple of its size.

About two minutes and 3 GB of disk, which are given back.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph import external
from qtool.graph.serialized import PROTOBUF
from tests.support.places import REPOSITORY

WIDTH, LAYERS = 8192, 8
ROWS = 256
MULTIPLE = 3.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux"),
]


def stack(path: Path) -> int:
    """[N, WIDTH] -> [N, WIDTH] through Gemm and Relu, written without ever holding a weight; returns its bytes."""
    rng = np.random.default_rng(1)
    weights = path.with_suffix(".weights")
    nodes, initializers, x = [], [], "x"
    with weights.open("wb") as file:
        for layer in range(LAYERS):
            weight = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            external.set_external(weight, weights.name, file.tell(), WIDTH * WIDTH * 4)
            block = rng.normal(0.0, np.sqrt(2.0 / WIDTH), (ROWS, WIDTH)).astype(np.float32)
            for start in range(0, WIDTH, ROWS):
                file.write(np.roll(block, start + layer, axis=1).tobytes())
            bias = rng.normal(0.0, 0.1, WIDTH).astype(np.float32)
            initializers += [weight, numpy_helper.from_array(bias, f"b{layer}")]
            nodes.append(helper.make_node("Gemm", [x, f"w{layer}", f"b{layer}"], [f"g{layer}"], name=f"gemm{layer}"))
            nodes.append(helper.make_node("Relu", [f"g{layer}"], [f"r{layer}"], name=f"relu{layer}"))
            x = f"r{layer}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path.stat().st_size + weights.stat().st_size


@pytest.fixture
def folder(tmp_path):
    if shutil.disk_usage(tmp_path).free < 5 * 2**30:
        pytest.skip("not enough disk")
    yield tmp_path
    shutil.rmtree(tmp_path)


def qtool(folder: Path, *arguments: str) -> tuple[dict[str, object], int]:
    """What a command finds, and the peak of its resident memory in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qtool", *arguments, "-q", "--json", "found.json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return json.loads((folder / "found.json").read_text()), usage.ru_maxrss * 1024


def test_from_calibration_to_evaluation(folder):
    size = stack(folder / "m.onnx")
    assert size > PROTOBUF
    samples = np.random.default_rng(2).normal(size=(6, WIDTH)).astype(np.float32)
    np.savez(folder / "d.npz", x=samples)
    peaks = {}
    found, peaks["calibrate"] = qtool(folder, "calibrate", "m.onnx", "--data", "d.npz")
    assert found["samples"] == len(samples)
    made, peaks["quantize"] = qtool(
        folder, "quantize", "m.onnx", "--calibration", "m.calib", "--calibrator", "max", "-o", "q.onnx"
    )
    assert made["float_bytes"] == size
    assert made["bytes"] == (folder / "q.onnx").stat().st_size < size * 0.26
    assert made["verification"]["integer_layers"] == LAYERS
    compared, peaks["eval"] = qtool(folder, "eval", "m.onnx", "q.onnx", "--data", "d.npz", "--min-sqnr", "15")
    assert compared["candidates"][0]["sqnr_db"] > 15.0
    multiples = {command: round(peak / size, 2) for command, peak in peaks.items()}
    print(multiples)
    assert max(multiples.values()) <= MULTIPLE, multiples

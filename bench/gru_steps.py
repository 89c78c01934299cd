"""What a GRU costs as steps of plain layers, in integers, over units and batches: `qtool.pipeline.prepare.gru_steps`.

    python -m bench.gru_steps [--seconds 1]

Each row is a GRU of 80 inputs and a product behind it, quantised by qtool with its defaults, whatever its units. Times
are of one thread, interleaved; `steps in float` is the prepared graph, which is run where layers are left in float.
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import qtool
from bench.conv_transpose import medians, session
from qtool.graph import model_io
from qtool.pipeline.prepare import gru_steps, prepare

UNITS = (128, 256, 384, 512, 1024)
RUNS = ((1, 1), (32, 1), (200, 1), (32, 8), (32, 32))
"""Steps and samples of a run."""
_INPUTS, _STEPS, _SAMPLES = 80, 32, 16


def network(units: int, *, reset_after: bool) -> onnx.ModelProto:
    """Build the network of a row."""
    rng = np.random.default_rng(0)

    def weight(*shape: int, inputs: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape) / np.sqrt(inputs), np.float32)

    constants = {
        "w": weight(1, 3 * units, _INPUTS, inputs=_INPUTS),
        "r": weight(1, 3 * units, units, inputs=units),
        "b": weight(1, 6 * units, inputs=100),
        "one": np.array([1]),
        "last": weight(units, 29, inputs=units),
    }
    attributes = {"hidden_size": units, "linear_before_reset": int(reset_after)}
    nodes = [
        helper.make_node("GRU", ["x", "w", "r", "b"], ["h"], "gru", **attributes),  # type: ignore[arg-type]
        helper.make_node("Squeeze", ["h", "one"], ["rows"], "rows"),
        helper.make_node("MatMul", ["rows", "last"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "N", _INPUTS])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rows(seconds: float) -> Iterator[str]:
    """Measure, a line for each network and size of a run."""
    rng = np.random.default_rng(1)
    for units, reset_after in product(UNITS, (True, False)):
        model = network(units, reset_after=reset_after)
        with tempfile.TemporaryDirectory() as folder:
            source, written = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, source)
            data = [{"x": rng.normal(size=(_STEPS, 1, _INPUTS)).astype(np.float32)} for _ in range(_SAMPLES)]
            db = qtool.quantize(source, written, data=data).verification.output_sqnr_db
            models = {
                "float": model.SerializeToString(),
                "steps": model_io.to_bytes(prepare(model_io.load(source)).model),
                "int8": written.read_bytes(),
            }
        sessions = {name: session(one) for name, one in models.items()}
        for steps, samples in RUNS:
            found = medians(sessions, rng.normal(size=(steps, samples, _INPUTS)).astype(np.float32), seconds)
            gains = " ".join(f"{found['float'] / found[name]:12.2f}x" for name in ("int8", "steps"))
            yield f"{units:5} {'after' if reset_after else 'before':>6} {steps:5} {samples:7} | {gains}  | {db:5.1f}"


def main() -> None:
    """Measure every row, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row")
    seconds = parser.parse_args().seconds
    # also those that are too small to be rewritten
    gru_steps.LEAST = 1
    print("units  reset steps samples |  int8 steps  steps in float  | SQNR dB")
    for row in rows(seconds):
        print(row, flush=True)


if __name__ == "__main__":
    main()

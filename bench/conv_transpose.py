"""What a ConvTranspose costs as a Conv and a rearrangement, over channels, sizes, kernels and strides.

    python -m bench.conv_transpose [--seconds 2]

Each row is a small network, Conv, Relu, the layer, Relu, Conv, quantised by qtool twice: as it is, and with an
attribute that says what is so anyway, which keeps the layer as it is written. Times are of one thread, interleaved.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import qtool

# channels before, after, side, kernel, stride, pads, output padding
LAYERS = [
    (384, 256, 16, 4, 2, 1, 0),
    (256, 128, 32, 4, 2, 1, 0),
    (64, 32, 32, 4, 2, 1, 0),
    (16, 8, 32, 4, 2, 1, 0),
    (8, 4, 8, 4, 2, 1, 0),
    (128, 64, 32, 2, 2, 0, 0),
    (64, 32, 32, 2, 2, 0, 0),
    (24, 24, 120, 2, 2, 0, 0),
    (24, 1, 240, 2, 2, 0, 0),
    (64, 32, 32, 3, 2, 1, 1),
    (16, 16, 64, 3, 2, 1, 1),
    (64, 64, 32, 3, 1, 1, 0),
    (21, 21, 16, 16, 8, 4, 0),
]


def network(layer: tuple[int, ...], *, free: bool, kept: bool) -> onnx.ModelProto:
    """Build the network of a row; free: the sides are not known; kept: with `output_shape`."""
    before, after, side, kernel, stride, pads, more = layer
    rng = np.random.default_rng(0)

    def weight(*shape: int, inputs: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape) / np.sqrt(inputs), np.float32)

    length = (side - 1) * stride + kernel - 2 * pads + more
    attributes: dict[str, Any] = {"output_shape": [length] * 2} if kept else {"output_padding": [more] * 2}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["b"], "b"),
        helper.make_node(
            "ConvTranspose", ["b", "middle", "bias"], ["c"], "c", strides=[stride] * 2, pads=[pads] * 4, **attributes
        ),
        helper.make_node("Relu", ["c"], ["d"], "d"),
        helper.make_node("Conv", ["d", "last"], ["y"], "y"),
    ]
    constants = {
        "first": weight(before, 16, 1, 1, inputs=16),
        "middle": weight(before, after, kernel, kernel, inputs=before * kernel * kernel // stride**2),
        "bias": weight(after, inputs=100),
        "last": weight(16, after, 1, 1, inputs=after),
    }
    shape: list[str | int | None] = ["N", 16, "H", "W"] if free else ["N", 16, side, side]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantized(model: onnx.ModelProto, x: np.ndarray) -> bytes:
    """Quantise by qtool, by the range of one sample."""
    with tempfile.TemporaryDirectory() as folder:
        source, written = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        qtool.quantize(source, written, data={"x": x}, calibrator="max", bias_correction="off", smoothing="off")
        return written.read_bytes()


def session(model: bytes) -> onnxruntime.InferenceSession:
    """Start a session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def medians(sessions: dict[str, onnxruntime.InferenceSession], x: np.ndarray, seconds: float) -> dict[str, float]:
    """Milliseconds of CPU time a run."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in random.sample(list(sessions), len(sessions)):
            start = time.thread_time()
            sessions[name].run(None, {"x": x})
            taken[name].append(time.thread_time() - start)
    return {name: 1000 * statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    """Measure every row, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row")
    seconds = parser.parse_args().seconds
    print("channels      side  kernel stride | float ms  int8, ConvTranspose  int8, Conv  gain  | sides free")
    for layer in LAYERS:
        before, after, side, kernel, stride, *_ = layer
        x = np.random.default_rng(1).normal(size=(1, 16, side, side)).astype(np.float32)
        gains = []
        for free in (False, True):
            kept, plain = (network(layer, free=free, kept=kept) for kept in (True, False))
            models = {"float": plain.SerializeToString(), "kept": quantized(kept, x), "conv": quantized(plain, x)}
            found = medians({name: session(model) for name, model in models.items()}, x, seconds)
            gains.append(found)
        fixed = gains[0]
        sizes = f"{before:4} -> {after:4}  {side:4}  {kernel:4}  {stride:4}   |"
        times = f"{fixed['float']:8.3f} {fixed['kept']:12.3f} {fixed['conv']:16.3f}"
        gain, free_gain = (found["kept"] / found["conv"] for found in gains)
        print(f"{sizes} {times} {gain:10.2f}x | {free_gain:.2f}x", flush=True)


if __name__ == "__main__":
    main()

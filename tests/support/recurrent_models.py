"""Small recurrent models, built with onnx's own helpers, and what they compute over a sequence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FEATURES, HIDDEN, CLASSES = 8, 16, 3


def accumulator(path: Path, *, factor: float = 1.0, batch: int | str = 1, rate: bool = False) -> Path:
    """total' = total + factor x (+ rate, a scalar input), y = total' @ w; x and total [batch, 8], y [batch, 3]."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["total", "scaled"], ["sum" if rate else "new_total"]),
        helper.make_node("MatMul", ["new_total", "w"], ["y"], "head"),
    ]
    inputs = [_info("x", [batch, FEATURES]), _info("total", [batch, FEATURES])]
    if rate:
        nodes.insert(2, helper.make_node("Add", ["sum", "rate"], ["new_total"]))
        inputs.append(_info("rate", []))
    constants = {"factor": np.array(factor, np.float32), "w": head_weights()}
    return _save(path, nodes, inputs, [_info("y", [batch, CLASSES]), _info("new_total", [batch, FEATURES])], constants)


def head_weights() -> np.ndarray:
    """[8, 3]."""
    return np.random.default_rng(7).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def lstm(path: Path) -> Path:
    """A Gemm and Relu, an LSTM with states h and c [1, 1, 16], a Gemm head: x [1, 8] -> scores [1, 3], hn, cn."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> np.ndarray:
        values: np.ndarray = rng.normal(size=shape) / np.sqrt(shape[-1])
        return values.astype(np.float32)

    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Unsqueeze", ["r", "zero"], ["step"], "unsqueeze"),
        helper.make_node("LSTM", ["step", "W", "R", "B", "", "h", "c"], ["", "hn", "cn"], "lstm", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["hn", "zero"], ["flat"], "squeeze"),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["scores"], "last"),
    ]
    state = [1, 1, HIDDEN]
    constants = {
        "w1": weight(FEATURES, HIDDEN),
        "b1": weight(HIDDEN),
        "zero": np.array([0], np.int64),
        "W": weight(1, 4 * HIDDEN, HIDDEN),
        "R": weight(1, 4 * HIDDEN, HIDDEN),
        "B": weight(1, 8 * HIDDEN),
        "w2": weight(HIDDEN, CLASSES),
        "b2": weight(CLASSES),
    }
    inputs = [_info("x", [1, FEATURES]), _info("h", state), _info("c", state)]
    return _save(
        path, nodes, inputs, [_info("scores", [1, CLASSES]), _info("hn", state), _info("cn", state)], constants
    )


LSTM_STATE = ("h=hn", "c=cn")


def lstm_scores(path: Path, sequence: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """[T, 8] -> scores [T, 3], and h before each step, with onnxruntime alone."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    h = c = np.zeros((1, 1, HIDDEN), np.float32)
    scores, before = [], []
    for x in sequence:
        before.append(h)
        made, h, c = session.run(None, {"x": x[None], "h": h, "c": c})
        scores.append(made[0])
    return np.array(scores), before


def sequences(count: int = 4, steps: int = 20, seed: int = 1) -> np.ndarray:
    """float32 [count, steps, 8]."""
    return np.random.default_rng(seed).normal(size=(count, steps, FEATURES)).astype(np.float32)


def _info(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path

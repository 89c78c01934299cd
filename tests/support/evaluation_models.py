"""Small models and data for the tests of evaluation, built with onnx's own helpers."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(
    path: Path,
    weights: np.ndarray,
    *,
    batch: int | str = "N",
    input_name: str = "x",
    output_name: str = "scores",
    activation: str | None = None,
) -> Path:
    """`activation(x @ weights)` for x [batch, features]."""
    features, classes = weights.shape
    nodes = [helper.make_node("MatMul", [input_name, "w"], ["product" if activation else output_name])]
    if activation:
        nodes.append(helper.make_node(activation, ["product"], [output_name]))
    return _save(
        path,
        nodes,
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, features])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [batch, classes])],
        {"w": weights.astype(np.float32)},
    )


def two_outputs(path: Path, first: np.ndarray, second: np.ndarray) -> Path:
    """A map [N, 2, 3] that is no class scores, then class scores [N, classes]."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["map"]),
        helper.make_node("MatMul", ["x", "b"], ["scores"]),
    ]
    return _save(
        path,
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", first.shape[0]])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 2, 3]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", second.shape[1]]),
        ],
        {
            "a": first.astype(np.float32),
            "b": second.astype(np.float32),
            "shape": np.array([-1, 2, 3], np.int64),
        },
    )


def per_token(path: Path, weights: np.ndarray) -> Path:
    """`x @ weights` for x [N, T, features]: class scores for every token."""
    features, classes = weights.shape
    return _save(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", classes])],
        {"w": weights.astype(np.float32)},
    )


def predicts_class(path: Path, weights: np.ndarray) -> Path:
    """The class itself, int64 [N, 1], instead of its scores."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("ArgMax", ["product"], ["class"], axis=1, keepdims=1),
    ]
    return _save(
        path,
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weights.shape[0]])],
        [helper.make_tensor_value_info("class", TensorProto.INT64, ["N", 1])],
        {"w": weights.astype(np.float32)},
    )


def external(path: Path, source: Path) -> Path:
    """`source` again at `path`, its weights in a file beside it."""
    model = onnx.load(source)
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location=path.stem + ".weights",
        size_threshold=0,
        convert_attribute=True,
    )
    return path


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

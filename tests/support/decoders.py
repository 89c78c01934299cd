"""A small decoder with a cache of keys and values, as exporters write it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, TOKENS = 16, 2, 12
HEAD = WIDTH // HEADS
PAST, PRESENT = "past_sequence_length", "past_sequence_length + sequence_length"
STATE = "past_key_values.*=present.*"


def cached_decoder(path: Path, *, layers: int = 1, masked: bool = True, seed: int = 0) -> Path:
    """Write a decoder of random weights: tokens, mask and past_key_values.N.key/value -> logits, present.N.key/value.

    A cache may have no entry yet. With `masked` the attention mask has an entry for each token of cache and input.
    """
    rng = np.random.default_rng(seed)
    weights = {"embed": rng.normal(0, 1, (TOKENS, WIDTH))}
    weights |= {
        f"{name}{i}": rng.normal(0, 0.4, shape)
        for i in range(layers)
        for name, shape in (
            ("q", (WIDTH, WIDTH)),
            ("k", (WIDTH, WIDTH)),
            ("v", (WIDTH, WIDTH)),
            ("o", (WIDTH, WIDTH)),
            ("up", (WIDTH, 4 * WIDTH)),
            ("down", (4 * WIDTH, WIDTH)),
        )
    }
    weights["head"] = rng.normal(0, 0.5, (WIDTH, TOKENS))
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    held += [
        numpy_helper.from_array(np.array([0, 0, HEADS, HEAD], np.int64), "split"),
        numpy_helper.from_array(np.array([0, 0, WIDTH], np.int64), "join"),
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.array(HEAD**-0.5, np.float32), "scale"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array(-1e4, np.float32), "far"),
    ]
    make = helper.make_node
    nodes = [make("Gather", ["embed", "input_ids"], ["x0"])]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", TOKENS])]
    if masked:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", PRESENT]))
        nodes += [
            make("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
            make("Sub", ["one", "kept"], ["left"]),
            make("Mul", ["left", "far"], ["low"]),
            make("Unsqueeze", ["low", "axes"], ["added"]),
        ]
    for i in range(layers):
        for what in ("key", "value"):
            shape: list[str | int | None] = ["batch_size", HEADS, PAST, HEAD]
            inputs.append(helper.make_tensor_value_info(f"past_key_values.{i}.{what}", TensorProto.FLOAT, shape))
            grown: list[str | int | None] = ["batch_size", HEADS, PRESENT, HEAD]
            outputs.append(helper.make_tensor_value_info(f"present.{i}.{what}", TensorProto.FLOAT, grown))
        for name in "qkv":
            nodes += [
                make("MatMul", [f"x{i}", f"{name}{i}"], [f"{name}{i}_flat"], f"{name}{i}_proj"),
                make("Reshape", [f"{name}{i}_flat", "split"], [f"{name}{i}_split"]),
                make("Transpose", [f"{name}{i}_split"], [f"{name}{i}_heads"], perm=[0, 2, 1, 3]),
            ]
        nodes += [
            make("Concat", [f"past_key_values.{i}.key", f"k{i}_heads"], [f"present.{i}.key"], axis=2),
            make("Concat", [f"past_key_values.{i}.value", f"v{i}_heads"], [f"present.{i}.value"], axis=2),
            make("Transpose", [f"present.{i}.key"], [f"k{i}_turned"], perm=[0, 1, 3, 2]),
            make("MatMul", [f"q{i}_heads", f"k{i}_turned"], [f"s{i}"]),
            make("Mul", [f"s{i}", "scale"], [f"s{i}_scaled"]),
            *([make("Add", [f"s{i}_scaled", "added"], [f"s{i}_seen"])] if masked else []),
            make("Softmax", [f"s{i}_seen" if masked else f"s{i}_scaled"], [f"p{i}"], axis=-1),
            make("MatMul", [f"p{i}", f"present.{i}.value"], [f"c{i}_heads"]),
            make("Transpose", [f"c{i}_heads"], [f"c{i}_split"], perm=[0, 2, 1, 3]),
            make("Reshape", [f"c{i}_split", "join"], [f"c{i}"]),
            make("MatMul", [f"c{i}", f"o{i}"], [f"a{i}"], f"o{i}_proj"),
            make("Add", [f"x{i}", f"a{i}"], [f"y{i}"]),
            make("MatMul", [f"y{i}", f"up{i}"], [f"u{i}"], f"up{i}_proj"),
            make("Relu", [f"u{i}"], [f"r{i}"]),
            make("MatMul", [f"r{i}", f"down{i}"], [f"d{i}"], f"down{i}_proj"),
            make("Add", [f"y{i}", f"d{i}"], [f"x{i + 1}"]),
        ]
    nodes.append(make("MatMul", [f"x{layers}", "head"], ["logits"], "head_proj"))
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def token_sequences(count: int, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return tokens [count, steps], a mask of ones, and the token that follows each as its label."""
    tokens = np.random.default_rng(seed).integers(0, TOKENS, (count, steps + 1))
    return {
        "input_ids": tokens[:, :-1],
        "attention_mask": np.ones((count, steps), np.int64),
        "labels": tokens[:, 1:],
    }

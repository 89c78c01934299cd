"""A small decoder in the merged form of encoder-decoder exporters: one If, two branches, one set of weights.

`use_cache_branch` decides: the branch without a cache reads the whole prompt and computes keys and values, of the
encoder's states too; the other one reads one token, appends to the keys and values, and hands those of the encoder on.
The weights are initializers around the If, which both branches read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, WORDS, LAYERS = 64, 4, 96, 1
_HEAD = WIDTH // HEADS
Array = np.ndarray
_KINDS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")


def merged_decoder(path: Path, seed: int = 0) -> Path:
    """Write the model, with random weights, and return its path."""
    weights = _weights(np.random.default_rng(seed))
    branches = {name: _Branch(cached).graph() for name, cached in (("then_branch", True), ("else_branch", False))}
    outputs = [output.name for output in _outputs("")]
    node = helper.make_node("If", ["use_cache_branch"], outputs, name="optimum::if", **branches)
    shape: list[str | int] = ["batch", HEADS, "past", _HEAD]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("encoder_hidden_states", TensorProto.FLOAT, ["batch", "source", WIDTH]),
        *(_tensor(f"past_key_values.{i}.{kind}", shape) for i in range(LAYERS) for kind in _KINDS),
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "decoder_model_merged", inputs, _outputs(""), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def steps(count: int, seed: int = 1) -> list[dict[str, Array]]:
    """Return `count` batches of inputs: prompts of five tokens without a cache, and single tokens with one, in turn."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        cached = i % 2 == 1
        past = {
            f"past_key_values.{layer}.{kind}": _normal(rng, 1, HEADS, (6 if "encoder" in kind else 5) * cached, _HEAD)
            for layer in range(LAYERS)
            for kind in _KINDS
        }
        result.append(
            {
                "input_ids": rng.integers(0, WORDS, (1, 1 if cached else 5)),
                "encoder_hidden_states": _normal(rng, 1, 6, WIDTH),
                **past,
                "use_cache_branch": np.array([cached]),
            }
        )
    return result


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(size=shape).astype(np.float32)


def _weights(rng: np.random.Generator) -> dict[str, Array]:
    result = {"embed": _normal(rng, WORDS, WIDTH), "gain": np.ones(WIDTH, np.float32), "shift": _normal(rng, WIDTH)}
    for layer in range(LAYERS):
        for block in ("self", "cross"):
            for part in "qkvo":
                result[f"{layer}.{block}.{part}"] = _normal(rng, WIDTH, WIDTH) / np.float32(np.sqrt(WIDTH))
        result[f"{layer}.up"] = _normal(rng, WIDTH, 4 * WIDTH) / np.float32(np.sqrt(WIDTH))
        result[f"{layer}.up.bias"] = _normal(rng, 4 * WIDTH)
        result[f"{layer}.down"] = _normal(rng, 4 * WIDTH, WIDTH) / np.float32(np.sqrt(4 * WIDTH))
    result["head"] = _normal(rng, WIDTH, WORDS) / np.float32(np.sqrt(WIDTH))
    return result


def _tensor(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _outputs(prefix: str) -> list[onnx.ValueInfoProto]:
    names = [f"present.{layer}.{kind}" for layer in range(LAYERS) for kind in _KINDS]
    caches = [_tensor(prefix + name, ["batch", HEADS, f"{prefix}{name}_length", _HEAD]) for name in names]
    return [_tensor(f"{prefix}logits", ["batch", "length", WORDS]), *caches]


class _Branch:
    """The nodes of a branch, whose names are its own."""

    def __init__(self, cached: bool) -> None:
        self.cached, self.prefix = cached, "then." if cached else "else."
        self.nodes: list[onnx.NodeProto] = []
        hidden = self("Gather", "embed", "input_ids", name="embedded")
        for layer in range(LAYERS):
            hidden = self._layer(layer, hidden)
        self("MatMul", self._norm(hidden, "last"), "head", name="logits")

    def __call__(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        output = self.prefix + name
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"/{output}/{op}", **attributes))
        return output

    def graph(self) -> onnx.GraphProto:
        name = "with_past" if self.cached else "no_past"
        return helper.make_graph(self.nodes, name, [], _outputs(self.prefix))

    def _constant(self, values: Any, name: str) -> str:
        return self("Constant", name=name, value=numpy_helper.from_array(np.asarray(values)))

    def _norm(self, x: str, name: str) -> str:
        return self("LayerNormalization", x, "gain", "shift", name=f"{name}.norm", axis=-1)

    def _layer(self, layer: int, hidden: str) -> str:
        states = self._norm(hidden, f"{layer}.self")
        hidden = self("Add", hidden, self._attention(layer, "self", states, states), name=f"{layer}.self.sum")
        states = self._norm(hidden, f"{layer}.cross")
        seen = self._attention(layer, "cross", states, "encoder_hidden_states")
        hidden = self("Add", hidden, seen, name=f"{layer}.cross.sum")
        states = self._norm(hidden, f"{layer}.feed")
        up = self(
            "Add", self("MatMul", states, f"{layer}.up", name=f"{layer}.up.m"), f"{layer}.up.bias", name=f"{layer}.up.a"
        )
        down = self("MatMul", self("Relu", up, name=f"{layer}.up.r"), f"{layer}.down", name=f"{layer}.down.m")
        return self("Add", hidden, down, name=f"{layer}.sum")

    def _heads(self, x: str, name: str) -> str:
        shape = self._constant(np.array([0, -1, HEADS, _HEAD]), f"{name}.shape")
        return self(
            "Transpose", self("Reshape", x, shape, name=f"{name}.split"), name=f"{name}.heads", perm=[0, 2, 1, 3]
        )

    def _attention(self, layer: int, block: str, states: str, source: str) -> str:
        name, side = f"{layer}.{block}", "decoder" if block == "self" else "encoder"
        query = self._heads(self("MatMul", states, f"{name}.q", name=f"{name}.q.m"), f"{name}.q")
        cache = []
        for part, kind in (("k", f"{side}.key"), ("v", f"{side}.value")):
            past, present = f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}"
            if self.cached and side == "encoder":
                cache.append(self("Identity", past, name=present))
                continue
            projected = self("MatMul", source, f"{name}.{part}", name=f"{name}.{part}.m")
            if not self.cached:
                shape = self._constant(np.array([0, -1, HEADS, _HEAD]), f"{name}.{part}.shape")
                split = self("Reshape", projected, shape, name=f"{name}.{part}.split")
                cache.append(self("Transpose", split, name=present, perm=[0, 2, 1, 3]))
            else:
                cache.append(self("Concat", past, self._heads(projected, f"{name}.{part}"), name=present, axis=2))
        scale = self._constant(np.float32(_HEAD**-0.5), f"{name}.scale")
        turned = self("Transpose", cache[0], name=f"{name}.turned", perm=[0, 1, 3, 2])
        scores = self("Mul", self("MatMul", query, turned, name=f"{name}.scores"), scale, name=f"{name}.scaled")
        mixed = self("MatMul", self("Softmax", scores, name=f"{name}.weights", axis=-1), cache[1], name=f"{name}.mixed")
        back = self("Transpose", mixed, name=f"{name}.back", perm=[0, 2, 1, 3])
        joined = self(
            "Reshape", back, self._constant(np.array([0, -1, WIDTH]), f"{name}.joined.shape"), name=f"{name}.joined"
        )
        return self("MatMul", joined, f"{name}.o", name=f"{name}.o.m")

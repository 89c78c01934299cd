"""The times of attention in float, as products apart and as one kernel: rows of qtool/targets/times.py.

`python -m bench.kernel_speed --attention` measures them alone. Each attention stands alone between inputs and output,
as exporters write it, and as `qtool.pipeline.recovery.attention` writes it of that.
"""

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.attention import attentions, join_attention
from qtool.runtime.session import Session
from qtool.targets.costs import attention_terms

Row = tuple[Mapping[str, float], float]
MASKS = ("none", "keys", "whole")


def attention(lengths: Sequence[int], mask: str = "none") -> onnx.ModelProto:
    """Return a model of attention alone, as exporters write it: q, k, v [N, S or T, H D] and a mask -> [N, S, H V]."""
    samples, heads, queries, keys, channels, width = lengths
    sizes = {"q": (queries, channels), "k": (keys, channels), "v": (keys, width)}
    nodes, constants = [], {"scale": np.float32(channels**-0.5), "flat": np.array([0, 0, heads * width])}

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        constants[f"{name}_shape"] = np.array([0, 0, heads, sizes[name][1]])
        node("Transpose", [node("Reshape", [name, f"{name}_shape"], f"{name}_heads")], f"{name}_turned", perm=perm)
    scores = node("Mul", [node("MatMul", ["q_turned", "k_turned"], "scores"), "scale"], "scaled")
    if mask != "none":
        scores = node("Add", [scores, "mask"], "masked")
    context = node("MatMul", [node("Softmax", [scores], "weights", axis=-1), "v_turned"], "context")
    node("Reshape", [node("Transpose", [context], "back", perm=[0, 2, 1, 3]), "flat"], "y")
    shapes = {name: [samples, length, heads * size] for name, (length, size) in sizes.items()}
    if mask != "none":
        shapes["mask"] = [samples, 1, queries if mask == "whole" else 1, keys]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [samples, queries, heads * width])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return random inputs of such a model; a quarter of what a mask speaks of is masked."""
    rng = np.random.default_rng(1)
    result = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        drawn = rng.normal(size=shape).astype(np.float32)
        result[value.name] = np.where(drawn > 0.67, np.float32(-40), np.float32(0)) if value.name == "mask" else drawn
    return result


def processor_times(sessions: Sequence[Session], feeds: Mapping[str, np.ndarray], seconds: float) -> list[float]:
    """Return the median time of the processor that each session takes, in nanoseconds, in turns for so long."""
    taken: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    for session in sessions:
        session.run(feeds)
    while len(taken[0]) < 5 or time.perf_counter() < end:
        for session, times in zip(sessions, taken, strict=True):
            begin = time.process_time_ns()
            for _ in range(3):
                session.run(feeds)
            times.append((time.process_time_ns() - begin) / 3)
    return [float(np.median(times)) for times in taken]


def measured_attention(count: int, seed: int, folder: Path) -> dict[str, list[Row]]:
    """Return row of the table -> (units, nanoseconds) of attentions of random lengths."""
    found: dict[str, list[Row]] = defaultdict(list)
    choose = random.Random(seed)
    for number in range(count):
        mask = MASKS[number % len(MASKS)]
        heads, channels = choose.choice((2, 4, 6, 8, 12, 16)), choose.choice((16, 32, 64, 64, 80))
        keys = choose.choice((16, 32, 49, 64, 96, 128, 197, 256, 384, 512, 768))
        queries = choose.choice((1, keys, keys, keys, keys, keys))
        samples = choose.choice((1, 1, 1, 4)) if keys <= 256 else 1
        lengths = (samples, heads, queries, keys, channels, channels)
        model = attention(lengths, mask)
        file, feeds = folder / "attention.onnx", inputs_of(model)
        onnx.save(model, file)
        apart = prepare(model_io.load(file)).model
        joined = join_attention(apart, [found.name for found in attentions(apart)])
        sessions = [Session(model_io.serialize(graph)) for graph in (apart, joined)]
        times = processor_times(sessions, feeds, 0.25)
        rows = ("float attention", "float joined attention")
        for row, units, taken in zip(rows, attention_terms(lengths, mask), times, strict=True):
            found[row].append((units, taken))
    return found

"""The attention section: products and Softmax in integers, in float, and as one float kernel, by the number of tokens.

Attention alone has twelve heads of 64 channels and a padding mask. The stack is the generated encoder of
`bench.language` with four layers of BERT-base's width.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

import qtool
from bench.attention_speed import attention as alone
from bench.attention_speed import inputs_of
from bench.language import Reader
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import JOIN_ATTENTION
from qtool.graph import model_io
from qtool.pipeline.planning.selection import is_layer
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.attention import attentions, join_attention
from qtool.report.text import markdown
from qtool.targets.tables import TARGETS
from tests.support.token_models import encoder, sentences

_TOKENS, _STACKED = (128, 512, 2048), (128, 512)
_HEADS, _CHANNELS, _LAYERS, _VOCABULARY = 12, 64, 4, 8000
_ROUNDS = 7
_FIRST = ["q_turned", "k_turned"]
_SECOND = ["weights", "v_turned"]
# what is quantised, in integers of which form; the right operand of a product is int8
_FORMS = {
    "first product in integers": _FIRST,
    "both products in integers": [*_FIRST, *_SECOND],
    "all in integers, QLinearSoftmax too": [*_FIRST, *_SECOND, "scores", "scaled", "masked", "context"],
}


def attention(folder: Path) -> str:
    """The section's text."""
    parts = [
        "## Attention\n",
        "Speed-up of attention alone (twelve heads of 64 channels, a padding mask) over the products and the Softmax "
        "as exporters write them, at one thread and at two, and the SQNR of its output on random numbers. `one float "
        "kernel` is what qtool writes where its table of times says that it is faster.\n",
        _table(folder),
        f"\nA generated encoder, {_LAYERS} layers of BERT-base's width, padded: speed-up over float at one thread.\n",
        *(_stack(folder, tokens) for tokens in _STACKED),
    ]
    return "\n".join(parts)


def _table(folder: Path) -> str:
    rows = []
    for tokens in _TOKENS:
        model = alone((1, _HEADS, tokens, tokens, _CHANNELS, _CHANNELS), "keys")
        feeds = inputs_of(model)
        file = folder / "attention.onnx"
        onnx.save(model, file)
        apart = prepare(model_io.load(file)).model
        made = {"products apart, float": model.SerializeToString()}
        joined = join_attention(apart, [found.name for found in attentions(apart)])
        model_io.write(model_io.serialize(joined), file)
        made["one float kernel"] = file.read_bytes()
        ranges = _ranges(model, feeds)
        made |= {name: _in_integers(model, tensors, ranges) for name, tensors in _FORMS.items()}
        one, two = (_times({name: _session(data, n) for name, data in made.items()}, feeds, n) for n in (1, 2))
        exact, *others = (_session(data, 1).run(None, feeds)[0] for data in made.values())
        noise = ["-", *(f"{signal_to_noise(exact, other):.1f}" for other in others)]
        first = next(iter(made))
        rows += [
            [str(tokens), name, f"{one[first] / one[name]:.2f}", f"{two[first] / two[name]:.2f}", db]
            for name, db in zip(made, noise, strict=True)
        ]
    return markdown(["tokens", "form", "one thread", "two threads", "SQNR dB"], rows)


def _ranges(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    wanted = sorted({name for tensors in _FORMS.values() for name in tensors})
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in wanted)
    found = _session(whole.SerializeToString(), 1).run(wanted, feeds)
    return {name: (float(array.min()), float(array.max())) for name, array in zip(wanted, found, strict=True)}


def _in_integers(model: onnx.ModelProto, tensors: list[str], ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """The model with Q/DQ behind these tensors."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    del result.graph.node[:]
    for node in nodes:
        node.input[:] = [f"{name}_dq" if name in tensors else name for name in node.input]
        result.graph.node.append(node)
        name = node.output[0]
        if name not in tensors:
            continue
        low, high = ranges[name]
        low = max(low, -60.0)
        signed = name in ("k_turned", "v_turned")
        scale = max(-low, high) / 127 if signed else (high - min(low, 0.0)) / 255
        zero = np.int8(0) if signed else np.uint8(round(-min(low, 0.0) / scale))
        grid = [f"{name}_scale", f"{name}_zero"]
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(scale, np.float32), grid[0]))
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(zero), grid[1]))
        result.graph.node.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"]))
        result.graph.node.append(helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"]))
    return bytes(result.SerializeToString())


def _stack(folder: Path, tokens: int) -> str:
    source = folder / "stack.onnx"
    onnx.save(encoder(8.0, layers=_LAYERS, width=768, heads=_HEADS, vocabulary=_VOCABULARY), source)
    feeds = sentences(8, padded=True, longest=tokens, vocabulary=_VOCABULARY)
    given = qtool.calibrate(source, feeds[:6]).statistics
    files = {name: folder / f"stack{i}.onnx" for i, name in enumerate(_STACK)}
    plan: Plan | None = None
    for name, make in _STACK.items():
        plan = make(source, files[name], given, plan, feeds) or plan
    sessions = {"float": _session(source.read_bytes(), 1)}
    sessions |= {name: _session(file.read_bytes(), 1) for name, file in files.items()}
    times = _times(sessions, feeds[6])
    exact, *others = (
        np.concatenate([session.run(None, feed)[0] for feed in feeds[6:]]) for session in sessions.values()
    )
    rows = [
        [name, f"{times['float'] / times[name]:.2f}", f"{signal_to_noise(exact, other):.1f}"]
        for name, other in zip(files, others, strict=True)
    ]
    return markdown([f"{tokens} tokens", "speed-up", "SQNR dB"], rows) + "\n"


def _qtool(source: Path, file: Path, given: object, _plan: Plan | None, _feeds: object) -> Plan:
    return qtool.quantize(source, file, calibration=given).plan  # type: ignore[arg-type]


def _apart(source: Path, file: Path, given: object, plan: Plan | None, _feeds: object) -> None:
    """By the same plan, but for the attention."""
    assert plan is not None
    steps = tuple(step for step in plan.recipe.steps if step != JOIN_ATTENTION)
    recipe = replace(plan.recipe, steps=steps, attention=None)
    graph = prepare(model_io.load(source)).model
    layers = tuple(str(node.name) for node in graph.graph if is_layer(node, TARGETS[plan.target]))
    plan = replace(plan, recipe=recipe, layers=layers, skipped={})
    qtool.quantize(source, file, calibration=given, plan=plan)  # type: ignore[arg-type]


def _dynamic(source: Path, file: Path, _given: object, _plan: Plan | None, _feeds: object) -> None:
    quantize_dynamic(source, file, weight_type=QuantType.QInt8, per_channel=True)


def _static(source: Path, file: Path, _given: object, _plan: Plan | None, feeds: list[dict[str, np.ndarray]]) -> None:
    """Its default operators, the products and Softmax of attention among them."""
    quantize_static(source, file, Reader(feeds[:6]), per_channel=True)


_STACK: dict[str, Callable[..., Plan | None]] = {
    "qtool": _qtool,
    "qtool, attention apart": _apart,
    "onnxruntime dynamic, per channel": _dynamic,
    "onnxruntime static, all operators": _static,
}


def _session(data: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _times(
    sessions: Mapping[str, onnxruntime.InferenceSession], feeds: Mapping[str, np.ndarray], threads: int = 1
) -> dict[str, float]:
    """Median seconds of interleaved runs: of the processor, where one thread runs."""
    clock = time.process_time if threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(None, dict(feeds))
    for _ in range(_ROUNDS):
        for name, session in sessions.items():
            begin = clock()
            session.run(None, dict(feeds))
            taken[name].append(clock() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}

"""The section "Recurrent": the zoo's GRU and LSTM, beside onnxruntime's quantize_dynamic."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

import qtool
from bench.kernels import integer_layers
from bench.process import shortened
from qtool.core.records.evaluation import ModelResult
from qtool.report.text import ABSENT, markdown

Arrays = Mapping[str, np.ndarray]
_CONTEXT = 64
"""Samples of the frame before that silero_vad wants in front of each frame."""


@dataclass(frozen=True, slots=True)
class _Recurrent:
    """A model with its data as arrays; `state` as on the command line."""

    name: str
    model: Path
    calibration: Arrays
    evaluation: Arrays
    state: str | None = None


def recurrent(zoo: Path, folder: Path) -> str:
    """The section's text."""
    parts = [
        "## Recurrent",
        "",
        "`g2p_gru`: two GRU nodes, letters to phonemes, 200 words. `silero_vad`: an LSTM that finds speech, its state "
        "fed from output to input, five streams of 1250 frames. The metric is the accuracy of tokens (frames); "
        "speed-up over float of one sample (one frame), one thread, interleaved. `onnxruntime dynamic` is "
        "`quant_pre_process` and `quantize_dynamic`, int8 weights per channel.",
        "",
    ]
    for model in (_g2p(zoo / "g2p_gru"), _silero(zoo / "silero_vad")):
        parts += [_table(model, folder), ""]
    return "\n".join(parts)


def _g2p(folder: Path) -> _Recurrent:
    with np.load(folder / "calib.npz") as calibration, np.load(folder / "eval.npz") as evaluation:
        inputs = {name: calibration[name] for name in calibration.files if name != "labels"}
        words = {name: evaluation[name][:200] for name in evaluation.files}
    return _Recurrent("g2p_gru", folder / "model.onnx", inputs, words)


def _silero(folder: Path) -> _Recurrent:
    """Stream 0 calibrates; a frame stands behind the end of the one before it."""
    with np.load(folder / "audio.npz") as stored:
        frames, labels = stored["audio"].astype(np.float32) / 32767, stored["labels"]
    before = np.zeros((*frames.shape[:2], _CONTEXT), np.float32)
    before[:, 1:] = frames[:, :-1, -_CONTEXT:]
    x = np.concatenate([before, frames], axis=2)
    data = {"input": x[:1]}, {"input": x[1:], "labels": labels[1:]}
    return _Recurrent("silero_vad", folder / "model.onnx", *data, "state=stateN")


def _table(model: _Recurrent, folder: Path) -> str:
    statistics = qtool.calibrate(model.model, model.calibration, state=model.state).statistics
    makers: dict[str, Callable[[Path], object]] = {
        "qtool": lambda file: qtool.quantize(model.model, file, calibration=statistics),
        "qtool --dynamic, no data": lambda file: qtool.quantize(model.model, file, form="dynamic"),
        "onnxruntime dynamic": lambda file: _dynamic(model, file, None),
        "onnxruntime dynamic, no convolutions": lambda file: _dynamic(model, file, ["MatMul", "Gemm", "LSTM", "GRU"]),
    }
    files, failures = {}, {}
    for index, (name, make) in enumerate(makers.items()):
        file = folder / f"{model.name}{index}.onnx"
        try:
            make(file)
            qtool.evaluate(model.model, file, _first(model.evaluation), state=model.state)
        except Exception as error:  # a peer that fails is a line of the table
            if name.startswith("qtool"):
                raise
            failures[name] = shortened(str(error))
        else:
            files[name] = file
    evaluation = qtool.evaluate(
        model.model,
        list(files.values()),
        model.evaluation,
        metrics=["token_accuracy"],
        state=model.state,
        latency=True,
    )
    rows = [_row("float", evaluation.float_model)]
    rows += [_row(name, result) for name, result in zip(files, evaluation.candidates, strict=True)]
    rows += [[f"{name} (failed)", *[ABSENT] * 5] for name in failures]
    reasons = [f"- {name} failed: `{why}`" for name, why in failures.items()]
    text = markdown([model.name, "metric", "SQNR dB", "speed-up", "integer layers", "MB"], rows)
    return "\n".join([text, *([""] if reasons else []), *reasons])


def _dynamic(model: _Recurrent, file: Path, operators: list[str] | None) -> None:
    logging.getLogger().setLevel(logging.ERROR)
    prepared = file.with_suffix(".prepared.onnx")
    quant_pre_process(str(model.model), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(prepared, file, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=operators)


def _first(data: Arrays) -> Arrays:
    return {name: array[:1] for name, array in data.items()}


def _row(name: str, result: ModelResult) -> list[str]:
    noise = ABSENT if result.sqnr_db is None else f"{result.sqnr_db:.1f}"
    speed = ABSENT if result.latency is None else f"{result.latency.speedup:.2f}"
    integer, layers = integer_layers(Path(result.path))
    size = f"{result.size_bytes / 1e6:.2f}"
    return [name, f"{result.scores[0].value:.4f}", noise, speed, f"{integer} of {layers}", size]

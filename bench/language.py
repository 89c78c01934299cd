"""The language section: transformers, beside onnxruntime's quantize_dynamic and quantize_static.

The encoder of BERT-base's size (12 layers of 768, 12 heads, 128 tokens) is generated, with outlier channels; its
weights are random, so that it has no metric.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

import qtool
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.feeds import open_feeds
from qtool.report.text import markdown
from qtool.runtime.session import Session
from tests.support.token_models import encoder, sentences

Feeds = Sequence[Mapping[str, np.ndarray]]
_ROUNDS = 7
_VOCABULARY = 30522


class Reader(CalibrationDataReader):
    """Gives inputs one by one to onnxruntime's quantizer."""

    def __init__(self, feeds: Feeds) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.feeds, None)


def language(zoo: Path | None, folder: Path) -> str:
    """The section's text."""
    parts = ["## Language\n"]
    if zoo is not None:
        parts.append(_minilm(zoo / "minilm_sst2", folder))
    parts.append(_bert(folder))
    return "\n".join(parts)


def _minilm(model: Path, folder: Path) -> str:
    source = model / "model.onnx"
    inputs = Session(source).inputs
    calibration = [b.inputs for b in open_feeds(model / "calib.npz", inputs, trim="attention_mask", samples=64)]
    files = _quantized(source, calibration, folder, "minilm")
    batches = list(open_feeds(model / "eval.npz", inputs, trim="attention_mask"))
    trimmed = [b.inputs for b in batches]
    padded = [b.inputs for b in open_feeds(model / "eval.npz", inputs, samples=40)]
    labels = np.concatenate([b.labels["labels"] for b in batches])
    fast, slow = speedups(source, files, trimmed[:40]), speedups(source, files, padded)
    exact = logits(source, trimmed)
    rows = [["float", accuracy(exact, labels), "-", "1.00", "1.00", "1.0"]]
    for name, file in files.items():
        found = logits(file, trimmed)
        noise = f"{signal_to_noise(exact, found):.1f}"
        smaller = f"{source.stat().st_size / file.stat().st_size:.1f}"
        rows.append([name, accuracy(found, labels), noise, f"{fast[name]:.2f}", f"{slow[name]:.2f}", smaller])
    header = ["MiniLM, SST-2", "top1", "SQNR dB", "speed-up, trimmed", "speed-up, padded to 64", "smaller"]
    return (
        "MiniLM on the zoo's sentences: 872 for top1 and SQNR, 64 for calibration; speed-up at one thread.\n\n"
        + markdown(header, rows)
        + "\n"
    )


def accuracy(found: np.ndarray, labels: np.ndarray) -> str:
    """Return the share of rows whose largest number is at the label."""
    return f"{(found.argmax(axis=1) == labels).mean():.4f}"


def _bert(folder: Path) -> str:
    source = folder / "bert.onnx"
    onnx.save(encoder(8.0, layers=12, width=768, heads=12, vocabulary=_VOCABULARY), source)
    feeds = sentences(24, padded=True, longest=128, vocabulary=_VOCABULARY)
    files = _quantized(source, feeds[:16], folder, "bert")
    full = [{"ids": f["ids"], "mask": np.ones_like(f["mask"])} for f in feeds[16:18]]
    fast, exact = speedups(source, files, full), logits(source, feeds[16:])
    rows = [
        [
            name,
            f"{signal_to_noise(exact, logits(file, feeds[16:])):.1f}",
            f"{fast[name]:.2f}",
            f"{source.stat().st_size / file.stat().st_size:.1f}",
        ]
        for name, file in files.items()
    ]
    header = ["BERT-base, generated", "SQNR dB", "speed-up at 128 tokens", "smaller"]
    return markdown(header, rows) + "\n"


def _quantized(source: Path, feeds: Feeds, folder: Path, stem: str) -> dict[str, Path]:
    """What to call it -> the int8 model."""
    statistics_ = qtool.calibrate(source, list(feeds)).statistics
    makers: dict[str, Callable[[Path], object]] = {
        "qtool": lambda f: qtool.quantize(source, f, calibration=statistics_),
        "qtool --optimize-for latency": lambda f: qtool.quantize(
            source, f, calibration=statistics_, optimize_for="latency"
        ),
        "qtool --dynamic, no data": lambda f: qtool.quantize(source, f, form="dynamic"),
        "onnxruntime dynamic, per channel": lambda f: quantize_dynamic(
            source, f, weight_type=QuantType.QInt8, per_channel=True
        ),
        "onnxruntime dynamic, per tensor": lambda f: quantize_dynamic(source, f, weight_type=QuantType.QInt8),
        "onnxruntime static, MatMul and Gemm": lambda f: quantize_static(
            source,
            f,
            Reader(feeds),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        ),
    }
    files = {}
    for i, (name, make) in enumerate(makers.items()):
        files[name] = folder / f"{stem}{i}.onnx"
        make(files[name])
    return files


def logits(model: Path, feeds: Feeds) -> np.ndarray:
    """Return the first output of a model for all batches."""
    session = Session(model)
    return np.concatenate([session.run_list(feed, session.outputs)[0] for feed in feeds])


def speedups(source: Path, files: Mapping[str, Path], feeds: Feeds) -> dict[str, float]:
    """Return the medians over interleaved rounds of float's time over each model's."""
    sessions = {"": Session(source)} | {name: Session(file) for name, file in files.items()}
    ratios: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(_ROUNDS):
        taken = {}
        for name, session in sessions.items():
            begin = time.perf_counter()
            for feed in feeds:
                session.run_list(feed, session.outputs)
            taken[name] = time.perf_counter() - begin
        for name, row in ratios.items():
            row.append(taken[""] / taken[name])
    return {name: statistics.median(row) for name, row in ratios.items()}

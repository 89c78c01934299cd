"""The section "Block-wise weights": 4 and 8 bits in blocks, beside onnxruntime's own tool for them.

The decoder is generated: its weights are random, so that it has no metric. A step is a run of one token, a prompt of
128; there is no cache, which no weight is part of.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import qtool
from bench.language import accuracy, logits, speedups
from qtool.core.numerics.sqnr import signal_to_noise
from qtool.feeds import open_feeds
from qtool.report.text import ABSENT, markdown
from qtool.runtime.session import Session
from tests.support.token_models import decoder

Feeds = Sequence[Mapping[str, np.ndarray]]
_VOCABULARY = 8192
_PROMPT = 128
_STEPS, _PROMPTS = 20, 2
_HEADER = ["SQNR dB", "speed-up, 1 token", f"speed-up, {_PROMPT} tokens", "MB"]


def blockwise(zoo: Path | None, folder: Path) -> str:
    """Return the section's text."""
    parts = [
        "## Block-wise weights",
        "",
        "Weights of products and tables in blocks: MatMulNBits at accuracy level 4, GatherBlockQuantized. "
        "`onnxruntime` is its own `MatMulNBitsQuantizer` at that level, which rounds to the nearest integer, and "
        "`quantize_dynamic`, per channel. `qtool` with data takes 64 samples of MiniLM, 16 of the decoder, and keeps "
        "the bits that are asked for (`--no-partial`). Speed-up over float at one thread, interleaved.",
        "",
    ]
    if zoo is not None:
        parts += [_minilm(zoo / "minilm_sst2", folder), ""]
    return "\n".join([*parts, _decoder(folder), ""])


def _minilm(model: Path, folder: Path) -> str:
    source = model / "model.onnx"
    inputs = Session(source).inputs
    calibration = [b.inputs for b in open_feeds(model / "calib.npz", inputs, trim="attention_mask", samples=64)]
    batches = list(open_feeds(model / "eval.npz", inputs, trim="attention_mask"))
    feeds, labels = [b.inputs for b in batches], np.concatenate([b.labels["labels"] for b in batches])
    ids = np.random.default_rng(0).integers(1000, 20000, (1, _PROMPT))

    def tokens(count: int) -> Mapping[str, np.ndarray]:
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: array[:, :count] for name, array in values.items()}

    files = _quantized(source, calibration, folder, "minilm", ("partial", "all"))
    exact = logits(source, feeds)
    rows = _rows(source, files, feeds, (tokens(1), tokens(_PROMPT)), lambda found: [accuracy(found, labels)])
    first = ["float", accuracy(exact, labels), ABSENT, "1.00", "1.00", f"{source.stat().st_size / 1e6:.1f}"]
    return markdown(["MiniLM, SST-2", "top1", *_HEADER], [first, *rows])


def _decoder(folder: Path) -> str:
    source = folder / "decoder.onnx"
    onnx.save(decoder(layers=4, width=512, heads=8, vocabulary=_VOCABULARY), source)
    rng = np.random.default_rng(1)
    feeds = [{"ids": rng.integers(0, _VOCABULARY, (1, 32))} for _ in range(24)]
    prompt = rng.integers(0, _VOCABULARY, (1, _PROMPT))
    files = _quantized(source, feeds[:16], folder, "decoder", ("all",))
    rows = _rows(source, files, feeds[16:], ({"ids": prompt[:, :1]}, {"ids": prompt}), lambda _: [])
    first = ["float", ABSENT, "1.00", "1.00", f"{source.stat().st_size / 1e6:.1f}"]
    return markdown(["decoder, generated", *_HEADER], [first, *rows])


def _rows(
    source: Path,
    files: Mapping[str, Path],
    feeds: Feeds,
    timed: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
    metric: Callable[[np.ndarray], list[str]],
) -> list[list[str]]:
    exact = logits(source, feeds)
    step, prompt = (
        speedups(source, files, [one] * times) for one, times in zip(timed, (_STEPS, _PROMPTS), strict=True)
    )
    rows = []
    for name, file in files.items():
        found = logits(file, feeds)
        noise = f"{signal_to_noise(exact, found):.1f}"
        size = f"{file.stat().st_size / 1e6:.1f}"
        rows.append([name, *metric(found), noise, f"{step[name]:.2f}", f"{prompt[name]:.2f}", size])
    return rows


def _quantized(source: Path, feeds: Feeds, folder: Path, stem: str, kept: Sequence[str]) -> dict[str, Path]:
    """What to call it -> the model. kept: `all` the bits that are asked for; `partial`, and more for 20 dB."""
    seen = qtool.calibrate(source, list(feeds)).statistics
    makers: dict[str, Callable[[Path], object]] = {
        "qtool --dynamic": lambda f: qtool.quantize(source, f, form="dynamic"),
        "onnxruntime dynamic": lambda f: quantize_dynamic(source, f, weight_type=QuantType.QInt8, per_channel=True),
        "onnxruntime int4, block 32": lambda f: _incumbent(source, f, 4),
        "qtool int4, block 32, nearest": lambda f: qtool.quantize(source, f, weights="int4", rounding="nearest"),
        "qtool int4, block 32, no data": lambda f: qtool.quantize(source, f, weights="int4"),
        "qtool int4, block 32": lambda f: qtool.quantize(source, f, weights="int4", calibration=seen, partial=False),
        "qtool int4, block 128": lambda f: qtool.quantize(
            source, f, weights="int4", block=128, calibration=seen, partial=False
        ),
        "qtool int4 and int8 for 20 dB, block 32": lambda f: qtool.quantize(
            source, f, weights="int4", calibration=seen
        ),
        "onnxruntime int8, block 32": lambda f: _incumbent(source, f, 8),
        "qtool int8, block 32": lambda f: qtool.quantize(source, f, weights="int8", calibration=seen),
        "qtool int8, block 128": lambda f: qtool.quantize(source, f, weights="int8", block=128, calibration=seen),
    }
    files = {}
    for index, (name, make) in enumerate(makers.items()):
        if "20 dB" in name and "partial" not in kept:
            continue
        files[name] = folder / f"{stem}{index}.onnx"
        make(files[name])
    return files


def _incumbent(source: Path, file: Path, bits: int) -> None:
    """With products alone: asked for tables too, it writes models below opset 21 that do not load."""
    logging.getLogger().setLevel(logging.ERROR)
    tool = MatMulNBitsQuantizer(onnx.load(source), bits=bits, block_size=32, is_symmetric=False, accuracy_level=4)
    tool.process()
    onnx.save(tool.model.model, file)

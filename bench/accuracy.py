"""The section "Accuracy and speed": every calibrator, beside onnxruntime's quantize_static, in one process."""

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import qtool
from bench.incumbent import U8S8, quantize_incumbent
from bench.zoo_models import ZooModel
from qtool.core.numerics.calibrators import CANDIDATES
from qtool.core.records.evaluation import Evaluation, ModelResult
from qtool.core.records.options import Correction
from qtool.core.records.verification import percent
from qtool.report.text import markdown

SAMPLES = 64
_CORRECTIONS: tuple[Correction, ...] = ("on", "off")


def accuracy(models: list[ZooModel], folder: Path) -> str:
    """The section's text."""
    lines = [
        "## Accuracy and speed",
        "",
        f"Calibration on the first {SAMPLES} samples (or all, where there are fewer); the metric on the whole "
        "evaluation set; SQNR of the outputs there. `onnxruntime` is its own `quantize_static`: QDQ, uint8 "
        "activations, int8 weights per channel; a model below opset 13 is raised for it first, since it writes an "
        "invalid model otherwise. "
        "Speed-up: batch 1, one thread, all models of a table interleaved in one process. `auto` is qtool's "
        "default; `corrected` is bias correction.",
        "",
    ]
    for model in models:
        sentence, evaluation = _compare(model, folder)
        lines += [f"### {model.name}", "", sentence, "", _table(evaluation), ""]
    return "\n".join(lines)


def _compare(model: ZooModel, folder: Path) -> tuple[str, Evaluation]:
    """A sentence on what the default did, and the comparison."""
    home = folder / model.name
    home.mkdir()
    calibrated = qtool.calibrate(
        model.model, str(model.calibration), samples=min(SAMPLES, _count(model)), preprocess=model.preprocess, threads=2
    )
    files = []
    wide, cut = U8S8, replace(U8S8, percentile=99.999)
    for name, settings in (("onnxruntime min-max", wide), ("onnxruntime percentile 99.999", cut)):
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            files.append(quantize_incumbent(model, home / f"{name}.onnx", settings, samples=SAMPLES))
    statistics = calibrated.statistics
    result = qtool.quantize(model.model, home / "qtool auto.onnx", calibration=statistics)
    files.append(result.output)
    for calibrator in CANDIDATES:
        for correction in _CORRECTIONS:
            output = home / f"qtool {calibrator}{', corrected' if correction == 'on' else ''}.onnx"
            qtool.quantize(
                model.model, output, calibration=statistics, calibrator=calibrator, bias_correction=correction
            )
            files.append(output)
    proof = result.verification
    chosen = f"`auto` chose {result.plan.calibrator}{', corrected' if result.plan.shifts else ''}; "
    kernels = f"{percent(proof.integer_share)} of multiply-accumulates and {proof.integer_layers} of {proof.layers} "
    sentence = chosen + kernels + "layers run in integer kernels."
    print(f"{model.name}: {sentence}", file=sys.stderr)
    return sentence, qtool.evaluate(
        model.model, files, str(model.evaluation), metrics=[model.metric], preprocess=model.preprocess, latency=True
    )


def _count(model: ZooModel) -> int:
    if model.calibration.suffix != ".npz":
        return SAMPLES
    with np.load(model.calibration) as arrays:
        return len(arrays[arrays.files[0]])


def _table(evaluation: Evaluation) -> str:
    def row(result: ModelResult, name: str) -> list[str]:
        score = result.scores[0]
        drop = "" if score.relative_drop is None else f"{100 * score.relative_drop:.2f} %"
        sqnr = "" if result.sqnr_db is None else f"{result.sqnr_db:.1f}"
        speed = "" if result.latency is None else f"{result.latency.speedup:.2f}"
        return [name, f"{score.value:.4f}", drop, sqnr, speed, f"{result.size_bytes / 1e6:.2f}"]

    rows = [row(evaluation.float_model, "float")]
    rows += [row(candidate, Path(candidate.path).stem) for candidate in evaluation.candidates]
    return markdown(["model", "metric", "drop", "SQNR dB", "speed-up", "MB"], rows)

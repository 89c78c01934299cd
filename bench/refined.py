"""The section "Refined weights": `quantize --refine` off and on, with weights of three kinds."""

import sys
import time
from pathlib import Path
from typing import Any

import qtool
from bench.zoo_models import ZooModel
from qtool.core.records.options import Correction, Scheme
from qtool.core.records.results import Quantized
from qtool.core.records.statistics import Statistics
from qtool.report.text import markdown

_SAMPLES = 100
KINDS: dict[str, dict[str, Any]] = {
    "per channel, 8 bits": {"target": "x86"},
    "per channel, 7 bits (x86-avx2)": {"target": "x86-avx2"},
    "per tensor": {"target": "x86", "scheme": Scheme(granularity="per-tensor")},
}
_WAYS: tuple[Correction, ...] = ("off", "on")
_HEAD = ["model", "weights", "off, dB", "on, dB", "float", "off", "on", "refined", "off, CPU s", "on, CPU s"]
_TEXT = (
    f"`qtool quantize --refine off` and `on`, every layer in integers that can be (`--no-partial`), calibrated on "
    f"{_SAMPLES} samples. SQNR of the outputs and the metric on the whole evaluation set; CPU seconds of `quantize`, "
    "its start left out."
)


def refined(models: list[ZooModel], folder: Path) -> str:
    """The section's text."""
    rows = [row for model in models for row in _rows(model, folder)]
    return "\n".join(["## Refined weights", "", _TEXT, "", markdown(_HEAD, rows, left=(0, 1)), ""])


def _rows(model: ZooModel, folder: Path) -> list[list[str]]:
    statistics = qtool.calibrate(
        model.model, str(model.calibration), preprocess=model.preprocess, samples=_SAMPLES
    ).statistics
    made = {
        (kind, way): _quantized(model, folder / f"{model.name} {len(kind)} {way}.onnx", statistics, way, asked)
        for kind, asked in KINDS.items()
        for way in _WAYS
    }
    found = qtool.evaluate(
        model.model,
        [result.output for result, _ in made.values()],
        str(model.evaluation),
        metrics=[model.metric],
        preprocess=model.preprocess,
    )
    judged = dict(zip(made, found.candidates, strict=True))
    rows = []
    for kind in KINDS:
        results = [made[kind, way] for way in _WAYS]
        sqnr = [f"{judged[kind, way].sqnr_db or float('nan'):.1f}" for way in _WAYS]
        scores = [f"{one.scores[0].value:.4f}" for one in (found.float_model, *(judged[kind, way] for way in _WAYS))]
        plan = results[-1][0].plan
        cpu = [f"{seconds:.1f}" for _, seconds in results]
        rows.append([model.name, kind, *sqnr, *scores, f"{plan.refined} of {len(plan.weights)}", *cpu])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _quantized(
    model: ZooModel, output: Path, statistics: Statistics, way: Correction, asked: dict[str, Any]
) -> tuple[Quantized, float]:
    """What was made, and the CPU seconds that it took."""
    before = time.process_time()
    result = qtool.quantize(model.model, output, calibration=statistics, partial=False, refine=way, **asked)
    return result, time.process_time() - before

"""The section "Detectors and segmenters": qtool's default beside the recipes in use, by mAP and mIoU."""

import contextlib
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import qtool
from bench.incumbent import U8S8, Settings, quantize_incumbent
from bench.process import REPOSITORY
from bench.zoo_models import ZooModel
from qtool.core.records.evaluation import ModelResult
from qtool.core.records.verification import percent
from qtool.evaluation.latency import measure_speed
from qtool.feeds import open_feeds
from qtool.report.text import ABSENT, markdown
from qtool.runtime.session import Session

SAMPLES = 64
EXAMPLES = 8
SECONDS, ROUNDS = 30.0, 300

EXPORTER = Settings(operators=("Conv", "Gemm", "MatMul"))
"""What exporters of detectors apply: signed activations, a range a tensor, min-max, these operators alone."""

RECIPES = {
    "onnxruntime's defaults": Settings(),
    "onnxruntime, uint8, per channel": U8S8,
    "exporter's recipe": EXPORTER,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A model (`model.metric` is not read), the figures that it is judged by, and how they are come by."""

    model: ZooModel
    metrics: tuple[str, ...]
    decode: str | None = None
    labels: Path | None = None


def detectors(folder: Path, packages: Path | None) -> str:
    """The section's text; `packages`: where models of packages and their data are."""
    lines = [
        "## Detectors and segmenters",
        "",
        "`scenes_detector` (a small YOLOv8) and `scenes_unet` are in calib_data/, with what they see. "
        f"All calibrate on {SAMPLES} pictures and are judged on others. `qtool` is its default. The others are "
        "onnxruntime's `quantize_static` behind its own preparation: with its defaults (signed activations, per "
        "tensor, min-max, every operator); with unsigned activations and weights per channel, as in the sections "
        f"above; and as exporters of detectors call it today (its defaults, {', '.join(EXPORTER.operators or ())} "
        "alone). `box_agreement` is the share of detections that float and the model have in common; `drop` is that of "
        "the first column, as a share of float's. Speed-up: processor time, batch 1, one thread, all of a table in "
        f"one process, in another order each round; medians of up to {ROUNDS} rounds.",
        "",
    ]
    for case in _cases(folder, packages):
        sentence, table = compared(case, folder / case.model.name)
        lines += [f"### {case.model.name}", "", sentence, "", table, ""]
    if packages is None:
        lines += ["Models of packages: not measured, $QTOOL_PACKAGED names no folder.", ""]
    return "\n".join(lines)


def _cases(folder: Path, packages: Path | None) -> list[Case]:
    scenes, shipped = folder / "scenes", REPOSITORY / "calib_data"
    made = runpy.run_path(str(shipped / "scenes_data.py"))
    made["write_pictures"](scenes, made["calibration_scenes"](SAMPLES), made["evaluation_scenes"]())

    def model(name: str) -> ZooModel:
        return ZooModel(name, shipped / f"{name}.onnx", scenes / "calibration", scenes / "images", "yolo", "")

    found = ("map", "map50", "box_agreement")
    cases = [
        Case(model("scenes_detector"), found, "yolov8", scenes / "instances.json"),
        Case(model("scenes_unet"), ("miou", "pixel_accuracy"), labels=scenes / "masks"),
    ]
    if packages is not None:
        data = packages / "data" / "ddddocr_det"
        file = packages / "models" / "ddddocr_det.onnx"
        captcha = ZooModel("ddddocr_det", file, data / "calib", data / "eval", None, "")
        cases.append(Case(captcha, ("box_agreement",), "yolox"))
    return cases


def compared(case: Case, home: Path) -> tuple[str, str]:
    """What qtool's default did, and the table of all."""
    home.mkdir()
    model = case.model
    own = qtool.quantize(
        model.model, home / "qtool.onnx", data=str(model.calibration), samples=SAMPLES, preprocess=model.preprocess
    )
    files = [Path(own.output)]
    for name, settings in RECIPES.items():
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            files.append(quantize_incumbent(model, home / f"{name}.onnx", settings, samples=SAMPLES))
    evaluation = qtool.evaluate(
        model.model,
        files,
        str(model.evaluation),
        metrics=list(case.metrics),
        decode=case.decode,
        labels=case.labels,
        preprocess=model.preprocess,
    )
    proof = own.verification
    sentence = (
        f"qtool: calibrator {own.plan.calibrator}, {percent(proof.integer_share)} of multiply-accumulates and "
        f"{proof.integer_layers} of {proof.layers} layers run in integer kernels."
    )
    print(f"{model.name}: {sentence}", file=sys.stderr)
    speeds = _speeds(model, files)
    results = [evaluation.float_model, *evaluation.candidates]
    rows = [_row(*line) for line in zip(["float", "qtool", *RECIPES], results, speeds, strict=True)]
    return sentence, markdown(["", *case.metrics, "drop", "SQNR dB", "speed-up", "MB"], rows)


def _speeds(model: ZooModel, files: Sequence[Path]) -> list[float]:
    sessions = [Session(file) for file in (model.model, *files)]
    feeds = open_feeds(model.evaluation, sessions[0].inputs, preprocess=model.preprocess)
    examples = [batch.inputs for batch in islice(feeds, EXAMPLES)]
    return [one.speedup for one in measure_speed(sessions, examples, SECONDS, ROUNDS)[0]]


def _row(name: str, result: ModelResult, speedup: float) -> list[str]:
    drop = result.scores[0].relative_drop
    sqnr = ABSENT if result.sqnr_db is None else f"{result.sqnr_db:.1f}"
    figures = [f"{score.value:.4f}" for score in result.scores]
    dropped = ABSENT if drop is None else f"{100 * drop:.2f} %"
    return [name, *figures, dropped, sqnr, f"{speedup:.2f}", f"{result.size_bytes / 1e6:.2f}"]

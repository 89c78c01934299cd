"""The zoo's vision models: where their data is and how qtool is told to read it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def zoo_folder() -> Path | None:
    """$QTOOL_ZOO, or ../shared/zoo beside the repository; None where neither exists."""
    repository = Path(__file__).resolve().parents[1]
    candidates = [os.environ.get("QTOOL_ZOO"), repository.parent / "shared" / "zoo"]
    return next((Path(c) for c in candidates if c and Path(c).is_dir()), None)


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model, its calibration and evaluation data, and the metric its README names.

    metric: "sqnr" where the weights are random.
    trim: the input that says how long a padded sample is.
    calibrate_with, evaluate_with: at most so many samples, where one takes long; None is all.
    """

    name: str
    model: Path
    calibration: Path
    evaluation: Path
    preprocess: Path | str | None
    metric: str
    trim: str | None = None
    calibrate_with: int | None = None
    evaluate_with: int | None = None


def vision_models(zoo: Path) -> list[ZooModel]:
    """All that the README of the zoo calls vision models (and keyword spotting, which is a small one)."""
    result = []
    for name in ("mobilenetv2", "mobilenetv1_025", "squeezenet1_1"):
        folder, pictures = zoo / name, zoo / "imagenet"
        result.append(
            ZooModel(
                name,
                folder / "model.onnx",
                pictures / "calib",
                pictures / "eval",
                folder / "preprocess.json",
                "top1",
            )
        )
    for name in ("mlperf_resnet8", "mlperf_kws", "mlperf_vww", "ultraface_rfb320"):
        folder = zoo / name
        preprocess = folder / "preprocess.json"
        face = name == "ultraface_rfb320"
        result.append(
            ZooModel(
                name,
                folder / "model.onnx",
                folder / "calib.npz",
                folder / "eval.npz",
                preprocess if preprocess.exists() else None,
                f"{Path(__file__).resolve()}:hit_rate" if face else "top1",
            )
        )
    return result


def language_model(zoo: Path) -> ZooModel:
    """The zoo's transformer."""
    folder = zoo / "minilm_sst2"
    data = folder / "calib.npz", folder / "eval.npz"
    return ZooModel("minilm_sst2", folder / "model.onnx", *data, None, "top1", "attention_mask")


def hit_rate(outputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> Any:
    """The face detector's score for each image: best box above 0.7 that overlaps the labelled one by more than half."""
    hits = []
    for scores, boxes, truth in zip(outputs["scores"], outputs["boxes"], labels["boxes"], strict=True):
        best = int(scores[:, 1].argmax())
        x0, y0, x1, y1 = boxes[best]
        overlap = max(0.0, min(x1, truth[2]) - max(x0, truth[0])) * max(0.0, min(y1, truth[3]) - max(y0, truth[1]))
        union = (x1 - x0) * (y1 - y0) + (truth[2] - truth[0]) * (truth[3] - truth[1]) - overlap
        hits.append(float(scores[best, 1] > 0.7 and overlap / union > 0.5))
    return np.array(hits)

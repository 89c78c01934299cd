"""The shipped detector and U-Net with default settings: their mAP and mIoU within 1 % of float's, in integer kernels.

The bounds are what was measured, with a little room (the comments), so that a change for the worse shows.
"""

from dataclasses import dataclass

import pytest

import qtool
from tests.support.places import SHIPPED
from tests.support.scenes import boxes, masks, script

pytest.importorskip("faster_coco_eval", reason="pip install '.[detection]'")
DATA = script()


@dataclass(frozen=True)
class Bound:
    """What float reaches, the share of multiply-accumulates in integer kernels, and float size / int8 size."""

    metric: str
    least: float
    share: float
    smaller: float


BOUNDS = {
    "scenes_detector": Bound("map", 0.8, 0.95, 2.7),
    "scenes_unet": Bound("miou", 0.85, 0.97, 3.2),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_within_a_hundredth_of_float(name, tmp_path):
    model, bound = SHIPPED / f"{name}.onnx", BOUNDS[name]
    result = qtool.quantize(model, tmp_path / "q.onnx", data={"images": DATA.calibration_scenes(64).input})
    proof = result.verification
    assert proof.fallbacks == ()
    assert proof.integer_share > bound.share
    whys = ("faster in float", "float is faster", "it decodes")
    assert all(any(one in why for one in whys) for why in proof.float_layers.values())
    assert result.float_size / result.size > bound.smaller
    scenes = DATA.evaluation_scenes(200)
    data, decode = (boxes(scenes), "yolov8") if bound.metric == "map" else (masks(scenes), None)
    metrics = [bound.metric, "box_agreement"] if decode else [bound.metric, "pixel_accuracy"]
    evaluation = qtool.evaluate(
        model, tmp_path / "q.onnx", data, metrics=metrics, decode=decode, max_drop="1%", batch_size=10
    )
    (candidate,) = evaluation.candidates
    first, second = candidate.scores
    assert evaluation.float_model.scores[0].value > bound.least
    assert first.relative_drop <= 0.01
    assert second.value > 0.97

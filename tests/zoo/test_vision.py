"""The vision models of the zoo with default settings, from up to 64 samples: integer, small, nearly as accurate.

The bounds are what was measured, with a little room (the comments), so that a change for the worse shows.
"""

from dataclasses import dataclass

import pytest

import qtool
from bench.zoo_models import ZooModel, vision_models, zoo_folder

ZOO = zoo_folder()
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="no model zoo: set QTOOL_ZOO, or put it at ../shared/zoo"),
]


@dataclass(frozen=True)
class Bound:
    """What the int8 model must reach on all of the evaluation data.

    drop: of the metric, as a share of float's value. sqnr_db: of the outputs. smaller: float size / int8 size.
    """

    drop: float
    sqnr_db: float
    smaller: float


BOUNDS = {
    "mobilenetv2": Bound(0.01, 18.0, 3.6),  # 0.003, 19.2 dB, 3.69
    "mobilenetv1_025": Bound(0.01, 18.0, 3.3),  # 0.000, 19.3 dB, 3.45
    "squeezenet1_1": Bound(0.01, 33.5, 3.6),  # -0.004, 35.0 dB, 3.74
    "mlperf_resnet8": Bound(0.01, 27.0, 3.1),  # -0.001, 28.1 dB, 3.20
    "mlperf_kws": Bound(0.01, 28.5, 2.2),  # 0.001, 29.7 dB, 2.34
    "mlperf_vww": Bound(0.012, 31.0, 2.9),  # two pictures of 196, 32.6 dB, 3.01
    "ultraface_rfb320": Bound(0.0102, 47.0, 2.4),  # 0.000 (one picture of 100 is let pass), 49.6 dB, 2.50
}
MODELS = {model.name: model for model in vision_models(ZOO)} if ZOO is not None else {}


def test_every_vision_model_has_a_bound():
    assert set(MODELS) == set(BOUNDS)


MARKS = {
    "squeezenet1_1": [pytest.mark.slow],
    "ultraface_rfb320": [pytest.mark.slow],
    "mobilenetv2": [pytest.mark.long],
}
"""Of large models."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, [])) for name in BOUNDS])
def test_a_real_model(name, tmp_path):
    model: ZooModel = MODELS[name]
    bound = BOUNDS[name]
    calibrated = qtool.calibrate(
        model.model, model.calibration, tmp_path / "m.calib", samples=64, preprocess=model.preprocess
    )
    # one of the sets is smaller
    assert 40 <= calibrated.statistics.samples <= 64
    result = qtool.quantize(model.model, tmp_path / "q.onnx", calibration=calibrated.output)
    proof = result.verification
    assert proof.fallbacks == ()
    # what stays float is faster so
    assert proof.integer_share > 0.6
    assert all("faster in float" in why or "float is faster" in why for why in proof.float_layers.values())
    assert result.float_size / result.size > bound.smaller
    evaluation = qtool.evaluate(
        model.model, [tmp_path / "q.onnx"], model.evaluation, metrics=[model.metric], preprocess=model.preprocess
    ).to_dict()
    (candidate,) = evaluation["candidates"]
    (metric,) = candidate["metrics"].values()
    assert metric["relative_drop"] <= bound.drop
    assert candidate["sqnr_db"] >= bound.sqnr_db

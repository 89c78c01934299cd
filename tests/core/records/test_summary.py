"""The repr of a result says the essentials in under 500 characters."""

from dataclasses import replace
from pathlib import Path

import pytest

import qtool
from qtool.core.records.plan import Plan
from qtool.core.records.statistics import Statistics
from qtool.core.records.tuning import Tuned
from qtool.core.records.verification import Verification
from tests.support.places import SHIPPED

MODEL, CALIB, TEST = (str(SHIPPED / name) for name in ("digits_cnn.onnx", "digits_calib.npz", "digits_eval.npz"))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, object]:
    """One of each kind, of a model with seventeen layers."""
    # a path that is longer than what is wanted of it
    folder = tmp_path_factory.mktemp("x" * 200)
    calibrated = qtool.calibrate(MODEL, CALIB, folder / "m.calib", samples=16)
    output = folder / "q.onnx"
    quantized = qtool.quantize(MODEL, output, calibration=calibrated.output, calibrator="max", bias_correction="on")
    tuned = qtool.tune(MODEL, TEST, folder / "t.onnx", max_drop="50%", metric="top1", samples=80)
    return {
        "Calibrated": calibrated,
        "Statistics": calibrated.statistics,
        "Quantized": quantized,
        "Plan": quantized.plan,
        "Verification": quantized.verification,
        "Evaluation": qtool.evaluate(MODEL, [output] * 6, TEST, samples=20, metrics=["top1"], max_drop="99%"),
        "Sensitivity": qtool.sensitivity(MODEL, TEST, calibration=calibrated.output, samples=4, views=["alone"]),
        "Tuned": tuned,
    }


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("Calibrated", ["m.calib, ", " bytes", "Statistics("]),
        ("Statistics", ["m.calib, model ", "16 samples", " tensors"]),
        ("Quantized", ["q.onnx, ", "Plan(model ", "Verification("]),
        ("Plan", ["target '", "calibrator 'max'", "17 of 17 layers integer", "17 biases", "17 shifts"]),
        ("Verification", ["17 of 17 layers integer", "100.0 % of multiply", " dB SQNR on 8 samples"]),
        ("Evaluation", ["20 samples of ", "top1 ", "3 more models", "passed 6 gates"]),
        ("Sensitivity", ["4 samples of ", "17 layers", "most sensitive '"]),
        ("Tuned", ["t.onnx", "target met: top1 drop at most 50%", "kept ", "Verification("]),
    ],
)
def test_a_result_is_shown_in_short(results, kind, says):
    shown = repr(results[kind])
    assert shown.startswith(f"{kind}(") and shown.endswith(")") and len(shown) < 500
    assert [part for part in says if part not in shown] == []


def test_it_stays_short_whatever_the_names_are(results):
    long = "n" * 5000
    plan, proof, tuned = results["Plan"], results["Verification"], results["Tuned"]
    assert isinstance(plan, Plan) and isinstance(proof, Verification) and isinstance(tuned, Tuned)
    statistics = results["Statistics"]
    assert isinstance(statistics, Statistics)
    grown = [
        replace(plan, target=long, calibrator=long, model_digest=long),
        replace(tuned, output=Path(long), max_drop=long, metric=long),
        replace(statistics, name=long),
    ]
    assert all(len(repr(record)) < 500 for record in grown)

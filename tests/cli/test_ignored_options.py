"""An option that would be accepted and ignored is refused."""

import pytest
from click.testing import CliRunner

import qtool
from qtool.cli import app
from qtool.core.errors import UsageError
from tests.support.places import SHIPPED

MODEL, CALIB = str(SHIPPED / "digits_cnn.onnx"), str(SHIPPED / "digits_calib.npz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize", MODEL, "--data", CALIB, "--target", "tensorrt", "--scheme", "affine"], "only symmetric grids"),
        (["eval", MODEL, MODEL, "--data", CALIB, "--latency-runs", "5"], "says nothing without --latency"),
    ],
)
def test_it_is_refused_and_nothing_is_written(words, message, tmp_path):
    extra = ["-o", str(tmp_path / "q.onnx")] if words[0] == "quantize" else []
    answer = CliRunner().invoke(app, [*words, *extra])
    assert isinstance(answer.exception, UsageError) and message in str(answer.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_names_the_grids_that_it_has(tmp_path):
    for target, scheme in (("tensorrt", "symmetric"), ("x86", "affine")):
        result = qtool.quantize(
            MODEL, tmp_path / "q.onnx", data=CALIB, samples=4, target=target, calibrator="max", bias_correction="off"
        )
        assert result.plan.scheme == scheme

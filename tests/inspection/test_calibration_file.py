"""A calibration file inspected: the ranges are those that `quantize` would take, and what is odd is said."""

import hashlib
import json

import numpy as np
import pytest

import qtool
from qtool.core.errors import CalibrationError
from qtool.core.numerics.calibrators import CANDIDATES
from qtool.core.numerics.histogram import Histogram
from qtool.core.records.statistics import Flaw, Statistics
from qtool.inspection.calibration_file import chosen_ranges
from qtool.report.inspect_calibration import calibration_inspection_text
from tests.support.patterns import Net


def histogram(*values):
    result = Histogram()
    for part in values:
        result.observe(np.asarray(part, np.float32))
    return result


def notes(tmp_path, counted, **more):
    statistics = Statistics("s", "0" * 64, 2, {"t": counted}, (), **more)
    statistics.save(tmp_path / "s.calib")
    (tensor,) = qtool.inspect_calibration(tmp_path / "s.calib").tensors
    return tensor.notes


def test_the_ranges_are_those_that_quantize_takes(tmp_path):
    net = Net(3, 8, 8)
    path = net.save(tmp_path / "m.onnx", net("Relu", net.conv("x", 3, 16)))
    calib = tmp_path / "m.calib"
    qtool.calibrate(path, net.samples(12), calib)
    result = qtool.inspect_calibration(calib)
    assert result.sha256 == hashlib.sha256(calib.read_bytes()).hexdigest()
    assert (result.samples, result.examples, result.shard, result.warnings) == (12, 12, None, ())
    assert result.example_inputs == {"x": (1, 3, 8, 8)}
    assert set(result.versions) == {"qtool", "onnx", "onnxruntime", "numpy"}
    assert result.model == hashlib.sha256(path.read_bytes()).hexdigest()
    entry = next(tensor for tensor in result.tensors if tensor.name == "x")
    assert [one.calibrator for one in entry.ranges] == list(map(str, CANDIDATES))
    for chosen in entry.ranges:
        made = qtool.quantize(
            path, tmp_path / "q.onnx", calibration=calib, calibrator=chosen.calibrator, bias_correction="off",
            optimize_for="size", smoothing="off",
        )  # fmt: skip
        grid = next(row.params for row in made.plan.activations if row.tensor == "x")
        assert grid.scale[0] == pytest.approx(chosen.step)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["schema"] == "qtool.inspect-calibration"
    assert document["tensors"][0]["ranges"][0]["kept"] == 1.0
    assert calibration_inspection_text(result).startswith(f"{calib}: 12 samples, 2 tensors, ")


def test_what_is_clipped_lies_outside_by_more_than_half_a_step():
    values = np.r_[np.linspace(-1.0, 1.0, 99_999), 10.0].astype(np.float32)
    by_name = {one.calibrator: one for one in chosen_ranges(histogram(values).distribution())}
    assert by_name["max"].clipped == 0.0
    for chosen in by_name.values():
        outside = (values < chosen.low - 0.51 * chosen.step) | (values > chosen.high + 0.51 * chosen.step)
        # within a bin of the histogram values are taken to lie evenly
        assert chosen.clipped == pytest.approx(float(outside.mean()), abs=2e-3)
        assert chosen.kept == pytest.approx((chosen.high - chosen.low) / 11.0)
    assert by_name["percentile 99.99"].clipped > 0.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[3.0, 3.0]], "always 3"),
        ([np.minimum(np.linspace(0.0, 9.0, 1000), 6.0)], "33.4 % of its values are at its greatest, 6: it saturates"),
        ([np.linspace(-0.1, 0.1, 10_000), [100.0]], "99.9 % of its values lie between -0.09"),
        ([np.zeros(1000), [1.0]], "99.9 % of its values are 0"),
        ([[]], "nothing was counted"),
    ],
)
def test_what_is_odd_is_said(tmp_path, values, said):
    assert said in "; ".join(notes(tmp_path, histogram(*values)))


def test_even_values_are_not_odd(tmp_path):
    assert notes(tmp_path, histogram(np.random.default_rng(0).normal(size=10_000))) == ()


def test_nan_is_said_with_where_it_was_seen(tmp_path):
    (said,) = notes(tmp_path, Histogram(), flaws={"t": Flaw(3, "data.npz, sample 3")})
    assert said == "holds NaN or Inf, first in data.npz, sample 3: no range can be chosen"


def test_a_shard_says_what_is_still_to_do(tmp_path):
    net = Net(3, 8, 8)
    path = net.save(tmp_path / "m.onnx", net.conv("x", 3, 16))
    qtool.calibrate(path, net.samples(6), tmp_path / "1.calib", shard="1/2")
    result = qtool.inspect_calibration(tmp_path / "1.calib")
    assert (result.shard, result.complete) == ("1/2", True)
    assert result.warnings == ("shard 1/2: it serves once all shards are merged",)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.calib").write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match="not a calibration file"):
        qtool.inspect_calibration(tmp_path / "x.calib")

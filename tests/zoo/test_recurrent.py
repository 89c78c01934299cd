"""silero_vad, a real recurrent model: frame accuracy as its own protocol measures it, before and after quantisation."""

import numpy as np
import pytest

import qtool
from bench.zoo_models import zoo_folder
from qtool.core.compute import Compute
from qtool.core.records.parts import Shard
from qtool.feeds import open_for_model
from qtool.graph import model_io
from qtool.pipeline.calibration.collector import Collector
from qtool.pipeline.calibration.tensors import CalibratedTensors
from qtool.pipeline.prepare import prepare

ZOO = zoo_folder()
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="no model zoo: set QTOOL_ZOO, or put it at ../shared/zoo"),
]
STATE = "state=stateN"
CONTEXT = 64
"""Samples of the frame before that stand in front of each frame."""


@pytest.fixture(scope="module")
def audio():
    """The frames of six streams with their context, [6, 1250, 576], and their labels [6, 1250], -1 for none."""
    stored = np.load(ZOO / "silero_vad" / "audio.npz")
    frames = stored["audio"].astype(np.float32) / 32767
    before = np.zeros((*frames.shape[:2], CONTEXT), np.float32)
    before[:, 1:] = frames[:, :-1, -CONTEXT:]
    return np.concatenate([before, frames], axis=2), stored["labels"]


def test_float_has_the_score_of_the_zoo_and_int8_nearly(audio, tmp_path):
    x, labels = audio
    model = ZOO / "silero_vad" / "model.onnx"
    calibrated = qtool.calibrate(model, {"input": x[:1]}, tmp_path / "1.calib", state=STATE)
    qtool.calibrate(model, {"input": x[:1]}, tmp_path / "2.calib", state=STATE, threads=2)
    assert (tmp_path / "1.calib").read_bytes() == (tmp_path / "2.calib").read_bytes()
    result = qtool.quantize(model, tmp_path / "q.onnx", calibration=calibrated.statistics)
    data = {"input": x[1:], "labels": labels[1:]}
    evaluation = qtool.evaluate(model, [tmp_path / "q.onnx"], data, state=STATE)
    assert round(evaluation.float_model.score("token_accuracy").value, 4) == 0.9312
    assert (evaluation.samples, evaluation.steps) == (5, 6250)
    (found,) = evaluation.candidates
    assert found.score("token_accuracy").drop < 0.01
    assert found.sqnr_db > 20.0
    assert found.agreement > 0.98
    assert result.verification.integer_layers > 0


def collected(model, data, threads):
    """Statistics of the state over the first two streams."""
    prepared = prepare(model_io.load(model))
    feeds = open_for_model(prepared.model, data, samples=2, state=STATE)
    tensors = CalibratedTensors(("stateN",), ())
    return Collector(prepared, tensors, feeds.states, Compute(threads)).collect(feeds, Shard(), 0)


@pytest.mark.long
def test_the_file_with_branches(audio):
    """The rate is one number for all frames; what is inside of the If computes what the flat file does."""
    x, labels = audio
    model = ZOO / "silero_vad" / "silero_vad.onnx"
    rate = {"sr": np.int64(16000)}
    evaluation = qtool.evaluate(model, [model], {"input": x[1:], "labels": labels[1:]} | rate, state=STATE)
    assert round(evaluation.float_model.score("token_accuracy").value, 4) == 0.9312
    one, two = (collected(model, {"input": x} | rate, threads).tensors["stateN"] for threads in (1, 2))
    assert one.count == 2 * 1250 * 256
    np.testing.assert_array_equal(one.counts, two.counts)
    flat = collected(ZOO / "silero_vad" / "model.onnx", {"input": x}, 1)
    expected = flat.tensors["stateN"]
    assert (one.minimum, one.maximum) == pytest.approx((expected.minimum, expected.maximum), rel=1e-3)
    assert all(np.abs(example["state"]).max() > 0 for example in flat.examples)

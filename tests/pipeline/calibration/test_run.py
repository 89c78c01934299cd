"""A calibration of a prepared model, by this process and by others."""

from dataclasses import replace

import numpy as np
import pytest

from qtool.core.compute import HERE, Compute
from qtool.core.progress import silent
from qtool.execution.workers import Workers
from qtool.feeds import open_for_model
from qtool.graph import model_io
from qtool.pipeline.calibration.run import CalibrationRun, count_prepared
from qtool.pipeline.calibration.tensors import find_tensors
from qtool.pipeline.prepare import prepare
from tests.support.refusals import SAMPLES


@pytest.mark.parametrize("data", ["good.npz", {"x": SAMPLES}])
def test_workers_are_sent_the_file_whatever_the_model_is_called(folder, data):
    """The name is for messages."""
    prepared = replace(prepare(model_io.load(folder / "m.onnx")), name="the model of today")
    feeds, tensors = open_for_model(prepared.model, data), find_tensors(prepared)
    with Workers(1) as workers:
        there = CalibrationRun(prepared, feeds, tensors, Compute(executor=workers)).count()
    here = CalibrationRun(prepared, feeds, tensors, HERE).count()
    assert there.name == here.name == "the model of today"
    assert there.to_bytes() == here.to_bytes()


def test_workers_count_what_they_are_told(folder):
    """They do not look for tensors themselves."""
    prepared = prepare(model_io.load(folder / "m.onnx"))
    found = find_tensors(prepared)
    fewer = replace(found, tensors=found.tensors[1:])
    with Workers(1) as workers:
        compute = Compute(executor=workers)
        statistics = CalibrationRun(prepared, open_for_model(prepared.model, "good.npz"), fewer, compute).count()
    assert tuple(statistics.tensors) == found.tensors[1:]


def test_a_graph_with_no_steps_is_the_same(folder):
    prepared = prepare(model_io.load(folder / "m.onnx"))
    told = []
    compute = Compute(progress=lambda step, done, total: told.append((step, done, total)))
    feeds = open_for_model(prepared.model, "good.npz", batch_size=6)
    after, statistics = count_prepared(prepared, (), feeds, find_tensors(prepared), compute)
    assert after is prepared
    assert told == [("calibrate", 6, 12), ("calibrate", 12, 12), ("calibrate", 12, 12)]
    assert statistics.samples == len(SAMPLES) == 12
    assert np.isfinite([histogram.maximum for histogram in statistics.tensors.values()]).all()
    assert silent("calibrate", 1, None) is None

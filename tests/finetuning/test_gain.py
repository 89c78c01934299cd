"""Who trains, chooses and reports, and what of a gain on those that choose is more than their noise."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from qtool.feeds import open_for_model
from qtool.finetuning.gain import paired_gain
from qtool.finetuning.samples import Samples, part_samples
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.report.finetune import finetuned_text
from tests.finetuning.test_finetune import begun, needs_torch, trained
from tests.support.patterns import Net

__all__ = ["begun"]


def test_the_mean_of_paired_gains_and_its_standard_error():
    before, after = [10.0, 20.0, 30.0, 12.0], [12.0, 21.0, 33.0, 16.0]
    found = paired_gain("SQNR", before, after)
    gains = [2.0, 1.0, 3.0, 4.0]
    assert found.samples == 4 and found.mean == statistics.mean(gains)
    assert found.error == pytest.approx(statistics.stdev(gains) / 2.0)
    assert found.sure and not paired_gain("SQNR", after, before).sure
    # one sample that gains much is chance, though the mean is the same
    one = paired_gain("SQNR", before, [*before[:3], 22.0])
    assert one.mean == found.mean and not one.sure


def test_samples_without_a_figure_are_left_out_and_those_without_noise_count_as_200_db():
    found = paired_gain("SQNR", [None, math.nan, 10.0, math.inf], [1.0, 2.0, math.inf, math.inf])
    assert (found.samples, found.mean) == (2, 95.0)
    assert paired_gain("SQNR", [1.0, None], [2.0, 3.0]) is None
    assert not paired_gain("SQNR", [1.0, 2.0], [1.0, 2.0]).sure


def test_views_of_one_sample_are_one_gain_their_mean():
    before, after = [10.0, 14.0, None, 20.0, 7.0, math.nan], [12.0, 18.0, 5.0, 21.0, 8.0, 9.0]
    found = paired_gain("SQNR", before, after, each=2)
    gains = [3.0, 1.0, 1.0]
    assert found.samples == 3 and found.mean == pytest.approx(statistics.mean(gains))
    assert found.error == pytest.approx(statistics.stdev(gains) / math.sqrt(3.0))
    assert paired_gain("SQNR", before[:4], [None, None, *after[2:4]], each=2) is None


@pytest.mark.parametrize(("count", "chosen"), [(4, 1), (12, 3), (60, 15), (128, 32), (200, 34), (320, 32), (1500, 128)])
def test_the_fewer_samples_there_are_the_larger_a_share_chooses(count, chosen, tmp_path):
    net = Net(1, 2, 2)
    prepared = prepare(model_io.load(net.save(tmp_path / "m.onnx", net("Relu", "x"))))
    feeds = open_for_model(prepared.model, {"x": np.zeros((count, 1, 2, 2), np.float32)})
    with Samples(tmp_path / "in") as training:
        parted = part_samples(feeds, None, training)
        assert len(parted.choosing) == chosen and abs(len(parted.reporting) - chosen) <= 1
        assert len(training) + len(parted.choosing) + len(parted.reporting) == count
        assert parted.words.startswith(f"{len(training)} of ")


@needs_torch
def test_the_output_says_how_it_was_decided(begun, tmp_path):
    result = trained(begun, tmp_path, steps=30)
    found = result.gain
    assert result.kept and found.by == "SQNR" and found.samples == 15 and found.mean > 2.0 * found.error > 0.0
    assert result.to_dict()["gain"] == {"by": "SQNR", "samples": 15, "mean": found.mean, "error": found.error}
    assert f"standard error {found.error:.2g}, of 15 that choose: more than twice that" in finetuned_text(result)
    doubtful = replace(result, kept=False, gain=replace(found, error=found.mean))
    assert "which may be chance, so it was not written" in finetuned_text(doubtful)
    assert "not measured sample by sample" in finetuned_text(replace(result, gain=None))


@needs_torch
def test_a_gain_within_the_noise_is_not_written(begun, tmp_path, monkeypatch):
    from qtool.finetuning import work

    monkeypatch.setattr(work, "paired_gain", lambda *given, **more: replace(paired_gain(*given, **more), error=1e3))
    result = trained(begun, tmp_path, steps=30)
    assert not result.kept and result.chosen_db[1] > result.chosen_db[0] + 4.0 and result.refused_db is None


@needs_torch
def test_a_metric_that_is_better_by_chance_leaves_it_to_the_decibels(begun, tmp_path, monkeypatch):
    from qtool.finetuning import work

    asked = []

    def paired(by, one, two, **more):
        asked.append(by)
        return replace(paired_gain(by, one, two, **more), error=1e3 if by == "mse" else 0.0)

    monkeypatch.setattr(work, "paired_gain", paired)
    result = trained(begun, tmp_path, steps=30, metric="mse")
    assert asked == ["mse", "SQNR"] and result.kept and result.gain.by == "SQNR"
    monkeypatch.undo()
    result = trained(begun, tmp_path, steps=30, metric="mse")
    assert result.kept and result.gain.by == "mse" and result.gain.samples == 15
    # the mean over samples is that of all: they are of one size
    assert result.gain.mean == pytest.approx(result.metric.chosen[0] - result.metric.chosen[1], rel=1e-3)

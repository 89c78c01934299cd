"""The values of a tensor for pictures: against numpy's own histogram of them."""

import numpy as np
import pytest

from qtool.core.numerics.affine import QParams
from qtool.core.numerics.histogram import ChannelRange, Histogram
from qtool.core.records.spread import BINS, spreads, spreads_document
from qtool.core.records.statistics import Statistics

VALUES = np.random.default_rng(3).standard_normal(40_000).astype(np.float32) ** 3


def statistics(**tensors):
    found = {}
    for name, values in tensors.items():
        found[name] = Histogram()
        found[name].observe(np.asarray(values, np.float32))
    return Statistics("m.calib", "ab" * 32, 5, found, ())


def test_the_short_histogram_is_that_of_the_values():
    (found,) = spreads(statistics(x=VALUES))
    exact, _ = np.histogram(VALUES, bins=BINS, range=(VALUES.min(), VALUES.max()))
    assert (found.minimum, found.maximum, found.count) == (float(VALUES.min()), float(VALUES.max()), len(VALUES))
    # a bin of the statistics is spread evenly over what it covers, and a part of a value is rounded up
    assert np.abs(np.array(found.counts) - exact).max() <= 0.01 * len(VALUES)
    assert sum(found.counts) == pytest.approx(len(VALUES), abs=BINS)
    # where there is a value there is a bar
    assert all(count for count, wanted in zip(found.counts[1:-1], exact[1:-1], strict=True) if wanted > 2)


def test_each_calibrator_says_what_it_clips():
    (found,) = spreads(statistics(x=VALUES))
    ranges = {one.calibrator: one for one in found.ranges}
    assert list(ranges) == ["max", "entropy", "percentile 99.99", "percentile 99.999", "mse"]
    assert ranges["max"].clipped == 0.0
    for one in ranges.values():
        outside = np.mean((one.low > VALUES) | (one.high < VALUES))
        assert one.clipped == pytest.approx(outside, abs=2e-4), one
    assert ranges["mse"].clipped > 0


def test_a_tensor_of_one_value_and_one_without_values():
    (constant,) = spreads(statistics(x=[2.5] * 7, never=[]))
    assert (constant.tensor, constant.counts[0], sum(constant.counts)) == ("x", 7, 7)
    assert [(one.low, one.high, one.clipped) for one in constant.ranges] == [(0.0, 2.5, 0.0)] * 5


def test_only_what_a_plan_quantises_is_described_in_its_own_type():
    grids = {"y": QParams((0.1,), (0,), "int8")}
    (found,) = spreads(statistics(x=VALUES, y=VALUES), grids)
    assert found.tensor == "y"
    clipped = next(one for one in found.ranges if one.calibrator == "percentile 99.99")
    assert clipped.low == -clipped.high


def test_channels_are_in_the_order_of_their_sizes_and_few():
    given = statistics(x=VALUES)
    given.channels["x"] = ChannelRange(np.arange(0, -300, -1, np.float32), np.ones(300, np.float32))
    (found,) = spreads(given)
    assert len(found.channels) == 128
    assert (found.channels[0], found.channels[-1]) == (1.0, 299.0)
    assert list(found.channels) == sorted(found.channels)
    document = spreads_document(given, (found,))
    assert (document["schema"], document["model_sha256"]) == ("qtool.spreads", "ab" * 32)
    assert document["tensors"][0]["ranges"][0] == {
        "calibrator": "max", "low": found.minimum, "high": found.maximum, "clipped": 0.0
    }  # fmt: skip

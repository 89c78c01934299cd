"""Counts over equal bins, for pictures: against numpy's own histogram of the values."""

import numpy as np
import pytest

from qtool.core.numerics.histogram import Histogram

VALUES = np.random.default_rng(3).standard_normal(40_000).astype(np.float32) ** 3


def distribution(values):
    histogram = Histogram()
    histogram.observe(np.asarray(values, np.float32))
    return histogram.distribution()


def test_the_counts_are_those_of_the_values():
    found = distribution(VALUES).evenly(72)
    exact, _ = np.histogram(VALUES, bins=72, range=(VALUES.min(), VALUES.max()))
    # a bin of a histogram is spread evenly over what it covers, and a part of a value is rounded up
    assert np.abs(np.array(found) - exact).max() <= 0.01 * len(VALUES)
    assert sum(found) == pytest.approx(len(VALUES), abs=72)
    # where there is a value there is a bar
    assert all(count for count, wanted in zip(found[1:-1], exact[1:-1], strict=True) if wanted > 2)


def test_one_value_alone_is_in_the_first_bin_and_no_value_in_none():
    assert distribution([2.5] * 7).evenly(4) == [7, 0, 0, 0]
    assert distribution([]).evenly(4) == []
    assert distribution([0.0, 0.0, 1.0]).evenly(2) == [2, 1]

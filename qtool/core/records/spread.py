"""The values of a tensor as a picture shows them: a short histogram, and the range of each calibrator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.core.numerics.affine import QParams, TensorSpec
from qtool.core.numerics.calibrators import CANDIDATES
from qtool.core.numerics.histogram import Distribution
from qtool.core.records.codec import encoded
from qtool.core.records.header import header
from qtool.core.records.statistics import Statistics

SCHEMA_VERSION = 1
BINS = 72
"""Bars of a histogram, all of one width."""
_MOST_CHANNELS = 128
"""Channels that are kept of each tensor: of more, so many at equal distances in the order of their sizes."""


@dataclass(frozen=True, slots=True)
class ChosenRange:
    """The range that a calibrator chooses for a tensor, and the share of its values outside of it, 0 to 1."""

    calibrator: str
    low: float
    high: float
    clipped: float


@dataclass(frozen=True, slots=True)
class TensorSpread:
    """The values of a tensor in calibration.

    minimum, maximum, count: of all its elements. counts: how many lie in each of so many bins of one width from the
    minimum to the maximum. ranges: that each calibrator chooses. channels: the greatest magnitude of each channel of
    the last axis, ascending; empty where it was not counted.
    """

    tensor: str
    minimum: float
    maximum: float
    count: int
    counts: tuple[int, ...]
    ranges: tuple[ChosenRange, ...]
    channels: tuple[float, ...]


def spreads(statistics: Statistics, grids: Mapping[str, QParams] | None = None) -> tuple[TensorSpread, ...]:
    """Return the spread of each tensor of which values were counted.

    Args:
        statistics: of a calibration.
        grids: tensor -> its grid in a plan; only these tensors are described then, each for its own type.
    """
    wanted = statistics.tensors if grids is None else {n: h for n, h in statistics.tensors.items() if n in grids}
    found = []
    for name, histogram in wanted.items():
        if histogram.count:
            spec = TensorSpec("uint8", symmetric=False) if grids is None else _spec(grids[name])
            values = histogram.distribution()
            ranges = tuple(_chosen(str(one), one.range_of(values, spec), values) for one in CANDIDATES)
            low, high = histogram.minimum, histogram.maximum
            counts = tuple(_rebinned(values, low, high))
            found.append(TensorSpread(name, low, high, histogram.count, counts, ranges, _channels(statistics, name)))
    return tuple(found)


def spreads_document(statistics: Statistics, found: tuple[TensorSpread, ...]) -> dict[str, Any]:
    """Return spreads as a document of its own, which a report joins with those of the same model."""
    return {
        **header("spreads", SCHEMA_VERSION),
        "calibration": statistics.name,
        "model_sha256": statistics.model_digest,
        "samples": statistics.samples,
        "tensors": encoded(found),
    }


def _spec(params: QParams) -> TensorSpec:
    """The representation of a grid: symmetric where its zero point is in the middle of the type."""
    middle = 128 if params.dtype == "uint8" else 0
    return TensorSpec(params.dtype, symmetric=params.zero_point[0] == middle)


def _chosen(calibrator: str, ends: tuple[float, float], values: Distribution) -> ChosenRange:
    low, high = map(float, ends)
    below, above = _share_below(values, low), 1.0 - _share_below(values, high)
    inside_low, inside_high = low <= values.minimum, high >= values.maximum
    clipped = (0.0 if inside_low else below) + (0.0 if inside_high else above)
    return ChosenRange(calibrator, low, high, min(max(clipped, 0.0), 1.0))


def _edges(values: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """The edges of all bins, ascending, and the share of values below each."""
    shares = np.cumsum(values.counts) / values.counts.sum()
    places = np.stack([values.low, values.high], axis=1).reshape(-1)
    return places, np.stack([np.concatenate([[0.0], shares[:-1]]), shares], axis=1).reshape(-1)


def _share_below(values: Distribution, place: float) -> float:
    places, shares = _edges(values)
    return float(np.interp(place, places, shares, left=0.0, right=1.0))


def _rebinned(values: Distribution, low: float, high: float) -> list[int]:
    """The counts in bins of one width; all in the first where there is one value."""
    total = float(values.counts.sum())
    if not high > low:
        return [int(total), *[0] * (BINS - 1)]
    places, shares = _edges(values)
    below = np.interp(np.linspace(low, high, BINS + 1), places, shares)
    below[0], below[-1] = 0.0, 1.0
    counts: list[int] = np.ceil(np.diff(below) * total - 1e-6).astype(np.int64).tolist()
    return counts


def _channels(statistics: Statistics, name: str) -> tuple[float, ...]:
    if name not in statistics.channels:
        return ()
    row = statistics.channels[name]
    sizes = np.sort(np.maximum(np.abs(row.minimum), np.abs(row.maximum)).astype(np.float64))
    sizes = sizes[np.isfinite(sizes)]
    if len(sizes) > _MOST_CHANNELS:
        sizes = sizes[np.linspace(0, len(sizes) - 1, _MOST_CHANNELS).round().astype(int)]
    return tuple(float(size) for size in sizes)

"""Differences of two calibration files: their ranges, in steps of the grid, and how their values are spread."""

import numpy as np

from qtool.core.numerics.affine import activation_qparams
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.histogram import Histogram
from qtool.core.records.difference import Difference, RangeDifference
from qtool.core.records.statistics import Statistics
from qtool.inspection.calibration_file import GRID

_Found = tuple[tuple[float, float], float]
"""A range, and the step of its grid."""


def diff_calibrations(a: Statistics, b: Statistics, calibrator: Calibrator) -> Difference:
    """Return what calibration `b` has otherwise than `a`; ranges are those that `calibrator` chooses."""
    names = dict.fromkeys([*a.tensors, *b.tensors])
    rows = [row for name in names if (row := _row(name, a, b, calibrator)) is not None]
    facts = _facts(a, b)
    return Difference(
        compared="calibration files",
        a=a.name,
        b=b.name,
        same=not rows and not facts,
        facts=tuple(facts),
        ranges=tuple(sorted(rows, key=lambda row: -_size(row))),
        alike=len(names) - len(rows),
    )


def _size(row: RangeDifference) -> float:
    return float("inf") if row.steps is None else row.steps


def _facts(a: Statistics, b: Statistics) -> list[str]:
    found = []
    if a.model_digest != b.model_digest:
        found.append(f"they are of different models: SHA-256 {a.model_digest[:12]} and {b.model_digest[:12]}")
    if a.samples != b.samples:
        found.append(f"samples: {a.samples} and {b.samples}")
    if a.recipe != b.recipe:
        found.append(
            "the float graph was changed otherwise before it was observed (equalisation, fixed inputs or such)"
        )
    if (a.part is None) != (b.part is None) or (a.part and b.part and a.part.shard != b.part.shard):
        found.append(f"{_whole(a)} and {_whole(b)}")
    return found


def _whole(statistics: Statistics) -> str:
    return "a whole calibration" if statistics.part is None else f"shard {statistics.part.shard}"


def _row(name: str, a: Statistics, b: Statistics, calibrator: Calibrator) -> RangeDifference | None:
    one, other = a.tensors.get(name), b.tensors.get(name)
    if one is None or other is None:
        found = [_found(histogram, calibrator) for histogram in (one, other)]
        which = "B" if one is None else "A"
        return RangeDifference(name, _ends(found[0]), _ends(found[1]), None, what=f"in {which} alone")
    if one.minimum == other.minimum and one.maximum == other.maximum and np.array_equal(one.counts, other.counts):
        return None
    left, right = _found(one, calibrator), _found(other, calibrator)
    steps = None
    if left is not None and right is not None:
        apart = max(abs(left[0][0] - right[0][0]), abs(left[0][1] - right[0][1]))
        steps = apart / max(left[1], right[1])
    return RangeDifference(name, _ends(left), _ends(right), steps, _moved(one, other))


def _found(histogram: Histogram | None, calibrator: Calibrator) -> _Found | None:
    if histogram is None or not histogram.count:
        return None
    low, high = calibrator.range_of(histogram.distribution(), GRID)
    return (low, high), activation_qparams(low, high, GRID).scale[0]


def _ends(found: _Found | None) -> tuple[float, float] | None:
    return None if found is None else found[0]


def _moved(one: Histogram, other: Histogram) -> float | None:
    """The share of values that would have to be others: half the sum of the differences of both histograms."""
    if not one.count or not other.count:
        return None
    return float(np.abs(one.counts / one.count - other.counts / other.count).sum() / 2.0)

"""`inspect_calibration`: what a calibration file holds, and the range that each calibrator would choose."""

import hashlib
from pathlib import Path

import numpy as np

from qtool.core.arguments import checked_types
from qtool.core.numerics.affine import TensorSpec, activation_qparams
from qtool.core.numerics.calibrators import CANDIDATES
from qtool.core.numerics.histogram import ChannelRange, Distribution, Histogram
from qtool.core.reading import open_file
from qtool.core.records.calibration_inspection import CalibratedTensor, CalibrationInspection, ChosenRange
from qtool.core.records.doubts import calibration_doubts
from qtool.core.records.statistics import Statistics, load_statistics, written_by

GRID = TensorSpec("uint8", symmetric=False)
"""The grid of what is compared: that of the default scheme on x86; the same ranges serve every affine one."""
_GRID_IN_WORDS = "uint8, affine"
_BULK, _USED = 0.0005, 1 / 16
"""Of the values at each end, the share that is not the bulk; and of the grid, the share that the bulk should fill."""
_SATURATED = 0.01
"""The share of the values at one end from which the tensor is said to saturate there."""
_SPARSE = 0.95
_SPREAD = 10.0
"""How many times as wide as the median channel the widest is where smoothing may help."""


@checked_types
def inspect_calibration(file: str | Path) -> CalibrationInspection:
    """Return what a calibration file holds, and for each tensor the range that each calibrator would choose.

    Raises:
        CalibrationError: it cannot be read, or is no calibration file.
    """
    statistics = load_statistics(file)
    part = statistics.part
    examples = statistics.examples
    if part is not None:
        examples = tuple(run for row in part.rows for run in row.runs)
    with open_file(Path(file)) as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    return CalibrationInspection(
        file=str(file),
        sha256=digest,
        bytes=Path(file).stat().st_size,
        model=statistics.model_digest,
        versions=written_by(file),
        samples=statistics.samples,
        examples=len(examples),
        example_inputs={name: tuple(array.shape) for name, array in (examples[0] if examples else {}).items()},
        shard=None if part is None else str(part.shard),
        complete=part is None or part.complete,
        recipe=statistics.recipe,
        grid=_GRID_IN_WORDS,
        warnings=_warnings(statistics),
        tensors=tuple(_tensor(name, histogram, statistics) for name, histogram in statistics.tensors.items()),
    )


def _warnings(statistics: Statistics) -> tuple[str, ...]:
    part = statistics.part
    if part is None:
        return calibration_doubts(statistics)
    unfinished = () if part.complete else ("an unfinished calibration: the same command goes on from it",)
    return (*unfinished, f"shard {part.shard}: it serves once all shards are merged")


def _tensor(name: str, histogram: Histogram, statistics: Statistics) -> CalibratedTensor:
    values, flaw = histogram.distribution(), statistics.flaws.get(name)
    channels = statistics.channels.get(name)
    spread = None if channels is None else _spread(channels)
    zeros = float(values.counts[(values.low == 0.0) & (values.high == 0.0)].sum()) / max(histogram.count, 1)
    notes = [] if flaw is None else [f"holds NaN or Inf, first in {flaw.origin}: no range can be chosen"]
    ranges: tuple[ChosenRange, ...] = ()
    if histogram.count:
        ranges = chosen_ranges(values)
        notes += _notes(values, histogram.count, zeros)
    elif flaw is None:
        notes.append("nothing was counted: it was empty in every run")
    if spread is not None and spread >= _SPREAD:
        notes.append(f"its widest channel is {spread:.0f} times as wide as the median one: smoothing may help")
    return CalibratedTensor(
        name=name,
        count=histogram.count,
        minimum=histogram.minimum if histogram.count else None,
        maximum=histogram.maximum if histogram.count else None,
        zeros=zeros,
        ranges=ranges,
        channels=spread,
        notes=tuple(notes),
    )


def chosen_ranges(values: Distribution) -> tuple[ChosenRange, ...]:
    """Return the range that each calibrator which `quantize` tries would choose for values, on the default grid."""
    whole = max(values.maximum, 0.0) - min(values.minimum, 0.0)
    result = []
    for calibrator in CANDIDATES:
        low, high = calibrator.range_of(values, GRID)
        grid = activation_qparams(low, high, GRID)
        step, (first, last) = grid.scale[0], grid.range
        kept = (high - low) / whole if whole else 1.0
        # what is nearer to the last step than half of one is rounded, as anywhere on the grid
        clipped = values.outside(first - step / 2.0, last + step / 2.0)
        result.append(ChosenRange(str(calibrator), low, high, step, kept, clipped))
    return tuple(result)


def _notes(values: Distribution, count: int, zeros: float) -> list[str]:
    if values.minimum == values.maximum:
        return [f"always {values.minimum:.6g}"]
    notes = []
    ends = ((values.low[0], values.counts[0], "least"), (values.high[-1], values.counts[-1], "greatest"))
    notes += [
        f"{100 * held / count:.1f} % of its values are at its {which}, {end:.4g}: it saturates there"
        for end, held, which in ends
        if end != 0.0 and held / count >= _SATURATED and _narrow(values, which == "least")
    ]
    filled = (values.low != 0.0) | (values.high != 0.0)
    bulk = Distribution(values.low[filled], values.high[filled], values.counts[filled])
    least, greatest = min(bulk.quantile(_BULK), 0.0), max(bulk.quantile(1.0 - _BULK), 0.0)
    whole = max(values.maximum, 0.0) - min(values.minimum, 0.0)
    if greatest - least < _USED * whole:
        share = 100 * (greatest - least) / whole
        notes.append(
            f"99.9 % of its values lie between {least:.4g} and {greatest:.4g}, in {share:.2g} % of its range: the rest "
            "are outliers, which max would spend the grid on"
        )
    if zeros >= _SPARSE:
        notes.append(f"{100 * zeros:.1f} % of its values are 0")
    return notes


def _narrow(values: Distribution, first: bool) -> bool:
    """Whether the last bin holds far more than its neighbour, as where values are cut off."""
    if len(values.counts) < 2:
        return True
    own, next_one = values.counts[[0, 1]] if first else values.counts[[-1, -2]]
    return bool(own > 10.0 * next_one)


def _spread(channels: ChannelRange) -> float | None:
    widths = np.maximum(channels.maximum, 0.0).astype(np.float64) - np.minimum(channels.minimum, 0.0)
    median = float(np.median(widths)) if widths.size else 0.0
    return float(widths.max()) / median if median > 0.0 else None

"""The doubts that a calibration raises by itself: one sample, always the same one, inputs that 8 bits hardly hold."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from qtool.core.numerics.histogram import Distribution
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import CALIBRATED, FLOAT
from qtool.core.records.statistics import Statistics
from qtool.core.text import amount

_RARE = 0.0005
"""The share of the values at each end that is not the bulk of them."""
_USED = 1 / 16
"""Of its grid, which leaves 16 steps of 256 to nearly all values."""
_CLIPPED = 0.02


def calibration_doubts(statistics: Statistics) -> tuple[str, ...]:
    """Return a line for each thing that makes a whole calibration doubtful, and what to check; mostly none."""
    examples = statistics.examples
    if statistics.part is not None or not statistics.samples:
        return ()
    if statistics.samples == 1 and len(examples) < 2:
        return (
            "one sample calibrated, so that all ranges and figures are of it alone; give some hundred samples of what "
            "the model will see",
        )
    if len(examples) > 1 and all(_same(examples[0], other) for other in examples[1:]):
        return (
            f"all {len(examples)} examples of the {amount(statistics.samples, 'sample')} are identical; check how the "
            "data was made, and calibrate with samples that differ",
        )
    return ()


def grid_doubts(statistics: Statistics, plan: Plan, inputs: Collection[str]) -> tuple[str, ...]:
    """Return a line for each of the inputs whose grid in a plan clips much of what calibrated, or is barely used."""
    result = []
    for row in plan.activations:
        histogram = statistics.tensors.get(row.tensor)
        if row.tensor not in inputs or histogram is None or not histogram.count:
            continue
        low, high = row.params.range
        values = histogram.distribution()
        clipped = float(values.counts[(values.high < low) | (values.low > high)].sum()) / histogram.count
        # what is sparse is 0 nearly everywhere
        filled = (values.low != 0.0) | (values.high != 0.0)
        if not filled.any():
            continue
        values = Distribution(values.low[filled], values.high[filled], values.counts[filled])
        least, greatest = min(values.quantile(_RARE), 0.0), max(values.quantile(1.0 - _RARE), 0.0)
        if clipped > _CLIPPED:
            result.append(
                f"input {row.tensor!r}: {100 * clipped:.1f} % of its values are clipped to {low:.4g} to {high:.4g}; "
                "check that samples are preprocessed alike, or use the calibrator max"
            )
        elif greatest - least < _USED * (high - low):
            result.append(
                f"input {row.tensor!r}: {100 * (1 - 2 * _RARE):g} % of its values lie between {least:.4g} and "
                f"{greatest:.4g}, and its 8 bits reach from {low:.4g} to {high:.4g}; check that no sample is unlike "
                "the others, and that the input is scaled as the model wants it"
            )
    return tuple(result)


def with_ranges(plan: Plan, statistics: Statistics, inputs: Collection[str]) -> Plan:
    """Return the plan with the range in calibration of each of the inputs that it does not quantise."""
    gridded = {row.tensor for row in plan.activations}
    found = {name: statistics.tensors.get(name) for name in sorted(inputs) if name not in gridded}
    ranges = {name: (h.minimum, h.maximum) for name, h in found.items() if h is not None and h.count}
    return replace(plan, inputs=ranges)


def notes(plan: Plan) -> dict[str, str]:
    """Return what to note in a model's metadata: what it is made of, and the range in calibration of some inputs.

    By the entry's key: of the float model the SHA-256, which also tells that qtool made this; of each input that the
    model does not quantise "low,high", so that whoever evaluates it can tell that data is preprocessed otherwise.
    """
    ranges = {f"{CALIBRATED}{name}": f"{low!r},{high!r}" for name, (low, high) in plan.inputs.items()}
    return {FLOAT: plan.model_digest, **ranges}


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())

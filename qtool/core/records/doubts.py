"""The doubts that the statistics of a calibration raise by themselves: one sample, or always the same one."""

from collections.abc import Mapping

import numpy as np

from qtool.core.records.statistics import Statistics
from qtool.core.text import amount


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


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(array, other[name]) for name, array in one.items())

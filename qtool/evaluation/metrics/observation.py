"""The view that a metric has of a batch: one model's outputs, beside float's outputs and the labels."""

from dataclasses import dataclass, field

import numpy as np

from qtool.core.numerics.sqnr import unlike
from qtool.feeds.matching import labels_called


@dataclass(frozen=True, slots=True)
class Observation:
    """One batch through one model.

    `outputs` and `reference` (the float model's outputs) have the same names and shapes; `labels` is
    everything in the data beside the inputs, first axis = samples. `start` is the index of the first sample,
    `size` their number. `shapes` are those of the inputs, by name. `kept`: which positions are no padding, bool
    [samples, length]; None where all are.
    """

    model: str
    outputs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    start: int
    size: int
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kept: np.ndarray | None = None

    @property
    def labels_name(self) -> str:
        """The name that the data gives to the labels, which metrics find as `labels`."""
        return labels_called(self.labels)


def holds_nan(seen: Observation) -> bool:
    """Return whether an output of the model holds NaN where float's does not."""
    return any(_holds_nan(array, seen.reference[name]) for name, array in seen.outputs.items())


def _holds_nan(output: np.ndarray, reference: np.ndarray) -> bool:
    if output.dtype.kind != "f":
        return False
    if output.shape != reference.shape:
        return bool(np.isnan(output).any())
    return bool((np.isnan(output) & unlike(reference, output)).any())


def rows(output: np.ndarray, size: int) -> np.ndarray:
    """Return `output` as float64 [size, values of a sample]; one row where its first axis is not the samples."""
    count = size if output.ndim and output.shape[0] == size else 1
    return output.astype(np.float64, copy=False).reshape(count, -1)

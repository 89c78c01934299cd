"""The view that a metric has of a batch: one model's outputs, beside float's outputs and the labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Observation:
    """One batch through one model.

    `outputs` and `reference` (the float model's outputs) have the same names and shapes; `labels` is
    everything in the data beside the inputs, first axis = samples. `start` is the index of the first sample,
    `size` their number.
    """

    model: str
    outputs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    start: int
    size: int


def rows(output: np.ndarray, size: int) -> np.ndarray:
    """Return `output` as float64 [size, values of a sample]; one row where its first axis is not the samples."""
    count = size if output.ndim and output.shape[0] == size else 1
    return output.astype(np.float64, copy=False).reshape(count, -1)

"""The names, types and shapes that a model declares for its inputs and outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Dimensions = Sequence[int | str | None]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The name, type and shape of one input of a model, or of one output.

    `shape` has an int for a fixed dimension, a str for a named one, None for an unknown one; the whole is None where
    the model does not even say the rank. `finite`: whether NaN and Inf are no data; a mask may hold -Inf.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None
    finite: bool = True


def samples_in(arrays: Iterable[np.ndarray]) -> int:
    """Return how many samples a batch of inputs holds: the length of the first that has axes, 1 where none has any."""
    return next((len(array) for array in arrays if array.ndim), 1)


def describe(dtype: np.dtype, shape: Dimensions | None) -> str:
    """Return the words for a type and a shape: `float32 [N, 3, 224, 224]`."""
    kind = "string" if dtype == np.object_ else str(dtype)
    if shape is None:
        return f"{kind} of any shape"
    return f"{kind} [{', '.join('?' if d is None else str(d) for d in shape)}]"

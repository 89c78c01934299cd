"""What a model says of its inputs."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    `shape` has an int for a fixed dimension, a str for a named one, None for an unknown one; the whole is None where
    the model does not even say the rank.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None

"""Inputs made up from a model's signature, to check arithmetic where a user gives no data; they measure no accuracy."""

from collections.abc import Sequence

import numpy as np

from qtool.core.tensorspec import InputSpec

_FREE = 8
"""Length of a free axis behind the first."""


def invented_inputs(inputs: Sequence[InputSpec]) -> dict[str, np.ndarray]:
    """Return one batch of one sample: normal numbers where the input is real, ones where whole or boolean.

    Ones are at once a token that every vocabulary has, a mask that masks nothing, and a length that fits. The numbers
    are the same each time.
    """
    generator = np.random.default_rng(0)
    result = {}
    for spec in inputs:
        named = enumerate(spec.shape or ())
        shape = [d if isinstance(d, int) else 1 if axis == 0 else _FREE for axis, d in named]
        real = spec.dtype.kind == "f"
        result[spec.name] = (generator.standard_normal(shape) if real else np.ones(shape)).astype(spec.dtype)
    return result

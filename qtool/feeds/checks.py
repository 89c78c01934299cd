"""Checks whether an array can be fed to an input of the model: type, shape, values."""

import math
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Protocol

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.tensorspec import Dimensions, InputSpec, describe

_MOST_AXES = 6
"""Of arrays whose axes are tried in every order."""


class Described(Protocol):
    """The shape and type that both an array and the header of a stored array have."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements."""


def quoted(names: Iterable[str]) -> str:
    """Return the words for a list of names, the long ones cut short: `'a', 'b', ... (12 in all)`."""
    known = list(names)
    text = ", ".join(f"'{name}'" for name in known[:8])
    return f"{text}, ... ({len(known)} in all)" if len(known) > 8 else text


def fits_dimensions(shape: Sequence[int], expected: Dimensions) -> bool:
    """Return whether the ranks and every fixed dimension agree."""
    return len(shape) == len(expected) and all(
        not isinstance(want, int) or want == have for have, want in zip(shape, expected, strict=True)
    )


def castable(dtype: np.dtype, spec: InputSpec) -> bool:
    """Return whether `dtype` may become the input's type: float from float, integer or bool from those."""
    if spec.dtype == np.object_:
        return dtype.kind in "OUS"
    if dtype.kind == "f" or spec.dtype.kind == "f":
        return dtype.kind == spec.dtype.kind
    return dtype == spec.dtype or (dtype.kind in "biu" and spec.dtype.kind in "biu")


def check_dtype(where: str, label: str, dtype: np.dtype, spec: InputSpec) -> None:
    """Refuse a type that cannot become the input's.

    Args:
        where: the file or the data's name, for the message.
        label: what to call the array there.
        dtype: the array's type.
        spec: the input.

    Raises:
        DataError: `dtype` cannot become it; the message names `preprocess` where uint8 meets a float input.
    """
    if castable(dtype, spec):
        return
    message = f"{where}: {label} is {dtype}, but the model's input '{spec.name}' takes {_kind(spec)}"
    cast = f"convert it with .astype('{_kind(spec)}') where that is what you mean"
    if dtype == np.uint8 and spec.dtype.kind == "f":
        raise DataError(f"{message}; for images say how to convert them with {arg('preprocess')}, else {cast}")
    if dtype == np.object_:
        raise DataError(f"{message}; give arrays of numbers that all have one shape")
    if dtype.kind not in "biuf":
        raise DataError(f"{message}; give real numbers")
    raise DataError(f"{message}; {cast}")


def _kind(spec: InputSpec) -> str:
    return "string" if spec.dtype == np.object_ else str(spec.dtype)


def check_shape(where: str, label: str, array: Described, expected: Dimensions, spec: InputSpec) -> None:
    """Refuse a shape that contradicts `expected`, the part of the input's shape that `array` must have.

    Raises:
        DataError: it does; the message names both shapes.
    """
    if not fits_dimensions(array.shape, expected):
        raise shape_error(where, label, array, spec)


def shape_error(where: str, label: str, array: Described, spec: InputSpec) -> DataError:
    """Return the error for an array whose rank or a fixed dimension is wrong."""
    return DataError(
        f"{where}: {label} is {describe(array.dtype, array.shape)}, but the model's input '{spec.name}' "
        f"takes {describe(spec.dtype, spec.shape)}; {_reshaping(array.shape, spec.shape or ())}"
    )


def _reshaping(shape: tuple[int, ...], wanted: Dimensions) -> str:
    """How to make an array of the wanted shape: what people mix up, by its name in numpy; else that it is wanted."""
    inner = wanted[1:]
    if fits_dimensions(shape, inner):
        return "give it the axis of samples with [None]"
    if len(shape) == len(wanted) <= _MOST_AXES:
        for axes in permutations(range(1, len(shape))):
            if fits_dimensions([shape[axis] for axis in axes], inner):
                return f"reorder its axes with .transpose(0, {', '.join(map(str, axes))})"
    fixed = [dim for dim in inner if isinstance(dim, int)]
    if fixed and len(fixed) == len(inner) and math.prod(fixed) == math.prod(shape[1:]):
        return f"give it that shape with .reshape(-1, {', '.join(map(str, fixed))})"
    return "give arrays of that shape"


def to_input(where: str, array: np.ndarray, spec: InputSpec, start: int, *, samples: bool) -> np.ndarray:
    """Return `array` in the input's type, its values checked.

    Args:
        where: the file or the data's name, for the message.
        array: its type has passed `check_dtype`.
        spec: the input.
        start: index of the first sample of `array`.
        samples: whether the first axis of `array` counts samples; otherwise all of it is sample `start`.

    Raises:
        DataError: NaN or Inf where the input must be finite, or a value that its type cannot hold; it names the sample.
    """
    if spec.dtype == np.object_:
        return array.astype(np.object_)
    if spec.dtype.kind == "f":
        with np.errstate(over="ignore"):
            result = array.astype(spec.dtype, copy=False)
        # what was finite, and is not any more, does not fit whatever the input is for
        good = np.isfinite(result) if spec.finite else np.isfinite(result) | ~np.isfinite(array)
    else:
        result = array.astype(spec.dtype, copy=False)
        if result.dtype == array.dtype or np.can_cast(array.dtype, result.dtype):
            return result
        # uint64 and int64 wrap into each other, so equality alone does not show that the value was kept
        good = (result == array) & ((result < 0) == (array < 0))
    if not good.all():
        index = start + int(np.argmin(good)) // max(1, good[0].size) if samples and good.ndim else start
        raise _value_error(where, array, good, spec, index)
    return result


def _value_error(where: str, array: np.ndarray, good: np.ndarray, spec: InputSpec, index: int) -> DataError:
    place = np.unravel_index(int(np.argmin(good)), good.shape)
    value = array[place]
    subject = f"{where}: sample {index}: the input '{spec.name}' holds"
    if np.isfinite(value):
        return DataError(f"{subject} {value}, which {spec.dtype} cannot hold; scale the data or drop the sample")
    word = "NaN" if np.isnan(value) else "Inf"
    return DataError(f"{subject} {word}; repair the sample or drop it")

"""Inputs made up from a model's signature, to check arithmetic where a user gives no data; they measure no accuracy.

A signature leaves open what fits: how long a signal must be, which axes are as long as which others, how many rows a
table has. So there are several proposals, from the likely one to the far-fetched, and the model says which it takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.core.records.verification import MADE_UP
from qtool.core.tensorspec import InputSpec, describe

_FREE = 8
"""Length of a free axis behind the first, if it fits."""
_LENGTHS = (16, 32, 64, 2, 3, 4, 10, 100, 128, 224, 256, 512, 1024)
_SIGNALS = (4096, 16000)
"""More lengths of signals, whose first layer makes short work of them."""
_MOST_LENGTHS = 40
_SHORT = 65
"""In the end all lengths below it: several layers without padding may make a length that the model names of any."""
_MOST_NUMBERS = 2**26
"""Numbers in all inputs together; more would take gigabytes in the layers behind."""
_MOST_TRIED = 2**22
"""The same where the model leaves the shape open."""
_MOST_AXES = 32
_TOKEN = 1
"""At once a token that most vocabularies have, a mask that masks nothing, and a length that fits."""


class NotInventedError(Exception):
    """An input that nothing can be made up for; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class _Proposal:
    """first: the length of free axes that count samples. other: that of all others. past: of those of what came before.

    whole: the value of whole numbers that are no masks. positive: whether real numbers are above 0.
    """

    first: int
    other: int
    past: int
    whole: int
    positive: bool = False


def invented_inputs(inputs: Sequence[InputSpec], lengths: Sequence[int] = ()) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches to try one after another: normal numbers where an input is real, equal ones where it is whole.

    Axes of one name are equally long, and a sum of names is the sum of their lengths; masks are ones. The numbers are
    the same each time.

    Args:
        inputs: the signature.
        lengths: sizes that occur in the model, tried for free axes too.

    Raises:
        NotInventedError: an input has a type or shape of which nothing can be made.
    """
    for spec in inputs:
        _check(spec)
    free = any(not _is_fixed(d) for spec in inputs for d in spec.shape or ())
    whole = any(spec.dtype.kind in "iu" for spec in inputs)
    signals = () if whole or any(len(spec.shape or ()) > 3 for spec in inputs) else _SIGNALS
    # what a layer without padding, or with too much, makes of one
    near = [number for size in lengths for number in (size - 1, size + 1)]
    likely = list(dict.fromkeys([*_LENGTHS, *signals, *lengths, *near]))[:_MOST_LENGTHS]
    likely = list(dict.fromkeys([*likely, *range(1, _SHORT)]))
    most = _MOST_TRIED if free else _MOST_NUMBERS
    tried: list[tuple[list[tuple[int, ...]], int, bool]] = []
    for proposal in _proposals(likely if free else (), whole=whole):
        shapes = [_shape(spec, inputs, proposal) for spec in inputs]
        fits = not tried or sum(_count(shape) for shape in shapes) <= most
        made = (shapes, proposal.whole, proposal.positive)
        if fits and made not in tried:
            tried.append(made)
            yield _made(inputs, shapes, proposal)


def flaw(outputs: Mapping[str, object]) -> str:
    """Return why outputs of made-up inputs show nothing; "" where some hold numbers, and all real ones are finite."""
    arrays = [array for array in outputs.values() if isinstance(array, np.ndarray) and array.size]
    if not arrays:
        return "its inputs make empty outputs"
    sound = all(bool(np.isfinite(array).all()) for array in arrays if array.dtype.kind == "f")
    return "" if sound else f"{MADE_UP} lead to outputs that are not finite"


def _check(spec: InputSpec) -> None:
    said = f"input {spec.name!r} is {describe(spec.dtype, spec.shape)}"
    fixed = [d for d in spec.shape or () if _is_fixed(d)]
    if spec.shape is not None and len(spec.shape) > _MOST_AXES:
        raise NotInventedError(f"input {spec.name!r} has {len(spec.shape)} dimensions")
    if _count(fixed) > _MOST_NUMBERS:
        raise NotInventedError(f"{said}, which is too large to make up")
    if spec.dtype.kind not in "fiubO":
        raise NotInventedError(f"{said}, of which nothing can be made up")


def _is_fixed(size: int | str | None) -> bool:
    """Whether a size is known; exporters write -1 for one that is not."""
    return isinstance(size, int) and size >= 0


def _count(sizes: Sequence[int | str | None]) -> int:
    number = 1
    for size in sizes:
        number *= size if isinstance(size, int) else 1
    return number


def _proposals(lengths: Sequence[int], *, whole: bool) -> Iterator[_Proposal]:
    """From the likely to the far-fetched; `lengths`: of free axes, none where there is no such axis."""
    numbers = (_TOKEN, 0) if whole else (_TOKEN,)
    for number in (*numbers, *([_FREE] if whole else [])):
        yield _Proposal(1, _FREE, _FREE, number)
    yield _Proposal(1, _FREE, _FREE, _TOKEN, positive=True)
    if not lengths:
        return
    for number in numbers:
        yield _Proposal(_FREE, _FREE, _FREE, number)
        yield _Proposal(1, _FREE, 0, number)
        yield _Proposal(1, 1, 1, number)
    for size in lengths:
        for first in (1, size):
            yield _Proposal(first, size, size, numbers[-1])


def _shape(spec: InputSpec, inputs: Sequence[InputSpec], proposal: _Proposal) -> tuple[int, ...]:
    """Of an input; a name that counts samples anywhere does so everywhere."""
    samples = {other.shape[0] for other in inputs if other.shape and isinstance(other.shape[0], str)}
    result = []
    for axis, size in enumerate(spec.shape or ()):
        if isinstance(size, str):
            result.append(_length(size, samples, proposal))
        elif size is not None and size >= 0:
            result.append(size)
        else:
            result.append(proposal.first if axis == 0 else proposal.other)
    return tuple(result)


def _length(name: str, samples: set[str], proposal: _Proposal) -> int:
    """Of an axis with a name, which may be a sum such as `past_sequence_length + 1`."""
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1:
        return sum(int(p) if p.isdecimal() and len(p) < 8 else _length(p, samples, proposal) for p in parts)
    if name in samples:
        return proposal.first
    return proposal.past if "past" in name else proposal.other


def _made(inputs: Sequence[InputSpec], shapes: Sequence[tuple[int, ...]], proposal: _Proposal) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    result = {}
    for spec, shape in zip(inputs, shapes, strict=True):
        if spec.dtype.kind == "f":
            array = generator.standard_normal(shape)
            array = 0.1 + np.abs(array) if proposal.positive else array
        elif spec.dtype.kind == "O":
            array = np.full(shape, "1", np.object_)
        else:
            array = np.full(shape, _TOKEN if "mask" in spec.name or spec.dtype.kind == "b" else proposal.whole)
        result[spec.name] = np.asarray(array).astype(spec.dtype)
    return result

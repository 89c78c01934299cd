"""Encoders of speech: all of a sample at once, or chunk by chunk with a state that goes on from one to the next."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qtool.core.errors import DataError, UsageError, in_file
from qtool.core.state import State, check_states, expanded_states
from qtool.core.tensorspec import InputSpec, describe
from qtool.generation.caches import OWN_LOOP, paired
from qtool.generation.description import LoopSettings
from qtool.generation.part import PartModel


def heard(part: PartModel, inputs: Mapping[str, np.ndarray], settings: LoopSettings) -> np.ndarray:
    """Return what an encoder says of a sample, [1, frames, width]: of all its chunks, one behind the other.

    inputs: of the sample, by name, as `fed_by_data` has them.

    Raises:
        DataError: the part does not run, or the sample has no frames.
        UsageError: it has no such output, or no axis of frames.
    """
    pairs = paired(settings.state, part, part)
    carried = {pair.output for pair in pairs}
    state = first_state(part, pairs)
    said = []
    for chunk in _chunks(part, inputs, settings):
        outputs = part({**chunk, **state})
        state = {pair.input: outputs[pair.output] for pair in pairs}
        said.append(_sequence(part, {name: array for name, array in outputs.items() if name not in carried}))
    return np.concatenate(said, axis=1)


def first_state(part: PartModel, pairs: Iterable[State]) -> dict[str, np.ndarray]:
    """Return what a part's states hold before the first call: zeros, one long where an axis is free."""
    carried = {pair.input for pair in pairs}
    return {
        spec.name: np.zeros([d if isinstance(d, int) else 1 for d in spec.shape or ()], spec.dtype)
        for spec in part.inputs
        if spec.name in carried
    }


def fed_by_data(part: PartModel, specs: Sequence[InputSpec], settings: LoopSettings) -> list[InputSpec]:
    """Return what data give to an encoder: no states; of one that takes chunks all frames, and no lengths.

    specs: of the part's inputs.

    Raises:
        UsageError: the axis of frames is not told.
    """
    carried = {pair.input for pair in paired(settings.state, part, part)}
    given = [spec for spec in specs if spec.name not in carried]
    if not settings.chunk:
        return given
    whole = []
    for spec in given:
        if not _is_length(spec):
            shape, axis = spec.shape or (), frame_axis(part, spec, settings.chunk)
            whole.append(replace(spec, shape=(*shape[:axis], None, *shape[axis + 1 :])))
    return whole


def check_carried(path: Path, states: Sequence[State], parts: Sequence[PartModel]) -> None:
    """Refuse declared states that pair nothing in any of the parts, each of which feeds back to itself.

    path: of the file that declares them.

    Raises:
        UsageError: a state pairs no output of a part with an input of it, or only one of another type or shape.
    """
    if tuple(states) == LoopSettings().state:
        # these models may have none
        return
    with in_file(path, state="settings.state"):
        for state in states:
            if not any(paired([state], part, part) for part in parts):
                first = parts[0]
                check_states(expanded_states([state], first.inputs, first.outputs), first.inputs, first.outputs)
        for part in parts:
            check_states(paired(states, part, part), part.inputs, part.outputs)


def frame_axis(part: PartModel, spec: InputSpec, chunk: int) -> int:
    """Return the axis of an input that counts frames: behind the batch the first free one, else the first of a chunk.

    Raises:
        UsageError: there is none.
    """
    shape = spec.shape or ()
    free = [axis for axis, length in enumerate(shape) if axis and not isinstance(length, int)]
    fixed = [axis for axis, length in enumerate(shape) if axis and length == chunk]
    if not free and not fixed:
        raise UsageError(
            f"part '{part.name}': its input '{spec.name}' is {describe(spec.dtype, spec.shape)}: no axis behind the "
            f"batch is free or {chunk} long; write settings.chunk with the frames that it takes, or {OWN_LOOP}"
        )
    return (free or fixed)[0]


def _chunks(
    part: PartModel, inputs: Mapping[str, np.ndarray], settings: LoopSettings
) -> Iterator[Mapping[str, np.ndarray]]:
    chunk, shift = settings.chunk, settings.shift or settings.chunk
    if not chunk:
        yield inputs
        return
    axes = {spec.name: frame_axis(part, spec, chunk) for spec in part.inputs if spec.name in inputs}
    frames = max((inputs[name].shape[axis] for name, axis in axes.items()), default=0)
    if not frames:
        raise DataError(f"part '{part.name}': a sample has no frames; give data with at least one")
    lengths = {spec.name: np.full([1] * len(spec.shape or ()), chunk) for spec in part.inputs if _is_length(spec)}
    # the first chunk, and one more for each shift that is begun
    count = 1 + max(0, -(-(frames - chunk) // shift))
    places = np.minimum(np.arange(chunk) + np.arange(count)[:, None] * shift, frames - 1)
    for place in places:
        yield {**lengths, **{name: np.take(inputs[name], place, axis) for name, axis in axes.items()}}


def _is_length(spec: InputSpec) -> bool:
    return spec.dtype.kind in "iu" and len(spec.shape or ()) <= 1


def _sequence(part: PartModel, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of real numbers [1, frames, width]."""
    found = next((a for a in outputs.values() if a.dtype.kind == "f" and a.ndim == 3 and len(a) == 1), None)
    if found is None:
        raise UsageError(f"part '{part.name}': has no output of numbers [1, frames, width]; {OWN_LOOP}")
    return found

"""Sequences for recurrent models: a sample is a sequence of steps, and its batch holds all of them.

`Batch.inputs` has an array [T, ...] for each input that data feeds, a step each, and the first value of each state.
`Batch.labels` has what else the sample holds, with the axis of samples, [1, T, ...]; `Batch.size` is 1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.state import Arrays, State, growing_axes, rollout, sequence_length
from qtool.core.tensorspec import InputSpec, describe
from qtool.feeds.batching import Batching, Chunk, Feeds, Reader
from qtool.feeds.checks import Described, check_dtype, check_shape, fits_dimensions, to_input
from qtool.feeds.fitting import Arrangement, Fitter, check_label
from qtool.feeds.formats.npz import Table
from qtool.feeds.formats.tables import equal_counts
from qtool.feeds.matching import with_labels


class SequenceFitter(Fitter):
    """A fitter for dictionaries of arrays that are one sequence each.

    An input of shape [N, ...] is fed by [T, ...], or by [T, N, ...], which it must be where the model fixes N at more
    than 1; a scalar by [T], or by one number. What has one step where others have more is the same at every step. A
    state starts at the array of its name, else at zeros; a free dimension of it has the size that the same name has
    in another input, else 0 where it grows from step to step (`qtool.core.state.growing_axes`), else 1.

    With states that grow, an input of shape [N, L] is fed by [T] too: by an entry a step, or, where its length L is
    that of the grown state, by all entries so far. What differs in shape from step to step otherwise is an array of
    objects [T], which holds an array a step, in the input's own shape.

    Raises:
        DataError: the model has no input.
    """

    def __init__(self, inputs: Sequence[InputSpec], outputs: Sequence[InputSpec], states: Sequence[State]) -> None:
        carried = {state.input for state in states}
        super().__init__([spec for spec in inputs if spec.name not in carried], None, outputs=outputs)
        self.states = tuple(states)
        self.known = list(inputs)
        self._carried = [spec for spec in inputs if spec.name in carried]
        self._growing = growing_axes(states, inputs, outputs)
        gives = {spec.name: spec.shape or () for spec in outputs}
        self._grown = {gives[s.output][a] for s in states for a in self._growing[s.input]} - {None}

    def batching(self, batch_size: int, limit: int | None) -> Batching:  # noqa: ARG002
        """Return batches of one sequence at a time, whatever `batch_size` is."""
        return Batching(limit=limit)

    def arrange(self, where: str, arrays: Mapping[str, Described]) -> Arrangement:
        """Decide, only from types and shapes, what feeds what; return it.

        Raises:
            DataError: an array is missing, its type or shape is wrong, or the numbers of steps differ.
        """
        roles, _ = self._layout(where, arrays)
        return Arrangement(roles, frozenset(), 1, divisible=False)

    def fit(self, where: str, arrays: Mapping[str, np.ndarray], start: int, origin: str | None) -> Chunk:
        """Return the sequence that a dictionary of arrays is; `start` is its index.

        Raises:
            DataError: what `arrange` refuses, NaN or Inf, or a value that does not fit.
        """
        roles, shapes = self._layout(where, arrays)
        steps = max(shape[0] for shape in shapes.values())
        inputs = {}
        for spec in self.inputs:
            array = arrays[roles[spec.name]]
            if _is_ragged(array, spec):
                inputs[spec.name] = _ragged([_checked_step(where, one, spec, start) for one in array])
                continue
            array = to_input(where, array, spec, start, samples=False)
            if self._grows(array, spec):
                known = len(array) - steps
                inputs[spec.name] = _ragged([array[None, : known + step + 1] for step in range(steps)])
                continue
            array = array.reshape(shapes[spec.name])
            inputs[spec.name] = array if len(array) == steps else np.repeat(array, steps, axis=0)
        fed = set(roles.values()) | {spec.name for spec in self._carried}
        labels = with_labels({name: array[None] for name, array in arrays.items() if name not in fed})
        for spec in self._carried:
            first = arrays[spec.name] if spec.name in arrays else self._zeros(spec, inputs)
            inputs[spec.name] = to_input(where, first, spec, start, samples=False)
        return Chunk(inputs, labels, 1, origin, divisible=False)

    def _layout(self, where: str, arrays: Mapping[str, Described]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
        """Input name -> array name, and input name -> the shape [steps, ...] that its array is given."""
        carried = {spec.name: spec for spec in self._carried}
        roles = self.match(where, {name: array for name, array in arrays.items() if name not in carried})
        shapes = {
            spec.name: self._shape(where, roles[spec.name], arrays[roles[spec.name]], spec, arrays)
            for spec in self.inputs
        }
        for name, array in arrays.items():
            if name in carried:
                spec = carried[name]
                check_dtype(where, f"'{name}'", array.dtype, spec)
                check_shape(
                    where, f"a sample's '{name}'", array, array.shape if spec.shape is None else spec.shape, spec
                )
            elif name not in roles.values():
                check_label(where, name, array)
        longest = max(shapes, key=lambda name: shapes[name][0])
        for name, shape in shapes.items():
            if shape[0] not in (1, shapes[longest][0]) or shape[0] == 0:
                raise DataError(
                    f"{where}: unequal numbers of steps: '{roles[longest]}' has {shapes[longest][0]}, '{roles[name]}' "
                    f"has {shape[0]}; give as many of each, or one step of what does not vary"
                )
        return roles, shapes

    def _shape(
        self, where: str, name: str, array: Described, spec: InputSpec, arrays: Mapping[str, Described]
    ) -> tuple[int, ...]:
        """The shape with the steps in front."""
        if _is_ragged(array, spec):
            return array.shape
        if len(array.shape) == 1 and spec.shape is not None and len(spec.shape) == 2 and any(self._growing.values()):
            check_dtype(where, f"'{name}'", array.dtype, spec)
            if self._grows(array, spec):
                return (array.shape[0] - self._known(arrays), 1)
            if all(not isinstance(dimension, int) or dimension == 1 for dimension in spec.shape):
                return (array.shape[0], 1, 1)
        return _sequence_shape(where, name, array, spec)

    def _grows(self, array: Described, spec: InputSpec) -> bool:
        """Whether an array holds an entry for each position of a state that grows."""
        own = spec.shape or ()
        return len(array.shape) == 1 and len(own) == 2 and isinstance(own[1], str) and own[1] in self._grown

    def _known(self, arrays: Mapping[str, Described]) -> int:
        """The length of the growing states before the first step."""
        for name, axes in self._growing.items():
            if name in arrays and axes:
                return arrays[name].shape[min(axes)]
        return 0

    def _zeros(self, spec: InputSpec, inputs: Arrays) -> np.ndarray:
        if spec.shape is None:
            raise DataError(
                f"the model does not say the shape of the state '{spec.name}'; give its first value for every sample, "
                f"as an array '{spec.name}'"
            )
        sizes = {
            dimension: size
            for other in self.inputs
            for dimension, size in zip(other.shape or (), _step_shape(inputs[other.name]), strict=False)
            if isinstance(dimension, str) and dimension
        }
        growing = self._growing[spec.name]
        lengths = [
            d if isinstance(d, int) else 0 if axis in growing else sizes.get(d or "", 1)
            for axis, d in enumerate(spec.shape)
        ]
        return np.zeros(lengths, spec.dtype)


def _is_ragged(array: Described, spec: InputSpec) -> bool:
    """Whether it is an array a step, each of its own shape."""
    return array.dtype == np.object_ != spec.dtype and len(array.shape) == 1


def _checked_step(where: str, value: object, spec: InputSpec, start: int) -> np.ndarray:
    """The array of one step, in the input's type and whole shape."""
    array = np.asarray(value)
    check_dtype(where, f"'{spec.name}'", array.dtype, spec)
    check_shape(where, f"a step's '{spec.name}'", array, array.shape if spec.shape is None else spec.shape, spec)
    return to_input(where, array, spec, start, samples=False)


def _ragged(arrays: Sequence[np.ndarray]) -> np.ndarray:
    held = np.empty(len(arrays), np.object_)
    for step, array in enumerate(arrays):
        held[step] = np.ascontiguousarray(array)
    return held


def _step_shape(array: np.ndarray) -> tuple[int, ...]:
    """The shape of the first step."""
    shape: tuple[int, ...] = array[0].shape if array.dtype == np.object_ and len(array) else array.shape[1:]
    return shape


def _sequence_shape(where: str, name: str, array: Described, spec: InputSpec) -> tuple[int, ...]:
    """The shape with the steps in front of the input's own dimensions."""
    check_dtype(where, f"'{name}'", array.dtype, spec)
    shape, own = array.shape, spec.shape
    if own is None:
        if shape:
            return shape
        raise _misshapen(where, name, array, spec, None)
    if fits_dimensions(shape, (None, *own)):
        return shape
    if not own and not shape:
        return (1,)
    fixed = bool(own) and isinstance(own[0], int) and own[0] != 1
    if own and not fixed and fits_dimensions(shape, (None, *own[1:])):
        return (shape[0], 1, *shape[1:])
    if fixed and fits_dimensions(shape, own):
        return (1, *shape)
    raise _misshapen(where, name, array, spec, ("T", *(own if fixed else own[1:])))


def _misshapen(
    where: str, name: str, array: Described, spec: InputSpec, wanted: tuple[int | str | None, ...] | None
) -> DataError:
    takes = "an array with a first axis" if wanted is None else describe(spec.dtype, wanted)
    return DataError(
        f"{where}: a sample's '{name}' is {describe(array.dtype, array.shape)}; with {arg('state')} a sample is a "
        f"sequence of T steps, {takes} for the input '{spec.name}'; give it that shape"
    )


def open_sequence_table(table: Table, fitter: SequenceFitter, limit: int | None) -> Reader:
    """Open arrays whose first axis counts sequences, and whose second counts steps.

    A single number feeds an input without axes in all sequences; beside the inputs it is left out.

    Raises:
        DataError: an array is missing, or its type, its shape or its number of sequences is wrong.
    """
    scalars = {spec.name for spec in fitter.inputs}
    headers = {name: header for name, header in table.headers.items() if header.shape or name in scalars}
    stacked = [name for name, header in headers.items() if header.shape]
    if not stacked:
        raise DataError(f"{table.name}: no array has a first axis that counts samples; give one sequence a sample")
    available = equal_counts(table.name, {name: headers[name].shape[0] for name in stacked})
    fitter.arrange(table.name, {name: replace(header, shape=header.shape[1:]) for name, header in headers.items()})
    wanted = available if limit is None else min(limit, available)

    def read() -> Iterator[Chunk]:
        with table.open() as rows:
            numbers = {name: rows[name].read(1) for name in headers if name not in stacked}
            for index in range(wanted):
                arrays = {name: np.asarray(rows[name].read(1)[0]) for name in stacked}
                yield fitter.fit(table.name, numbers | arrays, index, None)

    return Reader(table.name, read, available=available, batching=Batching(limit=limit))


def unrolled(feeds: Feeds, run: Callable[[Mapping[str, np.ndarray]], Arrays]) -> Feeds:
    """Return every step of every sequence as a batch of its own, the state among its inputs as `run` makes it.

    `run` takes the inputs of one step and gives the outputs. Labels of steps are cut likewise, to [1, 1, ...].
    """

    def read() -> Iterator[Chunk]:
        for batch in feeds:
            steps = sequence_length(feeds.states, batch.inputs)
            for step, (inputs, _) in enumerate(rollout(lambda _, fed: run(fed), feeds.states, batch.inputs)):
                labels = {
                    name: array[:, step : step + 1] if array.shape[1:2] == (steps,) else array
                    for name, array in batch.labels.items()
                }
                yield Chunk(inputs, labels, 1, f"{batch.origin}, step {step}", divisible=False)

    return Feeds(Reader(feeds.name, read, available=None, batching=Batching()))

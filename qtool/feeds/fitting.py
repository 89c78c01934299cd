"""One dictionary of arrays, fitted to the model's inputs: a sample, or a batch, or one run as it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount, meant
from qtool.feeds.batching import Batching, Chunk, Place
from qtool.feeds.boxes import moved, shifted_classes
from qtool.feeds.checks import (
    Described,
    check_dtype,
    check_shape,
    quoted,
    shape_error,
    to_input,
)
from qtool.feeds.matching import LABELS, match_arrays, with_labels
from qtool.feeds.pixels import Pixels
from qtool.feeds.preprocess import Preprocess
from qtool.feeds.texts import TextEncoder


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The way in which the arrays of one dictionary make one chunk.

    `roles` is input name -> array name; `unbatched` names the inputs whose array lacks the batch axis; `size`
    and `divisible` are the chunk's.
    """

    roles: dict[str, str]
    unbatched: frozenset[str]
    size: int
    divisible: bool


class Fitter:
    """A converter of arrays, which knows the model's inputs, how uint8 images become one, and how texts do.

    Attributes:
        inputs: the model's inputs that data must feed.
        known: the inputs that data may name.
        pixels: the preprocessing of the image input, if any.
        encoder: makes inputs of texts, if any.
        outputs: the model's outputs, one of which may be what a missing input is fed from.
        annotations: where the boxes or masks of a folder of pictures are, if these are its labels.
        fixed_batch: the batch size that the model fixes; None where it is free or the inputs have no common
            one.
        common_axis: whether the first axis of all inputs can be one batch axis.

    Raises:
        DataError: the model has no input, or the preprocessing does not fit it.
        UsageError: the preprocessing names no input of the model.
    """

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        settings: Preprocess | None,
        encoder: TextEncoder | None = None,
        outputs: Sequence[InputSpec] = (),
        annotations: Path | None = None,
    ) -> None:
        if not inputs:
            raise DataError("the model has no inputs; there is nothing to feed it")
        self.inputs = self.known = list(inputs)
        self.encoder = encoder
        self.outputs = list(outputs)
        self.annotations = annotations
        self.label_offset = settings.label_offset if settings else 0
        self.pixels = Pixels(settings, image_input(self.inputs, settings)) if settings else None
        firsts = {spec.shape[0] for spec in self.inputs if spec.shape}
        fixed = [dim for dim in firsts if isinstance(dim, int) and dim > 0]
        self.common_axis = len(fixed) <= 1
        self.fixed_batch = fixed[0] if len(fixed) == 1 else None

    def batching(self, batch_size: int, limit: int | None) -> Batching:
        """Return the batches that the model takes: exactly its own size where it fixes one."""
        if self.fixed_batch is not None:
            return Batching(size=self.fixed_batch, exact=True, limit=limit)
        return Batching(size=batch_size, limit=limit)

    def match(self, where: str, arrays: Mapping[str, Described]) -> dict[str, str]:
        """Return the name of each input's array, by the input's, as `match_arrays` finds it. Raises `DataError`."""
        return match_arrays(where, self.inputs, arrays, images=self.pixels is not None, outputs=self.outputs)

    def pixels_of(self, spec: InputSpec) -> Pixels | None:
        """Return the preprocessing, if this is the input that it feeds, else None."""
        return self.pixels if self.pixels is not None and self.pixels.spec.name == spec.name else None

    def arrange(self, where: str, arrays: Mapping[str, Described]) -> Arrangement:
        """Decide, only from types and shapes, what a dictionary of arrays is; return how it makes a chunk.

        An array with the input's rank has a batch axis already; with one axis less it is one sample.

        Raises:
            DataError: an array is missing, or its type, rank, a fixed dimension or its sample count is wrong.
        """
        roles = self.match(where, arrays)
        unbatched, shapes = set(), {}
        for spec in self.inputs:
            array = arrays[roles[spec.name]]
            shape, lacks_batch = self._run_shape(where, f"'{roles[spec.name]}'", array, spec)
            shapes[spec.name] = shape
            if lacks_batch:
                unbatched.add(spec.name)
        size, divisible = self._common_size(where, shapes)
        if not divisible:
            self._check_whole(where, roles, arrays, shapes)
        for name, array in arrays.items():
            if name not in roles.values():
                check_label(where, name, array)
        return Arrangement(roles, frozenset(unbatched), size, divisible)

    def _run_shape(self, where: str, label: str, array: Described, spec: InputSpec) -> tuple[tuple[int, ...], bool]:
        """The shape with a batch axis, and whether the array lacks that axis."""
        pixels = self.pixels_of(spec)
        if pixels is not None:
            shape = pixels.output_shape(pixels.images_shape(where, array, stacked=False))
            if spec.shape is not None:
                check_shape(where, label, _Shaped(shape, spec.dtype), (None, *spec.shape[1:]), spec)
            return shape, pixels.is_single(array.shape)
        check_dtype(where, label, array.dtype, spec)
        rank = len(array.shape)
        if spec.shape is None:
            return array.shape, False
        if rank == len(spec.shape) - 1:
            check_shape(where, label, array, spec.shape[1:], spec)
            return (1, *array.shape), True
        if rank != len(spec.shape):
            raise shape_error(where, label, array, spec)
        if rank:
            check_shape(where, label, array, (None, *spec.shape[1:]), spec)
        return array.shape, False

    def _common_size(self, where: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, bool]:
        """The number of samples, and whether the first axes are one batch axis."""
        groups: dict[str | None, tuple[str, int]] = {}
        for spec in self.inputs:
            shape = shapes[spec.name]
            first = spec.shape[0] if spec.shape else None
            if not shape or (isinstance(first, int) and shape[0] == first):
                continue
            name, count = groups.setdefault(None if isinstance(first, int) else first, (spec.name, shape[0]))
            if count != shape[0]:
                raise DataError(
                    f"{where}: unequal sample counts: {count} for the input '{name}', {shape[0]} for "
                    f"'{spec.name}'; give one of each a sample"
                )
        free = {count for _, count in groups.values()}
        firsts = {shape[0] for shape in shapes.values() if shape}
        if len(firsts) == 1 and self.common_axis:
            return firsts.pop(), True
        return (free.pop() if len(free) == 1 else 1), False

    def _check_whole(
        self,
        where: str,
        roles: Mapping[str, str],
        arrays: Mapping[str, Described],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        for spec in self.inputs:
            if spec.shape is not None:
                array = _Shaped(shapes[spec.name], arrays[roles[spec.name]].dtype)
                check_shape(where, f"'{roles[spec.name]}'", array, spec.shape, spec)

    def fit(self, where: str, arrays: Mapping[str, np.ndarray], start: int, origin: str | None) -> Chunk:
        """Return the chunk that a dictionary of arrays makes; `start` is the index of its first sample.

        Raises:
            DataError: what `arrange` refuses, no sample at all, NaN or Inf, or a value that does not fit.
        """
        plan = self.arrange(where, arrays)
        if plan.size == 0:
            raise DataError(f"{where}: holds no samples (sample {start}); remove it or fill it")
        inputs = {}
        for spec in self.inputs:
            array = arrays[plan.roles[spec.name]]
            if spec.name in plan.unbatched:
                array = array[None]
            inputs[spec.name] = self.value(where, array, spec, start, samples=plan.divisible)
        used = set(plan.roles.values())
        labels = {n: _label(where, n, a, plan) for n, a in arrays.items() if n not in used}
        geometry = None
        if self.pixels is not None:
            image = arrays[plan.roles[self.pixels.spec.name]]
            height, width = self.pixels.images_shape(where, image, stacked=False)[1:3]
            geometry = self.pixels.geometry((height, width))
            labels = moved(labels, geometry)
        places = (Place(origin, geometry),) * plan.size
        return Chunk(inputs, self.shifted(where, labels), plan.size, origin, plan.divisible, places)

    def value(
        self,
        where: str,
        array: np.ndarray,
        spec: InputSpec,
        start: int,
        *,
        samples: bool,
        stacked: bool = False,
    ) -> np.ndarray:
        """Return the input's array: images preprocessed, all else cast and its values checked.

        Raises:
            DataError: the images are of another type or shape, or a value does not fit.
        """
        pixels = self.pixels_of(spec)
        if pixels is not None:
            return pixels.apply(where, array.reshape(pixels.images_shape(where, array, stacked=stacked)))
        return to_input(where, array, spec, start, samples=samples)

    def shifted(self, where: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what is no input as labels: under the name that metrics look for, classes shifted.

        The preprocessing's offset is added to integer ones.

        Raises:
            DataError: 64 bits do not hold the sum.
        """
        labels = shifted_classes(with_labels(arrays), self.label_offset)
        classes = labels.get(LABELS)
        if not self.label_offset or classes is None or classes.dtype.kind not in "iu":
            return labels
        ends = [int(end) + self.label_offset for end in (classes.min(), classes.max())] if classes.size else [0]
        if not all(-(2**63) <= end < 2**63 for end in ends):
            raise DataError(f"{where}: 64 bits do not hold a label and its label_offset; correct the labels")
        return {**labels, LABELS: classes.astype(np.int64) + self.label_offset}


@dataclass(frozen=True, slots=True)
class _Shaped:
    shape: tuple[int, ...]
    dtype: np.dtype


def image_input(inputs: Sequence[InputSpec], settings: Preprocess) -> InputSpec:
    """Return the input that takes the pictures. Raises `UsageError` where the settings do not tell which that is."""
    names = [spec.name for spec in inputs]
    if settings.input_name is not None:
        if settings.input_name not in names:
            raise UsageError(
                f"preprocess: input_name '{settings.input_name}' is no input of the model"
                f"{meant(settings.input_name, names)}; use one of {quoted(names)}"
            )
        return inputs[names.index(settings.input_name)]
    images = [spec for spec in inputs if spec.shape is None or len(spec.shape) == 4]
    if len(inputs) == 1:
        return inputs[0]
    if len(images) != 1:
        raise UsageError(f"preprocess: the model has several inputs; set input_name to one of {quoted(names)}")
    return images[0]


def check_label(where: str, name: str, array: Described) -> None:
    """Refuse an array that can be neither an input nor labels. Raises `DataError`."""
    if array.dtype.kind not in "biufUS":
        raise DataError(
            f"{where}: '{name}' is {array.dtype}, neither an input nor labels; give numbers or strings, or remove it"
        )


def _label(where: str, name: str, array: np.ndarray, plan: Arrangement) -> np.ndarray:
    """Labels with their first axis counting samples."""
    if array.ndim and array.shape[0] == plan.size and not plan.unbatched:
        return array
    if plan.size == 1:
        return array[None]
    count = amount(array.shape[0], "value") if array.ndim else "one value"
    raise DataError(
        f"{where}: unequal sample counts: '{name}' has {count} for {amount(plan.size, 'sample')}; give one "
        "label a sample"
    )

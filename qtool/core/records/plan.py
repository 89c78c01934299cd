"""The plan: every scale, zero point, bias and fallback as data, in JSON: it can be saved, compared and edited."""

import base64
import binascii
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from qtool.core.arguments import checked_types
from qtool.core.errors import UsageError, arg
from qtool.core.files import write_text
from qtool.core.numerics import blocks
from qtool.core.numerics.affine import FLOAT32_MAX, QParams, check_scales, dequantize
from qtool.core.numerics.weights import WeightMemo
from qtool.core.reading import DOCUMENT_LIMIT, read_text
from qtool.core.records.codec import EMPTY, OPTIONAL, called, decoded, encoded, json_text, parsed
from qtool.core.records.header import header, without_header
from qtool.core.records.options import BLOCKS, GRANULARITIES, SCHEMES, WRITTEN
from qtool.core.records.placement import Reader
from qtool.core.records.recipe import Recipe
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

MOST_CHANNELS = 2**16
"""The most channels that a kernel may have because that is faster."""


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """Q/DQ on an activation; the fields are those of `Site`, with the grid and why it is this one."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]
    float_readers: tuple[Reader, ...]
    twin_axis: int | None
    twin_size: int | None
    produced: bool
    why: str
    barred_readers: tuple[Reader, ...] = ()
    barred: bool = False

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where the row contradicts itself."""
        if (self.twin_axis is None) != (self.twin_size is None):
            raise ValueError("twin_axis: stands together with twin_size")
        if self.float_readers and self.twin_axis is None:
            raise ValueError("float_readers: need twin_axis and twin_size")
        if self.barred and self.produced:
            raise ValueError("barred: an integer kernel makes the tensor, so nothing stands in front of its Q")


@dataclass(frozen=True, slots=True)
class ConstantPlan:
    """A constant operand, stored in 8 bits and read through DQ."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """A weight, stored as int8 and read through DQ. `bits` is 7 in channels where products could saturate.

    integers: in base64, an int8 each in the order of the initializer, where others take the place of those that the
    float weight is rounded to; None: the float weight is rounded.
    """

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]
    reduced_channels: int
    integers: str | None = field(default=None, metadata=OPTIONAL)

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where the row contradicts itself."""
        if not 0 <= self.reduced_channels <= len(self.params.scale):
            raise ValueError(f"reduced_channels: a number from 0 to {len(self.params.scale)} is needed")
        given = self.given
        if given is not None and (given == -128).any():
            raise ValueError("integers: numbers from -127 to 127 are needed")

    @property
    def given(self) -> np.ndarray | None:
        """The integers that the row holds, int8 and flat; None where it holds none. Raises `ValueError`: no base64."""
        return None if self.integers is None else _from_base64("integers", self.integers, np.int8)

    def holding(self, integers: np.ndarray) -> "WeightPlan":
        """Return the row with other integers, an array of the weight's shape."""
        return replace(self, integers=_base64(integers, np.int8))

    def quantized(self, weight: np.ndarray, memo: WeightMemo) -> np.ndarray:
        """Return the integers of the weight, int8 of its shape: those of the row, or what it is rounded to."""
        given = self.given
        return memo.quantized(self.tensor, weight, self.params) if given is None else given.reshape(weight.shape)

    def real(self, weight: np.ndarray) -> np.ndarray:
        """Return the float weight that the row stands for: `weight`, or what the row's own integers are."""
        given = self.given
        return weight if given is None else dequantize(given.reshape(weight.shape), self.params)


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """A matrix in blocks along `axis`, each of which has a scale, and a zero point where its grid is affine.

    It is [M, K] where `axis` is 1, else [K, M]. The rest is in base64, in the order of M.

    bits: 4 or 8. block: numbers a block. scale: a float32 for each block; it may be negative. zero_point: a byte for
    each block; None: the middle. written: one of `WRITTEN`. integers: a byte for each number, where others take the
    place of the nearest ones.
    """

    tensor: str
    bits: int
    block: int
    axis: int
    scale: str
    readers: tuple[Reader, ...]
    written: str
    zero_point: str | None = field(default=None, metadata=OPTIONAL)
    integers: str | None = field(default=None, metadata=OPTIONAL)

    @classmethod
    def of(
        cls, tensor: str, axis: int, readers: tuple[Reader, ...], written: str, grids: blocks.BlockGrids
    ) -> "BlockPlan":
        """Return the row of a tensor with these grids, and the nearest integers."""
        zero = None if grids.zero_point is None else _base64(grids.zero_point, np.uint8)
        scale = _base64(grids.scale, np.float32)
        return cls(tensor, grids.bits, grids.size, axis, scale, readers, written, zero)

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where the row contradicts itself."""
        known = {"bits": (4, 8), "block": BLOCKS, "axis": (0, 1), "written": WRITTEN}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: one of {', '.join(map(str, values))} is needed")
        scale = _from_base64("scale", self.scale, np.float32)
        if not np.isfinite(scale).all():
            raise ValueError("scale: finite numbers are needed")
        for name, given, count in (("zero_point", self.zero_point, scale.size), ("integers", self.integers, None)):
            array = None if given is None else _from_base64(name, given, np.uint8)
            if array is not None and (array.size != (count or array.size) or array.max(initial=0) >= 1 << self.bits):
                raise ValueError(f"{name}: numbers of {self.bits} bits are needed, and as many as there are")

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether it speaks of a constant of this shape."""
        if len(shape) != 2:
            return False
        numbers = shape[0] * shape[1]
        blocks_in_all = shape[1 - self.axis] * blocks.count(shape[self.axis], self.block)
        given = self.given
        fitting = given is None or given.size == numbers
        return _from_base64("scale", self.scale, np.float32).size == blocks_in_all and fitting

    @property
    def given(self) -> np.ndarray | None:
        """The integers that the row holds, uint8 and flat; None where it holds none."""
        return None if self.integers is None else _from_base64("integers", self.integers, np.uint8)

    def rows(self, matrix: np.ndarray) -> np.ndarray:
        """Return a view of a matrix of the tensor's shape as [M, K]; a second call leads back."""
        return matrix if self.axis == 1 else matrix.T

    def grids(self, channels: int) -> blocks.BlockGrids:
        """Return the grids of its blocks; `channels`: M."""
        scale = _from_base64("scale", self.scale, np.float32).reshape(channels, -1)
        zero = None if self.zero_point is None else _from_base64("zero_point", self.zero_point, np.uint8)
        return blocks.BlockGrids(self.bits, self.block, scale, None if zero is None else zero.reshape(scale.shape))

    def quantized(self, matrix: np.ndarray) -> np.ndarray:
        """Return the integers of the matrix, uint8 [M, K]: those of the row, or the nearest."""
        rows, given = self.rows(matrix), self.given
        if given is not None:
            return given.reshape(rows.shape)
        return blocks.nearest(rows, self.grids(len(rows)))

    def real(self, matrix: np.ndarray) -> np.ndarray:
        """Return what the stored integers mean, in the shape of the matrix."""
        integers = self.quantized(matrix)
        return np.ascontiguousarray(self.rows(blocks.real(integers, self.grids(len(integers)))))

    def holding(self, integers: np.ndarray) -> "BlockPlan":
        """Return the row with other integers, [M, K]."""
        return replace(self, integers=_base64(integers, np.uint8))


@dataclass(frozen=True, slots=True)
class BiasPlan:
    """A bias, stored as int32 with zero point 0; its scale is the input's times the weight's, one each channel."""

    tensor: str
    scale: tuple[float, ...]
    reader: Reader

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where these are no scales."""
        check_scales(self.scale)


@dataclass(frozen=True, slots=True)
class BiasShift:
    """The shift that is added to the bias that `reader` reads, before it is quantised; one number each channel."""

    reader: Reader
    shift: tuple[float, ...]

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where float32 does not hold the shift."""
        if not all(abs(x) <= FLOAT32_MAX for x in self.shift):
            raise ValueError("shift: float32 numbers are needed")


@dataclass(frozen=True, slots=True)
class WiderPlan:
    """A convolution that is written with more output channels than it has, which a Slice behind it drops.

    onnxruntime's kernels are faster for some numbers of channels; what comes out is the same.
    """

    layer: str
    channels: int

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where that is no number of channels."""
        if not 1 < self.channels <= MOST_CHANNELS:
            raise ValueError(f"channels: a number from 2 to {MOST_CHANNELS} is needed")


@dataclass(frozen=True, slots=True)
class CalibrationNote:
    """The data that ranges were calibrated on.

    samples: how many. sha256: of how often each value was fed to each input, which other data changes, and the same
    data read otherwise. reading: how the data was read, as `Statistics.read_by` has it.
    """

    samples: int
    sha256: str
    reading: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes that `rewrite` applies to the graph that `recipe` makes of the model with this digest.

    weights: of layers whose input has a grid in `activations`. dynamic: of layers that find the grid of their input
    anew in each run. stored: of layers that compute in float. blocks: of layers that find a grid for each block of
    their input, and of tables. inputs: of those that have no grid, the least and the largest value that calibrated.
    calibration: what calibrated; None where nothing did. wider: of layers in `weights` alone.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("plan", 1)

    model_digest: str
    target: str
    scheme: str
    granularity: str
    calibrator: str
    activations: tuple[ActivationPlan, ...]
    constants: tuple[ConstantPlan, ...]
    weights: tuple[WeightPlan, ...]
    biases: tuple[BiasPlan, ...]
    integer: dict[str, tuple[str, ...]]
    layers: tuple[str, ...]
    skipped: dict[str, str]
    shifts: tuple[BiasShift, ...] = ()
    # the key that plans have always had
    recipe: Recipe = field(default_factory=Recipe, metadata=called("preparation"))
    dynamic: tuple[WeightPlan, ...] = ()
    stored: tuple[WeightPlan, ...] = ()
    blocks: tuple[BlockPlan, ...] = field(default=(), metadata=EMPTY)
    inputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    calibration: CalibrationNote | None = field(default=None, metadata=OPTIONAL)
    wider: tuple[WiderPlan, ...] = field(default=(), metadata=EMPTY)

    def __repr__(self) -> str:
        rows = {
            "activations": self.activations, "weights": self.weights, "biases": self.biases, "shifts": self.shifts,
            "dynamic weights": self.dynamic, "stored weights": self.stored,
            "weights in blocks": self.blocks,
        }  # fmt: skip
        return summary(
            "Plan",
            f"model {self.model_digest[:8]}",
            f"target {self.target!r}",
            f"calibrator {shortened(self.calibrator)!r}",
            f"{sum(layer in self.integer for layer in self.layers)} of {amount(len(self.layers), 'layer')} integer",
            *(f"{len(given)} {name}" for name, given in rows.items() if given),
            " ".join(self.recipe.steps),
        )

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where it holds no value of that kind."""
        for name, known in (("scheme", SCHEMES), ("granularity", GRANULARITIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: one of {', '.join(known)} is needed")

    @property
    def quantized(self) -> tuple[str, ...]:
        """The layers that are not float throughout, in graph order: as integer kernels, or behind integer weights."""
        readers = [row.readers for row in (*self.dynamic, *self.stored)] + [row.readers for row in self.blocks]
        found = {*self.integer, *(node for read in readers for node, _ in read)}
        return tuple(layer for layer in self.layers if layer in found)

    @property
    def refined(self) -> int:
        """The number of weights of static layers that hold integers of their own."""
        return sum(row.integers is not None for row in self.weights)

    def without_all(self) -> "Plan":
        """Return the plan that leaves the graph as it is: every layer in float, no bias shifted."""
        return replace(
            self,
            activations=(),
            constants=(),
            weights=(),
            biases=(),
            integer={},
            shifts=(),
            dynamic=(),
            stored=(),
            blocks=(),
            wider=(),
        )

    def only(self, layer: str, made: Collection[str]) -> "Plan":
        """Return the part of the plan that quantises one layer: its weights and bias, what it reads and what it writes.

        Args:
            layer: the name of its node.
            made: the 8-bit tensors that its kernel writes; only the graph tells which these are.
        """
        activations = []
        for row in self.activations:
            if row.tensor in made:
                activations.append(row)
            elif readers := _own(row.readers, {layer}):
                plain = replace(row, float_readers=(), twin_axis=None, twin_size=None, produced=False)
                activations.append(replace(plain, readers=readers, barred_readers=(), barred=False))
        integer = {name: kernels for name, kernels in self.integer.items() if name == layer}
        return replace(self.read_by({layer}), activations=tuple(activations), constants=(), integer=integer)

    def within(self, nodes: Collection[str], tensors: Collection[str]) -> "Plan":
        """Return the rows of the plan that speak of a part of the graph.

        Args:
            nodes: the names of the part's nodes.
            tensors: the names of what is computed in the part, or fed to it.
        """
        activations = []
        for row in self.activations:
            readers, twins = _own(row.readers, nodes), _own(row.float_readers, nodes)
            if row.tensor in tensors and (row.produced or readers):
                axis, size = (row.twin_axis, row.twin_size) if twins or row.barred else (None, None)
                part = replace(row, readers=readers, float_readers=twins, twin_axis=axis, twin_size=size)
                activations.append(replace(part, barred_readers=_own(row.barred_readers, nodes)))
        return replace(self.read_by(nodes), activations=tuple(activations))

    def read_by(self, nodes: Collection[str]) -> "Plan":
        """Return the plan with its rows of constants, weights and biases cut down to what the nodes read."""
        return replace(
            self,
            constants=_cut(self.constants, nodes),
            weights=_cut(self.weights, nodes),
            biases=tuple(row for row in self.biases if row.reader[0] in nodes),
            shifts=tuple(row for row in self.shifts if row.reader[0] in nodes),
            dynamic=_cut(self.dynamic, nodes),
            stored=_cut(self.stored, nodes),
            blocks=_cut(self.blocks, nodes),
            wider=tuple(row for row in self.wider if row.layer in nodes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as strict JSON, as `save` writes it."""
        return {**header(*self.SCHEMA), **encoded(self)}

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically.

        Raises:
            OutputError: it cannot be written.
            ValueError: `load_plan` would refuse it.
        """
        write_text(path, json_text(checked(self).to_dict()))


def checked(plan: Plan) -> Plan:
    """Return the plan as its file would give it back. Raises `ValueError` where its file would be refused."""
    return decoded(Plan, encoded(plan))


_Row = TypeVar("_Row", ConstantPlan, WeightPlan, BlockPlan)


def _cut(rows: tuple[_Row, ...], nodes: Collection[str]) -> tuple[_Row, ...]:
    return tuple(replace(row, readers=readers) for row in rows if (readers := _own(row.readers, nodes)))


def _base64(array: np.ndarray, kind: type[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def _from_base64(name: str, text: str, kind: type[np.generic]) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), kind)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: base64 is needed") from error


def _own(readers: tuple[Reader, ...], nodes: Collection[str]) -> tuple[Reader, ...]:
    return tuple(reader for reader in readers if reader[0] in nodes)


@checked_types
def load_plan(path: str | Path) -> Plan:
    """Read a saved plan.

    Raises:
        UsageError: unreadable, not a plan, or of another version.
    """
    file = Path(path)
    try:
        document = parsed(read_text(file, DOCUMENT_LIMIT))
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read ({error.strerror}); give a file written by {arg('save_plan')}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{file}: not JSON ({error}); give a file written by {arg('save_plan')}") from error
    version, content = without_header(document, "plan", former="qtool_plan")
    if version != Plan.SCHEMA[1]:
        raise UsageError(f"{file}: not a qtool plan of version {Plan.SCHEMA[1]}; write one with {arg('save_plan')}")
    try:
        return decoded(Plan, content)
    except ValueError as error:
        raise UsageError(f"{file}: damaged plan ({error}); write it again with {arg('save_plan')}") from error

"""The plan: every scale, zero point, bias and fallback as data, in JSON: it can be saved, compared and edited."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from qtool.core.errors import UsageError, arg
from qtool.core.files import write_text
from qtool.core.numerics.affine import QParams, integer_range
from qtool.core.records.placement import Reader
from qtool.core.records.recipe import Recipe, read_recipe

VERSION = 1
_SMALLEST, _LARGEST = 2.0**-126, 2.0**128 - 2.0**104


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


@dataclass(frozen=True, slots=True)
class ConstantPlan:
    """A constant operand, stored in 8 bits and read through DQ."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """A weight, stored as int8 and read through DQ. `bits` is 7 in channels where products could saturate."""

    tensor: str
    params: QParams
    readers: tuple[Reader, ...]
    reduced_channels: int


@dataclass(frozen=True, slots=True)
class BiasPlan:
    """A bias, stored as int32 with zero point 0; its scale is the input's times the weight's, one each channel."""

    tensor: str
    scale: tuple[float, ...]
    reader: Reader


@dataclass(frozen=True, slots=True)
class BiasShift:
    """What is added to the bias that `reader` reads, before it is quantised; one number each channel."""

    reader: Reader
    shift: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `rewrite` applies to the graph that `recipe` makes of the model with this digest.

    weights: of layers whose input has a grid in `activations`. dynamic: of layers that find the grid of their input
    anew in each run. stored: of layers that compute in float.
    """

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
    recipe: Recipe = field(default_factory=Recipe)
    dynamic: tuple[WeightPlan, ...] = ()
    stored: tuple[WeightPlan, ...] = ()

    @property
    def quantized(self) -> tuple[str, ...]:
        """The layers that are not float throughout, in graph order: as integer kernels, or behind integer weights."""
        rows = (*self.dynamic, *self.stored)
        found = {*self.integer, *(node for row in rows for node, _ in row.readers)}
        return tuple(layer for layer in self.layers if layer in found)

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
                activations.append(replace(plain, readers=readers))
        integer = {name: kernels for name, kernels in self.integer.items() if name == layer}
        return replace(self._read_by({layer}), activations=tuple(activations), constants=(), integer=integer)

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
                axis, size = (row.twin_axis, row.twin_size) if twins else (None, None)
                activations.append(replace(row, readers=readers, float_readers=twins, twin_axis=axis, twin_size=size))
        return replace(self._read_by(nodes), activations=tuple(activations))

    def _read_by(self, nodes: Collection[str]) -> "Plan":
        """The rows of constants, weights and biases, cut down to what the nodes read."""
        return replace(
            self,
            constants=_cut(self.constants, nodes),
            weights=_cut(self.weights, nodes),
            biases=tuple(row for row in self.biases if row.reader[0] in nodes),
            shifts=tuple(row for row in self.shifts if row.reader[0] in nodes),
            dynamic=_cut(self.dynamic, nodes),
            stored=_cut(self.stored, nodes),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        document = {"qtool_plan": VERSION, **asdict(self)}
        # the key that plans have always had; in its place, so that their bytes stay the same
        return {"preparation" if key == "recipe" else key: value for key, value in document.items()}

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically. Raises `OutputError`."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


_Row = TypeVar("_Row", ConstantPlan, WeightPlan)


def _cut(rows: tuple[_Row, ...], nodes: Collection[str]) -> tuple[_Row, ...]:
    return tuple(replace(row, readers=readers) for row in rows if (readers := _own(row.readers, nodes)))


def _own(readers: tuple[Reader, ...], nodes: Collection[str]) -> tuple[Reader, ...]:
    return tuple(reader for reader in readers if reader[0] in nodes)


def load_plan(path: str | Path) -> Plan:
    """Read a saved plan.

    Raises:
        UsageError: unreadable, not a plan, or of another version.
    """
    file = Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read ({error.strerror}); give a file written by {arg('save_plan')}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON ({error}); give a file written by {arg('save_plan')}") from error
    if not isinstance(data, dict) or data.pop("qtool_plan", None) != VERSION:
        raise UsageError(f"{file}: not a qtool plan of version {VERSION}; write one with {arg('save_plan')}")
    try:
        return _plan(data)
    except ValueError as error:
        raise UsageError(f"{file}: damaged plan ({error}); write it again with {arg('save_plan')}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _plan(data: Any) -> Plan:
    d = _fields(data, Plan, "plan")
    return Plan(
        **{k: _text(d[k], k) for k in ("model_digest", "target", "scheme", "granularity", "calibrator")},
        activations=tuple(_activation(row, f"activations[{i}]") for i, row in _rows(d["activations"], "activations")),
        constants=tuple(_constant(row, f"constants[{i}]") for i, row in _rows(d["constants"], "constants")),
        weights=tuple(_weight(row, f"weights[{i}]") for i, row in _rows(d["weights"], "weights")),
        biases=tuple(_bias(row, f"biases[{i}]") for i, row in _rows(d["biases"], "biases")),
        integer={name: _texts(kernels, f"integer[{name!r}]") for name, kernels in _object(d["integer"], "integer")},
        layers=_texts(d["layers"], "layers"),
        skipped={name: _text(why, f"skipped[{name!r}]") for name, why in _object(d["skipped"], "skipped")},
        shifts=tuple(_shift(row, f"shifts[{i}]") for i, row in _rows(d["shifts"], "shifts")),
        recipe=read_recipe(d["preparation"]),
        dynamic=tuple(_weight(row, f"dynamic[{i}]") for i, row in _rows(d["dynamic"], "dynamic")),
        stored=tuple(_weight(row, f"stored[{i}]") for i, row in _rows(d["stored"], "stored")),
    )


def _shift(row: Any, where: str) -> BiasShift:
    d = _fields(row, BiasShift, where)
    (reader,) = _readers([d["reader"]], f"{where}.reader")
    numbers = [number for _, number in _rows(d["shift"], f"{where}.shift")]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= _LARGEST for n in numbers):
        raise ValueError(f"{where}.shift: float32 numbers are needed")
    return BiasShift(reader, tuple(map(float, numbers)))


def _activation(row: Any, where: str) -> ActivationPlan:
    d = _fields(row, ActivationPlan, where)
    twin_axis = None if d["twin_axis"] is None else _whole(d["twin_axis"], f"{where}.twin_axis")
    twin_size = None if d["twin_size"] is None else _whole(d["twin_size"], f"{where}.twin_size")
    if not isinstance(d["produced"], bool) or (twin_axis is None) != (twin_size is None):
        raise ValueError(f"{where}: `produced` is true or false; `twin_axis` and `twin_size` stand together")
    return ActivationPlan(
        tensor=_text(d["tensor"], f"{where}.tensor"),
        params=_params(d["params"], f"{where}.params"),
        readers=_readers(d["readers"], f"{where}.readers"),
        float_readers=_readers(d["float_readers"], f"{where}.float_readers"),
        twin_axis=twin_axis,
        twin_size=twin_size,
        produced=d["produced"],
        why=_text(d["why"], f"{where}.why"),
    )


def _constant(row: Any, where: str) -> ConstantPlan:
    d = _fields(row, ConstantPlan, where)
    params = _params(d["params"], f"{where}.params")
    return ConstantPlan(_text(d["tensor"], f"{where}.tensor"), params, _readers(d["readers"], f"{where}.readers"))


def _weight(row: Any, where: str) -> WeightPlan:
    d = _fields(row, WeightPlan, where)
    return WeightPlan(
        _text(d["tensor"], f"{where}.tensor"),
        _params(d["params"], f"{where}.params"),
        _readers(d["readers"], f"{where}.readers"),
        _whole(d["reduced_channels"], f"{where}.reduced_channels"),
    )


def _bias(row: Any, where: str) -> BiasPlan:
    d = _fields(row, BiasPlan, where)
    (reader,) = _readers([d["reader"]], f"{where}.reader")
    return BiasPlan(_text(d["tensor"], f"{where}.tensor"), _scales(d["scale"], f"{where}.scale"), reader)


def _params(row: Any, where: str) -> QParams:
    d = _fields(row, QParams, where)
    if d["dtype"] not in ("uint8", "int8"):
        raise ValueError(f"{where}.dtype: neither uint8 nor int8")
    scale = _scales(d["scale"], f"{where}.scale")
    zero_point = tuple(_whole(z, f"{where}.zero_point") for _, z in _rows(d["zero_point"], f"{where}.zero_point"))
    qmin, qmax = integer_range(d["dtype"])
    if len(zero_point) != len(scale) or not all(qmin <= z <= qmax for z in zero_point):
        raise ValueError(f"{where}.zero_point: one is needed for each scale, in [{qmin}, {qmax}]")
    axis = None if d["axis"] is None else _whole(d["axis"], f"{where}.axis")
    if axis is None and len(scale) != 1:
        raise ValueError(f"{where}.axis: several scales need one")
    return QParams(scale, zero_point, d["dtype"], axis)


def _scales(value: Any, where: str) -> tuple[float, ...]:
    """Positive, normal float32 numbers, at least one."""
    scales = [s for _, s in _rows(value, where)]
    numbers = all(isinstance(s, int | float) and not isinstance(s, bool) for s in scales)
    if not scales or not numbers or not all(_SMALLEST <= s <= _LARGEST for s in scales):
        raise ValueError(f"{where}: positive float32 numbers are needed")
    return tuple(map(float, scales))


def _fields(value: Any, record: type, where: str) -> dict[str, Any]:
    """`value` as an object with exactly the fields of `record`."""
    names = {"preparation" if field.name == "recipe" else field.name for field in fields(record)}
    if not isinstance(value, dict) or set(value) != names:
        difference = sorted(names ^ set(value)) if isinstance(value, dict) else sorted(names)
        raise ValueError(f"{where}: an object with other fields is needed; look at {', '.join(difference)}")
    return value


def _rows(value: Any, where: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: a list is needed")
    return enumerate(value)


def _object(value: Any, where: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: an object is needed")
    return value.items()


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: a string is needed")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(item, where) for _, item in _rows(value, where))


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where}: a whole number is needed")
    return value


def _readers(value: Any, where: str) -> tuple[Reader, ...]:
    rows = [row for _, row in _rows(value, where)]
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ValueError(f"{where}: [node, input index] is needed")
    return tuple((_text(name, where), _whole(index, where)) for name, index in rows)

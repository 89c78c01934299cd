"""The SQNR after each tensor and layer of an int8 model, and of each layer alone, against the float model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qtool.core.errors import DataError, ModelError
from qtool.core.numerics.sqnr import SignalToNoise
from qtool.core.records.inspection import TensorError
from qtool.core.text import amount
from qtool.graph import compose, edit
from qtool.graph.edit import Array, Model
from qtool.inspection.inputs import Example, fed_to
from qtool.inspection.pairs import Pair, pair_tensors
from qtool.runtime.session import Session

_SCALED_DB = 15.0
"""Where a factor for each channel explains so much more, the maker holds the channels at another scale."""
_SPEAKS_DB = 20.0
_ENOUGH = 32
"""Numbers of a channel, of which a factor can be told."""


@dataclass(frozen=True, slots=True)
class Errors:
    """The errors of a model, as far as they are known.

    rows: in the order of the float model. alone: tensor -> the SQNR of its layer alone. of: a value of the int8
    model -> the tensor of the float model that it is. not_measured: what could not be, and why.
    """

    rows: tuple[TensorError, ...] = ()
    alone: dict[str, float | None] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()

    @property
    def by_tensor(self) -> dict[str, float | None]:
        """Tensor -> SQNR in dB."""
        return {row.tensor: row.sqnr_db for row in self.rows}


def errors_of(floating: Model, quantized: Model, examples: Sequence[Example]) -> Errors:
    """Return the errors on some examples: the int8 model as its file says, without onnxruntime's optimisations.

    What these change is compared elsewhere; here they would keep tensors from being seen.
    """
    paired = pair_tensors(floating, quantized)
    notes = []
    if paired.by_order:
        notes.append("the models' tensors have other names: layers are compared in their order, and nothing else is")
    if not paired.pairs:
        return Errors(
            not_measured=("the error of each layer: no layer of the int8 model is known to be one of float's",)
        )
    pairs = paired.pairs
    try:
        exact = Session(compose.with_outputs(floating, _once(p.tensor for p in pairs)), name="the float model")
        whole = Session(
            compose.with_outputs(paired.model, _once(p.found for p in pairs)), optimize=False, name="the model"
        )
    except ModelError as error:
        return Errors(not_measured=(f"the error of each layer: {error}",))
    outputs = frozenset(str(value.name) for value in floating.graph.outputs)
    fixed = _fixed_axes(floating)
    scales = _scales([pair for pair in pairs if pair.tensor not in outputs], exact, whole, examples, fixed)
    sums = _compared(pairs, exact, whole, examples, scales)
    figures = {name: noise.db for name, noise in sums.items()}
    missing = sum(db is None for db in figures.values())
    # what float gives fits only where both models hold the same numbers
    same = [pair for pair in pairs if figures[pair.tensor] is not None]
    makers = (_makers(quantized), _makers(floating))
    pieces = _Pieces(paired.model, same)
    alone = pieces.compared(same, exact, examples, scales)
    if scales:
        held = amount(len(scales), "tensor")
        notes.append(f"the scale of {held} that the int8 model holds at another: SQNR is beyond a factor a channel")
    if missing:
        notes.append(f"{amount(missing, 'tensor')} of another shape, or that hold no numbers to compare")
    if pieces.failed:
        notes.append(f"the error of each layer alone: {pieces.failed}")
    return Errors(
        rows=tuple(TensorError(pair.tensor, pair.op, figures[pair.tensor], _made(pair, makers)) for pair in pairs),
        alone={name: None if pieces.failed else noise.db for name, noise in alone.items()},
        of={name: pair.tensor for pair in pairs for name in (pair.found, *pair.names)},
        not_measured=tuple(notes),
    )


Scales = dict[str, Array]
"""Tensor -> the factors of its channels, shaped as it takes them."""


def _makers(model: Model) -> dict[str, str]:
    """Tensor -> the name of the node that makes it, where that has one."""
    made = ((name, value.producer()) for name, value in edit.named_values(model.graph).items())
    return {name: str(node.name) for name, node in made if node is not None and node.name}


def _made(pair: Pair, makers: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The names of the nodes that make a tensor in several models, each once."""
    found = (one.get(name) for one in makers for name in (pair.tensor, *pair.names))
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _compared(
    pairs: Sequence[Pair], exact: Session, whole: Session, examples: Sequence[Example], scales: Scales
) -> dict[str, SignalToNoise]:
    """Tensor -> its differences."""
    sums = {pair.tensor: SignalToNoise() for pair in pairs}
    for example in examples:
        wanted = _scaled(exact.run(fed_to(exact, example)), scales)
        found = whole.run(example)
        for pair in pairs:
            one, other = wanted[pair.tensor], found[pair.found]
            if {one.dtype.kind, other.dtype.kind} != {"f"} or one.shape != other.shape or not one.size:
                sums[pair.tensor].incomparable += 1
                continue
            sums[pair.tensor].add(one, other)
    return sums


def _scaled(arrays: Mapping[str, Array], scales: Scales) -> dict[str, Array]:
    return {
        name: array * scales[name].astype(array.dtype) if name in scales else array for name, array in arrays.items()
    }


def _fixed_axes(model: Model) -> dict[str, dict[int, int]]:
    """Tensor -> the axes of one length in every run, such as that of a weight's channels, and that length."""
    return {
        name: {axis: size for axis, size in enumerate(value.shape) if isinstance(size, int)}
        for name, value in edit.named_values(model.graph).items()
        if value.shape is not None
    }


def _scales(
    pairs: Sequence[Pair],
    exact: Session,
    whole: Session,
    examples: Sequence[Example],
    fixed: Mapping[str, Mapping[int, int]],
) -> Scales:
    """The tensors that the int8 model holds at another scale, and the factors: those of the first example."""
    if not examples:
        return {}
    wanted, found = exact.run(fed_to(exact, examples[0])), whole.run(examples[0])
    result = {}
    for pair in pairs:
        one, other = wanted[pair.tensor], found[pair.found]
        if one.dtype.kind == "f" and one.shape == other.shape and one.size:
            factors = _factors(one, other, fixed.get(pair.tensor, {}))
            if factors is not None:
                result[pair.tensor] = factors
    return result


class _Pieces:
    """The int8 model cut at each tensor that float has too, so that each layer reads what float gives it."""

    def __init__(self, model: Model, pairs: Sequence[Pair]) -> None:
        self.failed = ""
        self._tensors = {pair.found: pair.tensor for pair in pairs}
        try:
            serialized, self._fed = compose.cut_floats(model, list(self._tensors))
            self._session = Session(serialized, optimize=False, name="the layers of the model")
        except (ModelError, KeyError) as error:
            self.failed = str(error)

    def compared(
        self, pairs: Sequence[Pair], exact: Session, examples: Sequence[Example], scales: Scales
    ) -> dict[str, SignalToNoise]:
        """Tensor -> the differences of its layer alone."""
        alone = {pair.tensor: SignalToNoise() for pair in pairs}
        for example in examples:
            wanted = _scaled(exact.run(fed_to(exact, example)), scales)
            by_itself = self._run(example, wanted)
            if by_itself is None:
                break
            for pair in pairs:
                alone[pair.tensor].add(wanted[pair.tensor], by_itself[pair.found])
        return alone

    def _run(self, example: Example, exact: Example) -> dict[str, Array] | None:
        """What each piece gives, by the name of the int8 model; None where they do not run."""
        if self.failed:
            return None
        kinds = {spec.name: spec.dtype for spec in self._session.inputs}
        feeds = {name: array for name, array in example.items() if name in kinds}
        feeds |= {fed: exact[self._tensors[name]].astype(kinds[fed]) for name, fed in self._fed.items() if fed in kinds}
        try:
            return self._session.run(feeds)
        except DataError as error:
            self.failed = str(error)
            return None


def _factors(one: Array, other: Array, fixed: Mapping[int, int]) -> Array | None:
    """The factors of the channels, on axis 1 or the last, where they explain far more than equality does; else None.

    fixed: the axes of one length in every run, and that length; other examples may be longer along the others.
    """
    x, y = one.astype(np.float64), other.astype(np.float64)
    plain = _db(x, x - y)
    # not finite ones have no factor
    if not plain <= _SPEAKS_DB or x.ndim < 2:
        return None
    best, factors = plain + _SCALED_DB, None
    for axis in {1, x.ndim - 1}:
        if fixed.get(axis) != x.shape[axis] or x.size < _ENOUGH * x.shape[axis]:
            continue
        others = tuple(a for a in range(x.ndim) if a != axis)
        power = (x * x).sum(others, keepdims=True)
        gain = np.divide((x * y).sum(others, keepdims=True), power, out=np.ones_like(power), where=power > 0)
        explained = _db(gain * x, gain * x - y)
        if explained > best:
            best, factors = explained, gain
    return factors


def _db(signal: Array, noise: Array) -> float:
    one, other = float((signal * signal).sum()), float((noise * noise).sum())
    return 10 * float(np.log10(max(one, 1e-300) / max(other, 1e-300)))


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))

"""The signal to quantisation noise ratio: one definition for candidates, verification, evaluation, sensitivity, tuning.

SQNR = 10 log10(sum(x^2) / sum((x - y)^2)) in dB, of an output x of the float model and y of another one, over all its
elements and all samples. Of several outputs it is the worst one's. docs/metrics.md says why.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qtool.core.numerics.counting import Array

# within these, squares of float32 and their sums are exact enough for decibels and a fifth of the work of float64
_SMALL, _LARGE = 1e-8, 1e12
_FEW, _FAR_DB = 4, 6.0
"""Of fewer arrays each makes much of the noise; one that decides is worth so much."""


@dataclass(slots=True)
class SumOfSquares:
    """A sum of squares in units of the square of its largest term, so that it neither underflows nor overflows."""

    total: float = 0.0
    scale: float = 0.0

    def add(self, x: Array, largest: float) -> None:
        """Add the squares of a flat array of real numbers, none of which is beyond `largest`, a finite one."""
        if largest == 0.0:
            return
        if largest > self.scale:
            self.total *= (self.scale / largest) ** 2
            self.scale = largest
        if x.dtype == np.float32 and _SMALL < self.scale < _LARGE:
            self.total += float(x @ x) / self.scale**2
            return
        scaled = x.astype(np.float64) / self.scale
        self.total += float(scaled @ scaled)

    @property
    def value(self) -> float:
        """The sum itself; 0 or inf where it is no float64."""
        return self.total * self.scale * self.scale

    @property
    def decibels(self) -> float:
        """The sum in dB, -inf where it is 0."""
        return 10.0 * math.log10(self.total) + 20.0 * math.log10(self.scale) if self.total > 0.0 else -math.inf


@dataclass(frozen=True, slots=True)
class Uneven:
    """The SQNR of arrays of which one makes most of the noise, so that it alone decides the figure of all.

    arrays: how many there are. share: what that one makes of the noise, 0 to 1. others_db: the SQNR of all others
    together. median_db: of single ones that have a signal; None where half of them or more have no noise.
    """

    arrays: int
    share: float
    others_db: float
    median_db: float | None


@dataclass(slots=True)
class SignalToNoise:
    """The SQNR of one tensor, of which arrays of any shape are added.

    Entries that are NaN, or the same infinity, in both are equal, and left out of signal and noise. unlike: how many
    entries are not finite in one of them alone, or differently so. incomparable: how many arrays had another shape in
    the other, which leaves nothing to subtract. compared: how many entries were finite in both.
    """

    signal: SumOfSquares = field(default_factory=SumOfSquares)
    noise: SumOfSquares = field(default_factory=SumOfSquares)
    unlike: int = 0
    incomparable: int = 0
    compared: int = 0
    _nan: bool = False

    def add(self, reference: Array, other: Array) -> None:
        """Add an array of the float model, and the same of the other one."""
        if reference.shape != other.shape:
            self.incomparable += 1
            return
        x, y = _real(reference), _real(other)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = y - x
        largest = _largest(difference)
        if not math.isfinite(largest):
            x, difference = self._finite(x.astype(np.float64), y.astype(np.float64))
            largest = _largest(difference)
        self.signal.add(x, _largest(x))
        self.noise.add(difference, largest)
        self.compared += x.size

    def _finite(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The entries that are finite in both, and their differences, which end where float64 does."""
        finite = np.isfinite(x) & np.isfinite(y)
        odd = ~finite & ~_same(x, y)
        self.unlike += int(np.count_nonzero(odd))
        self._nan |= bool(np.isnan(x[odd]).any() or np.isnan(y[odd]).any())
        x, y = x[finite], y[finite]
        with np.errstate(over="ignore"):
            difference = y - x
        return x, np.nan_to_num(difference)

    @property
    def db(self) -> float | None:
        """The SQNR in dB: inf where nothing differs, -inf where all is noise; None where nothing can be compared.

        Entries that are unlike make it -inf, or NaN where they are NaN.
        """
        if self.incomparable:
            return None
        if self.unlike:
            return math.nan if self._nan else -math.inf
        if not self.compared:
            return None
        if self.noise.total == 0.0:
            return math.inf
        return self.signal.decibels - self.noise.decibels


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an output that differ in kind, such as boxes and scores.

    labels: the number of the part of each element, int64; of the output's rank, with length 1 on each axis along which
    it is the same. faint: of each part, where only larger values say something; 0 where all do.
    """

    labels: Array
    faint: tuple[float, ...]

    def of(self, number: int, array: Array) -> Array:
        """Return the elements of an array of the output that belong to a part."""
        if len(self.faint) == 1:
            return array
        axes = [axis for axis, length in enumerate(self.labels.shape) if length > 1]
        if len(axes) == 1:
            return array.take(np.flatnonzero(self.labels == number), axis=axes[0])
        return np.asarray(array[np.broadcast_to(self.labels == number, array.shape)])


class OutputNoise:
    """The SQNR of an output, of which arrays are added, and of each of its parts: the worst of these counts.

    A part whose signal is 0 has no figure of its own: its noise is in that of the whole.

    each: whether the sums of each array are kept, two numbers, which `uneven` needs.
    """

    def __init__(self, parts: Parts | None = None, *, each: bool = False) -> None:
        self._each = each
        self._whole = SignalToNoise()
        self._parts = parts
        self._by_part = [SignalToNoise() for _ in parts.faint] if parts is not None else []
        self._sums: list[list[tuple[float, float]]] = [[] for _ in (self._whole, *self._by_part)]

    def add(self, reference: Array, other: Array) -> None:
        """Add an array of the float model, and the same of the other one; of another rank or size, it has no parts."""
        pieces = [(reference, other)]
        parts = self._parts
        if parts is not None and reference.shape == other.shape:
            if _fits(parts.labels, reference.shape):
                pieces += [
                    (parts.of(number, reference), parts.of(number, other)) for number in range(len(self._by_part))
                ]
            else:
                self._parts, self._by_part = None, []
        for noise, sums, piece in zip((self._whole, *self._by_part), self._sums, pieces, strict=False):
            noise.add(*piece)
            if self._each:
                # the difference of two sums of all would lose an array beside which another one is a million times it
                own = SignalToNoise()
                own.add(*piece)
                sums.append((own.signal.value, own.noise.value))

    @property
    def unlike(self) -> int:
        """The number of entries that are not finite in one alone, or differently so."""
        return self._whole.unlike

    @property
    def db(self) -> float | None:
        """The SQNR of the worst part in dB, as `SignalToNoise.db` has it."""
        if self._whole.db is None:
            return None
        return worst([self._whole.db, *(noise.db for noise in self._by_part if noise.signal.total > 0.0)])

    @property
    def clear(self) -> bool:
        """Whether some value is large enough to say something, in every part that can be too faint for that."""
        faint = () if self._parts is None else self._parts.faint
        return all(noise.signal.scale >= least for noise, least in zip(self._by_part, faint, strict=False))

    @property
    def uneven(self) -> Uneven | None:
        """The array that makes most of the noise, where the others are far better; else None, as without `each`."""
        found = [
            (noise.db, sums)
            for noise, sums in zip((self._whole, *self._by_part), self._sums, strict=False)
            if noise.db is not None and noise.signal.total > 0.0
        ]
        if not found or self.unlike or not self._each:
            return None
        _, sums = min(found, key=lambda one: loudness(one[0]))
        signal, noise = np.array(sums).T
        loudest = int(noise.argmax())
        rest, quiet = (float(np.delete(x, loudest).sum()) for x in (signal, noise))
        if len(noise) < _FEW or not (0.0 < rest < math.inf and 0.0 < quiet < noise[loudest] < math.inf):
            return None
        others = 10.0 * math.log10(rest / quiet)
        if others < 10.0 * math.log10(signal.sum() / noise.sum()) + _FAR_DB:
            return None
        heard = signal > 0.0
        with np.errstate(divide="ignore", over="ignore"):
            median = float(np.median(signal[heard] / noise[heard]))
        middle = 10.0 * math.log10(median) if median < math.inf else None
        return Uneven(len(noise), float(noise[loudest] / noise.sum()), others, middle)

    @property
    def db_of_clear(self) -> float | None:
        """The SQNR of the worst part that is not too faint to say anything, in dB; None where none is left."""
        if self.clear or self._parts is None or self._whole.db is None or self._whole.unlike:
            return self.db
        clear = [n.db for n, least in zip(self._by_part, self._parts.faint, strict=False) if n.signal.scale >= least]
        return worst(clear)


def _fits(labels: Array, shape: tuple[int, ...]) -> bool:
    return labels.ndim == len(shape) and all(a in (1, b) for a, b in zip(labels.shape, shape, strict=True))


def signal_to_noise(reference: Array, other: Array) -> float:
    """Return the SQNR in dB of one array; inf where they are equal, -inf where shapes differ."""
    found = SignalToNoise()
    found.add(reference, other)
    if found.db is None:
        return -math.inf if found.incomparable else math.inf
    return found.db


def worst(figures: Iterable[float | None]) -> float | None:
    """Return the least of several SQNRs in dB, of those that were measured; NaN is less than all, None: none was."""
    measured = [db for db in figures if db is not None]
    return min(measured, key=loudness) if measured else None


def loudness(db: float | None) -> float:
    """Return an SQNR in dB as a number to compare by: NaN is the least, and what was not measured."""
    return -math.inf if db is None or math.isnan(db) else db


def noise_share(db: float | None) -> float:
    """Return the power of noise as a share of the signal's, of an SQNR in dB; inf for NaN and what was not measured."""
    return 10.0 ** min(-loudness(db) / 10.0, 300.0) if loudness(db) > -math.inf else math.inf


def measured_outputs(outputs: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the names of the outputs whose SQNR is taken: those of real numbers, else those of whole ones.

    Whole numbers beside real ones are classes, indices and counts, of which a difference has no size; truth values and
    strings never have one.
    """
    real = tuple(name for name, array in outputs.items() if array.dtype.kind == "f")
    return real or tuple(name for name, array in outputs.items() if array.dtype.kind in "iu")


def unlike(reference: Array, other: Array) -> Array:
    """Return where arrays of one shape are not finite in one of them alone, or differently so: bool, of that shape."""
    if reference.dtype.kind != "f" or other.dtype.kind != "f":
        return np.zeros(reference.shape, np.bool_)
    finite: Array = np.isfinite(reference) & np.isfinite(other)
    return np.asarray(~finite & ~_same(reference, other))


def _largest(x: Array) -> float:
    """The largest magnitude; NaN or inf where an entry is."""
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    return max(high, -low) if math.isfinite(low) and math.isfinite(high) else math.nan


def _same(x: Array, y: Array) -> Array:
    return np.asarray((x == y) | (np.isnan(x) & np.isnan(y)))


def _real(array: Array) -> Array:
    flat = array.reshape(-1)
    if flat.dtype == np.float16:
        return flat.astype(np.float32)
    return flat if flat.dtype.kind == "f" else flat.astype(np.float64)

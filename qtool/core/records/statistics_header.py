"""The JSON in a calibration file: everything but its arrays."""

from dataclasses import dataclass, field

from qtool.core.records.codec import OPTIONAL
from qtool.core.records.parts import BatchRange
from qtool.core.records.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The header of one histogram: the exact least and greatest value, None where nothing was counted."""

    name: str
    min: float | None = field(default=None, metadata=OPTIONAL)
    max: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class PartHeader:
    """A `Part`. shard: index and count. rows: start, size and the numbers of the runs, as `examples` has them."""

    shard: tuple[int, int]
    ranges: tuple[BatchRange, ...]
    complete: bool
    settings: str
    origin: str
    rows: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class StatisticsHeader:
    """The JSON of a calibration file: everything but the arrays.

    examples: the names of each one's inputs. not_finite: tensor -> the sample and the batch in which NaN or Inf was
    seen; None where it was in none. reading, read_by, mask: as in `Statistics`; None where there is none.
    """

    model: str
    samples: int
    preparation: Recipe
    tensors: tuple[TensorHeader, ...]
    channels: tuple[str, ...]
    part: PartHeader | None = field(metadata=OPTIONAL)
    examples: tuple[tuple[str, ...], ...]
    not_finite: dict[str, tuple[int, str]] | None = field(default=None, metadata=OPTIONAL)
    reading: tuple[tuple[str, str], ...] | None = field(default=None, metadata=OPTIONAL)
    read_by: tuple[tuple[str, str], ...] | None = field(default=None, metadata=OPTIONAL)
    mask: str | None = field(default=None, metadata=OPTIONAL)

    def check(self) -> None:
        """Raise `ValueError`, naming the field, where there are no such statistics."""
        if self.samples < 0:
            raise ValueError("samples: no negative number is possible")
        for name, given in (("tensors", [row.name for row in self.tensors]), ("channels", list(self.channels))):
            if len(set(given)) < len(given):
                raise ValueError(f"{name}: a name is there twice")
        if not all(name.isidentifier() for name, _ in self.reading or ()):
            raise ValueError("reading: no option is called so")

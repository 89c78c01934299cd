"""The record of what two int8 models, calibration files or plans differ in."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from qtool.core.records.codec import Real
from qtool.core.records.header import document
from qtool.core.records.inspection import Speed
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

Compared = Literal["models", "calibration files", "plans"]
Range = tuple[Real, Real]


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """A node of which something else becomes.

    name: its own. op: its operator. a, b: what it is in each, in words; "" where it is not there.
    """

    name: str
    op: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class RangeDifference:
    """A tensor whose grid, or range, differs.

    tensor: its name. a, b: the least and the greatest number of its grid, or of its values; None where one has none.
    steps: how far the ends are apart, in steps of the coarser of both grids; None where there is no such step. moved:
    of calibration files, the share of values that would have to be others, 0 to 1; None elsewhere. what: how else they
    differ.
    """

    tensor: str
    a: Range | None
    b: Range | None
    steps: float | None
    moved: float | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class WeightDifference:
    """A weight with other integers or another grid.

    layer: that reads it. changed: the share of its numbers that differ, 0 to 1; most: by how many steps at most;
    None where they cannot be compared. scales: the largest ratio of two scales of a channel, at least 1; None likewise.
    """

    layer: str
    changed: float | None
    most: int | None
    scales: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The things that `b` has otherwise than `a`.

    compared: what the files are. a, b: their paths. same: whether nothing differs of what is compared; the time it
    takes is no difference. facts: about the files as a whole, a sentence each. layers: whose placement or kernel
    differs, in the order of `a`. ranges, weights: the largest difference first. kernels: operator -> how often each
    runs it, where that differs. alike: how many layers (of calibration files: tensors) are the same. speed: of `b`,
    beside `a` as its float model; None where not measured.
    outputs: output -> SQNR in dB of b's against a's; None where it has none. inputs_from: what that was measured on.
    not_measured: what could not be, and why.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("diff", 1)

    compared: Compared
    a: str
    b: str
    same: bool
    facts: tuple[str, ...] = ()
    layers: tuple[LayerDifference, ...] = ()
    ranges: tuple[RangeDifference, ...] = ()
    weights: tuple[WeightDifference, ...] = ()
    kernels: dict[str, tuple[int, int]] | None = None
    alike: int = 0
    speed: Speed | None = None
    outputs: dict[str, Real | None] | None = None
    inputs_from: str = ""
    not_measured: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = [
            amount(len(rows), noun)
            for rows, noun in ((self.layers, "layer"), (self.ranges, "range"), (self.weights, "weight"))
            if rows
        ]
        names = f"{shortened(self.a)} and {shortened(self.b)}"
        return summary("Difference", self.compared, names, "the same" if self.same else "different", *counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as strict JSON; docs/json.md has its keys."""
        return document(self)

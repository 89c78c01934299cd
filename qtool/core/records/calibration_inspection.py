"""The records of a calibration file inspected: each tensor's values, and the range that each calibrator chooses."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from qtool.core.records.codec import Real, called
from qtool.core.records.header import document
from qtool.core.records.recipe import Recipe
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount


@dataclass(frozen=True, slots=True)
class ChosenRange:
    """The range that a calibrator chooses for a tensor.

    calibrator: with its parameter. low, high: the range. step: the length of a step of the grid. kept: the share of the
    whole range that it covers. clipped: the share of the values that lie more than half a step outside; both 0 to 1.
    """

    calibrator: str
    low: Real
    high: Real
    step: Real
    kept: float
    clipped: float


@dataclass(frozen=True, slots=True)
class CalibratedTensor:
    """A tensor's values in calibration: how many, the least and the greatest, and the share of zeros, 0 to 1.

    name: of the tensor. count: of its values. zeros: their share. minimum, maximum: None where none was counted.
    ranges: by calibrator; empty where no range can be chosen. channels: of the last axis, the range of the widest over
    that of the median one; None where they were not counted. notes: what is odd about it, a sentence each. histogram:
    how many values lie in each of so many bins of one width from the minimum to the maximum; empty where none was
    counted. magnitudes: the greatest of each channel, ascending, of many channels some at equal distances in that
    order; empty where they were not counted.
    """

    name: str
    count: int
    minimum: Real | None
    maximum: Real | None
    zeros: float
    ranges: tuple[ChosenRange, ...]
    channels: Real | None
    notes: tuple[str, ...]
    histogram: tuple[int, ...]
    magnitudes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CalibrationInspection:
    """The content of a calibration file, and what is odd about it.

    file: its path. sha256, bytes: of the file. model: SHA-256 of the model that it belongs to. versions: what wrote it.
    samples, examples: how many were counted, and how many batches are kept. example_inputs: input -> shape of the
    first. shard: "K/N" of a part, None of a whole one; complete: whether nothing of it is missing. recipe: what was
    done to the float graph. grid: of the ranges, in words. warnings: what makes it doubtful. tensors: in graph order.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("inspect-calibration", 1)

    file: str
    sha256: str
    bytes: int
    model: str
    versions: dict[str, str] = field(metadata=called("written_by"))
    samples: int
    examples: int
    example_inputs: dict[str, tuple[int, ...]]
    shard: str | None
    complete: bool
    recipe: Recipe
    grid: str
    warnings: tuple[str, ...]
    tensors: tuple[CalibratedTensor, ...]

    def __repr__(self) -> str:
        odd = sum(bool(tensor.notes) for tensor in self.tensors)
        return summary(
            "CalibrationInspection",
            shortened(self.file),
            f"model {self.model[:8]}",
            amount(self.samples, "sample"),
            f"{amount(len(self.tensors), 'tensor')}, {odd} odd",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as strict JSON; docs/json.md has its keys."""
        return document(self)

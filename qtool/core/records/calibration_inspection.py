"""The records of a calibration file inspected: each tensor's values, and the range that each calibrator chooses."""

from dataclasses import dataclass
from typing import Any

from qtool.core.records.codec import Real, encoded
from qtool.core.records.header import header
from qtool.core.records.recipe import Recipe
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ChosenRange:
    """The range that a calibrator chooses for a tensor.

    step: the length of a step of the grid. kept: the share of the whole range that it covers. clipped: the share of the
    values that lie more than half a step outside; both 0 to 1.
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

    minimum, maximum: None where none was counted. ranges: by calibrator; empty where no range can be chosen. channels:
    of the last axis, the range of the widest over that of the median one; None where they were not counted. notes: what
    is odd about it, a sentence each.
    """

    name: str
    count: int
    minimum: Real | None
    maximum: Real | None
    zeros: float
    ranges: tuple[ChosenRange, ...]
    channels: Real | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CalibrationInspection:
    """The content of a calibration file, and what is odd about it.

    file: its path. sha256, bytes: of the file. model: SHA-256 of the model that it belongs to. versions: what wrote it.
    samples, examples: how many were counted, and how many batches are kept. example_inputs: input -> shape of the
    first. shard: "K/N" of a part, None of a whole one; complete: whether nothing of it is missing. recipe: what was
    done to the float graph. grid: of the ranges, in words. warnings: what makes it doubtful. tensors: in graph order.
    """

    file: str
    sha256: str
    bytes: int
    model: str
    versions: dict[str, str]
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
        """Return the inspection as strict JSON."""
        return {**header("inspect-calibration", SCHEMA_VERSION), **encoded(self)}

"""Unfinished calibrations on disk, which an interrupted command goes on from."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.errors import CalibrationError
from qtool.core.files import remove_with_outputs
from qtool.core.records.merging import Sum
from qtool.core.records.parts import Shard
from qtool.core.records.recipe import Recipe
from qtool.core.records.statistics import Statistics, load_statistics


@dataclass(slots=True)
class Checkpoint:
    """A file beside the calibration file that holds what has been counted so far.

    interval: seconds between two times that it is written. origin: digest of where and what the data is.
    """

    path: Path
    interval: float
    origin: str
    _last: float = field(default_factory=time.monotonic)

    def load(self, digest: str, recipe: Recipe, shard: Shard, settings: str) -> Statistics | None:
        """Read what an earlier run left, or None.

        Raises:
            CalibrationError: it is of another calibration, or damaged.
        """
        if not self.path.exists():
            return None
        found = load_statistics(self.path)
        part = found.part
        same = found.model_digest == digest and found.recipe == recipe and part is not None
        if not same or part is None or (part.shard, part.settings, part.origin) != (shard, settings, self.origin):
            raise CalibrationError(
                f"{self.path}: is the checkpoint of a calibration with another model, other data or options; remove it "
                "to begin anew"
            )
        return found

    @property
    def due(self) -> float:
        """The time at which it is to be written again, in time.monotonic."""
        return self._last + self.interval

    def save(self, total: Sum) -> None:
        """Write what has been counted so far. Raises `OutputError`."""
        total.statistics(complete=False, origin=self.origin).save(self.path)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file, once the statistics are there."""
        remove_with_outputs(self.path)

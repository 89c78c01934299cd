"""The time that tuning may take, and how its rounds share it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from qtool.core.errors import UsageError, arg
from qtool.core.progress import Progress
from qtool.tuning.split import Record, Subset

SPENT = "the time budget"
"""Why something was not tried."""
_SHARE = 0.25
"""Of the budget: what calibration may take at most, what the first trial may, and what the last evaluation is sure of.
"""

_SLACK = 1.25
"""Times what the last evaluation is thought to take."""


class OutOfTimeError(Exception):
    """The time budget is used up; the best model found so far stands."""


@dataclass(slots=True)
class Budget:
    """The seconds that tuning may take, counted from here; None: as many as it likes.

    Attributes:
        kept: seconds that are kept for the last evaluation.
        per_model: seconds that judging takes at most for each model of a pass, float counted; None before the first.
        binding: whether there is a model on disk, so that the search may end at any time.
        ratio: how many samples report for each that chooses, None where that is not known.

    Raises:
        UsageError: no seconds at all.
    """

    seconds: float | None
    kept: float = 0.0
    per_model: float | None = None
    binding: bool = False
    ratio: float | None = None
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0.0:
            raise UsageError(f"{arg('time_budget', self.seconds)}: give more than 0 seconds")
        self.begun = time.monotonic()

    @property
    def end(self) -> float:
        """The end, in time.monotonic."""
        return float("inf") if self.seconds is None else self.begun + self.seconds

    @property
    def left(self) -> float:
        """The seconds that are left to the search."""
        return self.end - self.kept - time.monotonic()

    def part(self) -> float:
        """Return the latest end of a part of the data that begins now, in time.monotonic."""
        return float("inf") if self.seconds is None else time.monotonic() + self.seconds * _SHARE

    def judged(self, seconds: float, models: int) -> None:
        """Record how long a pass took for so many models, float counted: what others and the last one take follows."""
        # reading the data costs the same for few models as for many
        self.per_model = max(seconds / models, self.per_model or 0.0)
        if self.seconds is not None:
            most = self.seconds * _SHARE
            self.kept = most if self.ratio is None else min(_SLACK * 2 * self.per_model * self.ratio, most)

    def check(self) -> None:
        """Raise `OutOfTimeError` where the time is used up and there is a model on disk."""
        if self.binding and self.left <= 0.0:
            raise OutOfTimeError

    def room(self, models: int) -> int:
        """Return how many of so many models can be judged at once: one where nothing is known yet, perhaps none."""
        if self.seconds is None:
            return models
        if not self.binding or self.per_model is None:
            return 1
        return max(0, min(models, int(self.left / max(self.per_model, 1e-9)) - 1))

    def watched(self, progress: Progress) -> Progress:
        """Return `progress` that ends what reports to it, by `OutOfTimeError`, when `check` would."""

        def watching(step: str, done: int, total: int | None) -> None:
            self.check()
            progress(step, done, total)

        return watching


@dataclass(slots=True)
class Portion:
    """Records, as many as there is time for: the first pass ends when `until` says, later passes take the same ones.

    until: called when the first pass begins; a time in time.monotonic. cut: how many the first pass took where it
    ended before the data did, else None.
    """

    records: Subset
    until: Callable[[], float]
    cut: int | None = None
    _passed: bool = False

    @property
    def __name__(self) -> str:
        """What to call the data in messages and results."""
        return self.records.__name__

    def __call__(self) -> Iterator[Record]:
        """Yield the records, at least one of them."""
        if self._passed:
            yield from islice(self.records(), self.cut)
            return
        until = self.until()
        for taken, record in enumerate(self.records()):
            if taken and time.monotonic() >= until:
                self.cut, self._passed = taken, True
                return
            yield record
        self._passed = True

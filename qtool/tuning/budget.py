"""The time that tuning may take, and how its rounds share it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.progress import Progress
from qtool.tuning.split import Record, Subset

SPENT = "the time budget"
"""Why something was not tried."""
PROOF = "proof"
"""The name of the work that verifies and writes a model."""
_PART = 0.15
"""Of what is left: what calibration may take at most, the first trial, and running the examples."""
_SHARE = 0.25
"""Of the budget: what is kept for the last evaluation at most."""
_PASSES = 5.0
"""Passes over the examples until the first model is proven, about."""
TRAINING = 0.4
"""Of the budget: what is kept for training."""
_SLACK = 1.25
"""Times what the last evaluation is thought to take."""
_END = (0.02, 0.3)
"""The share of the budget, and at most the seconds, that what comes after the last evaluation takes."""


class OutOfTimeError(Exception):
    """The time budget is used up; the best model found so far stands."""


@dataclass(slots=True)
class Budget:
    """The seconds that tuning may take, counted from here; None: as many as it likes.

    Attributes:
        kept: seconds that are kept for the last evaluation.
        per_model: seconds that trying a model takes at most, from its plan on; None before the first.
        reserved: seconds that are kept for training, until that begins.
        binding: whether there is a model on disk, so that the search may end at any time.
        ratio: how many samples report for each that chooses, None where that is not known.
        longest: the seconds that work which cannot be ended in the middle has taken at most, by what it is called.

    Raises:
        UsageError: no seconds at all.
    """

    seconds: float | None
    kept: float = 0.0
    per_model: float | None = None
    binding: bool = False
    ratio: float | None = None
    reserved: float = 0.0
    longest: dict[str, float] = field(default_factory=dict)
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0.0:
            raise UsageError(f"{arg('time_budget', self.seconds)}: give more than 0 seconds")
        self.begun = time.monotonic()

    @property
    def end(self) -> float:
        """The end of the last evaluation, in time.monotonic."""
        if self.seconds is None:
            return float("inf")
        share, most = _END
        return self.begun + self.seconds - min(share * self.seconds, most)

    @property
    def left(self) -> float:
        """The seconds that are left to the search."""
        return self.end - self.kept - self.reserved - time.monotonic()

    def part(self) -> float:
        """Return the latest end of a part of the data that begins now, in time.monotonic."""
        return float("inf") if self.seconds is None else time.monotonic() + max(self.left, 0.0) * _PART

    def examples(self, pace: float) -> int | None:
        """Return how many examples may prove models and choose ranges; None: all. pace: seconds of one in calibration.

        A model is run over them in several forms, before and in every proof.
        """
        if self.seconds is None:
            return None
        return max(1, int(max(self.left, 0.0) * _PART / _PASSES / max(pace, 1e-9)))

    def judged(self, seconds: float, models: int) -> None:
        """Record how long a pass over the data took for so many models, float counted, as the last evaluation will."""
        if self.seconds is not None:
            most = self.seconds * _SHARE
            # reading the data costs the same for few models as for many
            passes = max(2 * seconds / models, self.kept / _SLACK / (self.ratio or 1.0))
            self.kept = most if self.ratio is None else min(_SLACK * passes * self.ratio, most)

    def tried(self, seconds: float, models: int) -> None:
        """Record how long it took to plan, write and judge so many models, float counted."""
        self.per_model = max(seconds / models, self.per_model or 0.0)

    def check(self) -> None:
        """Raise `OutOfTimeError` where the time is used up and there is a model on disk."""
        if self.binding and self.left <= 0.0:
            raise OutOfTimeError

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        """Time work that cannot be ended in the middle, and begin none that takes longer than is left; yields nothing.

        Raises:
            OutOfTimeError: it would be, and there is a model on disk.
        """
        if self.binding and self.left <= self.longest.get(name, 0.0):
            raise OutOfTimeError
        begun = time.monotonic()
        yield
        self.longest[name] = max(time.monotonic() - begun, self.longest.get(name, 0.0))

    def room(self, models: int) -> int:
        """Return how many of so many models can be judged at once: one where nothing is known yet, perhaps none."""
        if self.seconds is None:
            return models
        if not self.binding or self.per_model is None:
            return 1
        left = self.left - self.longest.get(PROOF, 0.0)
        return max(0, min(models, int(left / max(self.per_model, 1e-9)) - 1))

    def watched(self, progress: Progress) -> Progress:
        """Return `progress` that ends what reports to it, by `OutOfTimeError`, when `check` would."""

        def watching(step: str, done: int, total: int | None) -> None:
            self.check()
            progress(step, done, total)

        return watching


@dataclass(slots=True)
class Portion:
    """Records, as many as there is time for: the first pass ends when `until` says, later passes take the same ones.

    until: called when the first pass begins; a time in time.monotonic. ahead: records that are taken before the first
    is worked off, as threads do: it ends where so many more would be too late. kept: bytes of records that are kept for
    later passes, where all of them are no more. cut: how many the first pass took where it ended before the data did,
    else None.
    """

    records: Subset
    until: Callable[[], float]
    ahead: int = 0
    kept: int = 0
    cut: int | None = None
    _known: list[Record] | None = None
    _passed: bool = False

    @property
    def __name__(self) -> str:
        """What to call the data in messages and results."""
        return self.records.__name__

    def __call__(self) -> Iterator[Record]:
        """Yield the records, at least one of them."""
        if self._passed:
            yield from islice(self.records(), self.cut) if self._known is None else self._known
            return
        room, known = self.kept, []
        for record in self._first():
            room -= sum(np.asarray(array).nbytes for array in record.values())
            known.append(record)
            if room < 0:
                known.clear()
            yield record
        self._passed, self._known = True, known if room >= 0 else None

    def _first(self) -> Iterator[Record]:
        until, pace, last = self.until(), 0.0, time.monotonic()
        for taken, record in enumerate(self.records()):
            now = time.monotonic()
            pace, last = max(pace, now - last), now
            if taken and now + pace * self.ahead >= until:
                self.cut = taken
                return
            yield record

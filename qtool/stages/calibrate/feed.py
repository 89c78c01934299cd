"""What calibration asks of data."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from qtool.core.state import State


class Batch(Protocol):
    """What a feed yields: input arrays by name, the index and number of the samples, and what to call it in words."""

    @property
    def inputs(self) -> dict[str, np.ndarray]: ...
    @property
    def start(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def origin(self) -> str: ...


class Feed(Protocol):
    """A stream of batches; `samples` is their total number where that is known.

    With `states` a batch is a sequence, as `qtool.core.state.rollout` takes it.
    """

    name: str

    @property
    def samples(self) -> int | None: ...
    @property
    def states(self) -> Sequence[State]: ...
    def __iter__(self) -> Iterator[Batch]: ...

"""Parts of a calibration: shards made anywhere, blocks that workers count, checkpoints of unfinished runs."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qtool.core.errors import UsageError, arg
from qtool.core.records.examples import Row

BatchRange = tuple[int, int]
"""Batches from the first number on, to before the second."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `count`-th batch of the data, from number `index` on; both from 1. Raises `UsageError`."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"{arg('shard', self)}: there is no such shard; write K/N with K from 1 to N")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that a text such as `3/16` names. Raises `UsageError`."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise UsageError(f"{arg('shard', text)}: is no shard; write K/N, for the K-th of N")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a calibration that some statistics are.

    shard: of the data. ranges: the batches that were seen, by their number within the shard from 0, ascending.
    complete: whether the shard holds no more. settings: digest of what decides which batches there are; that of other
    parts of the same calibration is the same. origin: digest of where the data lies; "" but in a checkpoint.
    rows: what may become examples.
    """

    shard: Shard
    ranges: tuple[BatchRange, ...]
    complete: bool
    settings: str
    origin: str
    rows: tuple[Row, ...]

    @property
    def batches(self) -> int:
        """The number of batches that were seen."""
        return sum(stop - first for first, stop in self.ranges)


def united(ranges: Iterable[BatchRange]) -> tuple[BatchRange, ...]:
    """Return the ranges with neighbours joined, so that they are as few as possible, ascending.

    Raises:
        ValueError: two of them overlap.
    """
    result: list[BatchRange] = []
    for first, stop in sorted(r for r in ranges if r[0] < r[1]):
        if result and first < result[-1][1]:
            raise ValueError(f"batch {first} is there twice")
        if result and first == result[-1][1]:
            result[-1] = result[-1][0], stop
        else:
            result.append((first, stop))
    return tuple(result)


def missing(ranges: Sequence[BatchRange], first: int, stop: int) -> list[BatchRange]:
    """Return what of the batches from `first` to before `stop` is in none of the (united) ranges."""
    result: list[BatchRange] = []
    for begin, end in (*ranges, (stop, stop)):
        if first < min(begin, stop):
            result.append((first, min(begin, stop)))
        first = max(first, end)
    return result

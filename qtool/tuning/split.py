"""Parts of a data set that take turns sample by sample, so that a set sorted by class splits evenly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qtool.core.errors import DataError, arg
from qtool.feeds import Batch, Feeds

Records = Callable[[], Iterator[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Subset:
    """The samples whose index modulo `modulus` is in `turns`; called, it yields dictionaries of inputs and labels."""

    feeds: Feeds
    modulus: int
    turns: tuple[int, ...]

    @property
    def __name__(self) -> str:
        """What to call the data in messages and results."""
        if self.modulus == 1:
            return self.feeds.name
        return f"{self.feeds.name} ({len(self.turns)} of every {self.modulus} samples)"

    def __call__(self) -> Iterator[dict[str, Any]]:
        """Yield dictionaries of inputs and labels by name, those of the wanted turns."""
        for batch in self.feeds:
            yield from self._rows(batch)

    def _rows(self, batch: Batch) -> Iterable[dict[str, Any]]:
        arrays = {**batch.labels, **batch.inputs}
        if self.feeds.states:
            # a record is one sequence, without the axis of samples
            arrays |= {name: array[0] for name, array in batch.labels.items()}
        wanted = [i for i in range(batch.size) if (batch.start + i) % self.modulus in self.turns]
        if len(wanted) == batch.size:
            yield arrays
        elif wanted:
            whole = [name for name, array in arrays.items() if array.ndim and len(array) != batch.size]
            if whole:
                raise DataError(
                    f"{batch.origin}: input {whole[0]!r} does not count samples on its first axis, so the batch "
                    f"cannot be split; give {arg('eval_data')}, or one sample a batch"
                )
            yield {name: array[wanted] if array.ndim else array for name, array in arrays.items()}


def evaluation_subsets(data: Feeds, other: Feeds) -> tuple[Subset, Subset, str]:
    """Return what chooses, what reports, and both in words, where evaluation data is given beside calibration data."""
    first = next(iter(data), None)
    if first is not None and first.labels:
        (choosing,), (reporting,) = subsets(data, 1, (0,)), subsets(other, 1, (0,))
        return choosing, reporting, f"{data.name} calibrates and chooses, {other.name} reports"
    choosing, reporting = subsets(other, 2, (0,), (1,))
    words = f"{data.name} (no labels) calibrates; every other sample of {other.name} chooses, the others report"
    return choosing, reporting, words


def subsets(feeds: Feeds, modulus: int, *turns: Sequence[int]) -> list[Subset]:
    """Return the parts of `feeds` that take these turns, one part for each of `turns`."""
    return [Subset(feeds, modulus, tuple(turn)) for turn in turns]

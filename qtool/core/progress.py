"""The way in which long work reports how far it is; drawing a bar is left to the command line."""

from collections.abc import Callable
from typing import Protocol, TypeVar

_Result = TypeVar("_Result")


class Progress(Protocol):
    """A function that is told the name of a step, the units done so far, and their total (None: not known)."""

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Report that `done` of `total` units of `step` are done."""


def during(progress: Progress, step: str, work: Callable[[], _Result]) -> _Result:
    """Return what `work` gives, of which nobody knows how far it is; that it goes on is reported before."""
    progress(step, 0, None)
    return work()


def silent(step: str, done: int, total: int | None) -> None:
    """Show nothing: a `Progress` for those who want none."""

"""Independent pieces of work on the cores that there are; the results are the same on any number of cores."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MOST = 2
"""What is at work at once is in memory at once."""


def side_by_side(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the result of `function` for each item, in their order.

    Two run at once where there are two cores, which `function` must allow.
    """
    waiting = list(items)
    workers = min(_MOST, len(waiting), cores())
    if workers < 2:
        yield from map(function, waiting)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, waiting)


def both(first: Callable[[], _Item], second: Callable[[], _Result]) -> tuple[_Item, _Result]:
    """Run two functions, side by side where there are two cores; return both results.

    Where both raise, the error of the first is raised.
    """
    if cores() < _MOST:
        return first(), second()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        return first(), other.result()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

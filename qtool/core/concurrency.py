"""Independent pieces of work on the cores that there are; the results are the same on any number of cores."""

import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MOST = 2
"""What is at work at once is in memory at once."""
_allowed = ContextVar("_allowed", default=sys.maxsize)


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


def in_order(
    pool: ThreadPoolExecutor, ahead: int, function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[_Result]:
    """Yield what `function` makes of each item, in order; `pool` holds no more than `ahead` results at once."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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
    """Return the number of cores that may be used here: those of this process, or what `limited` says."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, _allowed.get())


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Let what is called within use at most so many cores; yields nothing."""
    token = _allowed.set(threads)
    try:
        yield
    finally:
        _allowed.reset(token)


class _MutedStdout:
    """A stream that drops what the threads in `muted` write, and hands on what all others do.

    stream: where that goes. muted: thread -> how often it is inside of `without_prints`.
    """

    lock = threading.Lock()

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.muted: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(io.StringIO() if threading.get_ident() in self.muted else self.stream, name)


@contextmanager
def without_prints() -> Iterator[None]:
    """Remove what this thread, and no other, prints to `sys.stdout` within; yields nothing.

    Any number of threads may be inside; the last to leave puts the stream back that was there before the first came
    (`contextlib.redirect_stdout` has each put back what it found, which may be that of another thread).
    """
    me = threading.get_ident()
    with _MutedStdout.lock:
        there: Any = sys.stdout
        muting: Any = there if isinstance(there, _MutedStdout) else _MutedStdout(there)
        muting.muted[me] = muting.muted.get(me, 0) + 1
        if there is not None:
            sys.stdout = muting
    try:
        yield
    finally:
        with _MutedStdout.lock:
            muting.muted[me] -= 1
            if not muting.muted[me]:
                del muting.muted[me]
            stream = muting.stream
            if not muting.muted and sys.stdout is muting:
                sys.stdout = stream

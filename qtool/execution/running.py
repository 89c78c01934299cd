"""Work on an executor: as much at a time as it can do; what a worker lacks is sent to it later."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from qtool.core.errors import QtoolError, UnexpectedWorkerError, WorkerError, arg
from qtool.core.process import TerminatedError
from qtool.core.text import told

Supplies = Mapping[str, Any]
_Work = TypeVar("_Work")
_Result = TypeVar("_Result")
_OF_THE_EXECUTOR = ("concurrent", "distributed", "dask", "tornado")
"""Packages whose own exceptions say that work got lost."""
_HERE = f"leave {arg('workers')} or {arg('cluster')} out to compute in one process"
_AHEAD = 2
"""Pieces of work that are handed out for each that is being done."""


@dataclass(frozen=True, slots=True)
class Missing:
    """The names of what a worker needs and does not find, given back in place of a result."""

    names: tuple[str, ...]


def run(
    executor: Executor,
    function: Callable[[_Work, Supplies], _Result | Missing],
    works: Iterable[_Work],
    supply: Callable[[_Work, str], Any],
    *,
    in_order: bool = False,
) -> Iterator[tuple[_Work, _Result]]:
    """Yield each piece of work with its result, as they are finished or in order.

    Args:
        executor: does the work.
        function: importable where the work is done; takes the work, and by name what had been missing.
        works: taken no faster than they are done.
        supply: makes what is missing for a piece of work.
        in_order: whether the results come in the order of `works`.

    Raises:
        WorkerError: a worker failed.
        UnexpectedWorkerError: it raised what nothing raises on purpose.
        QtoolError: whatever `function` raises.
    """
    remaining = enumerate(works)
    waiting: dict[Future[_Result | Missing], tuple[int, _Work, dict[str, Any]]] = {}
    ready: dict[int, tuple[_Work, _Result]] = {}
    handed_out = given_back = 0
    exhausted = False
    try:
        while True:
            while not exhausted and handed_out - given_back < _AHEAD * width(executor):
                coming = next(remaining, None)
                if coming is None:
                    exhausted = True
                    break
                number, work = coming
                waiting[_submitted(executor, function, work, {})] = number, work, {}
                handed_out += 1
            if not waiting and not ready:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED) if waiting else (set(), None)
            for future in done:
                number, work, supplies = waiting.pop(future)
                if _was_lost(future):
                    waiting[_submitted(executor, function, work, supplies)] = number, work, supplies
                    continue
                found = _result(future)
                if isinstance(found, Missing):
                    lacking = [name for name in found.names if name not in supplies]
                    if not lacking:
                        raise WorkerError(f"a worker cannot use what it was sent ({', '.join(found.names)}); {_HERE}")
                    supplies = {**supplies, **{name: supply(work, name) for name in lacking}}
                    waiting[_submitted(executor, function, work, supplies)] = number, work, supplies
                else:
                    ready[number] = work, found
            while ready and (not in_order or given_back in ready):
                number = given_back if in_order else next(iter(ready))
                pair = ready.pop(number)
                given_back += 1
                yield pair
    finally:
        for future in waiting:
            future.cancel()


def _submitted(
    executor: Executor, function: Callable[[_Work, Supplies], _Result], work: _Work, supplies: Supplies
) -> "Future[_Result]":
    try:
        return executor.submit(function, work, supplies)
    except (RuntimeError, OSError) as error:  # shut down, broken, or out of reach
        reason = " ".join(str(error).split())[:300]
        raise WorkerError(f"the executor takes no work ({type(error).__name__}: {reason}); {_HERE}") from error


def _was_lost(future: "Future[_Result]") -> bool:
    """Whether a Dask worker died while its result was on the way, so that the work is to be done again.

    Dask's executor then takes the result for an error, and fails to unpack it (`distributed/cfexecutor.py`).
    """
    error = None if future.cancelled() else future.exception()
    if not isinstance(error, ValueError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.endswith("cfexecutor.py")


def _result(future: "Future[_Result]") -> _Result:
    try:
        return future.result()
    except QtoolError:
        raise
    except CancelledError as error:
        raise WorkerError(f"the work was cancelled where it ran: the cluster may be gone; {_HERE}") from error
    except MemoryError as error:
        raise WorkerError(f"a worker ran out of memory; use fewer {arg('workers')}") from error
    except (KeyboardInterrupt, TerminatedError):
        raise
    except BaseException as error:
        failed = f"a worker failed with {told(error)}"
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _OF_THE_EXECUTOR:
            raise WorkerError(f"{failed}; {_HERE}") from error
        raise UnexpectedWorkerError(failed) from error


def width(executor: Executor) -> int:
    """Return how much an executor does at a time; where it does not say, the number of this machine's cores."""
    for name in ("width", "_max_workers"):
        found = getattr(executor, name, None)
        if isinstance(found, int):
            return found
    return os.cpu_count() or 1

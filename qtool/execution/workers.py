"""Worker processes on this machine; one that dies is replaced, and what was lost with it is done again."""

import functools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, ParamSpec, TypeVar

from qtool.core.arguments import checked_types
from qtool.core.compute import MOST
from qtool.core.errors import UsageError, WorkerError, arg
from qtool.core.process import follow_parent, is_silenced, stop_workers
from qtool.core.scratch import drop_scratch, make_scratch

RETRIES = 3
"""How often the work of a process that died is begun again."""
_DIED = (
    f"worker processes died {RETRIES + 1} times over the same work: for lack of memory perhaps (use fewer "
    f"{arg('workers')}), because a function of yours ends its process, or because a script does not begin its work "
    "under `if __name__ == '__main__':`"
)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers(Executor):
    """An executor of processes on this machine, which survives the death of any of them.

    Args:
        count: how many processes, 1 to `MOST`.

    Raises:
        UsageError: another count.
        OutputError: temporary files cannot be written.
    """

    @checked_types
    def __init__(self, count: int) -> None:
        if count < 1:
            raise UsageError(f"{count} workers are impossible; give 1 or more")
        if count > MOST:
            raise UsageError(f"{arg('workers', count)}: give at most {MOST}; more than cores gain nothing")
        self.width = count
        self._lock = threading.Lock()
        self._closed = False
        self._folder = make_scratch()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # not forked: onnxruntime's threads do not survive that
        return ProcessPoolExecutor(
            self.width,
            get_context("spawn"),
            initializer=follow_parent,
            initargs=(str(self._folder), is_silenced()),
        )

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Give a call to a worker process, and return its future, as `Executor.submit` does.

        The future raises `WorkerError` where every process that begins the call dies.

        Raises:
            RuntimeError: the workers have been shut down.
        """
        if self._closed:
            raise RuntimeError("the workers have been shut down")
        outer: Future[_T] = Future()
        self._begin(outer, functools.partial(fn, *args, **kwargs), RETRIES)
        return outer

    def _begin(self, outer: "Future[Any]", call: Callable[[], Any], retries: int) -> None:
        with self._lock:
            if self._closed or outer.cancelled():
                _cancel(outer)
                return
            try:
                inner = self._pool.submit(call)
            except BrokenProcessPool:
                self._pool = self._new()
                inner = self._pool.submit(call)
            pool = self._pool
        inner.add_done_callback(functools.partial(self._end, outer, call, retries, pool))
        # weakly: a cycle would keep the call, and the data in it
        outer.add_done_callback(functools.partial(_cancel_too, weakref.ref(inner)))

    def _end(
        self,
        outer: "Future[Any]",
        call: Callable[[], Any],
        retries: int,
        pool: ProcessPoolExecutor,
        inner: "Future[Any]",
    ) -> None:
        if inner.cancelled():
            _cancel(outer)
            return
        error = inner.exception()
        if isinstance(error, BrokenProcessPool) and retries > 0:
            with self._lock:
                if self._pool is pool and not self._closed:
                    self._pool = self._new()
            self._begin(outer, call, retries - 1)
        elif not outer.set_running_or_notify_cancel():
            return
        elif error is None:
            outer.set_result(inner.result())
        elif isinstance(error, BrokenProcessPool):
            outer.set_exception(WorkerError(_DIED))
        else:
            outer.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do as `Executor.shutdown`; without `wait` the processes are stopped in the middle of what they do."""
        with self._lock:
            self._closed = True
        if not wait:
            stop_workers(self._pool)
        self._pool.shutdown(wait=True, cancel_futures=cancel_futures)
        drop_scratch(self._folder)


def _cancel(future: "Future[Any]") -> None:
    """Cancel a future, and tell those who wait for it."""
    future.cancel()
    future.set_running_or_notify_cancel()


def _cancel_too(inner: "weakref.ref[Future[Any]]", outer: "Future[Any]") -> None:
    found = inner()
    if outer.cancelled() and found is not None:
        found.cancel()

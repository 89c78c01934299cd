"""The insides of Python and the system that qtool makes use of, and what happens where an upgrade takes them away.

None of it changes a result: without it a start, the end, or a large model costs more. A trick has two tests in
tests/core/test_process.py: that it works, and that all else works without it.
"""

import atexit
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run `main` and end the process with its exit code, without taking the process apart.

    Why: freeing what onnxruntime, onnx and numpy hold takes as long as starting some commands. What was registered with
    `atexit` is done and all output is written, as Python does before that.

    Ends as Python ends where other threads still run, which it waits for; where the code is a message; where output
    cannot be written, such as to a closed pipe; and where Python has no `atexit._run_exitfuncs` any more.
    """
    try:
        main()
        code: object = 0
    except SystemExit as done:
        code = done.code
    ended = 0 if code is None else code
    run_exit_handlers = getattr(atexit, "_run_exitfuncs", None)
    if run_exit_handlers is None or not isinstance(ended, int) or threading.active_count() > 1:
        raise SystemExit(ended)
    run_exit_handlers()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        raise SystemExit(ended) from None
    os._exit(ended)


def without_telemetry() -> None:
    """Let an onnxruntime that is imported from now on write no usage data, and send none.

    Why: onnxruntime's wheels since 1.32 write files into the home and temporary folders at each session, and look up a
    host. The call that onnxruntime has for it comes too late: what its import began is not undone. Whoever has set
    `ORT_DISABLE_TELEMETRY` has decided; an onnxruntime that does not know the variable ignores it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def import_lazily(package: str, deferred: Collection[str]) -> None:
    """Import a package, and the modules `deferred` only once they are used; nothing where it is imported already.

    Why: onnx_ir needs sympy for arithmetic with symbolic dimensions alone, and sympy is half of what qtool takes to
    start. The modules are Python's own lazy ones: real, and loaded when an attribute of them is asked for.

    A module that no longer exists, or that is not asked for any more, is left out. Where the package cannot be imported
    like that, it is imported as usual.
    """
    before = set(sys.modules)
    try:
        with _deferring(deferred):
            importlib.import_module(package)
    except Exception as error:
        # what Ctrl-C makes of an extension that is being imported
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        roots = {package.partition(".")[0], *(name.partition(".")[0] for name in deferred)}
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in roots:
                del sys.modules[name]
        importlib.import_module(package)


@contextmanager
def _deferring(deferred: Collection[str]) -> Iterator[None]:
    class Finder:
        @staticmethod
        def find_spec(
            name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            found = PathFinder.find_spec(name, path, target) if name in deferred else None
            if found is not None and hasattr(found.loader, "exec_module") and found.loader is not None:
                found.loader = LazyLoader(found.loader)
            return found

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)


def memory_of_machine() -> int:
    """Return the bytes of memory that this process may have at most: the machine's, or its container's if less.

    Why: Linux hands out memory that is not there, and kills who uses it; what a damaged file asks for is refused
    before.

    Where the system does not say, it is more than any file asks for in earnest.
    """
    found = [2**46]
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError), Path("/sys/fs/cgroup/memory.max").open(encoding="ascii") as file:
        found.append(int(file.read(32)))
    return min(size for size in found if size > 0)


@contextmanager
def without_panic() -> Iterator[None]:
    """Keep what an extension writes to the standard error itself from it if the block raises; yields nothing.

    Otherwise it is written after the block.

    Why: a panic in Rust prints lines beside the exception that it becomes.

    Nothing is held back where the process has no standard error, and where there is no `os.memfd_create`.
    """
    try:
        held = os.memfd_create("held")
        saved = os.dup(2)
    except (OSError, AttributeError):
        yield
        return
    os.dup2(held, 2)
    try:
        yield
    except BaseException:
        os.ftruncate(held, 0)
        raise
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        size = os.lseek(held, 0, os.SEEK_END)
        if size:
            os.lseek(held, 0, os.SEEK_SET)
            os.write(2, os.read(held, size))
        os.close(held)


def trim_heap() -> bool:
    """Give freed memory back to the system; returns whether the C library was asked to.

    Why: glibc keeps freed arrays of up to 32 MiB, so that a process that handles one large model after another would
    need the memory of both. Source: glibc, malloc_trim(3).

    Nothing happens on other systems, and with C libraries that have no `malloc_trim`.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return False
    return True


def follow_parent() -> None:
    """Leave Ctrl-C to the parent of this worker process, and end this process when the parent ends, however it does.

    Why: a parent that is killed cannot tell its workers, which would wait for work for ever. A process without a parent
    is left as it is.
    """
    from multiprocessing import parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing import connection

    connection.wait([sentinel])
    os._exit(1)


def stop_workers(pool: "ProcessPoolExecutor") -> None:
    """Stop the processes of a pool in the middle of what they do.

    Why: before Python 3.14 (`ProcessPoolExecutor.terminate_workers`) a pool can only wait for work that has begun.

    That method is called where the pool does not keep its processes in `_processes` any more. Where there is neither,
    the processes end when they have done what they do.
    """
    if hasattr(pool, "_processes"):
        for process in list((pool._processes or {}).values()):
            process.terminate()
    elif hasattr(pool, "terminate_workers"):
        pool.terminate_workers()

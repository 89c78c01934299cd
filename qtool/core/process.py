"""The insides of Python and the system that qtool makes use of, and what happens where an upgrade takes them away.

None of it changes a result: without it a start, the end, or a large model costs more. A trick has two tests in
tests/core/test_process.py: that it works, and that all else works without it.
"""

import atexit
import dataclasses
import functools
import gc
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run `main` and end the process with its exit code, without taking the process apart.

    Why: freeing what onnxruntime, onnx and numpy hold takes as long as starting some commands. What was registered with
    `atexit` is done and all output is written, as Python does before that.

    Ends as Python ends where other threads still run, which it waits for; where the code is a message; where output
    cannot be written, such as to a closed pipe; and where Python has no `atexit._run_exitfuncs` any more.
    """
    _guard_exit()
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
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed when Python began
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                raise SystemExit(ended) from None
    _leave(ended)


_leave = os._exit
_NEW_OBJECTS = 100_000


def _guard_exit() -> None:
    """Let `os._exit` raise `SystemExit` in this process: a user's function would end it as if all had been done."""
    owner = os.getpid()
    os._exit = lambda status: sys.exit(status) if os.getpid() == owner else _leave(status)


def end_now(code: int) -> NoReturn:
    """Stop the process at once, without anything that Python does at its end."""
    _leave(code)


class TerminatedError(BaseException):
    """The process has been asked to end, by SIGTERM or SIGHUP. No `Exception`, as `KeyboardInterrupt` is none."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(slots=True)
class _Signals:
    """The signals that were caught, and what is done at the second one.

    held: how many blocks are not interrupted; finishing: that end soon. settled: the exit code, once there is one.
    """

    caught: list[int] = field(default_factory=list)
    at_second: Callable[[int], None] | None = None
    ignoring: bool = False
    held: int = 0
    finishing: int = 0
    settled: int | None = None


_signals = _Signals()
_silent = False


def watch_signals(end: Callable[[int], None]) -> None:
    """Let SIGINT raise `KeyboardInterrupt`, SIGTERM and SIGHUP `TerminatedError`; call `end` at the second signal.

    Why: what is raised may get lost, in code of others that catches everything, or in a finaliser. `end` is told the
    number of the first signal, and ends the process without waiting for anything.

    A signal that is ignored, as `nohup` wants it, stays so. On systems without a signal it is left out.
    """
    _signals.at_second = end
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _caught)
    before = sys.unraisablehook

    def lost(what: "sys.UnraisableHookArgs") -> None:
        if isinstance(what.exc_value, KeyboardInterrupt | TerminatedError) and _signals.caught:
            end(_signals.caught[0])
        before(what)

    sys.unraisablehook = lost


def _caught(number: int, _frame: object) -> None:
    if _signals.settled is not None:
        _leave(_signals.settled)
    _signals.caught.append(number)
    if not _signals.held or (_signals.held == _signals.finishing and len(_signals.caught) > 1):
        _deliver()


def _deliver() -> None:
    first = _signals.caught[0]
    if len(_signals.caught) > 1 and _signals.at_second is not None:
        _signals.at_second(first)
    if first == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError(first)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that `watch_signals` watches wait until the block has ended; it yields nothing."""
    before = len(_signals.caught)
    _signals.held += 1
    try:
        yield
    finally:
        _signals.held -= 1
    if len(_signals.caught) > before and not _signals.held:
        _deliver()


@contextmanager
def finishing() -> Iterator[Callable[[], bool]]:
    """Let the first signal wait until the block has ended; yields a function, which tells whether one waits.

    For what can stop between two steps, and keep what it has. A second signal ends the process, as anywhere.
    """
    _signals.finishing += 1
    try:
        with uninterrupted():
            yield lambda: bool(_signals.caught)
    finally:
        _signals.finishing -= 1


def settle(code: int) -> None:
    """Let any signal that `watch_signals` watches end the process at once with this code: all is done and said."""
    _signals.settled = code


def first_signal() -> int | None:
    """Return the number of the first signal that `watch_signals` has caught; None where there was none."""
    return _signals.caught[0] if _signals.caught else None


def may_be_interrupted() -> bool:
    """Return whether a `KeyboardInterrupt` may be the user's: it is code's own where no signal was caught."""
    if _signals.ignoring:
        return False
    return _signals.at_second is None or bool(_signals.caught)


@contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Show no warnings and no log lines of packages in the block, where `silent` is true; it yields nothing.

    Why: they say nothing of the user's model that qtool does not say itself. `logging.lastResort` is what prints where
    no handler was set up; a user's own code that sets up some keeps them.
    """
    global _silent
    import logging

    if not silent:
        yield
        return
    before, _silent = _silent, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown, last = warnings.showwarning, logging.lastResort
        # packages that change the filters are not heard either
        warnings.showwarning = lambda *_, **__: None
        logging.lastResort = logging.NullHandler()
        try:
            yield
        finally:
            warnings.showwarning, logging.lastResort, _silent = shown, last, before


def is_silenced() -> bool:
    """Return whether `silenced` is in force, for worker processes to do the same."""
    return _silent


def watch_reads() -> Callable[[], list[str]]:
    """Record from now on which files Python code opens for reading; return a function that lists their paths.

    Why: what the user's own functions read is known to nobody else. Files that libraries open without Python are not
    noted. Source: Python's audit event `open`; an audit hook cannot be taken away again.
    """
    paths: dict[str, None] = {}

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            paths[os.path.abspath(arguments[0])] = None  # noqa: PTH100

    sys.addaudithook(note)
    return lambda: list(paths)


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
    start; onnx imports whatever it has, models as text included. The modules are Python's own lazy ones: real, and
    loaded when an attribute of them is asked for.

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


@contextmanager
def lazy_dataclasses() -> Iterator[None]:
    """Let dataclasses that are defined in the block compile their methods once these are called; yields nothing.

    Why: compiling six methods for each of some hundred records is a fifth of what qtool takes to start, and a command
    calls few of them. Source: dataclasses._create_fn of Python 3.11 and 3.12.

    Where there is no such function, as in later versions, which compile all methods of a class at once, they are
    compiled when the class is defined.
    """
    create = getattr(dataclasses, "_create_fn", None)
    if create is None:
        yield
        return
    dataclasses._create_fn = functools.partial(_created_later, create)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dataclasses._create_fn = create  # type: ignore[attr-defined]


def _created_later(create: Callable[..., Any], name: str, *how: Any, **options: Any) -> Callable[..., Any]:
    made: list[Callable[..., Any]] = []

    def method(self: object, *given: Any, **named: Any) -> Any:
        if not made:
            made.append(create(name, *how, **options))
            made[0].__qualname__ = method.__qualname__
            for kind in type(self).__mro__:
                if kind.__dict__.get(name) is method:
                    setattr(kind, name, made[0])
        return made[0](self, *given, **named)

    method.__name__ = name
    return method


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


def collect_rarely() -> None:
    """Let Python look for garbage only once there are `_NEW_OBJECTS` more objects than before.

    Why: a graph is some ten thousand objects that live long, and all of them, and all modules, are looked at whenever a
    quarter as many have come: a twentieth of what `quantize` takes. It is for a process that is qtool's own.

    Nothing happens where the search for garbage is switched off.
    """
    if gc.isenabled():
        gc.set_threshold(_NEW_OBJECTS)


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


def follow_parent(temporary: str | None = None, silent: bool = False) -> None:
    """Leave Ctrl-C to the parent of this worker process, and end this process when the parent ends, however it does.

    temporary: a folder for temporary files, which the parent removes. silent: whether `silenced` is in force there.

    Why: a parent that is killed cannot tell its workers, which would wait for work for ever. A process without a parent
    is left as it is.
    """
    import tempfile
    from multiprocessing import parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _signals.ignoring = True
    if temporary is not None:
        tempfile.tempdir = temporary
    silenced(silent).__enter__()
    _guard_exit()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing import connection

    connection.wait([sentinel])
    _leave(1)


def stop_workers(pool: "ProcessPoolExecutor") -> None:
    """Stop the processes of a pool in the middle of what they do.

    Why: before Python 3.14 (`ProcessPoolExecutor.terminate_workers`) a pool can only wait for work that has begun.

    That method is called where the pool does not keep its processes in `_processes` any more. Where there is neither,
    the processes end when they have done what they do.
    """
    if hasattr(pool, "_processes"):
        for process in list((pool._processes or {}).values()):
            process.terminate()
        writer = getattr(getattr(pool, "_result_queue", None), "_writer", None)
        if writer is not None:
            writer.close()  # the rest of a result is waited for as long as anybody could still send it
    elif hasattr(pool, "terminate_workers"):
        pool.terminate_workers()

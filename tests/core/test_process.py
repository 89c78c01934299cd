"""Tricks on Python's and the system's insides: each works today, and nothing breaks where an upgrade takes it away."""

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from qtool.core import process
from qtool.execution.workers import Workers
from tests.support.places import REPOSITORY


def python(script, *arguments, folder=REPOSITORY):
    """A fresh process: exit code, stdout and stderr, all of it through pipes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr


ENDING = """
import atexit, sys
from qtool.core.process import run_program

class Slow:
    def __del__(self):
        print("taken apart", flush=True)

held = Slow()
atexit.register(print, "handled")
{upgrade}

def main():
    print("out")
    print("err", file=sys.stderr)
    {end}

run_program(main)
"""
GONE = "del atexit._run_exitfuncs"
ENDS = pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("pass", 0, "err\n"),
        ("sys.exit()", 0, "err\n"),
        ("sys.exit(1)", 1, "err\n"),
        ("sys.exit(130)", 130, "err\n"),
        ("sys.exit('a message')", 1, "err\na message\n"),
    ],
)


@ENDS
@pytest.mark.parametrize("upgrade", ["", GONE])
def test_a_program_ends_with_its_code_and_all_of_its_output(end, code, told, upgrade):
    ended, out, err = python(ENDING.format(end=end, upgrade=upgrade))
    assert (ended, out.splitlines()[:2], err) == (code, ["out", "handled"], told)


def test_a_program_is_not_taken_apart():
    assert "taken apart" not in python(ENDING.format(end="sys.exit(3)", upgrade=""))[1]
    assert "taken apart" in python(ENDING.format(end="sys.exit(3)", upgrade=GONE))[1]


def test_a_program_waits_for_threads_of_others():
    end = "import threading, time; threading.Timer(0.2, print, ['thread']).start(); sys.exit(2)"
    code, out, _ = python(ENDING.format(end=end, upgrade=""))
    assert (code, out.splitlines()[:3]) == (2, ["out", "thread", "handled"])


def test_what_main_raises_is_told():
    code, _, err = python(ENDING.format(end="raise ValueError('odd')", upgrade=""))
    assert code == 1 and err.endswith("ValueError: odd\n")


SIGNALLED = """
import os, signal, sys, time
from qtool.core.process import TerminatedError, may_be_interrupted, settle, finishing, uninterrupted, watch_signals

def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)

def end(number):
    print("ended by", number, flush=True)
    os._exit(9)

class Loses:
    def __del__(self):
        send(signal.SIGINT)

before = may_be_interrupted()
watch_signals(end)
print(before, may_be_interrupted(), flush=True)
{do}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("do", "code", "out"),
    [
        ("try: send(signal.SIGINT)\nexcept KeyboardInterrupt: print(may_be_interrupted())", 0, ["True"]),
        ("try: send(signal.SIGTERM)\nexcept TerminatedError as error: print(error, error.number)", 0, ["SIGTERM 15"]),
        ("try: send(signal.SIGHUP)\nexcept TerminatedError as error: print(error, error.number)", 0, ["SIGHUP 1"]),
        # caught by somebody's code: the second one ends it
        ("for i in range(2):\n    try: send(2 + 13 * i)\n    except BaseException: print(i)", 9, ["0", "ended by 2"]),
        ("Loses(); print('lost')", 9, ["ended by 2"]),
        ("settle(4); send(15)", 4, []),
        (
            "try:\n    with uninterrupted():\n        send(15)\n        send(15)\n        print('whole')\n"
            "except TerminatedError: print('late')",
            9,
            ["whole", "ended by 15"],
        ),
        (
            "try:\n    with finishing() as asked:\n        print(asked())\n        send(15)\n        print(asked())\n"
            "except TerminatedError: print('late')",
            0,
            ["False", "True", "late"],
        ),
        ("with finishing() as asked:\n    send(2)\n    send(2)\n    print('never')", 9, ["ended by 2"]),
        (
            "try:\n    with uninterrupted():\n        send(2)\n        print('whole')\n"
            "except KeyboardInterrupt: print('late')",
            0,
            ["whole", "late"],
        ),
    ],
)
def test_signals(do, code, out):
    ended, printed, err = python(SIGNALLED.format(do=do))
    assert (ended, printed.splitlines(), err) == (code, ["True False", *out], "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_that_is_ignored_stays_so():
    """As nohup wants it."""
    do = "send(signal.SIGHUP); print('goes on')"
    script = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SIGNALLED.format(do=do)}"
    assert python(script) == (0, "True False\ngoes on\n", "")


def test_a_function_that_ends_the_process_does_not():
    end = "import os\n    try: os._exit(0)\n    except SystemExit as error: print('exit', error); sys.exit(7)"
    code, out, _ = python(ENDING.format(end=end, upgrade=""))
    assert (code, out.splitlines()) == (7, ["out", "exit 0", "handled"])
    end = "import os\n    if os.fork() == 0: os._exit(5)\n    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    assert python(ENDING.format(end=end, upgrade=""))[0] == 5


def test_what_is_read_is_noted(tmp_path):
    (tmp_path / "read").touch()
    script = (
        "import os, sys\nfrom qtool.core.process import watch_reads\nos.chdir(sys.argv[1])\nopen('read').close()\n"
        "reads = watch_reads()\nopen('read', 'rb').close(); open('written', 'w').close()\n"
        "os.close(os.open('read', 0))\n"
        "print(reads() == [os.path.abspath('read')], reads())"
    )
    code, out, err = python(script, str(tmp_path))
    assert (code, out.split()[0], err) == (0, "True", ""), out


def test_warnings_and_log_lines_of_packages_are_silenced():
    script = (
        "import logging, warnings\nfrom qtool.core.process import is_silenced, silenced\n"
        "def speak():\n    warnings.simplefilter('always'); warnings.warn('w'); logging.getLogger('x').warning('l')\n"
        "    return is_silenced()\n"
        "with silenced(): print(speak())\nwith silenced(False): print(speak())"
    )
    code, out, err = python(script)
    assert (code, out) == (0, "True\nFalse\n") and err.splitlines()[0].endswith("UserWarning: w") and "\nl\n" in err


LOADED = "print(*sorted(m for m in sys.modules if m.startswith(('sympy.', 'mpmath'))))"


def test_onnx_ir_is_imported_without_sympy():
    """Where this fails, onnx_ir uses sympy while it is imported, and a start takes twice as long."""
    assert python(f"import sys, qtool.graph.edit; {LOADED}") == (0, "\n", "")


def test_a_command_does_not_load_sympy(tmp_path):
    """Where this fails, something asks each module for an attribute, and half a second more is spent."""
    (tmp_path / "q.onnx").write_bytes(b"")
    words = ["quantize", "calib_data/digits_cnn.onnx", "--weight-only", "-o", str(tmp_path / "q.onnx")]
    script = f"import gc, sys, qtool.cli\ntry: qtool.cli.main({words})\nexcept SystemExit as end: code = end.code\n"
    code, out, err = python(f"{script}assert gc.isenabled() and code == 0\nprint('loaded')\n{LOADED}")
    assert (code, err) == (0, "") and out.endswith("loaded\n\n")


def test_onnx_is_imported_without_its_forms_of_text():
    """Where this fails, onnx uses them while it is imported."""
    script = "import sys, qtool.graph.edit\nprint(type(sys.modules['google.protobuf.json_format']).__name__)"
    assert python(script) == (0, "_LazyModule\n", "")
    script = "import onnx, qtool.graph.edit\nprint(onnx.compose.merge_models.__name__)"
    assert python(script) == (0, "merge_models\n", "")


def test_sympy_is_loaded_once_it_is_used():
    code, out, err = python(f"import sys, qtool.graph.edit, sympy; assert sympy.Integer(2) + 1 == 3; {LOADED}")
    assert (code, err) == (0, "") and "sympy.core" in out


@pytest.fixture
def package(tmp_path):
    """Writes package `outer`, which imports `heavy`; returns a run of a statement with both to be found."""

    def write(outer, heavy="print('loaded')\nvalue = 3\n"):
        (tmp_path / "outer.py").write_text(outer)
        if heavy is not None:
            (tmp_path / "heavy.py").write_text(heavy)
        return lambda script: python(
            f"import sys\nfrom qtool.core.process import import_lazily\nfinders = list(sys.meta_path)\n"
            f"import_lazily('outer', {{'heavy', 'gone'}})\n{script}",
            folder=tmp_path,
        )

    return write


def test_a_deferred_module_is_loaded_when_it_is_used(package):
    run = package("import heavy\ndef use(): return heavy.value\n")
    assert run("import outer; print('imported'); print(outer.use())") == (0, "imported\nloaded\n3\n", "")


@pytest.mark.parametrize(
    ("outer", "heavy", "out"),
    [
        # it no longer needs the module, or the module is gone
        ("value = 3\n", None, "3\n"),
        ("try:\n    import heavy\nexcept ImportError:\n    pass\nvalue = 3\n", None, "3\n"),
        # it needs the module at once
        ("from heavy import value\n", "print('loaded')\nvalue = 3\n", "loaded\n3\n"),
        # it does not bear a lazy one
        (
            "import sys, types, heavy\nif type(heavy) is not types.ModuleType: raise TypeError('lazy')\n"
            "value = heavy.value\n",
            "print('loaded')\nvalue = 3\n",
            "loaded\n3\n",
        ),
    ],
)
def test_a_package_that_was_upgraded_is_imported_all_the_same(package, outer, heavy, out):
    run = package(outer, heavy)
    assert run("import outer; print(outer.value); assert sys.meta_path == finders") == (0, out, "")


def test_a_package_that_cannot_be_imported_says_so(package):
    code, _, err = package("import no_such_module\n")("")
    assert code == 1 and "No module named 'no_such_module'" in err


def test_ctrl_c_while_it_is_imported_is_no_reason_to_begin_again(package):
    """pybind11 makes an ImportError of it."""
    run = package("print('begun')\nraise ImportError('initialization failed') from KeyboardInterrupt()\n")
    code, out, err = run("")
    assert (code, out) == (1, "begun\n") and "initialization failed" in err


def test_garbage_is_looked_for_once_there_is_much_of_it():
    """What refers to itself is freed then, and not before."""
    script = (
        "import gc, weakref\nfrom qtool.core.process import collect_rarely\n"
        "class Ring:\n    def __init__(self): self.me = self\n"
        "collect_rarely(); gc.collect(); one = weakref.ref(Ring())\n"
        "few = [[] for _ in range(50_000)]; print(one() is None)\n"
        "many = [[] for _ in range(60_000)]; print(one() is None)\n"
        "gc.disable(); gc.set_threshold(7); collect_rarely(); print(gc.get_threshold()[0])"
    )
    assert python(script) == (0, "False\nTrue\n7\n", "")


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_goes_back_to_the_system():
    script = (
        "from qtool.core.process import trim_heap\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "held = [bytes(100_000) for _ in range(2000)]\n"
        "last = bytes(100_000)\n"  # keeps the top of the heap
        "del held\n"
        "before = resident(); assert trim_heap(); print(before - resident())"
    )
    code, out, err = python(script)
    assert (code, err) == (0, "") and int(out) > 100e6


@pytest.mark.parametrize("library", [lambda _: object(), lambda _: (_ for _ in ()).throw(OSError("no C library"))])
def test_a_c_library_without_malloc_trim(monkeypatch, library):
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert not process.trim_heap()


def test_another_system_is_not_asked_to_trim(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(ctypes, "CDLL")
    assert not process.trim_heap()


@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_its_parent_and_not_with_ctrl_c(tmp_path, killed):
    (tmp_path / "parent.py").write_text(
        "import os, time\nfrom qtool.execution.workers import Workers\n\n\n"
        "if __name__ == '__main__':\n    workers = Workers(1)\n"
        "    print(workers.submit(os.getpid).result(), flush=True)\n    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    try:
        worker = int(parent.stdout.readline())
        os.kill(worker, signal.SIGINT)
        time.sleep(0.3)
        os.kill(worker, 0)
        parent.send_signal(killed)
        parent.communicate(timeout=60)
        assert gone(worker)
    finally:
        parent.kill()


def gone(pid):
    """Whether a process ends within a few seconds; one that nobody has buried counts as ended."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_workers_are_stopped_in_the_middle():
    workers = Workers(1)
    workers.submit(int).result()
    busy = workers.submit(time.sleep, 60)
    time.sleep(0.2)
    begun = time.monotonic()
    workers.shutdown(wait=False, cancel_futures=True)
    assert time.monotonic() - begun < 30
    assert busy.done()


class Upgraded(ProcessPoolExecutor):
    """A pool that keeps its processes elsewhere."""

    def __init__(self):
        super().__init__(1, get_context("spawn"))
        self.submit(int).result()
        self.elsewhere = self.__dict__["_processes"]

    def __getattribute__(self, name):
        given = object.__getattribute__(self, "__dict__")
        # as before Python 3.14, unless a test gives it one
        absent = name == "terminate_workers" and name not in given
        if (name == "_processes" or absent) and "elsewhere" in given:
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_workers_of_another_pool_end_when_they_are_done():
    pool = Upgraded()
    process.stop_workers(pool)
    assert [p.is_alive() for p in pool.elsewhere.values()] == [True]
    asked = []
    pool.terminate_workers = lambda: asked.append(True)
    process.stop_workers(pool)
    assert asked == [True]
    for worker in pool.elsewhere.values():
        worker.terminate()
    del pool.elsewhere
    pool.shutdown()


def test_what_a_panic_writes_is_dropped_and_all_else_kept(capfd):
    with pytest.raises(ValueError, match="panic"), process.without_panic():
        os.write(2, b"thread panicked")
        raise ValueError("panic")
    assert capfd.readouterr().err == ""
    with process.without_panic():
        os.write(2, b"a warning")
    assert capfd.readouterr().err == "a warning"


def test_without_a_place_to_keep_it_nothing_is_dropped(capfd, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with process.without_panic():
        os.write(2, b"a warning")
    assert capfd.readouterr().err == "a warning"


def test_the_memory_of_the_machine_and_where_it_is_not_told(monkeypatch):
    assert 2**26 < process.memory_of_machine() <= 2**46
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(process.Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError))
    assert process.memory_of_machine() == 2**46


RECORD = """
import dataclasses
from dataclasses import FrozenInstanceError, replace
from qtool.core.process import lazy_dataclasses
{upgrade}
with lazy_dataclasses():
    @dataclasses.dataclass(frozen=True, slots=True, order=True)
    class Pair:
        first: int
        second: tuple[int, ...] = ()

        def __post_init__(self):
            if self.first < 0:
                raise ValueError(self.first)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Named(Pair):
        name: str = ""

compiled = lambda kind, method: kind.__dict__[method].__code__.co_filename == "<string>"
print(compiled(Pair, "__init__"))
one, two = Pair(1, (2,)), Named(1, (2,), "n")
print(compiled(Pair, "__init__"), compiled(Pair, "__eq__"))
print(one, repr(two), one == Pair(1, second=(2,)), one != two, hash(one) == hash(Pair(1, (2,))), one < Pair(2))
print(replace(two, name="m"), dataclasses.fields(Named)[2].name)
for wrong in (lambda: setattr(one, "first", 2), lambda: delattr(one, "first"), lambda: Pair(-1), lambda: Pair()):
    try:
        wrong()
    except (FrozenInstanceError, ValueError, TypeError) as error:
        print(type(error).__name__, error)
"""


def test_records_compile_their_methods_when_they_are_called():
    code, lazy, err = python(RECORD.format(upgrade=""))
    assert (code, err) == (0, "")
    head, rest = lazy.splitlines()[:2], lazy.splitlines()[2:]
    assert head == ["False", "True False"] or not hasattr(dataclasses, "_create_fn")
    without = "lazy_dataclasses = __import__('contextlib').nullcontext"
    assert rest == python(RECORD.format(upgrade=without))[1].splitlines()[2:] and len(rest) == 6
    gone = "import qtool.core.process as process; process.dataclasses = __import__('types').SimpleNamespace()"
    assert rest == python(RECORD.format(upgrade=gone))[1].splitlines()[2:]

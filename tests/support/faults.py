"""A campaign of faults against the command line, run by hand: `python -m tests.support.faults [--runs N] [--seed S]`.

Each run is a command with small files, into which one fault is put: a signal at a random time, a call of the system
that fails, a limit on the size of files, a full or closed stream, a full or missing folder for temporary files. What
must hold afterwards is `violations`; a run without faults must then succeed and leave nothing but its outputs. Prints
every violation with what reproduces it, and the exit codes by kind of fault.
"""

import argparse
import contextlib
import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support.places import REPOSITORY
from tests.support.refusals import SAMPLES, contents, network

OLD = b"what was there before"
PATIENCE_S = 600
"""Of a command of a second, beside whatever else the machine does."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAILURES = {"j": b'"schema": "qtool.failure"', "x": b"<error "}
"""What documents hold of a command that failed."""
CODES = {0, 1, 2, 129, 130, 143, -signal.SIGKILL}
FAILING = """
import builtins, errno, os, pathlib, sys, tempfile, zipfile
place, turn, code = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
holder, name = {
    "replace": (pathlib.Path, "replace"), "chmod": (pathlib.Path, "chmod"), "link": (os, "link"),
    "open": (os, "open"), "mkstemp": (tempfile, "mkstemp"), "mkdtemp": (tempfile, "mkdtemp"),
    "write_text": (pathlib.Path, "write_text"), "write_bytes": (pathlib.Path, "write_bytes"),
    "writestr": (zipfile.ZipFile, "writestr"), "scandir": (os, "scandir"), "unlink": (pathlib.Path, "unlink"),
}[place]
right, calls = getattr(holder, name), []
def failing(*arguments, **named):
    calls.append(None)
    if len(calls) == turn:
        raise OSError(code, os.strerror(code))
    return right(*arguments, **named)
from qtool.cli import run
setattr(holder, name, failing)
run()
"""
PLACES = (
    "replace",
    "chmod",
    "link",
    "mkstemp",
    "mkdtemp",
    "write_text",
    "write_bytes",
    "writestr",
    "scandir",
    "unlink",
)


@dataclass(frozen=True)
class Command:
    """A command line. outputs: files in out/ that appear together; growing: those that stand where it is stopped."""

    words: tuple[str, ...]
    outputs: tuple[str, ...]
    growing: tuple[str, ...] = ()


COMMANDS = (
    Command(("calibrate", "m.onnx", "--data", "good.npz", "-o", "out/c", "--json", "out/j"), ("c", "j")),
    Command(
        ("calibrate", "m.onnx", "--data", "good.npz", "-o", "out/c", "--json", "out/j", "--workers", "1"), ("c", "j")
    ),
    Command(
        (
            "quantize",
            "m.onnx",
            "--calibration",
            "m.calib",
            "--calibrator",
            "max",
            "-o",
            "out/q",
            "--save-plan",
            "out/p",
            "--json",
            "out/j",
        ),
        ("q", "p", "j"),
    ),
    Command(
        (
            "eval",
            "m.onnx",
            "q.onnx",
            "--data",
            "good.npz",
            "--min-sqnr",
            "5",
            "--json",
            "out/j",
            "--junit",
            "out/x",
            "--markdown",
            "out/m",
        ),
        ("j", "x", "m"),
    ),
    Command(("merge", "m.calib", "-o", "out/c", "--json", "out/j"), ("c", "j")),
    Command(
        ("sensitivity", "m.onnx", "--calibration", "m.calib", "--data", "good.npz", "-o", "out/s", "--json", "out/j"),
        ("j",),
        ("s",),
    ),
    Command(
        (
            "tune",
            "m.onnx",
            "--data",
            "good.npz",
            "--min-sqnr",
            "5",
            "--max-drop",
            "50%",
            "-o",
            "out/t",
            "--json",
            "out/j",
            "--calibrators",
            "max",
        ),
        ("j",),
        ("t",),
    ),
)


@dataclass
class Ended:
    """How a command ended. told: its stderr is known. stopped: by a signal."""

    code: int
    err: str
    told: bool = True
    stopped: bool = False


@dataclass
class House:
    """A folder with the inputs, out/ for outputs and tmp/ for temporary files."""

    folder: Path
    random: random.Random
    longest: dict[Command, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a command is run with."""
        return {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.folder / "tmp")}

    def call(self, command: Command, *, program: tuple[str, ...] = ("-m", "qtool"), **named: object) -> Ended:
        """Run a command to its end."""
        words = [sys.executable, *program, *command.words]
        settings = {"env": self.environment, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, **named}
        done = subprocess.run(words, cwd=self.folder, check=False, timeout=PATIENCE_S, **settings)  # type: ignore[call-overload]
        return Ended(done.returncode, (done.stderr or b"").decode(errors="replace"), done.stderr is not None)


Fault = Callable[[House, Command], tuple[str, Ended]]


def killed(house: House, command: Command) -> tuple[str, Ended]:
    """A signal, at any time."""
    number = house.random.choice(SIGNALS)
    after = house.random.uniform(0.0, 1.6)
    process = subprocess.Popen(
        [sys.executable, "-m", "qtool", *command.words], cwd=house.folder, env=house.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
    text = err.decode(errors="replace")
    # before the program has begun, while its first modules are read, Python and the system answer for it
    functions = re.findall(r'/qtool/\S+", line \d+, in (\S+)', text)
    early = process.returncode == -number and set(functions) <= {"<module>"} and "qtool: " not in text
    code = 128 + number if early else process.returncode
    code = -signal.SIGKILL if code == 128 + signal.SIGKILL else code
    return f"{signal.Signals(number).name} after {after:.3f} s", Ended(code, "qtool:" if early else text, stopped=True)


def failing_call(house: House, command: Command) -> tuple[str, Ended]:
    """The n-th call of something fails."""
    place, turn = house.random.choice(PLACES), house.random.randint(1, 6)
    code = house.random.choice((errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES))
    what = (place, str(turn), str(code))
    return " ".join(what), house.call(command, program=("-c", FAILING, *what))


def small_files(house: House, command: Command) -> tuple[str, Ended]:
    """No file may be larger than so many bytes."""
    size = house.random.choice((0, 100, 2000, 10_000, 50_000))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return f"files of {size} bytes", house.call(command, preexec_fn=limit)


def bad_streams(house: House, command: Command) -> tuple[str, Ended]:
    """Standard output and error closed, full, or pipes that nobody reads."""
    ways = [house.random.choice(("", f"{n}>&-", f"{n}>/dev/full")) for n in (1, 2)]
    pipe = " | head -c 0" if not ways[0] and house.random.random() < 0.5 else ""
    line = subprocess.list2cmdline([sys.executable, "-m", "qtool", *command.words])
    script = f"set -o pipefail; {line} {' '.join(ways)}{pipe}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=house.folder,
        env=house.environment,
        check=False,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    return f"streams{pipe} {ways}", Ended(done.returncode, done.stderr.decode(errors="replace"), not ways[1])


def bad_tmpdir(house: House, command: Command) -> tuple[str, Ended]:
    """A folder for temporary files that is missing, or full."""
    kind = house.random.choice(("missing", "full"))
    folder = house.folder / "other-tmp"
    with _full_folder(folder) if kind == "full" else contextlib.nullcontext():
        ended = house.call(command, env={**house.environment, "TMPDIR": str(folder)})
    return f"TMPDIR {kind}", ended


@contextlib.contextmanager
def _full_folder(folder: Path) -> Iterator[None]:
    """A file system with little room, where we may mount one."""
    folder.mkdir()
    size = random.choice(("4k", "8k", "16k"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode
    try:
        yield
    finally:
        if mounted == 0:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()


FAULTS: tuple[Fault, ...] = (killed, killed, failing_call, failing_call, small_files, bad_streams, bad_tmpdir)


def _new(
    command: Command, ended: Ended, before: dict[str, bytes | None], after: dict[str, bytes | None]
) -> dict[str, bool]:
    """Which outputs are there that were not; a document that says why the command ended with 2 is none."""
    new = {name: after.get(f"out/{name}") not in (None, before.get(f"out/{name}")) for name in command.outputs}
    for name, says in FAILURES.items():
        if ended.code == 2 and new.get(name) and says in (after[f"out/{name}"] or b""):
            del new[name]
    return new


def violations(house: House, command: Command, ended: Ended, before: dict[str, bytes | None]) -> Iterator[str]:
    """What must not be after a command with a fault, in words."""
    after = contents(house.folder)
    if ended.code not in CODES:
        yield f"exit code {ended.code}: {ended.err[-300:]!r}"
    if "Traceback" in ended.err:
        yield f"a traceback: {ended.err[-300:]!r}"
    lines = [text for text in ended.err.splitlines() if text.strip()]
    if ended.told and ended.code not in (0, 1, -signal.SIGKILL) and len(lines) != 1:
        yield f"{len(lines)} lines of stderr: {ended.err[-300:]!r}"
    inputs = [name for name in before if not name.startswith(("out", "tmp"))]
    if any(before[name] != after.get(name) for name in inputs):
        yield "an input has changed"
    new = _new(command, ended, before, after)
    if len(set(new.values())) > 1:
        yield f"only some outputs are there: {new}"
    if ended.code in (0, 1) and not all(new.values()):
        yield f"an output is missing: {new}"
    if ended.code == 2 and any(new.values()):
        yield "exit 2, and outputs are there"
    for name in command.growing:
        if ended.code == 2 and command.words[0] == "tune" and after.get(f"out/{name}") != before.get(f"out/{name}"):
            yield f"exit 2, and {name} is another"
    if ended.code != -signal.SIGKILL:
        stale = [name for name in after if name.startswith("tmp/") or ".qtool." in name]
        stale = [name for name in stale if "qtool-bug-" not in name]
        if stale:
            yield f"left over at once: {stale}"


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted({fault.__name__ for fault in FAULTS}))
    options = parser.parse_args()
    codes: Counter[tuple[str, int]] = Counter()
    found = 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.seed, options.seed + options.runs):
            chosen = random.Random(number)
            house = House(Path(name) / "house", chosen)
            _furnish(house)
            command = chosen.choice(COMMANDS)
            fault = chosen.choice([f for f in FAULTS if options.only in (None, f.__name__)])
            for output in (*command.outputs, *command.growing) if chosen.random() < 0.5 else ():
                if command.words[0] != "sensitivity" or output != "s":
                    (house.folder / "out" / output).write_bytes(OLD)
            before = contents(house.folder)
            what, ended = fault(house, command)
            codes[fault.__name__, ended.code] += 1
            wrong = list(violations(house, command, ended, before))
            if what.startswith("unlink"):
                # what cannot be removed is left to the next run
                wrong = [text for text in wrong if not text.startswith("left over")]
            again = house.call(command)
            there = sorted(path.name for path in (house.folder / "out").iterdir())
            rest = [path.name for path in (house.folder / "tmp").iterdir() if not path.name.startswith("qtool-bug-")]
            if again.code != 0 or again.err or rest or there != sorted((*command.outputs, *command.growing)):
                wrong.append(f"the next run: exit {again.code}, {again.err!r}, out {there}, tmp {rest}")
            for text in wrong:
                found += 1
                print(f"seed {number}: {command.words[0]}, {what}: {text}", flush=True)
            shutil.rmtree(house.folder)
    for (fault_name, code), times in sorted(codes.items()):
        print(f"{fault_name:<14} exit {code:>4}: {times}")
    print(f"{options.runs} runs, {found} violations")


def _furnish(house: House) -> None:
    folder = house.folder
    for inner in ("out", "tmp"):
        (folder / inner).mkdir(parents=True)
    store = folder.parent / "inputs"
    if not store.exists():
        store.mkdir()
        network(store / "m.onnx")
        np.savez(store / "good.npz", x=SAMPLES)
        for words in (
            "calibrate m.onnx --data good.npz -o m.calib",
            "quantize m.onnx --calibration m.calib --calibrator max -o q.onnx",
        ):
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            subprocess.run(
                [sys.executable, "-m", "qtool", *words.split()], cwd=store, env=environment, check=True,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
    for file in store.iterdir():
        shutil.copy(file, folder / file.name)


if __name__ == "__main__":
    main()

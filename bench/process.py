"""Whole processes, measured: wall and CPU seconds, peak memory, and the reason where one failed."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_LONGEST_REASON = 160


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `peak_kib` is the maximum resident set; `failure` is one line, None where it ended well."""

    wall: float
    cpu: float
    peak_kib: int
    failure: str | None = None


def measure(
    command: Sequence[object], *, seconds: int = 0, memory: int = 0, variables: Mapping[str, str] | None = None
) -> Outcome:
    """Run a command in the repository's folder; 0 is no limit of `seconds` or of address space (`memory`, bytes)."""
    words = [sys.executable, "-S", "-c", _LAUNCHER, str(seconds), str(memory), *map(str, command)]
    answer = subprocess.run(
        words, cwd=REPOSITORY, env={**os.environ, **(variables or {})}, capture_output=True, text=True, check=False
    )
    wall, cpu, peak, code = answer.stdout.split()
    failure = None if code == "0" else reason(int(code), answer.stderr, seconds)
    return Outcome(float(wall), float(cpu), int(peak), failure)


def demand(command: Sequence[object]) -> Outcome:
    """The same for a command that must not fail: exits where it does."""
    outcome = measure(command)
    if outcome.failure is not None:
        sys.exit(f"failed: {' '.join(map(str, command))}: {outcome.failure}")
    return outcome


def reason(code: int, errors: str, seconds: int = 0) -> str:
    """What to say of a process that failed: the last line that it wrote to stderr, or the signal that ended it."""
    if code == _TIMEOUT:
        return f"no result in {seconds} s"
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", errors).splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else f"exit code {code}"


def shortened(line: str) -> str:
    """The first so many characters of a message, on one line."""
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 3] + "..."


_TIMEOUT = 1000  # no process's own exit code

# A process of its own, small: a child starts with the peak memory of the process that it was forked from.
_LAUNCHER = f"""
import os, resource, signal, subprocess, sys, time
seconds, memory = int(sys.argv[1]), int(sys.argv[2])
if memory:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
late = []
started = time.perf_counter()
process = subprocess.Popen(sys.argv[3:], stdout=subprocess.DEVNULL)
signal.signal(signal.SIGALRM, lambda *_: (late.append(1), process.kill()))
signal.alarm(seconds)
_, status, usage = os.wait4(process.pid, 0)
code = {_TIMEOUT} if late else os.waitstatus_to_exitcode(status)
print(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, code)
"""

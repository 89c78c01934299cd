"""The commands of docs/tutorial.md and what they print: `python -m tests.support.tutorial` runs and writes it again.

A command stands behind `$ ` in an indented block, what it prints below it, to the end of the block, blank
lines too. They are run in one folder, in their order, in which `calib_data` and `examples` are those of the repository.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import REPOSITORY

FILE = REPOSITORY / "docs" / "tutorial.md"
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Run:
    """A command of the page. start, end: the lines below it, by number. printed: what they say."""

    command: str
    start: int
    end: int
    printed: tuple[str, ...]


def runs(text: str) -> list[Run]:
    """The commands of a page, in their order."""
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines):
        if not line.startswith(f"{_INDENT}$ "):
            continue
        start = number + 1
        command = line[len(_INDENT) + 2 :]
        while command.endswith("\\"):
            command = command[:-1] + lines[start].strip()
            start += 1
        end = start
        for below in range(start, len(lines)):
            said = lines[below]
            if said.startswith(f"{_INDENT}$ ") or (said and not said.startswith(_INDENT)):
                break
            end = below + 1 if said else end
        found.append(Run(command, start, end, tuple(line[len(_INDENT) :] for line in lines[start:end])))
    return found


def printed(commands: list[str], folder: Path) -> list[list[str]]:
    """What each command prints, standard error too, with its exit code where that is not 0."""
    (folder / "calib_data").symlink_to(REPOSITORY / "calib_data")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    (folder / "bin").mkdir()
    program = folder / "bin" / "qtool"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qtool "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("CI", None)
    results = []
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines()
        results.append([line.rstrip() for line in lines] + ([f"(exit code {done.returncode})"] * bool(done.returncode)))
    return results


def masked(line: str) -> str:
    """A line without what another machine or version prints otherwise: numbers, and the spaces that align them."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(?:\.\d+)?", "#", line)).strip()


def written_again(text: str, results: list[list[str]]) -> str:
    """The page with what the commands print now."""
    lines = text.splitlines()
    for run, result in reversed(list(zip(runs(text), results, strict=True))):
        lines[run.start : run.end] = [f"{_INDENT}{line}".rstrip() or _INDENT.rstrip() for line in result]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    page = FILE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        FILE.write_text(
            written_again(page, printed([run.command for run in runs(page)], Path(temporary))), encoding="utf-8"
        )

"""All campaigns, a share of each: `python -m tests.support.fuzz --cases N --seed S`, which `make fuzz` calls.

Changed models (mutants.py), changed files of every other kind (hostile.py), and random valid networks, plain, unusual
and with exclusions (campaign.py). Each runs as a program of its own, which may not take more than 4 GiB, nor write
outside of a temporary folder, nor open a file that is neither there nor part of Python, the system or the repository.
The seed of another day is another part of the same endless set.
"""

import argparse
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from tests.support.places import REPOSITORY

_LIMIT = 4 * 2**30
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FOLDER = "QTOOL_FUZZ_FOLDER"
_KNOWN = ("/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/etc")
"""Where the system's own files are, which libraries read as they start."""


def campaigns(cases: int, seed: int) -> list[list[str]]:
    """The modules and their arguments for about so many cases: 40 % mutants, 50 % other files, 10 % valid networks."""
    graphs = max(cases // 30, 1)
    few = max(graphs // 5, 1)
    return [
        ["tests.support.mutants", str(max(2 * cases // 5, 1)), str(seed)],
        ["tests.support.hostile", "-n", str(max(cases // 20, 1)), "--seed", str(seed)],
        ["tests.support.campaign", "--graphs", str(graphs - 2 * few or 1), "--seed", str(seed)],
        ["tests.support.campaign", "--graphs", str(few), "--seed", str(seed), "--unusual"],
        ["tests.support.campaign", "--graphs", str(few), "--seed", str(seed), "--exclude"],
    ]


def confine() -> None:
    """Let this process end at once where it opens a file that it should not; where `make fuzz` has started it."""
    folder = os.environ.get(_FOLDER)
    if folder is None:
        return
    own = (os.path.realpath(folder), str(REPOSITORY), *map(os.path.realpath, {sys.prefix, sys.base_prefix}))
    known = (*own, *_KNOWN, *{os.path.realpath(path) for path in sysconfig.get_paths().values()})

    def opened(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[2]
        writes = isinstance(flags, int) and bool(flags & _WRITING)
        allowed = (own[0], "/dev", "/proc") if writes else known
        if not any(path == place or path.startswith(f"{place}/") for place in allowed):
            sys.stderr.write(f"opens {path} to {'write' if writes else 'read'}, outside of {folder}\n")
            sys.stderr.flush()
            os._exit(70)

    sys.addaudithook(opened)


def main() -> None:
    """Run the campaigns; exit with 1 where one has a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()) // 86400 * 100_000, help="default: of the day")
    given = parser.parse_args()
    bad = []
    for words in campaigns(given.cases, given.seed):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            inner = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME", _FOLDER), folder)
            environment = {**os.environ, **inner, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(REPOSITORY)}
            began = time.monotonic()
            code = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, check=False).returncode
            left = sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("mutants-"))
        # of the largest so far
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(
            f"{' '.join(words)}: exit code {code}, {time.monotonic() - began:.0f} s, {most / 2**20:.0f} MiB", flush=True
        )
        bad += [f"{words[0]}: exit code {code}"] * bool(code) + [f"{words[0]}: {most} bytes"] * (most > _LIMIT)
        bad += [f"{words[0]}: leaves {', '.join(left[:3])}"] * bool(left)
    for one in bad:
        print(one)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

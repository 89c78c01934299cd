"""The tests with the oldest and the newest packages that pyproject.toml admits, on each Python that is there.

`python -m tests.support.versions [--python 3.11,3.12] [--packages oldest,newest] [-- ARGUMENTS OF PYTEST]`, which
`make test-versions` calls: a virtual environment for each in build/versions/, kept for the next time. Optional packages
are the newest. A row a combination: how many tests passed and failed, and where what failed is written.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.places import REPOSITORY

FOLDER = REPOSITORY / "build" / "versions"
_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_QUICK = ("-q", "-m", "not slow and not long", "-p", "no:cacheprovider", "-n", "2")


def oldest(python: str, project: Path = REPOSITORY / "pyproject.toml") -> list[str]:
    """The packages that qtool needs on a Python, each in the oldest version that is admitted.

    `numpy>=1.26` gives `numpy==1.26.*`. python: such as `3.11`; what pyproject.toml asks for on others is left out.
    """
    found = []
    for line in tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"python_version": python}):
            continue
        (bound,) = (part.version for part in needed.specifier if part.operator == ">=")
        found.append(f"{needed.name}=={bound}.*")
    return found


def interpreter(version: str) -> str | None:
    """The Python of that version that is there, or None."""
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    asked = subprocess.run(
        [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=False
    )
    return found if asked.stdout.strip() == version else None


def environment(python: str, version: str, packages: str) -> Path:
    """Make the virtual environment of a combination where it is not there; its interpreter."""
    place = FOLDER / f"{version}-{packages}"
    own = place / "bin" / "python"
    if not (place / "finished").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(place)], check=True)
        wanted = oldest(version) if packages == "oldest" else []
        # -I: what lies on PYTHONPATH is not installed in it
        subprocess.run(
            [str(own), "-I", "-m", "pip", "install", "--quiet", "-e", f"{REPOSITORY}[dev]", *wanted], check=True
        )
        (place / "finished").touch()
    return own


def main() -> None:
    """Run what the command line asks for; exit with 1 where a test fails, or a combination cannot be installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=",".join(_PYTHONS))
    parser.add_argument("--packages", default="oldest,newest")
    parser.add_argument("arguments", nargs="*", help="of pytest")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP):
        # in the background of a shell they are ignored, and would be in the tests; a handler is not handed on
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    bad = False
    for version in given.python.split(","):
        python = interpreter(version)
        if python is None:
            print(f"Python {version}: not here, not tested", flush=True)
            continue
        for packages in given.packages.split(","):
            try:
                own = environment(python, version, packages)
            except subprocess.CalledProcessError as error:
                print(f"Python {version}, {packages}: cannot be installed ({error})", flush=True)
                bad = True
                continue
            log = FOLDER / f"{version}-{packages}.log"
            with log.open("w", encoding="utf-8") as stream:
                words = [str(own), "-m", "pytest", *(given.arguments or _QUICK)]
                own_variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                done = subprocess.run(
                    words, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT, env=own_variables, check=False
                )
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            print(f"Python {version}, {packages}: {' '.join(last)} ({log})", flush=True)
            bad |= done.returncode != 0
    sys.exit(bad)


if __name__ == "__main__":
    main()

"""The virtual environment that `make` builds: whole, or built again. Pythons are pretended: nothing is installed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")

# as an interpreter says of itself what the Makefile asks; as `-m venv` it makes a folder with a pip that does nothing
PRETENDED = """#!/bin/sh
echo "$0 $*" >> "{log}"
[ -e "{folder}/broken" ] && exit 1
if [ "$1" = -c ]; then
  exec "{python}" -c "import sys; sys.version_info = {version}; sys._base_executable = '$0'
$2"
fi
mkdir -p "$3/bin"
ln -sf "$0" "$3/bin/python"
[ -e "{folder}/venv-fails" ] && exit 1
cp "{folder}/pip" "$3/bin/pip"
"""
PIP = """#!/bin/sh
echo "pip $*" >> "{log}"
[ -e "{folder}/pip-is-killed" ] && kill -9 $PPID
[ ! -e "{folder}/pip-fails" ]
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with the Makefile and pretended Pythons."""

    folder: Path

    def python(self, name: str, version: tuple[int, int] = (3, 12)) -> Path:
        """A pretended interpreter of that version."""
        text = PRETENDED.format(log=self.log, folder=self.folder, python=sys.executable, version=version)
        return self._script(self.folder / name, text)

    def pip(self) -> None:
        """What pretended Pythons put into an environment."""
        self._script(self.folder / "pip", PIP.format(log=self.log, folder=self.folder))

    def _script(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

    @property
    def log(self) -> Path:
        """What was called."""
        return self.folder / "log"

    def make(self, *words: str) -> tuple[int, str, list[str]]:
        """Exit code, standard error, and what was installed or made, a word each."""
        # a make that runs the tests must not reach into this one
        ours = {n: v for n, v in os.environ.items() if not n.startswith(("MAKE", "MFLAGS", "PYTHON", "VENV", "BIN"))}
        path = f"{self.folder}{os.pathsep}{ours['PATH']}"
        self.log.write_text("")
        ended = subprocess.run(
            ["make", *words], cwd=self.folder, env=ours | {"PATH": path}, capture_output=True, text=True, check=False
        )
        calls = self.log.read_text().splitlines()
        venvs = ["venv" for call in calls if " -m venv " in call]
        return ended.returncode, ended.stderr, venvs + [call.split()[-1] for call in calls if call.startswith("pip")]


@pytest.fixture
def checkout(tmp_path):
    """With a `python3` that will do."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    made = Checkout(tmp_path)
    made.pip()
    made.python("python3")
    return made


def good(checkout, *words):
    """`make .venv/demo`, and what it made."""
    code, said, made = checkout.make(".venv/demo", *words)
    assert (code, said) == (0, "")
    assert (checkout.folder / ".venv/demo").exists()
    return made


def test_an_environment_is_made_once(checkout):
    assert good(checkout) == ["venv", "."]
    assert good(checkout) == []
    assert checkout.make(".venv/dev")[::2] == (0, [".[dev]"])
    assert checkout.make(".venv/dev", ".venv/demo")[::2] == (0, [])


def test_what_pyproject_asks_for_is_installed_again(checkout):
    good(checkout)
    for name, seconds in (("python", 1000), ("demo", 2000)):
        os.utime(checkout.folder / ".venv" / name, (seconds, seconds))
    assert good(checkout) == ["."]


@pytest.mark.parametrize("wrong", ["/bin/false", "/bin/echo", "no-such-python", "old", "broken python"])
@pytest.mark.parametrize("before", [False, True])
def test_a_wrong_python_is_refused_in_a_line_and_leaves_nothing(checkout, wrong, before):
    checkout.python("old", (3, 9))
    if before:
        good(checkout)
    code, said, made = checkout.make(".venv/demo", f"PYTHON={wrong}")
    first, *rest = said.splitlines()
    assert (code, made) == (2, [])
    assert first == f"PYTHON={wrong} is not Python 3.11 or later; name one: make .venv/demo PYTHON=python3.12"
    assert len(rest) == 1  # make's own
    assert good(checkout) == ([] if before else ["venv", "."])


@pytest.mark.parametrize("failure", ["venv-fails", "pip-fails", "pip-is-killed"])
def test_what_failed_half_way_is_not_taken_for_good(checkout, failure):
    (checkout.folder / failure).touch()
    assert checkout.make(".venv/demo")[0] != 0
    (checkout.folder / failure).unlink()
    assert good(checkout) == ["venv", "."]


def test_a_whole_environment_that_fails_to_take_more_is_made_again(checkout):
    good(checkout)
    (checkout.folder / "pip-fails").touch()
    assert checkout.make(".venv/dev")[0] != 0
    (checkout.folder / "pip-fails").unlink()
    assert good(checkout) == ["venv", "."]


def test_another_python_makes_another_environment(checkout):
    checkout.python("another", (3, 13))
    good(checkout)
    assert good(checkout, "PYTHON=another") == ["venv", "."]
    assert good(checkout, "PYTHON=another") == []
    # not named, it is kept
    assert good(checkout) == []


def test_the_python_of_the_environment_itself_is_the_one_it_was_made_with(checkout):
    good(checkout)
    (checkout.folder / "same").symlink_to(checkout.folder / "python3")
    assert good(checkout, "PYTHON=same") == []
    assert good(checkout, "PYTHON=.venv/bin/python") == []


def test_an_environment_whose_python_has_gone_is_made_again(checkout):
    checkout.python("another")
    good(checkout, "PYTHON=another")
    (checkout.folder / "another").unlink()
    assert good(checkout) == ["venv", "."]


def test_an_environment_that_somebody_else_made_is_made_again(checkout):
    (checkout.folder / ".venv/bin").mkdir(parents=True)
    (checkout.folder / ".venv/bin/python").symlink_to(checkout.folder / "python3")
    assert good(checkout) == ["venv", "."]


def test_the_makefile_asks_for_the_python_that_the_package_asks_for():
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    major, minor = re.fullmatch(r">=(\d+)\.(\d+)", asked).groups()
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert f"sys.version_info < ({major}, {minor})" in makefile
    assert f"is not Python {major}.{minor} or later" in makefile

"""What is published: the source distribution holds the repository, the wheel says which Pythons it serves."""

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest

from tests.support.places import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
BY_ITSELF = {"MANIFEST.in", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
"""What setuptools takes whatever MANIFEST.in says."""


def published(path):
    """Whether a source distribution holds the file, by MANIFEST.in."""
    found = path in BY_ITSELF
    for line in (REPOSITORY / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        command, *patterns = line.split()
        if command == "graft":
            found |= any(path.startswith(f"{folder}/") for folder in patterns)
        elif command == "include":
            found |= any(fnmatch(path, pattern) for pattern in patterns)
        elif command == "global-exclude":
            found &= not any(fnmatch(path.rsplit("/")[-1], pattern) for pattern in patterns)
        else:
            assert command == "#", line
    return found


@pytest.mark.skipif(
    shutil.which("git") is None or not (REPOSITORY / ".git").exists(), reason="this is no clone of the repository"
)
def test_the_source_distribution_holds_every_file_of_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    tracked = [path for path in listed.stdout.split("\0") if path]
    assert len(tracked) > 300
    assert [path for path in tracked if not published(path)] == []


@pytest.mark.parametrize(
    "path", ["qtool/core/numerics/_count.abi3.so", "tests/__pycache__/x.pyc", ".venv/x.py", "demo-out/digits.calib"]
)
def test_the_source_distribution_holds_nothing_that_was_built(path):
    assert not published(path)


def test_one_wheel_serves_every_python_that_the_package_asks_for():
    major, minor = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()
    (extension,) = PYPROJECT["tool"]["setuptools"]["ext-modules"]
    source = (REPOSITORY / extension["sources"][0]).read_text(encoding="utf-8")
    assert extension["py-limited-api"]
    assert PYPROJECT["tool"]["distutils"]["bdist_wheel"]["py_limited_api"] == f"cp{major}{minor}"
    assert f"#define Py_LIMITED_API 0x{int(major):02X}{int(minor):02X}0000" in source


def test_a_machine_without_a_compiler_installs_it_too():
    (extension,) = PYPROJECT["tool"]["setuptools"]["ext-modules"]
    assert extension["optional"]


def test_types_and_the_stub_of_the_extension_are_installed():
    listed = PYPROJECT["tool"]["setuptools"]["package-data"]["qtool"]
    assert all((REPOSITORY / "qtool" / path).exists() for path in listed if "*" not in path)
    (templates,) = [path for path in listed if path.endswith("/*")]
    assert {path.name for path in (REPOSITORY / "qtool").glob(templates)} == {
        "page.html", "blocks.html", "page.css", "page.js"
    }  # fmt: skip
    other = {"/".join(path.relative_to(REPOSITORY / "qtool").parts) for path in (REPOSITORY / "qtool").rglob("*.pyi")}
    assert {"py.typed", templates, *other} == set(listed)


def test_the_licence_is_said_once():
    assert PROJECT["license"] == "Apache-2.0"
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert f"Copyright 2026 {PROJECT['authors'][0]['name']}" in text
    # beside an SPDX expression a classifier of the licence is refused
    assert not [name for name in PROJECT["classifiers"] if name.startswith("License ::")]


def test_the_versions_agree():
    source = (REPOSITORY / "qtool" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{PROJECT["version"]}"' in source

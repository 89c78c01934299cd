"""The documentation says what the tool does."""

import re

import pytest

import qtool
from tests.support import api_reference, cli_reference
from tests.support.places import REPOSITORY

PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "calib_data" / "README.md",
]


def test_the_command_reference_is_what_help_says():
    text = cli_reference.FILE.read_text(encoding="utf-8")
    assert text == cli_reference.reference(), "run python -m tests.support.cli_reference"


def test_the_python_reference_is_what_docstrings_say():
    text = api_reference.FILE.read_text(encoding="utf-8")
    assert text == api_reference.reference(), "run python -m tests.support.api_reference"


def test_every_public_name_has_a_section_of_the_python_reference():
    text = api_reference.FILE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == sorted(n for n in qtool.__all__ if n[0] != "_")


def test_the_changelog_tells_of_this_version_and_of_what_comes_next():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[?([^\]\s]+)", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert qtool.__version__ in sections


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_names_the_two_commands_first():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("make test") < text.index("## The user's day")

"""The documentation says what the tool does."""

import re

import pytest

from tests.support.cli_reference import FILE, reference
from tests.support.places import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "calib_data" / "README.md"]


def test_the_command_reference_is_what_help_says():
    assert FILE.read_text(encoding="utf-8") == reference(), "run python -m tests.support.cli_reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_names_the_two_commands_first():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("make test") < text.index("## The user's day")

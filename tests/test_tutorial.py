"""Commands in the documentation: each is one that qtool takes, and those of the tutorial print what it says."""

import contextlib
import re
import shlex
import shutil

import pytest

from qtool.cli import COMMANDS, main
from qtool.cli.group import command_of
from qtool.targets.tables import find_target
from tests.support import tutorial
from tests.support.pages import ELSEWHERE, HOUSES, OTHERWISE
from tests.support.places import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    *sorted(page for page in (REPOSITORY / "docs").glob("*.md") if page.name not in ("cli.md", "api.md")),
]
"""Those on adding something name what is not there yet."""
MACHINE = re.compile(r"speed |because|estimated|faster|slower|^\s*(x86|x86-avx2|portable|arm64)\b")
"""Lines on how fast a machine is."""


def commands(text):
    """Calls of qtool in a page, as lists of words: of its blocks, and in `quotes`, which need not be whole."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^(?: {4}|\t)\s*(?:\$ )?(qtool .+)$", joined, re.MULTILINE)
    for block in re.findall(r"^```\w*\n(.*?)^```", joined, re.MULTILINE | re.DOTALL):
        lines += re.findall(r"^(?:\$ )?(qtool .+)$", block, re.MULTILINE)
    passing = re.findall(r"`(qtool [a-z]+ [^`\n]+)`", joined)
    for line in [*lines, *passing]:
        if "..." in line or "[" in line or "…" in line:
            continue
        words = shlex.split(line, comments=True)
        ends = [i for i, word in enumerate(words) if word in ("&&", "|", ">", ";", "||")]
        yield words[1 : min(ends, default=len(words))], line in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_qtool_takes_every_command_of_a_page(page, tmp_path, monkeypatch):
    """The options are there, and take such values; the files need not be."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "examples" / "ci" / "qtool.toml", tmp_path)
    for (name, *words), whole in commands(page.read_text(encoding="utf-8")):
        if name.startswith("-") or "--help" in words:
            continue
        if whole:
            command_of(name).make_context(name, list(words))
        options = {flag for one in command_of(name).params for flag in one.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, words


def whole_commands(page):
    """The commands in blocks of a page: those that can be run as they stand."""
    return [words for words, whole in commands(page.read_text(encoding="utf-8")) if whole and words[0] in COMMANDS]


def test_every_page_with_commands_is_run_or_says_where():
    known = {*HOUSES, *ELSEWHERE}
    assert [page.name for page in PAGES if whole_commands(page) and page.name not in known] == []
    assert [name for name in known if not any(whole_commands(page) for page in PAGES if page.name == name)] == []
    assert not set(HOUSES) & set(ELSEWHERE)


@pytest.fixture(scope="session")
def houses(tmp_path_factory):
    """Returns the folder with the files of a house, made once."""
    made = {}

    def house(make):
        if make not in made:
            made[make] = tmp_path_factory.mktemp("house")
            with contextlib.chdir(made[make]):
                make()
        return made[make]

    return house


@pytest.mark.long
@pytest.mark.parametrize("name", HOUSES)
def test_the_commands_of_a_page_run(name, houses, tmp_path, monkeypatch, capsys):
    """In their order, in one folder."""
    if name == "report.md":
        pytest.importorskip("jinja2")
        pytest.importorskip("PIL")
    folder = shutil.copytree(houses(HOUSES[name]), tmp_path / "here")
    monkeypatch.chdir(folder)
    for words in whole_commands(REPOSITORY / "docs" / name):
        with pytest.raises(SystemExit) as ended:
            main(words)
        _, err = capsys.readouterr()
        assert ended.value.code == OTHERWISE.get(" ".join(words[:3]), 0), (words, err)


def test_the_tutorial_has_commands():
    assert len(tutorial.runs(tutorial.FILE.read_text(encoding="utf-8"))) >= 10


@pytest.mark.long
@pytest.mark.skipif(find_target("auto").name != "x86", reason="the page shows what the target x86 gives")
def test_the_tutorial_prints_what_it_says(tmp_path):
    runs = tutorial.runs(tutorial.FILE.read_text(encoding="utf-8"))
    for run, result in zip(runs, tutorial.printed([run.command for run in runs], tmp_path), strict=True):
        said, found = (
            [tutorial.masked(line) for line in lines if not MACHINE.search(line)] for lines in (run.printed, result)
        )
        assert found == said, f"{run.command}: run python -m tests.support.tutorial"

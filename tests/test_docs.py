"""The documentation says what the tool does."""

import fnmatch
import re
import shlex
import textwrap
import tomllib
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import yaml

import qtool
from qtool.cli import main
from qtool.cli.group import command_of
from qtool.core.numerics.calibrators import CALIBRATORS
from qtool.core.records.recipe import ASKED
from qtool.evaluation.decoding.decoders import DECODERS
from qtool.evaluation.metrics.registry import NAMES as METRICS
from qtool.feeds import PRESETS
from qtool.targets.tables import TARGETS
from tests.support import api_reference, cli_reference, json_reference, operator_reference
from tests.support.messages import texts
from tests.support.places import REPOSITORY

PACKAGE = Path(qtool.__file__).parent
PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "calib_data" / "README.md",
]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
ADDING = sorted((REPOSITORY / "docs" / "adding").glob("*.md"))
FOR_DEVELOPERS = [REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "docs" / "architecture.md", *ADDING]
ABSENT = {"qtool/sensitivity/", "file.py", "dist/"}
"""What a page says is not there, or will be made; and a user's file."""
TARGETS_OF_MAKE = re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_command_reference_is_what_help_says():
    text = cli_reference.FILE.read_text(encoding="utf-8")
    assert text == cli_reference.reference(), "run python -m tests.support.cli_reference"


def test_the_python_reference_is_what_docstrings_say():
    text = api_reference.FILE.read_text(encoding="utf-8")
    assert text == api_reference.reference(), "run python -m tests.support.api_reference"


def test_the_reference_of_documents_is_what_their_schema_says():
    text = json_reference.FILE.read_text(encoding="utf-8")
    assert text == json_reference.reference(), "run python -m tests.support.json_reference"


def test_the_reference_of_operators_is_what_the_tables_say():
    text = operator_reference.FILE.read_text(encoding="utf-8")
    assert text == operator_reference.reference(), "run python -m tests.support.operator_reference"


def test_every_public_name_has_a_section_of_the_python_reference():
    text = api_reference.FILE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == sorted(n for n in qtool.__all__ if n[0] != "_")


def test_the_changelog_tells_of_this_version_and_of_what_comes_next():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[?([^\]\s]+)", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert qtool.__version__ in sections


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", FOR_DEVELOPERS, ids=lambda page: page.stem)
def test_files_folders_and_functions_that_a_page_names_are_there(page):
    """`file`, `folder/`, `file:Name`, `file::test`: from the root of the repository or of the package, or by name."""
    shown = re.findall(r"`([\w./-]+(?:\.(?:py|md|txt|c)|/))(?:::?(\w+))?`", page.read_text(encoding="utf-8"))
    for path, name in shown:
        if path in ABSENT:
            continue
        places = [root / path for root in (REPOSITORY, PACKAGE) if (root / path).exists()]
        places += [] if "/" in path else [file for root in (PACKAGE, REPOSITORY / "tests") for file in root.rglob(path)]
        assert places, f"{page.name}: {path}"
        assert not name or re.search(rf"\b{name}\b", places[0].read_text(encoding="utf-8")), (
            f"{page.name}: {path}:{name}"
        )


@pytest.mark.parametrize("page", FOR_DEVELOPERS, ids=lambda page: page.stem)
def test_commands_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:`|^ {4})make ([\w-]+)", text, re.MULTILINE)) <= set(TARGETS_OF_MAKE)
    for path in re.findall(r"python -m pytest (.+)", text):
        assert all((REPOSITORY / part).exists() for part in path.split()), f"{page.name}: {path}"
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert find_spec(module) is not None, f"{page.name}: {module}"


@pytest.mark.parametrize("page", ADDING, ids=lambda page: page.stem)
def test_a_page_on_adding_is_short_and_ends_with_what_is_touched(page):
    text = page.read_text(encoding="utf-8")
    assert 30 <= len(text.splitlines()) <= 90
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[-1] == "What is touched"
    overview = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"(docs/adding/{page.name})" in overview


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("metrics.md", METRICS),
        ("detection.md", DECODERS),
        ("data.md", PRESETS),
        ("quantization.md", [kind.method for kind in CALIBRATORS]),
        ("quantization.md", TARGETS),
        ("recovery.md", [f"--{argument.replace('_', '-')}" for argument in ASKED.values()]),
    ],
    ids=["metrics", "decoders", "presets", "calibrators", "targets", "steps of recovery"],
)
def test_what_a_user_may_name_is_explained(page, names):
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_configuration_that_is_shown_fits_the_shipped_model():
    """Its exclusions name layers, its keys are options, its values are what these take."""
    text = (REPOSITORY / "docs" / "quantization.md").read_text(encoding="utf-8")
    shown = tomllib.loads(textwrap.dedent(text.partition("## Configuration")[2].partition("ones are errors.")[2]))
    nodes = [node.name for node in onnx.load(REPOSITORY / "calib_data" / "digits_cnn.onnx").graph.node]
    assert shown["quantize"]["exclude"] and all(fnmatch.filter(nodes, one) for one in shown["quantize"]["exclude"])
    for command, table in shown.items():
        options = {flag for one in command_of(command).params for flag in one.opts}
        assert {f"--{key}" for key in table} <= options


def first_block() -> list[list[str]]:
    """The commands of qtool in the first block of the README that has some, as words."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = next(part for part in text.split("\n\n") if part.startswith("    ") and "qtool " in part)
    return [shlex.split(line)[1:] for line in block.splitlines() if line.split()[0] == "qtool"]


def test_the_first_block_of_the_readme_reads_files_that_are_there():
    """Each is in the repository, or an earlier line has written it; click takes the options."""
    written: set[str] = set()
    for name, *words in first_block():
        context = command_of(name).make_context(name, list(words))
        given = [context.params.get(key) for key in ("model", "float_model", "data", "calibration")]
        for path in [*given, *context.params.get("candidates", ())]:
            assert path is None or path in written or (REPOSITORY / path).exists(), path
        written.add(context.params.get("output", ""))
    assert len(first_block()) >= 3


@pytest.mark.slow
def test_the_first_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calib_data").symlink_to(REPOSITORY / "calib_data")
    (tmp_path / "demo-out").mkdir()
    for words in first_block():
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0


def test_the_readme_names_the_two_commands_first():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("make test") < text.index("## The user's day")


def test_every_message_that_is_explained_is_one_that_can_come():
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    known = texts()
    assert len(explained) > 20
    assert [message for message in explained if any(part not in known for part in message.split("…"))] == []


def test_the_site_has_every_page():
    """And `docs/index.md` leads to each."""
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [
        page for part in nav for pages in part.values() for page in (pages if isinstance(pages, list) else [pages])
    ]
    pages = {str(page.relative_to(REPOSITORY / "docs")) for page in (REPOSITORY / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed)) and set(listed) == pages
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    assert {page for page in pages if f"({page}" not in index} == {"index.md"}


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) < 120

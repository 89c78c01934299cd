"""Names with anything in them, in every form of a report."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from qtool.report.evaluation import evaluation_markdown, evaluation_text
from qtool.report.junit import evaluation_junit
from qtool.report.text import aligned, decibels, in_markdown
from tests.report.test_evaluation import GOOD, evaluation
from tests.report.test_junit import TAKEN

AWKWARD = "a\n|`<b>\x1b[31m\u202e[x](y)*z*\ufffe\udcff.onnx"
SHOWN = "a\\n|`<b>\\x1b[31m\\u202e[x](y)*z*\\ufffe\\udcff.onnx"


def test_a_table_has_a_line_a_row():
    text = aligned(["layer", "MACs %"], [["a\nb", "1"], ["x" * 1_000_000, "2"]])
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        "layer",
        "a\\nb",
        "x" * 80 + "… (1000000 characters)",
    ]


def test_decibels_near_zero_are_shown_as_others_are():
    figures = (-0.04, 0.08, 20.04, float("inf"), float("nan"), None)
    assert [decibels(value) for value in figures] == ["-0.0", "0.1", "20.0", "inf", "nan", "-"]


def test_an_evaluation_shows_names_and_does_not_obey_them():
    found = evaluation(replace(GOOD, name=AWKWARD), max_drop="1%")
    lines = evaluation_text(found).splitlines()
    assert len(lines) == 6 and lines[2].startswith(SHOWN) and lines[-1].startswith(f"PASS {SHOWN}: top1")
    suite = ET.fromstring(evaluation_junit(found, TAKEN))[0]
    assert suite.attrib["name"] == SHOWN


@pytest.mark.parametrize(
    ("name", "written"),
    [("a|b", "a\\|b"), ("a`b`", "a\\`b\\`"), ("<b>", "&lt;b>"), ("[x](y)", "\\[x\\](y)"), ("a\\b\n", "a\\\\b\\\\n")],
)
def test_markdown_shows_a_name_as_it_is(name, written):
    assert in_markdown(name) == written
    lines = evaluation_markdown(evaluation(replace(GOOD, name=name), max_drop="1%")).splitlines()
    assert lines[3].startswith(f"| {written} | ") and lines[-1].startswith(f"- PASS {written}: top1")

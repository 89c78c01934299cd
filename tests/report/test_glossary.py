"""Every term that reports print is explained in docs/glossary.md."""

import ast
import re

import pytest

from qtool.core.numerics.calibrators import CALIBRATORS
from qtool.core.records.options import FORMS, GRANULARITIES, SCHEMES
from tests.support.places import REPOSITORY
from tests.support.rooms import PACKAGE

TEXT = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
EXPLAINED = set(re.findall(r"\*\*([^*]+)\*\*", TEXT))
TERMS = (
    *("SQNR", "dB", "MACs", "multiply-accumulates", "Q/DQ", "integer kernel", "layer", "head", "step", "tensor", "op"),
    *("agreement", "drop", "metric", "gate", "sample", "outputs", "target", "worst", "candidate", "latency"),
    *("bias correction", "corrected", "smoothed", "refined", "mixed", "equalised", "absorbed", "alone", "all but it"),
    *("calibrates", "chooses", "reports", "state", "shard", "warning", "good", "fair", "poor", "exact", "calibrator"),
    *("speed-up", "not trained"),
    *(kind.method for kind in CALIBRATORS),
    *FORMS, *GRANULARITIES, *SCHEMES,
)  # fmt: skip
"""The terms on the screen, besides the labels of rows."""


def labels() -> set[str]:
    """The labels of all rows that the reports write."""
    found = set()
    for file in (PACKAGE / "report").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "rows":
                assert isinstance(node.args[0], ast.Constant), file
                found.add(node.args[0].value.strip())
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {label.strip() for label in re.findall(r"^  ([a-z][a-z ]{10} )", node.value)}
    return found


def test_every_term_is_explained():
    assert [term for term in TERMS if term not in EXPLAINED] == []


def test_every_label_of_a_row_is_explained():
    found = labels()
    assert {"verdict", "next", "cause", "speed", "integer", "float", "size", "arithmetic"} <= found
    assert found - EXPLAINED == set()


@pytest.mark.parametrize("page", re.findall(r"\]\((\w+\.md)", TEXT))
def test_pages_that_say_more_are_there(page):
    assert (REPOSITORY / "docs" / page).exists()


def test_the_terms_are_in_the_order_of_the_alphabet():
    heads = [re.sub(r"[^a-z]", "", entry.lower()) for entry in re.findall(r"^- \*\*([^*]+)\*\*", TEXT, re.MULTILINE)]
    assert heads == sorted(heads)

"""Text for people: one line, short, harmless, and with the right nouns."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import qtool
from qtool.core.errors import DataError
from qtool.core.text import amount, cell, in_utf8, line, rounded, told

PACKAGE = Path(qtool.__file__).parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe.onnx: 5 – 7", "größe.onnx: 5 – 7"),
        ("a\nb\r\x0b\x1b[31m", "a\\nb\\r\\x0b\\x1b[31m"),
        ("a\u2028b\u202ec\u200bd\x85", "a\\u2028b\\u202ec\\u200bd\\x85"),
        ("C:\\new 'a\\nb'", "C:\\new 'a\\nb'"),
        ("a\udcff.onnx", "a\\udcff.onnx"),
        ("gr\udcc3\udcb6\udcc3\udc9fe", "größe"),
    ],
)
def test_a_line_holds_nothing_that_a_terminal_obeys(text, shown):
    assert line(text) == cell(text) == shown


def test_a_long_name_is_cut_and_what_stands_around_it_is_not():
    name = "k" * 1_000_000
    said = str(DataError(f"d.jsonl: unknown key '{name}'; correct {name}: x"))
    short = "k" * 80 + "… (1000000 characters)"
    assert said == f"d.jsonl: unknown key '{short}'; correct {short}: x"
    assert line("x/" * 150) == "x/" * 150


def test_a_long_line_keeps_its_end():
    said = line("a b " * 1_000_000 + "use --samples 4")
    assert len(said) < 4000 and said.startswith("a b a b") and said.endswith("use --samples 4")
    assert cell("a b " * 1_000_000) == ("a b " * 20) + "… (4000000 characters)"


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ("sample",), "1 sample"),
        (0, ("sample",), "0 samples"),
        (2, ("sample",), "2 samples"),
        (1, ("batch", "batches"), "1 batch"),
        (3, ("batch", "batches"), "3 batches"),
    ],
)
def test_numbers_have_their_nouns(number, words, said):
    assert amount(number, *words) == said


def test_thousands_are_told_apart_where_there_is_room():
    assert [amount(n, "value", commas=True) for n in (1, 1234567)] == ["1 value", "1,234,567 values"]


NEVER_ONE = {
    "arg('labels')", "arg('weights', bits)", "arg('workers')", "runtime", "op", "layer.node.op_type", "self._path",
    "plan['granularity']", "_count(layers)", "kinds or 'no'",
}  # fmt: skip
"""What is no number, although a plural stands behind it."""
TWO_OR_MORE = {
    "blocks.py: plan.blocks[0].block", "causes.py: len(placed.grid.scale)", "codec.py: len(kinds)",
    "correlation.py: scores.shape[1]", "decoders.py: len(found)", "differences.py: max(each)", "doubts.py: classes",
    "doubts.py: len(examples)", "finders.py: asked", "images.py: getattr(picture, 'n_frames', 1)",
    "inspect.py: len(grid.scale)", "inspect_calibration.py: len(ranked)", "invented.py: len(spec.shape)",
    "limits.py: own", "refusals.py: count", "results.py: self.size", "sensitivity.py: len(result.layers)",
    "tune.py: result.reports",
}  # fmt: skip
"""A number that is never 1 there: a line above asks, or it is the size of a file, or a mean."""


def test_no_text_says_1_nodes():
    """A number in front of a noun that `amount` is used with anywhere is given to `amount` as well."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    several = set()
    for call in (node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Call)):
        words = [one.value for one in call.args[1:] if isinstance(one, ast.Constant)]
        if getattr(call.func, "id", "") == "amount" and words:
            several.add(words[1].split()[0] if len(words) > 1 else f"{words[0].split()[-1]}s")
    assert {"layers", "nodes", "samples", "boxes"} <= several
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for number, text in pairwise(parts):
                if not isinstance(number, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                noun = re.match(r" (?:[a-z]+ )?([a-z]+)\b", text.value)
                shown = ast.unparse(number.value)
                known = shown in NEVER_ONE or shown.startswith("amount(") or f"{path.name}: {shown}" in TWO_OR_MORE
                if noun is not None and noun[1] in several and not known:
                    found.append(f"{path.name}:{number.lineno}: {shown}{noun[0]}")
    assert found == []


def test_rounded_numbers_show_what_stands_before_the_point():
    assert [rounded(x) for x in (0.012345, 12.345, 999.4, 999.6, 4010.2, 5.0)] == [
        "0.0123", "12.3", "999", "1000", "4010", "5",
    ]  # fmt: skip


class SilentError(Exception):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\nb"), "ValueError: a b"),
        (KeyError(), "KeyError"),
        (SilentError(), "SilentError"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 300}"),
    ],
)
def test_an_exception_is_told_whatever_its_text_is(error, said):
    assert told(error) == said


def test_libraries_get_paths_in_utf8():
    assert in_utf8("gr\udcc3\udcb6\udcc3\udc9fe") == "größe"
    assert in_utf8("a\udcff") == "a\udcff"

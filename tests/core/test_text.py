"""Text for people: one line, short, harmless, and with the right nouns."""

import pytest

from qtool.core.errors import DataError
from qtool.core.text import amount, cell, in_utf8, line, rounded, told


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

"""A command line typed again with another option, so that it can be pasted."""

import shlex

import pytest

from qtool.report.words import again

TYPED = ["tune", "a b.onnx", "--data", "d.npz", "--max-float-macs", "5%", "--time-budget=3m", "-q"]


@pytest.mark.parametrize(
    ("options", "without", "gone", "added"),
    [
        (("--max-float-macs", "12.4%"), "", ["--max-float-macs", "5%"], ["--max-float-macs", "12.4%"]),
        (("--finetune",), "", [], ["--finetune"]),
        (("-q",), "", ["-q"], ["-q"]),
        ((), "--time-budget", ["--time-budget=3m"], []),
        ((), "--max-float-macs", ["--max-float-macs", "5%"], []),
        (("--min-sqnr", "20"), "", [], ["--min-sqnr", "20"]),
        ((), "", [], []),
    ],
)
def test_only_what_is_asked_for_changes(options, without, gone, added):
    words = shlex.split(again(TYPED, *options, without=without))
    assert words == ["qtool", *(word for word in TYPED if word not in gone), *added]

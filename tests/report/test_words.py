"""A command line typed again with another option, so that it can be pasted."""

import shlex

import pytest

from qtool.report.words import again, beyond_limit, hardly_quantised

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


FLOATS = {"a": "float is faster: 1 us, 2 in integers", "b": "float is faster: 3 us, 4 in integers", "c": "it is odd"}


@pytest.mark.parametrize(
    ("layers", "integer", "share", "floats", "stored", "said"),
    [
        (4, 1, 0.02, FLOATS, (), ("1 of 4 layers, 2.0 % of multiply-accumulates, in integers",
                                  "2 of 3 layers in float: float is faster")),
        (40, 1, None, FLOATS, (), ("1 of 40 layers, an unknown share of multiply-accumulates, in integers",
                                   "2 of 3 layers in float: float is faster")),
        (1, 0, 0.0, {}, (), ("0 of 1 layer, 0.0 % of multiply-accumulates, in integers",)),
        (4, 1, 0.1, FLOATS, (), ()),
        (4, 1, None, FLOATS, (), ()),
        (4, 1, 0.02, FLOATS, ("x", "c"), ()),
        (0, 0, None, {}, (), ()),
    ],
)  # fmt: skip
def test_what_counts_as_hardly_quantised(layers, integer, share, floats, stored, said):
    assert hardly_quantised(layers, integer, share, floats, stored) == said


@pytest.mark.parametrize(("share", "limit", "said"), [(0.1, 0.1, False), (0.11, 0.1, True), (0.9, None, False)])
def test_more_in_float_than_the_limit(share, limit, said):
    found = beyond_limit(share, limit)
    assert ("--max-float-macs 10% keeps to it" in found) is said and bool(found) is said

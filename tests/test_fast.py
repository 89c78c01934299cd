"""What `make fast` runs: the choice by measured times, and that the times belong to tests that are there."""

import ast
import math

import pytest

from tests.support import fast
from tests.support.places import REPOSITORY


def cases(function, count):
    """As pytest names them."""
    return [f"{function}[{number}]" for number in range(count)]


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.021, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (0.05, [0, 2, 5, 7]),
        (0.11, [0]),
        (0.3, []),
    ],
)
def test_of_a_function_that_takes_long_a_few_cases_run(seconds, kept):
    times = {} if seconds is None else {"t.py::test_a": seconds}
    chosen = fast.choose([*cases("t.py::test_a", 10), "t.py::test_b"], times, {"t.py::test_a": 0.2})
    assert chosen == [f"t.py::test_a[{number}]" for number in kept] + ["t.py::test_b"]


def test_what_is_marked_runs_whole_or_not_at_all():
    assert fast.choose(["t.py::test_a", "t.py::test_b"], {}, {"t.py::test_a": 0.0}) == ["t.py::test_b"]
    assert fast.choose(["t.py::test_a"], {"t.py::test_a": 9.0}, {"t.py::test_a": math.inf}) == ["t.py::test_a"]


def test_the_file_holds_the_functions_that_are_over_the_budget(tmp_path):
    quick, several, long = {"t.py::quick": 0.04}, dict.fromkeys(cases("t.py::several", 4), 0.04), {"t.py::long": 2.5}
    file = tmp_path / "times.txt"
    file.write_text(fast.dump(long | several | quick))
    assert fast.load(file) == {"t.py::long": 2.5, "t.py::several": 0.04}


def test_the_times_are_of_tests_that_exist():
    names = {}
    for function in fast.load(fast.FILE):
        file, _, name = function.partition("::")
        if file not in names:
            path = REPOSITORY / file
            tree = ast.parse(path.read_text(encoding="utf-8") if path.exists() else "")
            names[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name.split("::")[-1] in names[file], f"{function} has gone: take out its line, or run make times"

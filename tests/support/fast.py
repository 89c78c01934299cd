"""Options of pytest: `--fast` runs what a while of working allows, by measured times; `--times` measures them.

Each test function has `BUDGET_S`. Of one whose cases took longer, `--fast` runs as many as the budget is enough for,
spread evenly over them, or none. The mark `fast(SECONDS)` gives a function another budget, `fast` all the time that it
takes, `fast(0)` none: for tests that share a dear fixture, which is counted with the first of them only.
Functions that are not in the file are run whole: new ones, and the many quick ones.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("times.txt")
BUDGET_S = 0.05
_HEAD = "# seconds a case, of the functions that --fast cannot run whole; written by `make times`"
_REAL = {"long", "slow", "zoo"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the two options."""
    group = parser.getgroup("qtool")
    group.addoption("--fast", action="store_true", help=f"only as many cases of each test as take {BUDGET_S} s")
    group.addoption("--times", action="store_true", help=f"write {FILE.name}, by which --fast chooses, again")


def pytest_configure(config: pytest.Config) -> None:
    """Measures where that was asked for; with pytest-xdist in the process that hears of all tests."""
    if config.getoption("--times") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Clock())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what `--fast` has no time for."""
    if not config.getoption("--fast"):
        return
    quick = [item for item in items if not any(item.get_closest_marker(name) for name in _REAL)]
    marks = {_function(item.nodeid): mark for item in quick if (mark := item.get_closest_marker("fast"))}
    budgets = {function: float(mark.args[0]) if mark.args else math.inf for function, mark in marks.items()}
    chosen = set(choose([item.nodeid for item in quick], load(FILE), budgets))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]


class _Clock:
    """Adds up set-up, call and tear-down of each test."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        FILE.write_text(dump(self.seconds), encoding="utf-8")


def choose(cases: Iterable[str], seconds: Mapping[str, float], budgets: Mapping[str, float]) -> list[str]:
    """The cases that fit into the budget of their function.

    cases: ids of tests, `file::function[parameters]`. seconds: of one case, by function. budgets: seconds for all
    cases of a function, where that is not `BUDGET_S`.
    """
    found: list[str] = []
    for function, members in _grouped(cases).items():
        budget = budgets.get(function, BUDGET_S)
        fitting = budget / max(seconds[function], 0.001) if function in seconds else budget and math.inf
        count = int(min(fitting, len(members)))
        found += [members[number * len(members) // count] for number in range(count)]
    return found


def dump(seconds: Mapping[str, float]) -> str:
    """The file: functions over the budget, with the mean of their cases. seconds: by the id of each test."""
    lines = [_HEAD]
    for function, members in sorted(_grouped(seconds).items()):
        total = sum(seconds[case] for case in members)
        if total > BUDGET_S:
            lines.append(f"{total / len(members):.3f} {function}")
    return "\n".join(lines) + "\n"


def load(file: Path) -> dict[str, float]:
    """What `dump` wrote: function -> seconds a case."""
    rows = [line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    return {function: float(mean) for mean, function in rows}


def _grouped(cases: Iterable[str]) -> dict[str, Sequence[str]]:
    """Function -> its cases, in order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for case in cases:
        found[_function(case)].append(case)
    return dict(found)


def _function(case: str) -> str:
    return case.split("[", 1)[0]

"""The time that tuning may take: it is shared, and what has no time left is not begun."""

import pytest

from qtool.core.errors import UsageError
from qtool.core.progress import silent
from qtool.feeds import open_feeds
from qtool.tuning import budget as room
from qtool.tuning.budget import Budget, OutOfTimeError, Portion
from qtool.tuning.split import subsets
from tests.tuning.test_split import X, rows


@pytest.fixture
def clock(monkeypatch):
    """The time, in seconds, which only tests let pass."""
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    return now


def test_without_a_budget_everything_is_judged_at_once(clock):
    budget = Budget(None, binding=True)
    clock[0] += 1e9
    budget.check()
    assert budget.room(7) == 7
    assert budget.end == budget.part() == float("inf")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_no_time_at_all_is_refused(seconds):
    with pytest.raises(UsageError, match="give more than 0 seconds"):
        Budget(seconds)


def test_room_follows_what_a_pass_has_taken(clock):
    budget = Budget(100.0, ratio=1.0)
    assert budget.room(10) == 1  # nothing is known yet
    clock[0] += 20.0
    budget.judged(8.0, 2)
    budget.tried(8.0, 2)
    budget.binding = True
    assert (budget.per_model, budget.kept) == (4.0, 10.0)  # float and the last model, and a quarter more
    assert budget.left == pytest.approx(69.7)  # and a little for what comes after the last evaluation
    assert budget.room(10) == 10
    assert budget.room(30) == 16  # and float
    with budget.work("proof"):
        clock[0] += 20.0
    assert budget.room(10) == 6  # and a proof
    clock[0] += 30.0
    with pytest.raises(OutOfTimeError), budget.work("proof"):  # 19.7 s are left
        pytest.fail("as long a one as before ends too late")
    clock[0] += 13.0
    assert budget.room(10) == 0
    clock[0] += 7.0
    with pytest.raises(OutOfTimeError):
        budget.check()
    with pytest.raises(OutOfTimeError):
        budget.watched(silent)("try", 1, 2)


def test_nothing_ends_before_there_is_a_model(clock):
    budget = Budget(1.0)
    clock[0] += 50.0
    budget.check()
    assert budget.room(10) == 1


@pytest.mark.parametrize(("ratio", "kept"), [(None, 25.0), (0.1, 1.0), (100.0, 25.0)])
def test_no_more_than_a_quarter_is_kept_for_the_last_evaluation(ratio, kept):
    budget = Budget(100.0, ratio=ratio)
    budget.judged(8.0, 2)
    assert budget.kept == pytest.approx(kept)


def test_the_first_pass_decides_how_much_of_the_data_there_is(clock):
    (whole,) = subsets(open_feeds(rows(6), [X]), 1, (0,))
    portion = Portion(whole, lambda: 102.0)
    taken = []
    for record in portion():
        taken.append(record)
        clock[0] += 1.0
    assert len(taken) == portion.cut == 2
    assert len(list(portion())) == 2  # the same ones, however late it is


def test_one_record_there_always_is_and_none_is_cut_with_time_enough(clock):
    (whole,) = subsets(open_feeds(rows(3), [X]), 1, (0,))
    late, early = Portion(whole, lambda: clock[0] - 1.0), Portion(whole, lambda: float("inf"))
    assert (len(list(late())), late.cut) == (1, 1)
    assert (len(list(early())), early.cut) == (3, None)
    assert len(list(Portion(whole, lambda: clock[0] + 1.0, kept=2**20)())) == 3
    next(iter(Portion(whole, lambda: clock[0])()))  # a pass that is not taken to its end decides nothing


def test_what_threads_have_not_worked_off_yet_counts(clock):
    """Where two records are at work while a third is read, it ends two earlier."""
    (whole,) = subsets(open_feeds(rows(6), [X]), 1, (0,))
    portion = Portion(whole, lambda: 105.5, ahead=2)
    for _ in portion():
        clock[0] += 1.0
    assert portion.cut == 4


@pytest.mark.parametrize(("kept", "reads"), [(0, 2), (2**20, 1)])
def test_records_that_fit_are_read_once(monkeypatch, kept, reads):
    (whole,) = subsets(open_feeds(rows(6), [X]), 1, (0,))
    read, call = [], type(whole).__call__
    monkeypatch.setattr(type(whole), "__call__", lambda self: read.append(1) or call(self))
    portion = Portion(whole, lambda: float("inf"), kept=kept)
    first, second = ([record["x"] for record in portion()] for _ in range(2))
    assert len(first) == 6 and all((a == b).all() for a, b in zip(first, second, strict=True))
    assert len(read) == reads

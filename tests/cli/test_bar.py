"""The progress bar: what takes time is seen to, and no estimate is shown that cannot be kept."""

import io
import sys
import threading

import pytest

from qtool.cli import bar
from qtool.cli.bar import progress_bar


class Terminal(io.StringIO):
    """A terminal that tells when something was written."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        self.written.set()
        return super().write(text)


def drawn_on(monkeypatch) -> Terminal:
    """A terminal in the place of standard error, on which all is drawn at once."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    for name, seconds in {"_DELAY_S": 0.0, "_REDRAW_S": 0.0, "_TICK_S": 0.005}.items():
        monkeypatch.setattr(bar, name, seconds)
    return found


@pytest.mark.parametrize(("step", "estimates"), [("evaluating", True), ("calibrate", True), ("try", False)])
def test_the_time_that_is_left_is_told_where_units_are_alike(monkeypatch, step, estimates):
    terminal = drawn_on(monkeypatch)
    with progress_bar(False) as progress:
        for done in range(1, 4):
            progress(step, done, 9)
    shown = terminal.getvalue()
    assert f"{step}:  33%" in shown and ("<" in shown) is estimates


def test_a_step_without_units_is_drawn_again_while_it_works(monkeypatch):
    terminal = drawn_on(monkeypatch)
    with progress_bar(False) as progress:
        progress("prove", 0, None)
        assert "prove [00:00]" in terminal.getvalue() and "%" not in terminal.getvalue()
        terminal.written.clear()
        assert terminal.written.wait(10.0), "nobody reports, and it is drawn all the same"
    before = terminal.getvalue()
    progress("prove", 0, None)
    assert terminal.getvalue() == before and before.endswith("\r"), "the line is empty, and stays so"


def test_steps_that_are_over_at_once_are_not_drawn(monkeypatch):
    terminal = drawn_on(monkeypatch)
    monkeypatch.setattr(bar, "_DELAY_S", 3600.0)
    with progress_bar(False) as progress:
        progress("prepare", 0, None)
        progress("evaluating", 3, 3)
    assert terminal.getvalue() == ""


def test_what_comes_before_the_first_step_is_seen_to_take_time(monkeypatch):
    terminal = drawn_on(monkeypatch)
    with progress_bar(False, "comparing"):
        terminal.written.clear()
        assert terminal.written.wait(10.0), "nothing is reported, and it is drawn all the same"
    assert "comparing [00:00]" in terminal.getvalue()


def test_many_short_steps_are_a_long_wait(monkeypatch):
    """Each is over before a second; together they are not."""
    terminal = drawn_on(monkeypatch)
    now = [100.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bar, "_DELAY_S", 1.0)
    monkeypatch.setattr(bar, "_TICK_S", 3600.0)
    with progress_bar(False) as progress:
        for step, seconds in (("prepare", 0.4), ("plan", 0.4), ("prove", 0.4)):
            progress(step, 0, 2)
            now[0] += seconds
            progress(step, 1, 2)
        progress.write("a line")
        written = terminal.getvalue()
        progress("time", 0, 2)
        now[0] += 0.4
        progress("time", 1, 2)
        assert "time" not in terminal.getvalue(), "a line has just been written"
    assert "prove:  50%" in written and "prepare" not in written and "plan" not in written

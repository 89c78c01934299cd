"""What one thread prints within `without_prints` is dropped; all that others print stays, in any order of leaving."""

import io
import sys
import threading

import pytest

from qtool.core.concurrency import without_prints


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_threads_that_interleave(monkeypatch, first_leaves_first):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_prints():
            print("dropped: of the other thread")
            inside.set()
            leave.wait(10)
        print("kept: of the other thread")

    thread = threading.Thread(target=other)
    if first_leaves_first:
        with without_prints():
            thread.start()
            assert inside.wait(10)
            print("dropped: of this thread")
        print("kept: while the other is inside")
        leave.set()
        thread.join()
    else:
        thread.start()
        assert inside.wait(10)
        print("kept: while the other is inside")
        with without_prints():
            leave.set()
            thread.join()
            with without_prints():
                print("dropped: twice inside")
            print("dropped: of this thread")
    assert sys.stdout is stream
    assert stream.getvalue().splitlines() == ["kept: while the other is inside", "kept: of the other thread"]


def test_without_stdout(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with without_prints():
        print("nowhere")
    assert sys.stdout is None


def test_the_stream_comes_back_after_an_error():
    before = sys.stdout
    with pytest.raises(ValueError, match="here"), without_prints():
        raise ValueError("here")
    assert sys.stdout is before

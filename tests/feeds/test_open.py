"""Feeds are complete once they are open: they know their states, what finishes a batch, and where they came from."""

import dataclasses
import pickle

import numpy as np
import pytest

from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds, open_for_model, open_source
from qtool.feeds.batching import given_feeds
from qtool.feeds.source import NOWHERE
from qtool.graph import model_io
from tests.support.recurrent_models import accumulator

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
X = InputSpec("x", F32, ("N", 2))
IDS, MASK = InputSpec("ids", I64, ("N", "L")), InputSpec("mask", I64, ("N", "L"))


def rows(count: int) -> np.ndarray:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)


def equal(left, right) -> bool:
    """Whether batches hold the same."""
    pairs = zip(left, right, strict=True)
    return all((a.start, a.size) == (b.start, b.size) and (a.inputs["x"] == b.inputs["x"]).all() for a, b in pairs)


def test_feeds_cannot_be_changed():
    feeds = open_feeds({"x": rows(3)}, [X])
    for field in ("states", "finish", "source", "reader"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(feeds, field, None)


def test_feeds_know_where_they_came_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", x=rows(9))
    feeds = open_feeds("a.npz", [X], samples=7, batch_size=2)
    source = feeds.source
    assert (source.data, source.samples, source.batch_size, source.available) == (str(tmp_path / "a.npz"), 7, 2, 7)
    batches, sent = list(feeds), pickle.loads(pickle.dumps(source))
    monkeypatch.chdir("/")
    again = open_source(sent, [X], ())
    assert again is not None and again.source == source and equal(again, batches)


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: np.savez(path, x=rows(8))])
def test_other_data_is_not_taken_for_the_same(tmp_path, change):
    np.savez(tmp_path / "a.npz", x=rows(9))
    source = open_feeds(tmp_path / "a.npz", [X]).source
    change(tmp_path / "a.npz")
    assert open_source(source, [X], ()) is None


def test_what_has_no_name_is_not_opened_again():
    source = open_feeds({"x": rows(3)}, [X]).source
    assert source.data is None and open_source(source, [X], ()) is None
    assert given_feeds("given", list(open_feeds({"x": rows(3)}, [X])), ()).source == NOWHERE


def test_the_options_of_reading_travel_with_the_source(tmp_path):
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    np.savez(tmp_path / "a.npz", ids=np.ones((2, 4), np.int64), mask=mask)
    feeds = open_feeds(tmp_path / "a.npz", [IDS, MASK], batch_size=2, trim="mask")
    again = open_source(feeds.source, [IDS, MASK], ())
    assert [[batch.inputs["ids"].shape for batch in found] for found in (feeds, again)] == [[(2, 2)], [(2, 2)]]


def test_for_a_model_with_state(tmp_path):
    model = model_io.load(accumulator(tmp_path / "m.onnx")).model
    feeds = open_for_model(model, np.ones((2, 5, 8), np.float32), samples=1, state="total=new_total")
    assert [str(state) for state in feeds.states] == ["total=new_total"]
    assert feeds.source.reading.states == feeds.states
    assert [batch.inputs["x"].shape[0] for batch in feeds] == [5]

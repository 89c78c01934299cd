"""Inputs that are made up from a signature."""

import numpy as np
import pytest

from qtool.core.tensorspec import InputSpec
from qtool.feeds.invented import NotInventedError, flaw, invented_inputs


def spec(name, *shape, dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), shape)


def shapes(batch):
    return {name: array.shape for name, array in batch.items()}


def test_the_first_proposal_is_one_sample():
    fed = [spec("x", "n", 3, "h", None), spec("ids", "n", "t", dtype=np.int64), spec("b", -1, -1, dtype=bool)]
    first = next(invented_inputs(fed))
    assert shapes(first) == {"x": (1, 3, 8, 8), "ids": (1, 8), "b": (1, 8)}
    assert (first["ids"] == 1).all() and first["b"].all() and first["x"].std() > 0.5
    assert all(array.dtype == s.dtype for array, s in zip(first.values(), fed, strict=True))


def test_the_same_every_time():
    one, two = (list(invented_inputs([spec("x", "n", "t")])) for _ in range(2))
    assert len(one) == len(two) > 20
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])


@pytest.mark.parametrize(
    ("fed", "wanted"),
    [
        # batch-first states: a name that counts samples anywhere does so everywhere
        ([spec("x", "batch", "seq", 4), spec("h", 2, "batch", 5)], {"x": (1, 8, 4), "h": (2, 1, 5)}),
        # two axes that are equally long without saying so
        ([spec("i", "edges"), spec("d", "e2", 6), spec("x", "atoms", 6)], {"i": (8,), "d": (8, 6), "x": (8, 6)}),
        # what a table of 77 rows fits
        ([spec("x", "n", "t", 4)], {"x": (1, 77, 4)}),
        # a layer that makes 77 steps of one more, or of one less
        ([spec("x", "n", "t", 4)], {"x": (1, 78, 4)}),
        ([spec("x", "n", "t", 4)], {"x": (1, 76, 4)}),
        # several such layers
        ([spec("x", "n", "t", 4)], {"x": (1, 59, 4)}),
        # signals
        ([spec("wav", "n", "samples")], {"wav": (1, 16000)}),
        # sums of names
        (
            [
                spec("x", "b", "seq"),
                spec("p", "b", "past_len", 4),
                spec("m", "b", "past_len + seq"),
                spec("n", "seq+1"),
            ],
            {"x": (1, 8), "p": (1, 8, 4), "m": (1, 16), "n": (9,)},
        ),
        ([spec("x", "b", "seq"), spec("p", "b", "past_len", 4)], {"x": (1, 8), "p": (1, 0, 4)}),
        ([spec("x", 1, 3, 5)], {"x": (1, 3, 5)}),
        ([spec("x")], {"x": ()}),
    ],
)
def test_a_shape_is_among_the_proposals(fed, wanted):
    assert wanted in [shapes(batch) for batch in invented_inputs(fed, [77])]


def test_tokens_of_small_tables_and_masks():
    fed = [spec("ids", "n", "t", dtype=np.int64), spec("attention_mask", "n", "t", dtype=np.int64)]
    tokens = {int(batch["ids"].max()) for batch in invented_inputs(fed)}
    assert {0, 1, 8} <= tokens
    assert all((batch["attention_mask"] == 1).all() for batch in invented_inputs(fed))


def test_numbers_above_zero_are_among_the_proposals():
    assert any((batch["x"] > 0).all() for batch in invented_inputs([spec("x", 4, 64)]))


def test_no_proposal_of_a_free_shape_takes_all_memory():
    fed = [spec("x", None, 3, None, None), spec("y", "a", "b", "c", "d")]
    assert max(sum(array.size for array in batch.values()) for batch in invented_inputs(fed)) <= 2**22


def test_text():
    (batch, *_) = invented_inputs([spec("s", "n", 2, dtype=object)])
    assert batch["s"].tolist() == [["1", "1"]]


@pytest.mark.parametrize(
    ("fed", "says"),
    [
        (spec("x", 2**40, 64), "too large"),
        (spec("x", 2**62, 2**62, 2**62), "too large"),
        (spec("x", *[1] * 70), "'x' has 70 dimensions"),
        (spec("x", 2, dtype=np.complex64), "complex64 [2], of which nothing can be made up"),
    ],
)
def test_what_cannot_be_made_up(fed, says):
    with pytest.raises(NotInventedError, match=says.replace("[", r"\[")):
        next(invented_inputs([fed]))


def test_flaws():
    one = np.ones(3, np.float32)
    assert flaw({"y": one, "n": np.zeros((0, 2))}) == ""
    assert "empty" in flaw({"y": one[:0], "s": [one]})
    assert flaw({"y": one, "z": one * np.nan}).endswith("not finite")

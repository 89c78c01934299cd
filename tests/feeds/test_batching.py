"""What is stacked, cut and refused when samples become batches."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds

TOKENS = InputSpec("ids", np.dtype(np.int64), ("N", "T"))


def records(lengths: list[int]) -> list[dict[str, np.ndarray]]:
    """One sample a record, its tokens all the sample's index, its length as given."""
    return [{"ids": np.full(length, index), "labels": np.array(index)} for index, length in enumerate(lengths)]


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
    samples=st.none() | st.integers(1, 14),
)
def test_nothing_is_lost_reordered_or_mixed(lengths, batch_size, samples):
    feeds = open_feeds(records(lengths), [TOKENS], batch_size=batch_size, samples=samples)
    taken = lengths[:samples]
    assert feeds.samples == len(taken)
    batches = list(feeds)
    flat = [(int(row[0]), len(row)) for batch in batches for row in batch.inputs["ids"]]
    assert flat == list(enumerate(taken))
    assert [int(v) for b in batches for v in b.labels["labels"]] == list(range(len(taken)))
    assert all(b.inputs["ids"].shape[0] == b.size == len(b.labels["labels"]) for b in batches)
    # as few batches as runs of one length allow
    runs = [len(list(group)) for _, group in groupby(taken)]
    assert len(batches) == sum(-(-run // batch_size) for run in runs)


def test_a_batch_that_the_data_states_is_not_taken_apart():
    data = [{"ids": np.zeros((5, 3), np.int64)}, {"ids": np.zeros((2, 3), np.int64)}]
    assert [b.size for b in open_feeds(data, [TOKENS])] == [5, 2]
    assert [b.size for b in open_feeds(data, [TOKENS], batch_size=8)] == [7]
    assert [b.size for b in open_feeds(data, [TOKENS], samples=6)] == [5, 1]


def test_a_fixed_batch_cuts_and_joins_to_its_size():
    fixed = InputSpec("ids", np.dtype(np.int64), (2, "T"))
    values = np.arange(18).reshape(6, 3)
    data = [{"ids": values[:5]}, {"ids": values[5:]}]
    batches = list(open_feeds(data, [fixed], batch_size=4))
    assert [(b.start, b.size) for b in batches] == [(0, 2), (2, 2), (4, 2)]
    np.testing.assert_array_equal(np.concatenate([b.inputs["ids"] for b in batches]), values)


def test_a_fixed_batch_that_a_change_of_shape_leaves_open_is_refused():
    fixed = InputSpec("ids", np.dtype(np.int64), (2, "T"))
    with pytest.raises(DataError, match=r"sample 2 do not fill a batch of 2.*shape changes"):
        list(open_feeds(records([3, 3, 3, 4, 4, 4]), [fixed]))


def test_leftovers_of_an_uncounted_source_are_refused_at_its_end():
    fixed = InputSpec("ids", np.dtype(np.int64), (2, "T"))
    feeds = open_feeds(lambda: iter(records([3] * 5)), [fixed])
    assert feeds.samples is None
    with pytest.raises(DataError, match="samples=4"):
        list(feeds)
    assert [b.size for b in open_feeds(lambda: iter(records([3] * 5)), [fixed], samples=4)] == [2, 2]


def test_runs_without_a_batch_axis_stay_as_they_are():
    inputs = [
        InputSpec("input", np.dtype(np.float32), (None, None)),
        InputSpec("state", np.dtype(np.float32), (2, None, 3)),
        InputSpec("sr", np.dtype(np.int64), ()),
    ]
    run = {"input": np.ones((1, 6), "f4"), "state": np.ones((2, 1, 3), "f4"), "sr": np.array(16000)}
    batches = list(open_feeds([run] * 3, inputs, batch_size=4))
    assert [b.size for b in batches] == [1, 1, 1]
    assert batches[0].inputs["state"].shape == (2, 1, 3)
    assert batches[0].inputs["sr"].shape == ()


def test_differently_named_first_axes_are_not_one_batch_axis():
    inputs = [
        InputSpec("query", np.dtype(np.float32), ("Q", 2)),
        InputSpec("keys", np.dtype(np.float32), ("K", 2)),
    ]
    (batch,) = open_feeds([{"query": np.ones((3, 2)), "keys": np.ones((5, 2))}], inputs)
    assert batch.inputs["keys"].shape == (5, 2)
    same = [InputSpec(spec.name, spec.dtype, ("N", 2)) for spec in inputs]
    with pytest.raises(DataError, match="unequal sample counts: 3 for the input 'query', 5 for 'keys'"):
        open_feeds([{"query": np.ones((3, 2)), "keys": np.ones((5, 2))}], same)


def test_numbers_without_axes_keep_runs_apart_when_they_differ():
    inputs = [TOKENS, InputSpec("rate", np.dtype(np.int64), ())]
    data = [{"ids": np.zeros((1, 3), np.int64), "rate": rate} for rate in (1, 1, 2)]
    batches = list(open_feeds(data, inputs, batch_size=4))
    assert [(b.size, int(b.inputs["rate"])) for b in batches] == [(2, 1), (1, 2)]


def test_labels_that_do_not_match_the_samples_are_refused():
    data = [{"ids": np.zeros((3, 2), np.int64), "labels": np.arange(2)}]
    with pytest.raises(DataError, match="'labels' has 2 values for 3 samples"):
        list(open_feeds(data, [TOKENS]))


def test_labels_of_single_samples_get_a_sample_axis():
    data = [{"ids": np.zeros(2, np.int64), "boxes": np.arange(4), "labels": 7}] * 2
    (batch,) = open_feeds(data, [TOKENS], batch_size=2)
    assert batch.labels["boxes"].shape == (2, 4)
    np.testing.assert_array_equal(batch.labels["labels"], [7, 7])


def test_no_data_at_all_is_refused():
    with pytest.raises(DataError, match="no samples"):
        list(open_feeds([], [TOKENS]))
    with pytest.raises(DataError, match="no samples"):
        list(open_feeds(lambda: iter([]), [TOKENS]))
    with pytest.raises(DataError, match="sample 1"):
        list(open_feeds([{"ids": np.ones((1, 2), int)}, {"ids": np.ones((0, 2), int)}], [TOKENS]))

"""Data of recurrent models: a sample is a sequence, in every form of DATA."""

import json

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.feeds.formats.sequences import unrolled

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
X = InputSpec("x", F32, (1, 3))
STATE = InputSpec("h", F32, (2, 1, 4))
RATE = InputSpec("sr", I64, ())
OUTPUTS = [InputSpec("y", F32, (1, 2)), InputSpec("hn", F32, (2, 1, 4))]
ARRAY = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)


def opened(data, *, inputs=(X, STATE, RATE), outputs=OUTPUTS, state="h=hn", **options):
    return list(open_feeds(data, inputs, outputs=outputs, state=state, **options))


@pytest.mark.parametrize("x", [ARRAY, ARRAY[:, :, None], ARRAY.astype(np.float64)], ids=["plain", "batched", "float64"])
@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (np.int64(8), [[8] * 5, [8] * 5]),
        (np.array([8, 16]), [[8] * 5, [16] * 5]),
        (np.array([[8], [16]]), [[8] * 5, [16] * 5]),
        (np.arange(10).reshape(2, 5), [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
    ],
    ids=["for all", "a sequence", "one step", "a step"],
)
def test_arrays_are_sequences(x, rate, expected):
    batches = opened({"x": x, "sr": rate, "labels": np.arange(10).reshape(2, 5)})
    assert [(b.start, b.size, b.origin) for b in batches] == [
        (0, 1, "the arrays, sample 0"),
        (1, 1, "the arrays, sample 1"),
    ]
    for index, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.inputs["x"], ARRAY[index, :, None])
        assert batch.inputs["x"].dtype == np.float32
        np.testing.assert_array_equal(batch.inputs["sr"], expected[index])
        np.testing.assert_array_equal(batch.inputs["h"], np.zeros((2, 1, 4), np.float32))
        np.testing.assert_array_equal(batch.labels["labels"], [np.arange(5) + 5 * index])


def forms(folder):
    """The same two sequences, of 5 and of 4 steps, in all forms that allow it."""
    rows = [{"x": ARRAY[0], "sr": 8, "labels": [0] * 5}, {"x": ARRAY[1, :4], "sr": 16, "labels": [1] * 4}]
    (folder / "files").mkdir()
    for index, row in enumerate(rows):
        np.savez(folder / "files" / f"{index}.npz", **row)
    lines = [json.dumps({name: np.asarray(value).tolist() for name, value in row.items()}) for row in rows]
    (folder / "d.jsonl").write_text("\n".join(lines))
    return [folder / "files", folder / "d.jsonl", rows, lambda: iter(rows)]


@pytest.mark.parametrize("form", range(4), ids=["folder", "jsonl", "list", "function"])
def test_sequences_of_different_length(tmp_path, form):
    data = forms(tmp_path)[form]
    first, second = opened(data)
    assert (first.inputs["x"].shape, second.inputs["x"].shape) == ((5, 1, 3), (4, 1, 3))
    np.testing.assert_array_equal(second.inputs["x"][:, 0], ARRAY[1, :4])
    np.testing.assert_array_equal(second.inputs["sr"], [16] * 4)
    np.testing.assert_array_equal(second.labels["labels"], [[1] * 4])
    assert len(opened(data, samples=1)) == 1


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_file_with_one_array(tmp_path, name):
    np.save(tmp_path / name, ARRAY) if name == "a.npy" else np.savez(tmp_path / name, other=ARRAY)
    batches = opened(tmp_path / name, inputs=[X, STATE])
    np.testing.assert_array_equal(np.stack([b.inputs["x"][:, 0] for b in batches]), ARRAY)
    np.testing.assert_array_equal(opened(ARRAY, inputs=[X, STATE])[1].inputs["x"][:, 0], ARRAY[1])


def test_a_state_starts_at_the_array_of_its_name():
    first = np.arange(16, dtype=np.float32).reshape(2, 2, 1, 4)
    for data in (
        {"x": ARRAY, "h": first},
        [{"x": x, "h": h} for x, h in zip(ARRAY, first, strict=True)],
    ):
        np.testing.assert_array_equal([b.inputs["h"] for b in opened(data, inputs=[X, STATE])], first)


def test_free_dimensions():
    """A free batch is 1, unless the data says more; a state takes it by its name, and is 1 where that has none."""
    x, state = InputSpec("x", F32, ("N", 3)), InputSpec("h", F32, (2, "N", None))
    outputs = [InputSpec("hn", F32, (None, None, None))]
    (single, _) = opened({"x": ARRAY}, inputs=[x, state], outputs=outputs)
    assert (single.inputs["x"].shape, single.inputs["h"].shape) == ((5, 1, 3), (2, 1, 1))
    (four,) = opened({"x": np.zeros((1, 5, 4, 3))}, inputs=[x, state], outputs=outputs)
    assert (four.inputs["x"].shape, four.inputs["h"].shape) == ((5, 4, 3), (2, 4, 1))


def test_a_fixed_batch_is_part_of_each_step():
    x = InputSpec("x", F32, (4, 3))
    (batch,) = opened([{"x": np.zeros((5, 4, 3))}], inputs=[x, STATE])
    assert batch.inputs["x"].shape == (5, 4, 3)
    still = np.arange(12, dtype=np.float32).reshape(4, 3)
    (batch,) = opened([{"x": still, "sr": [1, 2]}], inputs=[x, STATE, RATE])
    np.testing.assert_array_equal(batch.inputs["x"], [still, still])


def test_unrolled_steps_carry_the_state():
    feeds = open_feeds(
        {"x": ARRAY, "labels": np.arange(10).reshape(2, 5), "name": np.array(["a", "b"])},
        [X, InputSpec("h", F32, (1, 3))],
        outputs=[InputSpec("hn", F32, (1, 3))],
        state="h=hn",
    )
    steps = list(unrolled(feeds, lambda fed: {"hn": fed["h"] + fed["x"]}))
    assert [s.start for s in steps] == list(range(10))
    assert steps[7].origin == "the arrays, sample 1, step 2"
    before = np.cumsum(ARRAY, axis=1) - ARRAY
    np.testing.assert_array_equal(np.concatenate([s.inputs["h"] for s in steps]), before.reshape(10, 3))
    np.testing.assert_array_equal(np.concatenate([s.inputs["x"] for s in steps]), ARRAY.reshape(10, 3))
    assert [s.labels["labels"].tolist() for s in steps] == [[[i]] for i in range(10)]
    assert [s.labels["name"].tolist() for s in steps] == [["a"]] * 5 + [["b"]] * 5


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"x": ARRAY[0], "sr": 8}, ["a sample's 'x' is float32 [3]", "float32 [T, 3]", "give it that shape"]),
        ({"x": ARRAY[:, :, :2], "sr": 8}, ["a sample's 'x' is float32 [5, 2]", "float32 [T, 3]"]),
        ({"x": np.zeros((2, 5, 4, 3)), "sr": 8}, ["a sample's 'x' is float64 [5, 4, 3]"]),
        ({"x": ARRAY.astype(int), "sr": 8}, ["'x' is int64", "float32"]),
        ({"x": ARRAY, "sr": np.zeros((2, 4), int)}, ["unequal numbers of steps", "'x' has 5", "'sr' has 4"]),
        ({"x": ARRAY[:, :0], "sr": 8}, ["'x' has 0"]),
        ({"x": ARRAY, "sr": np.zeros(3, int)}, ["unequal sample counts", "'x' has 2", "'sr' has 3"]),
        ({"x": ARRAY[:0], "sr": 8}, ["holds no samples"]),
        ({"x": ARRAY}, ["no array for the model's input 'sr'", "name the arrays after the inputs"]),
        ({"x": np.float32(1), "sr": 8}, ["no array has a first axis"]),
        ({"x": np.where(ARRAY == 7, np.nan, ARRAY), "sr": 8}, ["sample 0", "'x' holds NaN"]),
        ({"x": ARRAY, "sr": 8, "h": np.zeros((2, 1, 4))}, ["a sample's 'h' is float64 [1, 4]", "[2, 1, 4]"]),
        ({"x": ARRAY, "sr": 8, "h": np.zeros((2, 2, 1, 4), int)}, ["'h' is int64"]),
        ([{"x": ARRAY, "sr": 8}], ["a sample's 'x' is float32 [2, 5, 3]"]),
        ([{"x": ARRAY[0], "sr": [[8]]}], ["a sample's 'sr' is int64 [1, 1]", "int64 [T]"]),
    ],
)
def test_what_is_no_sequence_is_refused(data, words):
    with pytest.raises(DataError) as caught:
        opened(data)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_of_unknown_rank_needs_its_first_value():
    free = InputSpec("h", F32, None)
    with pytest.raises(DataError, match="shape of the state 'h'; give its first value"):
        opened({"x": ARRAY}, inputs=[X, free])
    (batch, _) = opened({"x": ARRAY, "h": np.ones((2, 7))}, inputs=[X, free])
    assert batch.inputs["h"].shape == (7,)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("h", ["'h'", "state='INPUT=OUTPUT'"]),
        ("=hn", ["state='INPUT=OUTPUT'"]),
        ("hn=h", ["no input 'hn'", "x, h, sr"]),
        ("h=h", ["no output 'h'", "y, hn"]),
        (["h=hn", "h=hn"], ["'h' is declared twice"]),
        ("h=y", ["float32 [1, 2]", "float32 [2, 1, 4]"]),
        ("sr=y", ["the output is float32", "takes int64"]),
    ],
)
def test_a_state_that_the_model_cannot_have_is_refused(state, words):
    with pytest.raises(UsageError) as caught:
        opened({"x": ARRAY, "sr": 8}, state=state)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_something_must_be_left_to_feed():
    with pytest.raises(UsageError, match="no input is left for the data"):
        opened({}, inputs=[STATE])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 2}, "batch_size=2"),
        ({"preprocess": "unit"}, "preprocess does not go with state"),
        ({"trim": "x"}, "trim does not go with state"),
    ],
)
def test_options_that_do_not_go_with_it(options, words):
    with pytest.raises(UsageError, match=words):
        opened({"x": ARRAY, "sr": 8}, **options)


def test_pictures_are_no_sequences(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no sequences; with state give \.npz or \.npy files"):
        opened(tmp_path)


def test_without_it_the_remedy_names_it(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    for data, inputs in (({"x": ARRAY}, [X, STATE]), (tmp_path / "a.npy", [X, STATE]), (tmp_path, [X, STATE])):
        with pytest.raises(DataError, match=r"if 'h' is a state that an output feeds, .*state='h=hn'"):
            opened(data, inputs=inputs, state=None)
    with pytest.raises(DataError) as caught:
        opened({"x": ARRAY}, inputs=[X, RATE], state=None)
    assert "state=" not in str(caught.value)


def test_all_states_without_data_are_named():
    cell, outputs = InputSpec("c", F32, (2, 1, 4)), [*OUTPUTS, InputSpec("cn", F32, (2, 1, 4))]
    with pytest.raises(DataError, match=r"if 'h', 'c' are states that outputs feed, .*state='h=hn' state='c=cn'"):
        opened({"x": ARRAY}, inputs=[X, STATE, cell], outputs=outputs, state=None)
    assert len(opened({"x": ARRAY}, inputs=[X, STATE, cell], outputs=outputs, state=["h=hn", "c=cn"])) == 2

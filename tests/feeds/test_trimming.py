"""`trim`: padded batches cut to their longest sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qtool
from qtool.core.errors import DataError, QtoolError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from tests.support.evaluation_models import per_token

I64, F32 = np.dtype(np.int64), np.dtype(np.float32)
IDS, MASK = (InputSpec(name, I64, ("N", "T")) for name in ("ids", "mask"))


def padded(lengths, width):
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    return {"ids": ids, "mask": mask}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(9, 12), st.integers(1, 5))
def test_a_batch_is_as_long_as_its_longest_sample(lengths, width, batch_size):
    arrays = padded(lengths, width)
    batches = list(open_feeds(arrays, [IDS, MASK], batch_size=batch_size, trim="mask"))
    for batch in batches:
        longest = max(1, *lengths[batch.start : batch.start + batch.size], 1)
        rows = slice(batch.start, batch.start + batch.size)
        for name, array in arrays.items():
            assert batch.inputs[name].flags.c_contiguous
            np.testing.assert_array_equal(batch.inputs[name], array[rows, :longest])
    assert sum(batch.size for batch in batches) == len(lengths)


@pytest.mark.parametrize("form", ["npz", "npy folder", "jsonl", "function"])
def test_every_form_of_data_is_trimmed(tmp_path, form):
    arrays = padded([2, 5, 3], 8)
    records = [{name: array[i] for name, array in arrays.items()} for i in range(3)]
    data = lambda: iter(records)  # noqa: E731
    if form == "npz":
        data = tmp_path / "d.npz"
        np.savez(data, **arrays)
    elif form == "npy folder":
        data = tmp_path
        for index, record in enumerate(records):
            np.savez(tmp_path / f"{index}.npz", **record)
    elif form == "jsonl":
        data = tmp_path / "d.jsonl"
        data.write_text("".join(f'{{"ids": {r["ids"].tolist()}, "mask": {r["mask"].tolist()}}}\n' for r in records))
    assert [b.inputs["ids"].shape for b in open_feeds(data, [IDS, MASK], trim="mask")] == [(1, 2), (1, 5), (1, 3)]


def test_what_has_the_masks_axis_follows():
    width = 7
    inputs = [
        MASK,
        IDS,
        InputSpec("vectors", F32, ("N", "T", 2)),
        InputSpec("unnamed", F32, ("N", None)),
        InputSpec("other", F32, ("N", "U")),
        InputSpec("fixed", F32, ("N", width)),
        InputSpec("lengths", I64, ("N",)),
    ]
    arrays = padded([3, 2], width) | {
        "vectors": np.ones((2, width, 2)),
        "unnamed": np.ones((2, width)),
        "other": np.ones((2, width)),
        "fixed": np.ones((2, width)),
        "lengths": np.array([3, 2]),
        "labels": np.where(padded([3, 2], width)["mask"], 4, -1),
        "more": np.ones((2, 3)),
    }
    (batch,) = open_feeds(arrays, inputs, batch_size=2, trim="mask")
    shapes = {name: array.shape for name, array in {**batch.inputs, **batch.labels}.items()}
    assert shapes == {
        "mask": (2, 3),
        "ids": (2, 3),
        "vectors": (2, 3, 2),
        "unnamed": (2, 3),
        "other": (2, width),
        "fixed": (2, width),
        "lengths": (2,),
        "labels": (2, 3),
        "more": (2, 3),
    }


def test_a_float_mask_serves():
    arrays = padded([2, 1], 4)
    arrays["mask"] = arrays["mask"].astype(np.float32)
    (batch,) = open_feeds(arrays, [IDS, InputSpec("mask", F32, None)], batch_size=2, trim="mask")
    assert batch.inputs["ids"].shape == (2, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mask": [[0, 1, 1], [1, 1, 0]]}, "sample 0: 'mask' has a 1 behind a 0"),
        ({"mask": [[1, 1, 1], [1, 0, 1]]}, "sample 1: 'mask' has a 1 behind a 0"),
        ({"mask": [[2, 1, 0], [1, 1, 0]]}, "sample 0: 'mask' holds other values than 0 and 1"),
        ({"labels": [[1, 1, 3], [1, 1, 1]]}, "sample 0: 'labels' has the shape of the mask, but labels where it is 0"),
    ],
)
def test_what_cannot_be_trimmed_names_the_sample(change, says):
    arrays = padded([2, 2], 3) | {name: np.array(array) for name, array in change.items()}
    with pytest.raises(DataError) as caught:
        list(open_feeds(arrays, [IDS, MASK], trim="mask"))
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trim", "inputs", "says"),
    [
        ("maks", [IDS, MASK], "trim='maks': is no input of the model (did you mean 'mask'?)"),
        ("mask", [IDS, InputSpec("mask", I64, ("N", 1, "T"))], "the input is int64 [N, 1, T]; it must be"),
        ("mask", [IDS, InputSpec("mask", I64, ("N", 8))], "with a free length"),
    ],
)
def test_masks_that_are_none(trim, inputs, says):
    with pytest.raises(UsageError) as caught:
        open_feeds(padded([2], 8), inputs, trim=trim)
    assert says in str(caught.value)


def test_a_mask_of_unknown_rank_is_looked_at():
    with pytest.raises(QtoolError, match="has 3 axes"):
        list(open_feeds({"mask": np.ones((2, 1, 3), np.int64)}, [InputSpec("mask", I64, None)], trim="mask"))


def test_an_input_that_is_no_mask(tmp_path):
    model = per_token(tmp_path / "m.onnx", np.random.default_rng(0).normal(size=(6, 4)))
    with pytest.raises(UsageError, match=r"it must be \[samples, length\]"):
        qtool.calibrate(model, {"x": np.ones((2, 3, 6), np.float32)}, trim="x")

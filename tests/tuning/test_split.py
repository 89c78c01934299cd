"""The parts of a data set: no part is empty, whatever there is of it, and what cannot be taken apart stays whole."""

import numpy as np
import pytest

from qtool.core.errors import DataError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.tuning.split import evaluation_subsets, parts

X = InputSpec("x", np.dtype(np.float32), ("N", 2))
FIXED = InputSpec("x", np.dtype(np.float32), (3, 2))
TIMES = (InputSpec("x", np.dtype(np.float32), ("t", "N", 2)), InputSpec("h", np.dtype(np.float32), (1, "N", 4)))


def rows(samples):
    return np.arange(2 * samples, dtype=np.float32).reshape(samples, 2)


def firsts(part):
    """The first value of every sample of a part."""
    return [float(row[0]) for record in part() for row in record["x"].reshape(-1, 2)]


@pytest.mark.parametrize(
    ("samples", "sizes", "words"),
    [
        (1, (1, 1, 1), "the only sample of the array calibrates, chooses and reports; give 3 or more"),
        (2, (1, 1, 1), "of the two samples of the array one calibrates, the other chooses and reports"),
        (3, (1, 1, 1), "of the three samples of the array one calibrates, one chooses, one reports"),
        (4, (2, 1, 1), "of four samples of the array two calibrate, one chooses, one reports"),
        (8, (4, 2, 2), "of four samples of the array two calibrate, one chooses, one reports"),
    ],
)
def test_no_part_is_empty(samples, sizes, words):
    *found, said = parts(open_feeds(rows(samples), [X]))
    held = list(map(firsts, found))
    assert tuple(map(len, held)) == sizes
    assert {x for part in held for x in part} == {2.0 * i for i in range(samples)}
    if samples > 2:
        assert sum(sizes) == samples
    assert said.startswith(words)


@pytest.mark.parametrize("classes", [2, 4, 8])
@pytest.mark.parametrize("order", ["cyclic", "sorted"])
def test_every_part_sees_every_class_whatever_the_order(classes, order):
    labels = np.arange(400) % classes
    labels = labels if order == "cyclic" else np.sort(labels)
    data = {"x": rows(400), "labels": labels.astype(np.int64)}
    for part, share in zip(parts(open_feeds(data, [X])), (0.5, 0.25, 0.25), strict=False):
        counts = np.bincount(np.concatenate([record["labels"] for record in part()]), minlength=classes)
        wanted = 400 * share / classes
        assert counts.sum() == 400 * share and counts.min() >= 0.4 * wanted, counts


def test_no_samples_at_all_is_said_at_once():
    with pytest.raises(DataError, match="holds no samples"):
        parts(open_feeds(lambda: iter(()), [X]))


def test_one_batch_of_many_samples_is_taken_apart():
    together, one_by_one = (parts(open_feeds(data, [X])) for data in ([{"x": rows(8)}], rows(8)))
    assert list(map(firsts, together[:3])) == list(map(firsts, one_by_one[:3]))


def test_batches_that_a_model_fixes_stay_whole():
    *found, said = parts(open_feeds(rows(12), [FIXED]))
    batches = [[0, 2, 4], [6, 8, 10], [12, 14, 16], [18, 20, 22]]
    held = list(map(firsts, found))
    assert list(map(len, held)) == [6, 3, 3]
    assert sorted([held[0][:3], held[0][3:], held[1], held[2]]) == batches
    assert said.startswith("of four batches")
    *found, said = parts(open_feeds(rows(3), [FIXED]))
    assert list(map(firsts, found)) == [[0, 2, 4]] * 3
    assert said.startswith("the only batch")


@pytest.mark.parametrize("size", [3, 4, 5])
def test_time_major_sequences_stay_whole(size):
    """The first axis of x is time, that of h has length one: neither counts samples."""
    data = [{"x": np.full((5, 1, 2), i, np.float32), "h": np.zeros((1, 1, 4), np.float32)} for i in range(size)]
    *found, _ = parts(open_feeds(data, TIMES))
    sequences = [[(int(record["x"][0, 0, 0]), record["x"].shape) for record in part()] for part in found]
    assert all(shape == (5, 1, 2) for part in sequences for _, shape in part)
    assert sorted(i for part in sequences for i, _ in part) == list(range(size))
    assert all(sequences)
    assert found[1].__name__.endswith(f"(1 of every {min(size, 4)} batches)")


def test_a_single_sample_of_evaluation_data_chooses_and_reports():
    feeds, other = open_feeds(rows(5), [X]), open_feeds({"x": rows(1), "labels": np.zeros(1, np.int64)}, [X])
    _, choosing, reporting, words = evaluation_subsets(feeds, other)
    assert firsts(choosing) == firsts(reporting) == [0]
    assert words.endswith("chooses and reports")

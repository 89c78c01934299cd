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
    ("samples", "wanted", "words"),
    [
        (1, ([0], [0], [0]), "the only sample of the array calibrates, chooses and reports; give 3 or more"),
        (2, ([0], [2], [2]), "of the two samples of the array one calibrates, the other chooses and reports"),
        (3, ([0], [2], [4]), "of the three samples of the array one calibrates, one chooses, one reports"),
        (4, ([0, 2], [4], [6]), "of four samples of the array two calibrate, one chooses, one reports"),
        (5, ([0, 2, 8], [4], [6]), "of four samples of the array two calibrate, one chooses, one reports"),
    ],
)
def test_no_part_is_empty(samples, wanted, words):
    *found, said = parts(open_feeds(rows(samples), [X]))
    assert tuple(map(firsts, found)) == wanted
    assert said.startswith(words)


def test_no_samples_at_all_is_said_at_once():
    with pytest.raises(DataError, match="holds no samples"):
        parts(open_feeds(lambda: iter(()), [X]))


def test_one_batch_of_many_samples_is_taken_apart():
    found = parts(open_feeds([{"x": rows(8)}], [X]))
    assert list(map(firsts, found[:3])) == [[0, 2, 8, 10], [4, 12], [6, 14]]


def test_batches_that_a_model_fixes_stay_whole():
    *found, said = parts(open_feeds(rows(12), [FIXED]))
    assert list(map(firsts, found)) == [[0, 2, 4, 6, 8, 10], [12, 14, 16], [18, 20, 22]]
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
    assert [[i for i, _ in part] for part in sequences] == {
        3: [[0], [1], [2]],
        4: [[0, 1], [2], [3]],
        5: [[0, 1, 4], [2], [3]],
    }[size]
    assert found[1].__name__.endswith(f"(1 of every {min(size, 4)} batches)")


def test_a_single_sample_of_evaluation_data_chooses_and_reports():
    feeds, other = open_feeds(rows(5), [X]), open_feeds({"x": rows(1), "labels": np.zeros(1, np.int64)}, [X])
    choosing, reporting, words = evaluation_subsets(feeds, other)
    assert firsts(choosing) == firsts(reporting) == [0]
    assert words.endswith("chooses and reports")

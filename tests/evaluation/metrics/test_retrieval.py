"""recall@k and the ranking that float and a model share: against their definitions over all pairs, one by one."""

import numpy as np
import pytest

from qtool.core.errors import DataError, UsageError
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metrics

RNG = np.random.default_rng(3)
EXACT = RNG.normal(0, 1, (40, 6)).astype(np.float32)
FOUND = EXACT + RNG.normal(0, 0.4, EXACT.shape).astype(np.float32)
PAIRS = np.repeat(np.arange(20), 2)
QUERIES = np.arange(40) % 2


def measure(name, found, labels=None, queries=None, size=7):
    (metric,) = resolve_metrics([name])
    sums = None
    for start in range(0, len(found), size):
        cut = slice(start, start + size)
        known = {"labels": labels, "queries": queries}
        known = {key: array[cut] for key, array in known.items() if array is not None}
        y, exact = found[cut], EXACT[cut]
        sums = sums or metric.start(find_heads({"y": y}, known, len(y)))
        sums.update(Observation("m.onnx", {"y": y}, {"y": exact}, known, start, len(y)))
    return sums.result()


def nearest(vectors, query, among, k):
    def cosine(other):
        a, b = vectors[query].astype(float), vectors[other].astype(float)
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    return sorted((one for one in among if one != query), key=lambda one: -cosine(one))[:k]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("queries", [None, QUERIES])
@pytest.mark.parametrize("size", [7, 40])
def test_recall_and_ranking_are_their_definitions(k, queries, size):
    asking = range(40) if queries is None else np.flatnonzero(queries)
    among = range(40) if queries is None else np.flatnonzero(queries == 0)
    lists = [[nearest(vectors, query, among, k) for query in asking] for vectors in (EXACT, FOUND)]
    hits = [any(PAIRS[one] == PAIRS[query] for one in near) for query, near in zip(asking, lists[1], strict=True)]
    assert measure(f"recall:{k}", FOUND, PAIRS, queries, size) == pytest.approx(np.mean(hits))
    shared = [len(set(a) & set(b)) / k for a, b in zip(*lists, strict=True)]
    assert 0.2 < np.mean(shared) < 1
    assert measure(f"ranking:{k}", FOUND, queries=queries, size=size) == pytest.approx(np.mean(shared))


def test_pairs_that_lie_together_are_all_found():
    together = np.repeat(EXACT[::2], 2, axis=0) + RNG.normal(0, 1e-3, EXACT.shape).astype(np.float32)
    assert measure("recall", together, PAIRS) == 1 and measure("recall", together[::-1].copy(), PAIRS) == 1
    assert measure("ranking", EXACT * 7) == 1


def test_what_has_nothing_to_find_does_not_count():
    labels = PAIRS.copy()
    labels[:20] = np.arange(100, 120)
    together = np.repeat(EXACT[::2], 2, axis=0)
    assert measure("recall", together, labels) == 1
    with pytest.raises(DataError, match="no query has another sample with its label"):
        measure("recall", together, np.arange(40))


def test_a_vector_of_nan_is_no_ones_neighbour_and_finds_nothing():
    broken = np.repeat(EXACT[::2], 2, axis=0)
    broken[0] = np.nan
    assert measure("recall", broken, PAIRS) == pytest.approx(38 / 40)
    assert measure("ranking:1", np.full_like(EXACT, np.nan)) == 0


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "error", "message"),
    [
        (
            "recall",
            np.zeros((4, 3, 5), np.float32),
            np.zeros(4, int),
            UsageError,
            "no output holds an embedding a sample",
        ),
        ("recall", EXACT, None, DataError, "no array 'labels' of one value a sample"),
        ("recall:0", EXACT, PAIRS, UsageError, "write recall or recall:K"),
        ("ranking:x", EXACT, PAIRS, UsageError, "write ranking or ranking:K"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(name, outputs, labels, error, message):
    with pytest.raises(error, match=message):
        measure(name, outputs, labels)

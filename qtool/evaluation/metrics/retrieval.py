"""Metrics of embeddings: whether what belongs together lies together, and whether neighbours are still float's.

Neighbours are ranked by cosine similarity. Each sample is a query among all others, or where an array `queries` says
which are, each of these among those that are none.
"""

import re
from collections.abc import Iterator

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import amount
from qtool.evaluation.metrics.heads import LABELS, Heads
from qtool.evaluation.metrics.observation import Observation

RECALL, RANKING = "recall", "ranking"
QUERIES = "queries"
_MOST = {RECALL: 1, RANKING: 10}
"""Neighbours that are looked at, where nothing says how many."""
_ROWS = 512
"""Queries whose similarities are in memory at once."""


def neighbours_of(metric: str) -> int:
    """Return the number behind the colon of `recall:K` or `ranking:K`, or what it is without. Raises `UsageError`."""
    name, colon, said = metric.partition(":")
    if not colon:
        return _MOST[name]
    if not re.fullmatch(r"[1-9]\d{0,5}", said):
        raise UsageError(f"{arg('metric', metric)}: write {name} or {name}:K with a whole number from 1 on")
    return int(said)


class _Embedded:
    """Embeddings of all samples, [samples, width], scaled to length 1; and which of them are queries."""

    def __init__(self, heads: Heads, metric: str) -> None:
        if heads.embedding is None:
            raise UsageError(
                f"{arg('metric', metric)}: no output holds an embedding a sample, [N, width]; of one vector a token "
                "take the mean in the model, or write a metric of your own"
            )
        self._output, self._metric = heads.embedding, metric
        self._queries: list[np.ndarray] = []

    def rows(self, array: np.ndarray, seen: Observation) -> np.ndarray:
        """Of one batch, float32; NaN where there is no direction."""
        if array.ndim != 2 or len(array) != seen.size:
            raise DataError(
                f"{arg('metric', self._metric)}: output '{self._output}' is {list(array.shape)} for "
                f"{amount(seen.size, 'sample')} from sample {seen.start}; it must be an embedding a sample"
            )
        values = array.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(values / np.sqrt((values**2).sum(axis=1, keepdims=True)), np.float32)

    def note_queries(self, seen: Observation) -> None:
        """Add which samples of a batch are queries."""
        found = seen.labels.get(QUERIES)
        self._queries.append(np.ones(seen.size, bool) if found is None else np.asarray(found).reshape(-1) != 0)
        if len(self._queries[-1]) != seen.size:
            raise DataError(f"{arg('metric', self._metric)}: '{QUERIES}' must hold one number a sample, 1 for a query")

    @property
    def asks(self) -> np.ndarray:
        """Whether each sample is a query, bool [samples]."""
        return np.concatenate(self._queries)

    def ranked(self, batches: list[np.ndarray], most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield some queries and the nearest others of each, by their numbers: [rows], [rows, most], -1 for none.

        Of equal similarities the earlier sample comes first; without a direction a sample is no one's neighbour.
        """
        vectors, asks = np.concatenate(batches), self.asks
        among = np.flatnonzero(~asks) if not asks.all() else np.arange(len(vectors))
        for first in range(0, int(asks.sum()), _ROWS):
            queries = np.flatnonzero(asks)[first : first + _ROWS]
            alike = vectors[queries] @ vectors[among].T
            alike = np.where(np.isnan(alike), -np.inf, alike)
            alike[queries[:, None] == among[None]] = -np.inf
            order = np.argsort(-alike, axis=1, kind="stable")[:, :most]
            found = np.where(np.take_along_axis(alike, order, axis=1) == -np.inf, -1, among[order])
            yield queries, found


class RecallAtK:
    """The share of queries among whose K nearest neighbours is one with the same label, of those that have one at all.

    Raises:
        UsageError: at once, where no output is an embedding.
        DataError: from `update`, where labels are missing or not one a sample; from `result`, where no query has
            another sample with its label.
    """

    def __init__(self, heads: Heads, metric: str) -> None:
        self._embedded, self._metric, self._most = _Embedded(heads, metric), metric, neighbours_of(metric)
        self._output = str(heads.embedding)
        self._vectors: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def update(self, seen: Observation) -> None:
        """Keep the embeddings and labels of one batch. Raises `DataError`."""
        labels = seen.labels.get(LABELS)
        if labels is None or labels.size != seen.size:
            raise DataError(
                f"{arg('metric', self._metric)}: {arg('data')} has no array 'labels' of one value a sample, the same "
                f"for what belongs together (sample {seen.start}); add it"
            )
        self._vectors.append(self._embedded.rows(seen.outputs[self._output], seen))
        self._labels.append(labels.reshape(-1))
        self._embedded.note_queries(seen)

    def result(self) -> float:
        """Return the share, from 0 to 1. Raises `DataError`."""
        labels = np.unique(np.concatenate(self._labels), return_inverse=True)[1]
        found = possible = 0
        for queries, near in self._embedded.ranked(self._vectors, self._most):
            same = (labels[near] == labels[queries][:, None]) & (near >= 0)
            there = self._others(queries, labels)
            possible += int(there.sum())
            found += int((same.any(axis=1) & there).sum())
        if not possible:
            raise DataError(
                f"{arg('metric', self._metric)}: no query has another sample with its label; give what belongs "
                "together the same label"
            )
        return found / possible

    def _others(self, queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether there is anything to find, of each query: whatever the model makes of it."""
        asks = self._embedded.asks
        among = labels if asks.all() else labels[~asks]
        counts = np.bincount(among, minlength=int(labels.max()) + 1)[labels[queries]]
        return np.asarray(counts > (1 if asks.all() else 0))


class RankingAgreement:
    """The share of float's K nearest neighbours that a model has among its K nearest too, the mean over the queries.

    Raises:
        UsageError: at once, where no output is an embedding.
        DataError: from `update`, where it is none in a later batch; from `result`, where there are no neighbours.
    """

    def __init__(self, heads: Heads, metric: str) -> None:
        self._embedded, self._metric, self._most = _Embedded(heads, metric), metric, neighbours_of(metric)
        self._output = str(heads.embedding)
        self._exact: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def update(self, seen: Observation) -> None:
        """Keep the embeddings of one batch. Raises `DataError`."""
        self._exact.append(self._embedded.rows(seen.reference[self._output], seen))
        self._found.append(self._embedded.rows(seen.outputs[self._output], seen))
        self._embedded.note_queries(seen)

    def result(self) -> float:
        """Return the share, from 0 to 1. Raises `DataError`."""
        both = total = 0
        exact, found = (self._embedded.ranked(vectors, self._most) for vectors in (self._exact, self._found))
        for (_, one), (_, other) in zip(exact, found, strict=True):
            there = one >= 0
            both += int(((one[:, :, None] == other[:, None]).any(axis=2) & there).sum())
            total += int(there.sum())
        if not total:
            raise DataError(f"{arg('metric', self._metric)}: there are no neighbours; give two samples or more")
        return both / total

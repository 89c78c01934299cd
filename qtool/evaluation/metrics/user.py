"""Metrics that a user brings: `MODULE:NAME` or `file.py:NAME`, a function or a class.

A function `(outputs, labels) -> scores` gets two dictionaries of arrays, one batch at a time, and returns one
score a sample, or one number for the batch, which then counts once for each of its samples; the metric is the
mean over samples. A class, made anew for each model, has `update(outputs, labels)` and `result() -> float`,
for what is no mean of samples. Higher is better unless the function or class has an attribute
`lower_is_better = True`.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from qtool.core.errors import DataError, UsageError, arg
from qtool.core.text import meant
from qtool.evaluation.metrics.observation import Observation, holds_nan
from qtool.feeds import load_function, raised, refuse_to_stop

ScoreFunction = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], Any]


class CorpusMetric(Protocol):
    """A user's class: it sees every batch, then gives one number."""

    def update(self, outputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
        """Take one batch into account: arrays by name, the first axis of each counting samples."""

    def result(self) -> float:
        """Return the metric over all batches."""


UserMetric = ScoreFunction | type[CorpusMetric]


def load_user_metric(spec: str, known: Iterable[str]) -> UserMetric:
    """Return the function or class that `spec` names, as `MODULE:NAME` or `file.py:NAME`.

    Args:
        spec: what the user wrote.
        known: the names of the metrics that qtool has, for the message.

    Raises:
        UsageError: it is not written so, cannot be imported, or is neither a function nor such a class.
    """
    source, colon, name = spec.rpartition(":")
    if not (colon and source and name):
        raise UsageError(
            f"{arg('metric', spec)}: is none of {', '.join(known)}{meant(spec, known)}; a metric of your own is "
            "MODULE:FUNCTION or file.py:FUNCTION"
        )
    try:
        return check_user_metric(load_function(spec), spec)
    except DataError as error:
        raise UsageError(f"{arg('metric')} {error.marked}") from error


def check_user_metric(found: object, spec: str) -> UserMetric:
    """Return `found`, if it is a function or a class with `update` and `result`. Raises `UsageError`."""
    if inspect.isclass(found):
        if callable(getattr(found, "update", None)) and callable(getattr(found, "result", None)):
            return found
        raise UsageError(f"{arg('metric', spec)}: the class needs update(outputs, labels) and result()")
    if callable(found):
        return found
    raise UsageError(
        f"{arg('metric', spec)}: is neither a function (outputs, labels) nor a class with update and result"
    )


class UserAccumulator:
    """An accumulator that runs a user's metric over one model.

    From the first NaN in a model's outputs on that float's have not, the metric is not called any more, and is NaN.

    Raises:
        DataError: at once, from `update` or from `result`, in one line that names the metric: it raised something, gave
            other than one score a sample or one number, or its result is no number.
    """

    def __init__(self, metric: UserMetric, name: str) -> None:
        self._name = name
        self._function: ScoreFunction | None = None if inspect.isclass(metric) else metric
        self._corpus: Any = None
        self._sum = 0.0
        self._samples = 0
        self._nan = False
        if inspect.isclass(metric):
            self._corpus = self._call("cannot be made", metric)

    def update(self, seen: Observation) -> None:
        """Hand one batch to the metric. Raises `DataError`."""
        self._nan = self._nan or holds_nan(seen)
        if self._nan:
            return
        where = f"failed on {seen.model}, samples {seen.start} to {seen.start + seen.size - 1}"
        outputs, labels = dict(seen.outputs), dict(seen.labels)
        if self._function is None:
            self._call(where, self._corpus.update, outputs, labels)
            return
        scores = self._call(where, self._function, outputs, labels)
        self._sum += self._total(scores, seen)
        self._samples += seen.size

    def result(self) -> float:
        """Return the user's metric over all batches. Raises `DataError`."""
        if self._nan:
            return math.nan
        if self._function is not None:
            return self._sum / self._samples
        value = self._call("failed in result()", self._corpus.result)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise DataError(
                f"{arg('metric', self._name)}: result() gave {_kind(value)}; it must be one number"
            ) from None

    def _total(self, scores: object, seen: Observation) -> float:
        try:
            array = np.asarray(scores, np.float64)
        except (TypeError, ValueError):
            array = np.empty((0,))
        if array.ndim == 0:
            return float(array) * seen.size
        if array.size == seen.size and array.shape[0] == seen.size:
            return float(array.sum())
        raise DataError(
            f"{arg('metric', self._name)}: gave {_kind(scores)} for a batch of {seen.size}; return one "
            "score a sample, "
            "or one number"
        )

    def _call(self, what: str, function: Callable[..., Any], *arguments: Mapping[str, np.ndarray]) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            refuse_to_stop(error)
            raise DataError(f"{arg('metric', self._name)}: {what}: {raised(error)}; correct the metric") from error


def _kind(value: object) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"

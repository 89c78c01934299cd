"""The metrics by name, and the accumulators that they become once the first batch has shown the outputs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qtool.core.errors import UsageError
from qtool.core.evaluation import MetricInfo, MetricKind
from qtool.evaluation.classes import ClassOutput, TopK, require_class_output
from qtool.evaluation.observation import Observation
from qtool.evaluation.similarity import Cosine, Mse, Sqnr
from qtool.evaluation.usermetric import UserAccumulator, UserMetric, check_user_metric, load_user_metric

TOP_K = {"top1": 1, "top5": 5}
MetricSpec = str | UserMetric


class Accumulator(Protocol):
    """Sees every batch of one model, then gives the metric."""

    def update(self, seen: Observation) -> None: ...

    def result(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that can be measured; `perfect` is float's own value where the metric compares with float."""

    info: MetricInfo
    start: Callable[[ClassOutput | None], Accumulator]
    perfect: float | None = None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def is_accuracy(self) -> bool:
        return self.info.kind is MetricKind.ACCURACY


def resolve_metrics(specs: Sequence[MetricSpec]) -> tuple[Metric, ...]:
    """The metrics that `specs` name, each once, in their order.

    A user's metric is called by its function's name, or by the whole of its spec where that is taken.

    Raises:
        UsageError: an unknown name, or a user's metric that cannot be loaded.
    """
    resolved: dict[str, Metric] = {}
    for spec in dict.fromkeys(specs):
        if isinstance(spec, str) and spec in _BUILTIN:
            resolved[spec] = _BUILTIN[spec]
            continue
        if isinstance(spec, str):
            short, full, found = spec.rpartition(":")[2], spec, load_user_metric(spec)
        else:
            short = full = getattr(spec, "__name__", type(spec).__name__)
            found = check_user_metric(spec, short)
        name = full if short in resolved or short in _BUILTIN else short
        if name in resolved:
            raise UsageError(f"two metrics are called {name}; give one of them another name")
        resolved[name] = _user(found, name)
    return tuple(resolved.values())


def _user(found: UserMetric, name: str) -> Metric:
    lower = bool(getattr(found, "lower_is_better", False))
    return Metric(MetricInfo(name, MetricKind.ACCURACY, lower), lambda _: UserAccumulator(found, name))


def _top_k(name: str, k: int) -> Metric:
    return Metric(
        MetricInfo(name, MetricKind.ACCURACY, lower_is_better=False),
        lambda output: TopK(k, require_class_output(output, name, k)),
    )


def _similarity(
    name: str, start: Callable[[], Accumulator], perfect: float, *, lower_is_better: bool = False
) -> Metric:
    return Metric(MetricInfo(name, MetricKind.SIMILARITY, lower_is_better), lambda _: start(), perfect)


_BUILTIN = {metric: _top_k(metric, k) for metric, k in TOP_K.items()} | {
    "cosine": _similarity("cosine", Cosine, 1.0),
    "sqnr": _similarity("sqnr", Sqnr, math.inf),
    "mse": _similarity("mse", Mse, 0.0, lower_is_better=True),
}

"""Measures variants by workers, a few in each piece of work; what workers find is what one process finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qtool.core.compute import Compute
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import Recipe
from qtool.core.records.sensitivity import View
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.metrics.registry import MetricSpec, resolve_metrics
from qtool.execution import Missing, run, width
from qtool.execution.running import Supplies
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Feeds, open_source
from qtool.feeds.batching import given_feeds
from qtool.feeds.source import Source
from qtool.graph import edit, model_io
from qtool.graph.finite import fed_specs
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.steps import apply
from qtool.targets.tables import TARGETS
from qtool.tuning.sensitivity.analysis import Analysis, Overview
from qtool.tuning.sensitivity.resume import Found
from qtool.tuning.sensitivity.run import measure
from qtool.tuning.sensitivity.variants import Variant

_MODEL, _BATCHES = "model", "batches"
_FEWEST, _SHARES = 8, 3
"""Variants in a piece of work, which runs both networks itself once; and how many pieces each worker should get."""


@dataclass(frozen=True, slots=True)
class _Work:
    model: ModelFile
    name: str
    recipe: Recipe
    full: Plan
    variants: tuple[Variant, ...]
    metric: MetricSpec | None
    decode: DecodeSpec | None
    views: tuple[View, ...]
    source: Source
    data: str
    compute: Compute
    memory: int


@dataclass(frozen=True, slots=True)
class _Measured:
    overview: Overview
    found: dict[tuple[str, View], Found]


def measure_elsewhere(
    analysis: Analysis,
    variants: Sequence[Variant],
    feeds: Feeds,
    metric: MetricSpec | None,
    compute: Compute,
    memory: int,
    earlier: dict[str, str],
) -> None:
    """Measure variants by the workers of an executor; what they find goes into `analysis`, and into its file.

    Raises:
        WorkerError: a worker failed.
    """
    executor, prepared = compute.executor, analysis.prepared
    assert executor is not None
    model = ModelFile.of(prepared.path)
    size = max(_FEWEST, -(-len(variants) // (_SHARES * width(executor))))

    def works() -> Iterator[_Work]:
        for first in range(0, max(len(variants), 1), size):
            yield _Work(
                model,
                prepared.name,
                prepared.recipe,
                analysis.full,
                tuple(variants[first : first + size]),
                metric,
                analysis.decode,
                analysis.views,
                feeds.source,
                feeds.name,
                compute.in_worker(),
                memory,
            )

    batches: list[Batch] = []

    def supply(_: _Work, what: str) -> object:
        if what == _MODEL:
            return model.content()
        if not batches:
            batches.extend(feeds)
        return batches

    compute.progress("measure layers", analysis.done, analysis.total)
    for _, measured in run(executor, _measure, works(), supply):
        analysis.adopt(replace(measured.overview, data=feeds.name), earlier)
        analysis.found.update(measured.found)
        analysis.save()
        compute.progress("measure layers", analysis.done, analysis.total)


def _measure(work: _Work, supplies: Supplies) -> _Measured | Missing:
    path = work.model.find(supplies.get(_MODEL))
    if path is None:
        return Missing((_MODEL,))
    prepared = replace(apply(prepare(model_io.load(path)), work.recipe), name=work.name)
    feeds = _feeds(work, supplies, prepared.model)
    if feeds is None:
        return Missing((_BATCHES,))
    metric = None if work.metric is None else resolve_metrics([work.metric])[0]
    analysis = Analysis(
        prepared,
        work.full,
        metric,
        work.views,
        {"metric": "" if metric is None else metric.name},
        None,
        {},
        feeds.states,
        work.decode,
    )
    measure(analysis, work.variants, TARGETS[work.full.target], feeds, work.compute, work.memory, {})
    return _Measured(analysis.overview(), analysis.found)


def _feeds(work: _Work, supplies: Supplies, model: edit.Model) -> Feeds | None:
    if _BATCHES in supplies:
        return given_feeds(work.data, supplies[_BATCHES], work.source.reading.states)
    return open_source(work.source, fed_specs(model), edit.output_specs(model))

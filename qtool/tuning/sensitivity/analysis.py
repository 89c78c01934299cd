"""The findings of a sensitivity analysis so far: metrics over batches, and the result in memory and on disk."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qtool.core.concurrency import in_order
from qtool.core.errors import DataError, ModelError, UsageError, VerificationError, arg
from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import (
    Figures,
    HeadSensitivity,
    LayerSensitivity,
    Sensitivity,
    View,
    ranked,
)
from qtool.core.state import State
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.gates import scored_drop
from qtool.evaluation.metrics.heads import NO_HEADS, Heads, default_metric, find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import Metric, resolve_metrics
from qtool.evaluation.metrics.similarity import Sqnr
from qtool.evaluation.recurrence import as_sequence
from qtool.evaluation.trial import check_outputs
from qtool.graph import model_io
from qtool.graph.heads import Head
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.verify.judged import find_parts
from qtool.pipeline.verify.macs import MacCount, known_total
from qtool.runtime.session import Session
from qtool.tuning.sensitivity.bases import Item, Job
from qtool.tuning.sensitivity.chain import PieceChain
from qtool.tuning.sensitivity.resume import Found, check_identity, save

_Measured = tuple[int | None, float | None, Figures | None, Figures | None, dict[str, str]]
LABELLED = f"give labels and {arg('metric')}"


@dataclass(slots=True)
class Tally:
    """The sums of one model over the batches."""

    metric: Metric | None
    heads: Heads
    states: tuple[State, ...] = ()
    _sums: Any = None
    _sqnr: Sqnr = field(default_factory=Sqnr)

    def __post_init__(self) -> None:
        self._sqnr = Sqnr(self.heads.parts)
        self._sums = None if self.metric is None else self.metric.start(self.heads)

    def update(self, name: str, item: Item, outputs: dict[str, np.ndarray]) -> None:
        """Add one batch's outputs of the model called `name`."""
        reference = item.outputs["alone"]
        self._sqnr.update(Observation(name, outputs, reference, item.labels, item.start, item.size))
        if self._sums is None:
            return
        if self.states:
            outputs, reference = as_sequence(outputs, self.states), as_sequence(reference, self.states)
        self._sums.update(Observation(name, outputs, reference, item.labels, item.start, item.size, item.shapes))

    def figures(self, reference: float | None) -> Figures:
        """Return the value of the metric, its drop from float's value `reference`, and the SQNR."""
        if self.metric is None:
            return Figures(None, None, self._sqnr.measured())
        value = self._sums.result()
        drop = None if reference is None else scored_drop(self.metric.info, value, reference).drop
        return Figures(value, drop, self._sqnr.measured())


@dataclass(frozen=True, slots=True)
class Overview:
    """The figures of the whole networks. metric: its name, None where only SQNR is measured."""

    metric: str | None
    samples: int
    data: str
    digest: str
    macs: dict[str, int | None]
    float_value: float | None
    quantized: Figures


@dataclass(slots=True)
class Analysis:
    """The findings of an analysis so far, and what it still has to measure.

    regions: the heads of several layers, with what the full plan quantises of each, and the names that `--exclude`
    wants for each.
    """

    prepared: Prepared
    full: Plan
    metric: Metric | None
    views: tuple[View, ...]
    identity: dict[str, str]
    path: Path | None
    found: dict[tuple[str, View], Found]
    states: tuple[State, ...] = ()
    decode: DecodeSpec | None = None
    regions: Mapping[Head, tuple[str, ...]] = field(default_factory=dict)
    heads: Heads = NO_HEADS
    samples: int = 0
    data: str = ""
    macs: dict[str, int | None] = field(default_factory=dict)
    float_value: float | None = None
    quantized: Figures = field(default_factory=lambda: Figures(None, None, 0.0))

    @property
    def layers(self) -> list[str]:
        """The layers that the full plan quantises, in graph order."""
        return list(self.full.quantized)

    @property
    def names(self) -> list[str]:
        """The names of what is to be measured: the layers, and the heads."""
        return [*self.layers, *(head.name for head in self.regions)]

    @property
    def done(self) -> int:
        """The number of layers and heads measured, counted once for each view."""
        return sum((name, view) in self.found for name in self.names for view in self.views)

    @property
    def total(self) -> int:
        """The number of layers and heads to measure, counted once for each view."""
        return len(self.names) * len(self.views)

    def overall(self, items: Iterator[Item], data: str, earlier: dict[str, str]) -> None:
        """Measure the float network and the fully quantised one; check that the data is that of the earlier run.

        `earlier`: the identity of that run, empty without one.

        Raises:
            UsageError: the data is other than before, or the metric is NaN for the float model.
        """
        digest = hashlib.sha256()
        tallies: dict[str, Tally] = {}
        count = MacCount(self.prepared.model)
        for item in items:
            reference = item.outputs["alone"]
            if not tallies:
                self._begin(item)
                tallies = {name: Tally(self.metric, self.heads, self.states) for name in ("float", "quantised")}
            tallies["float"].update(self.prepared.name, item, reference)
            tallies["quantised"].update(f"{self.prepared.name}, quantised", item, item.outputs["without"])
            digest.update(item.digest)
            if count.varies or not self.samples:
                count.add(_fed(item))
            self.samples += item.size
        self.macs = count.mean()
        self._identify(data, digest.hexdigest(), earlier)
        self.float_value = tallies["float"].figures(None).value
        if self.float_value is not None and np.isnan(self.float_value):
            raise UsageError(
                f"{arg('metric', self.identity['metric'])}: is NaN for the float model; correct it or the labels"
            )
        self.quantized = tallies["quantised"].figures(self.float_value)

    def _identify(self, data: str, digest: str, earlier: dict[str, str]) -> None:
        self.data, self.identity["data"] = data, digest
        if earlier and self.path is not None:
            check_identity(self.path, earlier, self.identity)

    def overview(self) -> Overview:
        """Return the figures of the whole networks, once `overall` has run."""
        metric = None if self.metric is None else self.metric.name
        digest = self.identity["data"]
        return Overview(metric, self.samples, self.data, digest, self.macs, self.float_value, self.quantized)

    def adopt(self, overview: Overview, earlier: dict[str, str]) -> None:
        """Take the figures of the whole networks from another process, instead of running `overall`.

        Does nothing where they are known. `earlier`: as for `overall`. Raises `UsageError` where the data is other than
        before.
        """
        if self.samples:
            return
        if self.metric is None and overview.metric is not None:
            (self.metric,) = resolve_metrics([overview.metric])
        self.samples, self.macs = overview.samples, overview.macs
        self.float_value, self.quantized = overview.float_value, overview.quantized
        self._identify(overview.data, overview.digest, earlier)

    def _begin(self, item: Item) -> None:
        outputs = item.outputs["alone"]
        check_outputs(Session(model_io.serialize(self.prepared.model)), item.outputs["without"], outputs)
        if self.states:
            outputs = as_sequence(outputs, self.states)
        parts = find_parts(self.prepared.model, _fed(item))
        heads = find_heads(outputs, item.labels, item.size, in_steps=bool(self.states), decode=self.decode)
        self.heads = replace(heads, parts=parts)
        default = default_metric(self.heads, item.labels, item.size)
        if self.metric is None and default != "sqnr":
            (self.metric,) = resolve_metrics([default])

    def measure(
        self,
        jobs: Sequence[Job],
        chains: Sequence[Future[PieceChain]],
        items: Iterator[Item],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> None:
        """Measure layers over all batches, then write them to the file, if there is one."""
        ready: list[tuple[Job, PieceChain]] = []
        for job, future in zip(jobs, chains, strict=True):
            try:
                ready.append((job, future.result()))
            except (ModelError, VerificationError) as error:
                self.found[job.layer, job.view] = str(error)

        def run(item: Item) -> tuple[Item, list[dict[str, np.ndarray]]]:
            return item, [chain.run(item) for _, chain in ready]

        tallies = [Tally(self.metric, self.heads, self.states) for _ in ready]
        for item, results in in_order(pool, ahead, run, items if ready else iter(())):
            for tally, (_, chain), outputs in zip(tallies, ready, results, strict=True):
                tally.update(chain.name, item, outputs)
        for tally, (job, _) in zip(tallies, ready, strict=True):
            self.found[job.layer, job.view] = tally.figures(self.float_value)
        self.save()

    def save(self) -> None:
        """Write what is finished to the file, if there is one."""
        if self.path is not None:
            save(self.path, self.result(complete=False))

    def check_any_measured(self) -> None:
        """Raise an error where no layer could be measured in any view: then nothing is ranked.

        Raises:
            DataError: no output of this data has an SQNR, and no metric is asked for.
            VerificationError: no layer could be run.
        """
        figures = [found for found in self.found.values() if isinstance(found, Figures)]
        if any(found.value is not None or found.sqnr_db is not None for found in figures):
            return
        if figures:
            raise DataError(
                f"{self.prepared.name}: no output of numbers keeps its shape, or has a finite number, on this data, so "
                f"SQNR is not measured; {LABELLED}"
            )
        layer, reason = next(((layer, why) for (layer, _), why in self.found.items()), ("none", "it has none"))
        raise VerificationError(
            f"{self.prepared.name}: no layer could be measured; of {layer!r}: {reason}; please report this model"
        )

    def finish(self) -> Sensitivity:
        """Return the complete result, which is then in the file too, if there is one."""
        result = self.result(complete=True)
        if self.path is not None:
            save(self.path, result)
        return result

    def result(self, *, complete: bool) -> Sensitivity:
        """Return what was measured, with the layers ranked by the first view."""
        operators = {str(n.name): n.op_type for n in self.prepared.model.graph.all_nodes()}
        layers = [LayerSensitivity(name, operators[name], *self._measured(name, [name])) for name in self.layers]
        heads = [
            HeadSensitivity(head.name, head.outputs, head.layers, *self._measured(head.name, head.layers), tuple(names))
            for head, names in self.regions.items()
        ]
        info = None if self.metric is None else self.metric.info
        return Sensitivity(
            model=self.prepared.name,
            data=self.data,
            samples=self.samples,
            metric=info,
            calibrator=self.full.calibrator,
            bias_correction=bool(self.full.shifts),
            target=self.full.target,
            scheme=self.full.scheme,
            granularity=self.full.granularity,
            views=self.views,
            identity=self.identity,
            float_value=self.float_value,
            quantized=self.quantized,
            layers=ranked(tuple(layers), self.views[0], info),
            unranked={n: self.full.skipped.get(n, "not planned") for n in self.full.layers if n not in self.layers},
            complete=complete,
            heads=ranked(tuple(heads), self.views[0], info),
        )

    def _measured(self, name: str, layers: Collection[str]) -> _Measured:
        """The multiply-accumulates of layers, their share, the figures of what has a name, and why it has none."""
        total = None if None in self.macs.values() else known_total(self.macs)
        every = [self.macs.get(layer) for layer in layers]
        macs = None if None in every else sum(n for n in every if n is not None)
        share = macs / total if total and macs is not None else None
        found = {view: self.found[name, view] for view in self.views if (name, view) in self.found}
        figures = {view: f for view, f in found.items() if isinstance(f, Figures)}
        why: dict[str, str] = {view: f for view, f in found.items() if isinstance(f, str)}
        return macs, share, figures.get("alone"), figures.get("without"), why


def _fed(item: Item) -> dict[str, np.ndarray]:
    """What the model is fed with in a batch."""
    return {name: array for (view, name, _), array in item.live.items() if view is None}

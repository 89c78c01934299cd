"""A metric that chooses and reports in the place of SQNR, of int8 models as onnxruntime runs them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qtool.core.compute import Compute
from qtool.core.errors import DataError
from qtool.core.records.evaluation import Evaluation, MetricInfo
from qtool.core.records.plan import Plan
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import compare, probe
from qtool.evaluation.metrics.registry import MetricSpec, check_decode, resolve_metric
from qtool.evaluation.run import Reference
from qtool.finetuning.samples import Labelled
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.graph.model_files import model_files
from qtool.pipeline.rewrite.static import rewrite
from qtool.runtime.session import Session

_KEPT = 2**28
"""Bytes of float's outputs that are kept, since many models are compared with them."""


@dataclass(slots=True)
class Measure:
    """Measures the models of plans by a metric.

    source: the float model. prepared: the graph that the plans are for. metric, decode: as in `evaluate`. folder: for
    the models. choosing: the samples that choose.
    """

    source: Path
    prepared: Model
    metric: MetricSpec
    decode: DecodeSpec | None
    folder: Path
    choosing: Labelled
    compute: Compute
    info: MetricInfo = field(init=False)
    _reference: Reference | None = None

    def __post_init__(self) -> None:
        self.info = resolve_metric(self.metric).info

    def check(self, *data: Labelled) -> None:
        """Measure the float model on the first sample of data, so that what is missing is said before any work.

        Raises:
            UsageError, DataError: see `evaluate`.
        """
        for one in data:
            probe(self.source, one, self.metric, self.decode)

    def chosen(self, plan: Plan) -> float:
        """Return the metric of a plan's model on the samples that choose."""
        if self._reference is None:
            self._reference = Reference(Session(self.source), _KEPT)
        found = self._measured([plan], self.choosing, self._reference)
        return found.candidates[0].scores[0].value

    def by_sample(self, plans: Sequence[Plan]) -> list[list[float]]:
        """Return what the metric of each plan's model is worth on each of the samples that choose, by itself.

        NaN where the metric says nothing of a single sample.
        """
        found: list[list[float]] = [[] for _ in plans]
        for sample in self.choosing.one_by_one():
            try:
                values = self.reported(plans, sample)[1]
            except DataError:
                values = [math.nan] * len(plans)
            for figures, value in zip(found, values, strict=True):
                figures.append(math.nan if math.isnan(value) else self.worth(value))
        return found

    def reported(self, plans: Sequence[Plan], reporting: Labelled) -> tuple[float, list[float]]:
        """Return the metric of the float model on the samples that report, and that of each plan's model."""
        found = self._measured(plans, reporting, None)
        return found.float_model.scores[0].value, [one.scores[0].value for one in found.candidates]

    def _measured(self, plans: Sequence[Plan], data: Labelled, reference: Reference | None) -> Evaluation:
        files = [self.folder / f"measured{number}.onnx" for number in range(len(plans))]
        for file, plan in zip(files, plans, strict=True):
            model_io.write(model_io.consume(rewrite(self.prepared, plan)), file)
        found = compare(self.source, files, data, self.metric, self.decode, self.compute, {}, reference)
        for file in files:
            for part in model_files(file):
                part.unlink()
        return found

    def worth(self, value: float) -> float:
        """Return a value of the metric as a figure of which more is better; -inf for NaN."""
        if math.isnan(value):
            return -math.inf
        return -value if self.info.lower_is_better else value


def check_metric(metric: MetricSpec | None, decode: DecodeSpec | None) -> None:
    """Refuse a metric that is unknown or is several, and boxes that nothing reads. Raises `UsageError`."""
    check_decode(() if metric is None else (resolve_metric(metric),), decode)

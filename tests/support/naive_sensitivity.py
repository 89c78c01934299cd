"""The naive sensitivity analysis: for every layer one session of the whole network and one full pass over the data."""

from collections.abc import Iterator, Sequence

from qtool.core.records.sensitivity import Figures, View
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import resolve_metrics
from qtool.evaluation.metrics.similarity import Sqnr
from qtool.feeds import Batch
from qtool.graph import model_io
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.rewrite.static import rewrite
from qtool.runtime.session import Session
from qtool.targets.rules import Target
from qtool.tuning.sensitivity.variants import PlanOf, alone


def naive(
    prepared: Prepared, plan_of: PlanOf, target: Target, batches: Sequence[Batch], metric: str | None, view: View
) -> Iterator[tuple[str, Figures]]:
    """Each layer's name and figures, in graph order."""
    reference = Session(model_io.to_bytes(prepared.model))
    exact = [reference.run(batch.inputs) for batch in batches]
    heads = find_heads(exact[0], batches[0].labels, batches[0].size)
    full = plan_of(())
    value = None
    if metric is not None:
        sums = resolve_metrics([metric])[0].start(heads)
        for batch, outputs in zip(batches, exact, strict=True):
            sums.update(Observation("float", outputs, outputs, batch.labels, batch.start, batch.size))
        value = sums.result()
    for layer in full.quantized:
        plan = alone(prepared.model, full, layer, target) if view == "alone" else plan_of((layer,))
        session = Session(model_io.to_bytes(rewrite(prepared.model, plan)), config=target.session)
        sqnr = Sqnr()
        found = None if metric is None else resolve_metrics([metric])[0].start(heads)
        for batch, outputs in zip(batches, exact, strict=True):
            seen = Observation("quantised", session.run(batch.inputs), outputs, batch.labels, batch.start, batch.size)
            sqnr.update(seen)
            if found is not None:
                found.update(seen)
        if found is None or value is None:
            yield layer, Figures(None, None, sqnr.result())
        else:
            yield layer, Figures(found.result(), value - found.result(), sqnr.result())

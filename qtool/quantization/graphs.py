"""The float graphs that plans are made for: as prepared, with mild masks, with outliers migrated."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qtool.core.records.options import Scheme
from qtool.core.records.statistics import Statistics
from qtool.graph.edit import Model
from qtool.pipeline.planning.planner import PlanMemo, Planner
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.example_statistics import ExampleStatistics, observe_examples
from qtool.pipeline.recovery.refining import agree, smoothed, with_mild_masks
from qtool.pipeline.verify.original import Original
from qtool.targets.rules import Target


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """A float graph, its statistics, and what all plans for it share.

    seen: what was found on the examples; None where nothing is to be measured.
    """

    prepared: Prepared
    statistics: Statistics
    seen: ExampleStatistics | None
    smoothed: bool = False
    memo: PlanMemo = field(default_factory=PlanMemo)

    @property
    def model(self) -> Model:
        """The graph itself."""
        return self.prepared.model

    def planner(self, target: Target, scheme: Scheme) -> Planner:
        """Return a planner of this graph, which shares with the others what it finds out."""
        return Planner(self.prepared, self.statistics, target, scheme, self.memo)


def observed_graph(
    prepared: Prepared, statistics: Statistics, original: Original, *, soften: bool, biases: bool, needed: bool
) -> FloatGraph:
    """Run the graph on the examples and return it with what was seen, with mild masks where they change nothing.

    Args:
        soften: let masks be mild where the graph computes the same with them, which takes a run.
        biases: whether bias correction will ask.
        needed: whether anything else will.
    """
    examples = statistics.examples
    mild = with_mild_masks(prepared) if soften else None
    if mild is not None:
        seen = observe_examples(mild.model, examples, biases=biases)
        if agree(original.outputs, seen.outputs):
            return _graph(mild, statistics, seen, biases)
    if mild is None and not (needed or biases):
        return FloatGraph(prepared, statistics, None)
    plain = observe_examples(prepared.model, examples, biases=biases)
    if mild is not None and agree(plain.outputs, seen.outputs):
        return _graph(mild, statistics, seen, biases)
    return _graph(prepared, statistics, plain, biases)


def _graph(prepared: Prepared, statistics: Statistics, seen: ExampleStatistics, biases: bool) -> FloatGraph:
    memo = PlanMemo(means=seen.means) if biases else PlanMemo()
    return FloatGraph(prepared, statistics, seen, memo=memo)


def migrated(base: FloatGraph, layers: Sequence[str]) -> FloatGraph | None:
    """Return the graph with outliers migrated into the weights of `layers`, the integer ones; None: none gains."""
    found = smoothed(base.prepared, base.statistics, layers, base.seen)
    if found is None:
        return None
    prepared, statistics = found
    seen = base.seen and base.seen.smoothed(base.model, prepared.recipe.smoothing)
    known = base.memo.means is not None and seen is not None
    memo = PlanMemo(ranges=base.memo.ranges, means=seen.means if known and seen is not None else None)
    return FloatGraph(prepared, statistics, seen, smoothed=True, memo=memo)

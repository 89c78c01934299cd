"""The forms of the float graph that plans are made for: with mild masks, with outliers migrated; what they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.statistics import Statistics
from qtool.graph.edit import Model
from qtool.pipeline.planning.ranges import RangeMemo
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.example_statistics import ExampleStatistics, observe_examples
from qtool.pipeline.recovery.refining import agree, smoothed, with_mild_masks
from qtool.pipeline.verify.original import Original


@dataclass(frozen=True, slots=True, eq=False)
class FloatForm:
    """A form of the float graph, and what is known of it. `seen` is None where nothing is to be measured."""

    prepared: Prepared
    statistics: Statistics
    seen: ExampleStatistics | None
    smoothed: bool = False
    memo: WeightMemo = field(default_factory=WeightMemo)
    chosen: RangeMemo = field(default_factory=RangeMemo)

    @property
    def model(self) -> Model:
        """The graph itself."""
        return self.prepared.model


def surveyed(
    prepared: Prepared, statistics: Statistics, original: Original, *, soften: bool, biases: bool, needed: bool
) -> FloatForm:
    """The graph with what is seen in it on the examples.

    Args:
        soften: let masks be mild where the graph computes the same with them, which takes a look.
        biases: whether bias correction will ask.
        needed: whether anything else will.
    """
    examples = statistics.examples
    mild = with_mild_masks(prepared) if soften else None
    if mild is not None:
        seen = observe_examples(mild.model, examples, biases=biases)
        if agree(original.outputs, seen.outputs):
            return FloatForm(mild, statistics, seen)
    if mild is None and not (needed or biases):
        return FloatForm(prepared, statistics, None)
    plain = observe_examples(prepared.model, examples, biases=biases)
    if mild is not None and agree(plain.outputs, seen.outputs):
        return FloatForm(mild, statistics, seen)
    return FloatForm(prepared, statistics, plain)


def migrated(base: FloatForm, layers: Sequence[str]) -> FloatForm | None:
    """The graph with outliers migrated into the weights of `layers`, which will be integer; None if nothing gains."""
    found = smoothed(base.prepared, base.statistics, layers, base.seen)
    if found is None:
        return None
    prepared, statistics = found
    seen = base.seen and base.seen.smoothed(base.model, prepared.recipe.smoothing)
    return FloatForm(prepared, statistics, seen, smoothed=True, chosen=base.chosen)

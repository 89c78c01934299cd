"""The float graphs that plans are made for: as prepared, with masks and attention that are faster, smoothed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.options import Scheme
from qtool.core.records.placement import Placement
from qtool.core.records.plan import Plan
from qtool.core.records.statistics import Statistics
from qtool.graph import compose, edit, model_io, shapes
from qtool.graph.bodies import levels, tensors_inside
from qtool.graph.edit import Array, Model, Value
from qtool.pipeline.planning.planner import PlanMemo, Planner
from qtool.pipeline.planning.settle import Look
from qtool.pipeline.planning.speed import Divider, Measured, Speed, faster_in_float
from qtool.pipeline.planning.wider import with_wider_kernels
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.attention import attentions, faster_joined
from qtool.pipeline.recovery.example_statistics import ExampleStatistics, observe_examples
from qtool.pipeline.recovery.refining import agree, smoothed, with_joined_attention, with_mild_masks
from qtool.pipeline.rewrite.static import rewrite
from qtool.pipeline.verify.census import run_otherwise
from qtool.pipeline.verify.original import Original
from qtool.quantization.scoring import quantize_ahead
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.costs import MEASURED, costs_of
from qtool.targets.rules import Target


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """A float graph, its statistics, and what all plans for it share.

    seen: what was found on the examples; None where nothing is to be measured.
    everything: make integer what can be, also where float is faster.
    """

    prepared: Prepared
    statistics: Statistics
    seen: ExampleStatistics | None
    smoothed: bool = False
    memo: PlanMemo = field(default_factory=PlanMemo)
    everything: bool = False

    @property
    def model(self) -> Model:
        """The graph itself."""
        return self.prepared.model

    def planner(self, target: Target, scheme: Scheme, *, dynamic: bool = False) -> Planner:
        """Return a planner of this graph, which shares with the others what it finds out.

        `dynamic`: whether layers that onnxruntime does not run in integers otherwise may be dynamic.
        """
        look = self.look(target) if target.on_cpu else None
        speed = None if look is None or self.everything else self.speed(target)
        return Planner(self.prepared, self.statistics, target, scheme, self.memo, look, dynamic, speed)

    def speed(self, target: Target, measured: Measured | None = None, doubt: float | None = None) -> Speed | None:
        """Return what finds the layers that are faster in float; None where nothing is known about that.

        It goes by the target's table, and by the shapes that tensors have where the first example is fed; or, with
        `measured` and `doubt`, by a clock, for which see `faster_in_float`.
        """
        costs, examples = costs_of(target.name if measured is None else MEASURED), self.statistics.examples
        if costs is None or not examples:
            return None
        clock = {} if measured is None else {"measured": measured, "doubt": doubt or 1.0}

        def speed(placement: Placement) -> Mapping[str, str]:
            shapes = self._shapes(placement, examples[0])
            found: dict[str, str] = {}
            for level in levels(self.model):
                found |= faster_in_float(level, placement, shapes, costs, _open_ended(target), **clock)  # type: ignore[arg-type]
            return found

        return speed

    def divider(self, target: Target, placement: Placement) -> Divider | None:
        """Return what divides the integer nodes of a placement by time and noise; None where no times were measured.

        Nor where everything is to be integer, which takes no regard of time.
        """
        costs, examples = costs_of(target.name), self.statistics.examples
        if costs is None or not examples or self.everything:
            return None
        return Divider(self.model, placement, self._shapes(placement, examples[0]), costs, _open_ended(target))

    def wider(self, plan: Plan) -> Plan:
        """Return a plan for this graph with wider convolutions where these are faster, unless files are to be small."""
        examples = self.statistics.examples
        if self.everything or not examples:
            return plan
        return with_wider_kernels(self.model, plan, examples[0], self.memo.shapes)

    def _shapes(self, placement: Placement, example: Mapping[str, Array]) -> Mapping[str, tuple[int, ...]]:
        """Of what the placement makes integer, and more; a run tells what does not follow from the inputs."""
        nodes = [node for node in self.model.graph if node.name in placement.integer]
        ends = dict.fromkeys(v for node in nodes for v in (*node.outputs, *(v for _, v in edit.activations(node))))
        found = _shapes_of(self.model, ends, example, self.memo.shapes)
        return {**found, **self._shapes_inside(placement, example)}

    def _shapes_inside(self, placement: Placement, example: Mapping[str, Array]) -> Mapping[str, tuple[int, ...]]:
        """The same of the bodies of If, Loop and Scan, in the first run of each."""
        found = self.memo.shapes_inside
        if found is None:
            found = self.memo.shapes_inside = {}
            nodes = [n for level in levels(self.model)[1:] for n in level.graph if n.name in placement.integer]
            ends = {str(v.name) for node in nodes for v in (*node.outputs, *(v for _, v in edit.activations(node)))}
            runs = BodyRuns(self.model, tensors_inside(self.model, ends), name="the prepared model")
            for run in runs.run(example):
                for name, array in run.found.items():
                    found.setdefault(name, array.shape)
        return found

    def look(self, target: Target) -> Look:
        """Return what finds out which layers of a plan for this graph do not run as it says."""
        return look_at(self.model, target, self.statistics.examples, self.memo.weights)


def _shapes_of(
    model: Model, values: Iterable[Value], example: Mapping[str, Array], found: dict[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """The shapes of these values, and more, where the example is fed; `found` are known, and are added to."""
    if not found:
        found |= shapes.known_shapes(model, {name: array.shape for name, array in example.items()})
    missing = list(dict.fromkeys(str(value.name) for value in values if value.name and value.name not in found))
    if missing:
        session = Session(compose.with_outputs(model, missing), name="the prepared model")
        found |= {name: array.shape for name, array in session.run(example).items()}
    return found


def _open_ended(target: Target) -> set[str]:
    return {op for op, rule in target.rules.items() if not rule.needs_output}


def look_at(model: Model, target: Target, examples: Sequence[Mapping[str, Array]], memo: WeightMemo) -> Look:
    """Return what finds out which layers of a plan for a prepared graph do not run as it says.

    onnxruntime loads its model, and runs it on the first of the examples, which are batches of inputs. `memo`: of this
    graph's weights.
    """

    def look(plan: Plan) -> Mapping[str, str]:
        quantize_ahead(model, [plan], memo)
        session, census = take_census(model_io.consume(rewrite(model, plan, memo)), target.session)
        for example in examples[:1]:
            session.run(example)
        return run_otherwise(plan, census, target)

    return look


def observed_graph(
    prepared: Prepared, statistics: Statistics, original: Original, *, hasten: Target | None, biases: bool, needed: bool
) -> FloatGraph:
    """Run the graph on the examples and return it with what was seen, with what makes it faster and changes nothing.

    Args:
        hasten: the target for which masks are made mild, and attention one kernel where the table of times says so, if
            the graph computes the same then, which takes a run; None: nothing is.
        biases: whether bias correction will ask.
        needed: whether anything else will.
    """
    examples = statistics.examples
    tried = [] if hasten is None else list(_faster(prepared, statistics, hasten))
    if not (tried or needed or biases):
        return FloatGraph(prepared, statistics, None)
    plain: ExampleStatistics | None = None
    for faster in tried:
        seen = observe_examples(faster.model, examples, biases=biases)
        few, exact = len(original.few), original.outputs_of_few
        if few and agree(exact, seen.outputs[:few]):
            return _graph(faster, statistics, seen, biases)
        plain = plain or observe_examples(prepared.model, examples, biases=biases)
        if agree(plain.outputs, seen.outputs) or (few and agree(exact, seen.outputs[:few], plain.outputs[:few])):
            return _graph(faster, statistics, seen, biases)
    return _graph(prepared, statistics, plain or observe_examples(prepared.model, examples, biases=biases), biases)


def _faster(prepared: Prepared, statistics: Statistics, target: Target) -> Iterator[Prepared]:
    """The graphs that are faster if they compute the same, the fastest first."""
    mild = with_mild_masks(prepared)
    base, costs = mild or prepared, costs_of(target.name)
    found = attentions(base.model)
    if costs is not None and statistics.examples and found:
        read = [value for attention in found for value in attention.read]
        joined = faster_joined(found, _shapes_of(base.model, read, statistics.examples[0], {}), costs)
        if joined:
            yield with_joined_attention(base, joined)
    if mild is not None:
        yield mild


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
    return FloatGraph(prepared, statistics, seen, smoothed=True, memo=memo, everything=base.everything)

"""The float graph over any batches -> their statistics; memory does not grow with the number of samples."""

from collections.abc import Callable, Iterable, Sequence

from qtool.core.compute import HERE, Compute
from qtool.core.numerics.histogram import Histogram
from qtool.core.records.examples import Row, joined, row_of
from qtool.core.records.parts import BatchRange, Part, Shard
from qtool.core.records.recipe import check_fixed
from qtool.core.records.statistics import Statistics
from qtool.core.state import State
from qtool.feeds.batching import Batch
from qtool.graph import compose
from qtool.graph.bodies import tensors_inside
from qtool.pipeline.calibration.counter import Counter, InsideBodies, count_all
from qtool.pipeline.calibration.explain import NotFiniteDataError, explained
from qtool.pipeline.calibration.tensors import CalibratedTensors
from qtool.pipeline.prepare import Prepared
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.observer import Observer


class Collector:
    """The prepared graph in a session that hands out its tensors, which `collect` counts on any batches.

    Args:
        tensors: what statistics are of.
        states: with any, a batch is a sequence.
        compute: the provider that the graph runs on, and how many batches run side by side.

    Raises:
        ModelError: onnxruntime cannot load the model with these tensors as outputs.
    """

    def __init__(
        self, prepared: Prepared, tensors: CalibratedTensors, states: Sequence[State], compute: Compute = HERE
    ) -> None:
        self._prepared, self._tensors, self._states, self._threads = prepared, tensors, states, compute.threads
        model = prepared.model
        wanted = dict.fromkeys((*tensors.tensors, *tensors.channels))
        inputs = {v.name for v in model.graph.inputs}
        self._fed = [t for t in wanted if t in inputs]
        inside = tensors_inside(model, wanted)
        in_bodies = tuple(t for names in inside.values() for t in names)
        runs = BodyRuns(model, inside, name=prepared.name) if inside else None
        self._inside = None if runs is None else InsideBodies(runs, in_bodies)
        self._computed = [t for t in wanted if t not in inputs and t not in in_bodies]
        outputs = [str(v.name) for v in model.graph.outputs if v.name not in self._computed]
        carried = {state.output for state in states}
        ordered = {*carried, *tensors.channels, *(tensors.padding.axes if tensors.padding else ())}
        any_order = [t for t in self._computed if t not in ordered]
        graph = compose.with_outputs(model, [*self._computed, *outputs])
        self._observer = Observer(graph, any_order, prepared.name, compute.provider)

    def collect(
        self,
        batches: Iterable[Batch],
        shard: Shard,
        first: int,
        *,
        settings: str = "",
        tell: Callable[[int], None] = lambda _: None,
    ) -> Statistics:
        """Collect and return the statistics of only these batches; the first of them is number `first` of its shard.

        Args:
            settings: see `Part`.
            tell: is told the number of samples seen.

        Raises:
            DataError: the model cannot run on a batch, or a tensor that must be finite is not; it names where that
                is born.
        """
        prepared, wanted = self._prepared, self._tensors
        counter = Counter(prepared.name, self._observer, self._fed, self._computed, wanted, self._states, self._inside)
        rows: tuple[Row, ...] = ()
        samples, stop = 0, first
        try:
            for batch, runs in count_all(counter, batches, self._threads):
                check_fixed(batch.inputs, prepared.recipe.fixed, batch.origin)
                rows = joined(rows, row_of(batch.start, runs))
                samples, stop = samples + batch.size, stop + 1
                tell(samples)
        except NotFiniteDataError as error:
            raise explained(prepared.model, error, prepared.name) from error
        ranges: tuple[BatchRange, ...] = ((first, stop),) if stop > first else ()
        return Statistics(
            prepared.name,
            prepared.digest,
            samples,
            {t: Histogram() if t in counter.flaws else counter.histograms[t] for t in wanted.tensors},
            (),
            channels={t: row for t in wanted.channels if (row := counter.channels.get(t)) and t not in counter.flaws},
            recipe=prepared.recipe,
            flaws=counter.flaws,
            mask=counter.mask,
            part=Part(shard, ranges, complete=False, settings=settings, origin="", rows=rows),
        )

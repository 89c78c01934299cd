"""calibrate: streaming passes of the float graph over the data; memory does not grow with the number of samples."""

from collections.abc import Callable, Iterable, Sequence

from qtool.core.records.examples import EXAMPLES, Row, row_of, with_room
from qtool.core.records.parts import BatchRange, Part, Shard
from qtool.core.records.statistics import Statistics
from qtool.core.state import State
from qtool.feeds.batching import Batch
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.pipeline.calibration.counter import Counter, run_all
from qtool.pipeline.calibration.explain import NotFiniteDataError, explained
from qtool.runtime.observer import Observer

__all__ = ["Collector"]


class Collector:
    """The prepared graph, ready to be observed on any batches.

    Args:
        tensors: what statistics are of. channels: of which tensors the range of each channel is wanted too.
        states: with any, a batch is a sequence.
        name, digest: what to call the model in messages, and the SHA-256 of its file.
        provider: where it runs.
    """

    def __init__(
        self,
        model: Model,
        tensors: Sequence[str],
        channels: Sequence[str],
        states: Sequence[State],
        name: str,
        digest: str,
        provider: str = "cpu",
    ) -> None:
        self._model, self._tensors, self._channels, self._states = model, tensors, channels, states
        self._name, self._digest = name, digest
        wanted = dict.fromkeys((*tensors, *channels))
        inputs = {v.name for v in model.graph.inputs}
        self._fed = [t for t in wanted if t in inputs]
        self._computed = [t for t in wanted if t not in inputs]
        outputs = [str(v.name) for v in model.graph.outputs if v.name not in self._computed]
        carried = {state.output for state in states}
        any_order = [t for t in self._computed if t not in carried and t not in channels]
        self._observer = Observer(compose.with_outputs(model, [*self._computed, *outputs]), any_order, name, provider)

    def observe(
        self,
        batches: Iterable[Batch],
        shard: Shard,
        first: int,
        *,
        settings: str = "",
        threads: int = 1,
        tell: Callable[[int], None] = lambda _: None,
    ) -> Statistics:
        """The statistics of these batches alone, the first of which has the number `first` in its shard.

        Args:
            settings: see `Part`.
            threads: see `run_all`.
            tell: is told the number of samples seen.

        Raises:
            DataError: the model cannot run on a batch, or NaN or Inf is in it or is born in a layer.
        """
        counter = Counter(self._name, self._observer, self._fed, self._computed, self._channels, self._states)
        rows: tuple[Row, ...] = ()
        samples, stop = 0, first
        try:
            for batch, runs in run_all(counter, batches, threads):
                if batch.start < EXAMPLES:
                    rows = with_room((*rows, row_of(batch.start, runs)))
                samples, stop = samples + batch.size, stop + 1
                tell(samples)
        except NotFiniteDataError as error:
            raise explained(self._model, error, self._name) from error
        ranges: tuple[BatchRange, ...] = ((first, stop),) if stop > first else ()
        return Statistics(
            self._name,
            self._digest,
            samples,
            {t: counter.histograms[t] for t in self._tensors},
            (),
            channels={t: counter.channels[t] for t in self._channels if t in counter.channels},
            part=Part(shard, ranges, complete=False, settings=settings, origin="", rows=rows),
        )

"""calibrate: one streaming pass of the float graph over the data; memory does not grow with the number of samples.

Threads are worker threads that each run whole batches, or whole sequences where the model has state, in a session of
one thread. Counts are integers and addition is associative, so the statistics are the same bytes at any number of
threads.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qtool.core.errors import DataError, ModelError
from qtool.core.examples import EXAMPLES, Examples, Runs, candidates
from qtool.core.histogram import ChannelRange, Histogram, NotFiniteError, no_channels
from qtool.core.progress import Progress, silent
from qtool.core.state import State, rollout, sequence_length
from qtool.core.statistics import Statistics
from qtool.graph import compose, edit
from qtool.graph.edit import Model
from qtool.runtime.observe import Observer
from qtool.runtime.session import Session


class Batch(Protocol):
    """What a feed yields: input arrays by name, the number of samples in them, and what to call it in a message."""

    @property
    def inputs(self) -> dict[str, np.ndarray]: ...
    @property
    def size(self) -> int: ...
    @property
    def origin(self) -> str: ...


class Feed(Protocol):
    """A stream of batches; `samples` is their total number where that is known.

    With `states` a batch is a sequence, as `qtool.core.state.rollout` takes it.
    """

    name: str

    @property
    def samples(self) -> int | None: ...
    @property
    def states(self) -> Sequence[State]: ...
    def __iter__(self) -> Iterator[Batch]: ...


def collect(
    model: Model,
    tensors: Sequence[str],
    feed: Feed,
    *,
    name: str,
    digest: str,
    channels: Sequence[str] = (),
    threads: int = 1,
    progress: Progress = silent,
) -> Statistics:
    """Statistics of `tensors` of a prepared graph over all batches of `feed`; of those in `channels`, by channel too.

    Raises:
        DataError: there is no data, the model cannot run on it, or NaN or Inf is in it or is born in a layer, which is
            named then.
    """
    try:
        return _collect(model, tensors, channels, feed, name, digest, threads, progress)
    except _NotFiniteDataError as error:
        raise _explained(model, error, name) from error


def _collect(
    model: Model,
    tensors: Sequence[str],
    channels: Sequence[str],
    feed: Feed,
    name: str,
    digest: str,
    threads: int,
    progress: Progress,
) -> Statistics:
    inputs = {v.name for v in model.graph.inputs}
    computed = [t for t in dict.fromkeys((*tensors, *channels)) if t not in inputs]
    outputs = [str(v.name) for v in model.graph.outputs if v.name not in computed]
    carried = {state.output for state in feed.states}
    any_order = [t for t in computed if t not in carried and t not in channels]
    session = Observer(compose.with_outputs(model, [*computed, *outputs]), any_order, name)
    fed = [t for t in dict.fromkeys((*tensors, *channels)) if t in inputs]
    observer = _Counter(name, session, fed, computed, channels, feed.states)
    samples = 0
    examples = Examples()
    for batch, runs in _run_all(observer, feed, threads):
        if samples < EXAMPLES:
            examples.add(runs)
        samples += batch.size
        progress("calibrate", samples, feed.samples)
    if samples == 0:
        raise DataError(f"{feed.name}: holds no samples; give at least one")
    histograms = {t: observer.histograms[t] for t in tensors}
    by_channel = {t: observer.channels[t] for t in channels if t in observer.channels}
    return Statistics(name, digest, samples, histograms, examples.chosen(), channels=by_channel)


def _run_all(observer: "_Counter", feed: Feed, threads: int) -> Iterator[tuple[Batch, Runs]]:
    """Yield each batch once it has been observed, in order, with the runs of it that may be examples."""
    if threads == 1:
        for batch in feed:
            yield batch, observer.observe(batch)
        return
    waiting: deque[tuple[Batch, Future[Runs]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in feed:
                waiting.append((batch, pool.submit(observer.observe, batch)))
                if len(waiting) > threads:
                    yield _finished(waiting)
            while waiting:
                yield _finished(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(waiting: deque[tuple[Batch, Future[Runs]]]) -> tuple[Batch, Runs]:
    batch, future = waiting.popleft()
    return batch, future.result()


class _Counter:
    """Runs batches and counts; may be called from several threads."""

    def __init__(
        self,
        name: str,
        session: Observer,
        fed: Sequence[str],
        computed: Sequence[str],
        by_channel: Sequence[str],
        states: Sequence[State],
    ) -> None:
        self.name = name
        self.session = session
        self.fed = fed
        self.computed = computed
        self.states = states
        self.histograms = {t: Histogram() for t in (*fed, *computed)}
        self.by_channel = set(by_channel)
        self.channels: dict[str, ChannelRange] = {}
        self.locks = {t: threading.Lock() for t in self.histograms}

    def observe(self, batch: Batch) -> Runs:
        """Count a batch, or every step of a sequence; returns the runs that may be examples."""
        if not self.states:
            self._run(_Run(batch.inputs, batch.origin))
            return (batch.inputs,)

        def run(step: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return self._run(_Run(inputs, f"{batch.origin}, step {step}"))

        steps = sequence_length(self.states, batch.inputs)
        wanted = candidates(steps, sum(array.nbytes for array in batch.inputs.values()) // steps)
        kept = {
            step: {name: array.copy() for name, array in inputs.items()}
            for step, (inputs, _) in enumerate(rollout(run, self.states, batch.inputs))
            if step in wanted
        }
        return tuple(kept[step] for step in wanted)

    def _run(self, run: "_Run") -> dict[str, np.ndarray]:
        """Count one run; returns the outputs that are fed back."""
        try:
            arrays = self.session.run(run.inputs)
        except DataError as error:
            raise DataError(f"{run.origin}: {error}") from error
        for tensor in self.fed:
            self._count(tensor, run.inputs[tensor], run)
        wanted = {state.output for state in self.states}
        carried = {
            tensor: array for tensor, array in zip(self.session.outputs, arrays, strict=True) if tensor in wanted
        }
        for i, tensor in enumerate(self.session.outputs):
            # let go of each array once it is counted
            array, arrays[i] = arrays[i], np.empty(0, np.float32)
            if tensor in self.histograms:
                self._count(tensor, array, run)
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _NotFiniteDataError(tensor, run)
        return carried

    def _count(self, tensor: str, array: np.ndarray, run: "_Run") -> None:
        if array.dtype != np.float32:
            raise ModelError(f"{self.name}: tensor {tensor!r} is {array.dtype}, not float32; cast it in the model")
        try:
            with self.locks[tensor]:
                self.histograms[tensor].observe(array)
                if tensor in self.by_channel:
                    self.channels.setdefault(tensor, no_channels(array.shape[-1])).observe(array)
        except NotFiniteError as error:
            raise _NotFiniteDataError(tensor, run) from error


@dataclass(frozen=True, slots=True)
class _Run:
    """The inputs of one run of the model, and what to call it in a message."""

    inputs: dict[str, np.ndarray]
    origin: str


class _NotFiniteDataError(DataError):
    """NaN or Inf was seen; `_explained` finds out where it comes from."""

    def __init__(self, tensor: str, run: _Run) -> None:
        super().__init__(f"{run.origin}: tensor {tensor!r} holds NaN or Inf; remove the sample or repair the model")
        self.tensor = tensor
        self.run = run


def _explained(model: Model, error: _NotFiniteDataError, name: str) -> DataError:
    run = error.run
    for tensor, array in run.inputs.items():
        if not _finite(array):
            return DataError(f"{run.origin}: input {tensor!r} holds NaN or Inf; remove the sample or repair the data")
    makers = {str(o.name): node for node in model.graph for o in node.outputs if o.uses() or o.is_graph_output()}
    session = Session(compose.with_outputs(model, list(makers)), optimize=False, name=name)
    with np.errstate(all="ignore"):
        for tensor, array in session.run(run.inputs).items():
            if not _finite(array):
                node = makers[tensor]
                for value in node.inputs:
                    constant = edit.constant_or_none(value)
                    if value is not None and constant is not None and not _finite(constant):
                        return DataError(
                            f"{name}: initializer {value.name!r} of layer {node.name!r} ({node.op_type}) holds NaN or "
                            "Inf; repair the model"
                        )
                return DataError(
                    f"{run.origin}: NaN or Inf is born in layer {node.name!r} ({node.op_type}, output {tensor!r}); "
                    "remove the sample, or repair the model"
                )
    return error


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())

"""calibrate: one streaming pass of the float graph over the data; memory does not grow with the number of samples.

Threads are worker threads that each run whole batches in a session of one thread. Counts are integers and addition
is associative, so the statistics are the same bytes at any number of threads.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from qtool.core.errors import DataError, ModelError
from qtool.core.histogram import Histogram, NotFiniteError
from qtool.core.progress import Progress, silent
from qtool.core.statistics import Statistics
from qtool.graph import compose, edit
from qtool.graph.edit import Model
from qtool.runtime.observe import Observer
from qtool.runtime.session import Session

_EXAMPLES = 8
_EXAMPLE_BYTES = 8 * 2**20


class Batch(Protocol):
    """What a feed yields: input arrays by name, the number of samples in them, and what to call it in a message."""

    @property
    def inputs(self) -> dict[str, np.ndarray]: ...
    @property
    def size(self) -> int: ...
    @property
    def origin(self) -> str: ...


class Feed(Protocol):
    """A stream of batches; `samples` is their total number where that is known."""

    name: str

    @property
    def samples(self) -> int | None: ...
    def __iter__(self) -> Iterator[Batch]: ...


def collect(
    model: Model,
    tensors: Sequence[str],
    feed: Feed,
    *,
    name: str,
    digest: str,
    threads: int = 1,
    progress: Progress = silent,
) -> Statistics:
    """Statistics of `tensors` of a prepared graph over all batches of `feed`.

    Raises:
        DataError: there is no data, the model cannot run on it, or NaN or Inf is in it or is born in a layer, which is
            named then.
    """
    try:
        return _collect(model, tensors, feed, name, digest, threads, progress)
    except _NotFiniteDataError as error:
        raise _explained(model, error, name) from error


def _collect(
    model: Model, tensors: Sequence[str], feed: Feed, name: str, digest: str, threads: int, progress: Progress
) -> Statistics:
    inputs = {v.name for v in model.graph.inputs}
    computed = [t for t in tensors if t not in inputs]
    outputs = [str(v.name) for v in model.graph.outputs if v.name not in computed]
    session = Observer(compose.with_outputs(model, [*computed, *outputs]), computed, name)
    observer = _Counter(name, session, [t for t in tensors if t in inputs], computed)
    samples = 0
    examples: list[dict[str, np.ndarray]] = []
    room = _EXAMPLE_BYTES
    for batch in _run_all(observer, feed, threads):
        if samples < _EXAMPLES:
            size = sum(a.nbytes for a in batch.inputs.values())
            if not examples or size <= room:
                examples.append(batch.inputs)
            room -= size
        samples += batch.size
        progress("calibrate", samples, feed.samples)
    if samples == 0:
        raise DataError(f"{feed.name}: holds no samples; give at least one")
    histograms = {t: observer.histograms[t] for t in tensors}
    return Statistics(name, digest, samples, histograms, tuple(examples))


def _run_all(observer: "_Counter", feed: Feed, threads: int) -> Iterator[Batch]:
    """Yield each batch once it has been observed, in order."""
    if threads == 1:
        for batch in feed:
            observer.observe(batch)
            yield batch
        return
    waiting: deque[tuple[Batch, Future[None]]] = deque()
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


def _finished(waiting: deque[tuple[Batch, Future[None]]]) -> Batch:
    batch, future = waiting.popleft()
    future.result()
    return batch


class _Counter:
    """Runs batches and counts; may be called from several threads."""

    def __init__(self, name: str, session: Observer, fed: Sequence[str], computed: Sequence[str]) -> None:
        self.name = name
        self.session = session
        self.fed = fed
        self.computed = computed
        self.histograms = {t: Histogram() for t in (*fed, *computed)}
        self.locks = {t: threading.Lock() for t in self.histograms}

    def observe(self, batch: Batch) -> None:
        try:
            arrays = self.session.run(batch.inputs)
        except DataError as error:
            raise DataError(f"{batch.origin}: {error}") from error
        for tensor in self.fed:
            self._count(tensor, batch.inputs[tensor], batch)
        for i, tensor in enumerate(self.session.outputs):
            # let go of each array once it is counted
            array, arrays[i] = arrays[i], np.empty(0, np.float32)
            if tensor in self.histograms:
                self._count(tensor, array, batch)
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _NotFiniteDataError(tensor, batch)

    def _count(self, tensor: str, array: np.ndarray, batch: Batch) -> None:
        if array.dtype != np.float32:
            raise ModelError(f"{self.name}: tensor {tensor!r} is {array.dtype}, not float32; cast it in the model")
        try:
            with self.locks[tensor]:
                self.histograms[tensor].observe(array)
        except NotFiniteError as error:
            raise _NotFiniteDataError(tensor, batch) from error


class _NotFiniteDataError(DataError):
    """NaN or Inf was seen; `born_in` finds out where it comes from."""

    def __init__(self, tensor: str, batch: Batch) -> None:
        super().__init__(f"{batch.origin}: tensor {tensor!r} holds NaN or Inf; remove the sample or repair the model")
        self.tensor = tensor
        self.batch = batch


def _explained(model: Model, error: _NotFiniteDataError, name: str) -> DataError:
    batch = error.batch
    for tensor, array in batch.inputs.items():
        if not _finite(array):
            return DataError(f"{batch.origin}: input {tensor!r} holds NaN or Inf; remove the sample or repair the data")
    makers = {str(o.name): node for node in model.graph for o in node.outputs if o.uses() or o.is_graph_output()}
    session = Session(compose.with_outputs(model, list(makers)), optimize=False, name=name)
    with np.errstate(all="ignore"):
        for tensor, array in session.run(batch.inputs).items():
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
                    f"{batch.origin}: NaN or Inf is born in layer {node.name!r} ({node.op_type}, output {tensor!r}); "
                    "remove the sample, or repair the model"
                )
    return error


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())

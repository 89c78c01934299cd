"""Runs the float graph over batches and counts the values of the tensors that are calibrated.

Threads are worker threads that each run whole batches, or whole sequences where the model has state, in a session of
one thread. Counts are integers and addition is associative, so the statistics are the same bytes at any number of
threads. Beside them batches are read in the caller's thread, and of a single worker the tensors are counted in a thread
of their own, while it runs the next batch.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import DataError, ModelError
from qtool.core.numerics.histogram import ChannelRange, Histogram, NotFiniteError, no_channels
from qtool.core.records.examples import Runs, candidates
from qtool.core.records.statistics import Flaw
from qtool.core.state import State, rollout, sequence_length
from qtool.feeds.batching import Batch
from qtool.pipeline.calibration.explain import ModelRun, NotFiniteDataError
from qtool.pipeline.calibration.tensors import CalibratedTensors
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.observer import Observer


def count_all(counter: "Counter", batches: Iterable[Batch], threads: int) -> Iterator[tuple[Batch, Runs]]:
    """Yield each batch once it has been counted, in order, with the inputs of it that may become examples."""
    waiting: deque[tuple[Batch, Future[Runs]]] = deque()
    beside = threads == 1 and not counter.states
    with ThreadPoolExecutor(threads) as workers, ThreadPoolExecutor(1) as counting:

        def submit(batch: Batch) -> Future[Runs]:
            if not beside:
                return workers.submit(counter.run_and_count, batch)
            finished = workers.submit(counter.run, batch)
            return counting.submit(lambda: counter.count(finished.result()))

        try:
            for batch in batches:
                # what waits holds its tensors: no more at once than are being run, and counted
                while len(waiting) > threads:
                    yield _finished(waiting)
                waiting.append((batch, submit(batch)))
            while waiting:
                yield _finished(waiting)
        finally:
            counting.shutdown(wait=False, cancel_futures=True)
            workers.shutdown(cancel_futures=True)


def _finished(waiting: deque[tuple[Batch, Future[Runs]]]) -> tuple[Batch, Runs]:
    batch, future = waiting.popleft()
    return batch, future.result()


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run of the model, and the arrays of the session's outputs, which counting lets go of one by one."""

    run: ModelRun
    arrays: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class InsideBodies:
    """The bodies whose tensors are counted, and the names of these tensors."""

    runs: BodyRuns
    tensors: tuple[str, ...]


class Counter:
    """Runs batches and adds their tensors to histograms; may be called from several threads.

    Args:
        name: what to call the model in messages.
        session: hands out the tensors.
        fed: the counted tensors that are inputs of the model.
        computed: the counted tensors that are outputs of the session.
        wanted: of both, whose channels have a range of their own, which must hold neither NaN nor Inf (where others do,
            `flaws` says where first), and where computed ones hold padding.
        states: what is fed back from step to step; with any, a batch is a sequence.
        inside: hands out tensors of the bodies of If, Loop and Scan, in each run of these; None where there are none.
    """

    def __init__(
        self,
        name: str,
        session: Observer,
        fed: Sequence[str],
        computed: Sequence[str],
        wanted: CalibratedTensors,
        states: Sequence[State],
        inside: InsideBodies | None = None,
    ) -> None:
        self.name = name
        self.session = session
        self.fed = fed
        self.computed = computed
        self.states = states
        self.inside = inside
        in_bodies = () if inside is None else inside.tensors
        self.histograms = {t: Histogram() for t in (*fed, *computed, *in_bodies)}
        self.by_channel = set(wanted.channels)
        self.padding = wanted.padding
        self.mask = "" if wanted.padding is None else wanted.padding.mask
        self.channels: dict[str, ChannelRange] = {}
        self.finite = wanted.finite
        self.flaws: dict[str, Flaw] = {}
        self.locks = {t: threading.Lock() for t in self.histograms}

    def run_and_count(self, batch: Batch) -> Runs:
        """Run a batch, or every step of a sequence, and count it; returns the inputs that may become examples.

        Raises:
            DataError: the model cannot run on it, or NaN or Inf is seen.
        """
        if not self.states:
            return self.count(self.run(batch))

        def run(step: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            finished = self._run(ModelRun(inputs, f"{batch.origin}, step {step}", batch.start))
            wanted = {state.output for state in self.states}
            carried = {t: array for t, array in zip(self.session.outputs, finished.arrays, strict=True) if t in wanted}
            self.count(finished)
            return carried

        steps = sequence_length(self.states, batch.inputs)
        wanted = candidates(steps, sum(array.nbytes for array in batch.inputs.values()) // steps)
        kept = {
            step: {name: array.copy() for name, array in inputs.items()}
            for step, (inputs, _) in enumerate(rollout(run, self.states, batch.inputs))
            if step in wanted
        }
        return tuple(kept[step] for step in wanted)

    def run(self, batch: Batch) -> FinishedRun:
        """Run a batch of a model without state; `count` takes what it returns. Raises `DataError`."""
        return self._run(ModelRun(batch.inputs, batch.origin, batch.start))

    def count(self, finished: FinishedRun) -> Runs:
        """Add a finished run's tensors to the histograms; return the inputs that may become examples.

        Raises:
            NotFiniteDataError: a tensor that must not holds NaN or Inf.
            ModelError: a tensor that is to be counted is not float32.
        """
        run, arrays = finished.run, finished.arrays
        for tensor in self.fed:
            self._count(tensor, run.inputs[tensor], run)
        padding = self.padding
        kept = None if padding is None else padding.kept(run.inputs)
        for i, tensor in enumerate(self.session.outputs):
            # let go of each array once it is counted
            array, arrays[i] = arrays[i], np.empty(0, np.float32)
            if tensor in self.histograms:
                self._count(tensor, array if padding is None else padding.selected(tensor, array, kept), run)
        if self.inside is not None:
            self._count_inside(self.inside, run)
        return (run.inputs,)

    def _count_inside(self, inside: InsideBodies, run: ModelRun) -> None:
        try:
            for body in inside.runs.run(run.inputs):
                for tensor, array in body.found.items():
                    self._count(tensor, array, run)
        except DataError as error:
            raise DataError(f"{run.origin}: {error.marked}") from error

    def _run(self, run: ModelRun) -> FinishedRun:
        try:
            return FinishedRun(run, self.session.run(run.inputs))
        except DataError as error:
            raise DataError(f"{run.origin}: {error.marked}") from error

    def _count(self, tensor: str, array: np.ndarray, run: ModelRun) -> None:
        if array.dtype != np.float32:
            raise ModelError(f"{self.name}: tensor {tensor!r} is {array.dtype}, not float32; cast it in the model")
        try:
            with self.locks[tensor]:
                self.histograms[tensor].observe(array)
                if tensor in self.by_channel and array.size:
                    self.channels.setdefault(tensor, no_channels(array.shape[-1])).observe(array)
        except NotFiniteError as error:
            if tensor in self.finite:
                raise NotFiniteDataError(tensor, run) from error
            with self.locks[tensor]:
                flaw = Flaw(run.sample, run.origin)
                self.flaws[tensor] = min(flaw, self.flaws.get(tensor, flaw))

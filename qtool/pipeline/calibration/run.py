"""One pass over the data, here or by workers, with checkpoints."""

import hashlib
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from io import BytesIO

from qtool.core.errors import CalibrationError, DataError, UsageError
from qtool.core.progress import Progress
from qtool.core.records.merging import Sum, whole
from qtool.core.records.parts import BatchRange, Shard, missing
from qtool.core.records.statistics import Statistics, read_statistics
from qtool.execution import run, width
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Data, Feeds, ReadOptions, open_feeds
from qtool.feeds.source import Source
from qtool.graph import edit
from qtool.pipeline.calibration.blocks import BATCHES, MODEL, Block, PassSettings, count_block
from qtool.pipeline.calibration.checkpoint import Checkpoint
from qtool.pipeline.calibration.collector import Collector
from qtool.pipeline.calibration.tensors import collector_of, observed_tensors
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.steps import apply, decide

_SMALLEST, _LARGEST = 32, 256
"""Batches of a block, where nothing else says more or less."""
_SHARES, _MOST = 8, 1024
"""Blocks that each worker should get, and blocks in all."""
_ROOM = 16 * 2**20
"""Bytes of data that a block carries, but for its last batch."""
_ENDLESS = 2**62


@dataclass(slots=True)
class Pass:
    """What is to be counted, and how.

    source: of `feeds`. shard: of the data. threads: here, or of each block. executor: who counts, None for this
    process. checkpoint: None for none.
    """

    prepared: Prepared
    feeds: Feeds
    source: Source
    shard: Shard
    threads: int
    provider: str
    executor: Executor | None
    checkpoint: Checkpoint | None
    progress: Progress
    resumed: int = 0

    def count(self) -> Statistics:
        """The statistics of the shard; of all the data, a whole calibration.

        Raises:
            UsageError: no threads.
            DataError: see `qtool.pipeline.calibration.collector.Collector`; also where there is no data.
            CalibrationError: the checkpoint is of another calibration, or of another version of qtool.
            WorkerError: workers failed.
        """
        if self.threads < 1:
            raise UsageError(f"{self.threads} threads are impossible; give 1 or more")
        total = self._begun()
        for part in self._counted(() if total is None else total.ranges):
            if total is None:
                total = Sum(part)
            else:
                total.add(part)
            self._tell(total.samples)
            if self.checkpoint is not None and time.monotonic() >= self.checkpoint.due:
                self.checkpoint.save(total)
        total = total or Sum(self._collector().observe((), self.shard, 0, settings=self._settings()))
        result = total.statistics(complete=True)
        result = replace(result, name=self.prepared.name, recipe=self.prepared.recipe)
        if self.shard.count > 1:
            return result
        if result.samples == 0:
            raise DataError(f"{self.feeds.name}: holds no samples; give at least one")
        return whole(result)

    def _begun(self) -> Sum | None:
        if self.checkpoint is None:
            return None
        found = self.checkpoint.load(self.prepared.digest, self.prepared.recipe, self.shard, self._settings())
        if found is None:
            return None
        if tuple(found.tensors) != observed_tensors(self.prepared):
            raise CalibrationError(f"{found.name}: is of another version of qtool; remove it to begin anew")
        self.resumed = found.samples
        return Sum(found)

    def _tell(self, samples: int) -> None:
        all_ = self.feeds.samples
        mine = all_ if all_ is None or self.shard.count == 1 else -(-all_ // self.shard.count)
        self.progress("calibrate", samples, mine)

    def _counted(self, done: tuple[BatchRange, ...]) -> Iterator[Statistics]:
        """Parts that together are all batches that are not done yet; at least one, if need be without any batch."""
        gaps = missing(done, 0, _ENDLESS)
        return self._here(gaps) if self.executor is None else self._elsewhere(self.executor, gaps)

    def _here(self, gaps: list[BatchRange]) -> Iterator[Statistics]:
        collector = self._collector()
        settings, before = self._settings(), self.resumed
        for begin, stop in gaps:
            batches, first = _Stream(self.feeds.part(self.shard, begin, stop)), begin
            while not batches.ended:
                due = float("inf") if self.checkpoint is None else self.checkpoint.due

                def tell(samples: int, before: int = before) -> None:
                    self._tell(before + samples)

                part = collector.observe(
                    batches.until(due), self.shard, first, settings=settings, threads=self.threads, tell=tell
                )
                part = replace(part, recipe=self.prepared.recipe)
                first += part.part.batches if part.part is not None else 0
                before += part.samples
                yield part

    def _settings(self) -> str:
        return hashlib.sha256(f"{self.source.settings()} {self.provider}".encode()).hexdigest()

    def _collector(self) -> Collector:
        return collector_of(self.prepared, self.feeds.states, self.provider)

    def _elsewhere(self, executor: Executor, gaps: list[BatchRange]) -> Iterator[Statistics]:
        shared = self._shared()
        samples, each = self.feeds.samples, self.source.batch_size * self.shard.count
        size = block_size(None if samples is None else -(-samples // each), width(executor))
        ended = [_ENDLESS]
        works = (
            self._named_blocks(shared, gaps, size, ended)
            if shared.source.by_path
            else self._given_blocks(shared, gaps, size)
        )

        def supply(block: Block, what: str) -> object:
            if what == MODEL:
                return shared.model.content()
            assert what == BATCHES
            return tuple(self.feeds.part(self.shard, block.first, block.stop))

        for block, data in run(executor, count_block, works, supply):
            part = read_statistics(BytesIO(data), "a worker's statistics")
            assert part.part is not None
            if part.part.batches < block.stop - block.first:
                ended[0] = min(ended[0], block.first + part.part.batches)
            yield replace(part, recipe=self.prepared.recipe)

    def _named_blocks(
        self, shared: PassSettings, gaps: list[BatchRange], size: int, ended: list[int]
    ) -> Iterator[Block]:
        """Blocks that workers read for themselves, until one has found the end of the data."""
        for begin, stop in gaps:
            for first in range(begin, stop, size):
                if first >= ended[0]:
                    return
                yield Block(shared, first, min(first + size, stop))

    def _given_blocks(self, shared: PassSettings, gaps: list[BatchRange], size: int) -> Iterator[Block]:
        """Blocks with their batches, which are read here, once."""
        for begin, stop in gaps:
            first = begin
            for held in _portions(self.feeds.part(self.shard, begin, stop), size):
                yield Block(shared, first, first + len(held), held)
                first += len(held)

    def _shared(self) -> PassSettings:
        settings = self._settings()
        return PassSettings(
            uuid.uuid4().hex,
            ModelFile.of(self.prepared.name),
            self.prepared.name,
            self.prepared.recipe,
            self.source,
            self.feeds.states,
            self.shard,
            settings,
            self.provider,
            self.threads,
        )


def block_size(batches: int | None, workers: int) -> int:
    """Batches of a block: several blocks for each worker, so that none waits, but few in all, since each is merged."""
    if batches is None:
        return _SMALLEST
    fair = -(-batches // workers)
    return max(1, min(fair, max(_SMALLEST, -(-batches // _MOST), min(_LARGEST, fair // _SHARES))))


def _portions(batches: Iterator[Batch], most: int) -> Iterator[tuple[Batch, ...]]:
    """So many at a time, or fewer where they are large."""
    held: list[Batch] = []
    room = _ROOM
    for batch in batches:
        held.append(batch)
        room -= sum(array.nbytes for array in batch.inputs.values())
        if len(held) == most or room <= 0:
            yield tuple(held)
            held, room = [], _ROOM
    if held:
        yield tuple(held)


class _Stream:
    """Batches that can be taken for a while, and later on from there."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.ended = False

    def until(self, due: float) -> Iterator[Batch]:
        """The next ones, at least one, until a time in time.monotonic or the end."""
        for batch in self._batches:
            yield batch
            if time.monotonic() >= due:
                return
        self.ended = True


def observed(
    prepared: Prepared,
    steps: tuple[str, ...],
    feeds: Feeds,
    source: Source,
    threads: int,
    provider: str,
    executor: Executor | None,
    progress: Progress,
) -> tuple[Prepared, Statistics]:
    """The graph with the steps done to it, and its statistics."""
    if steps:
        prepared = apply(prepared, decide(prepared, steps, feeds, progress, provider))
    counting = Pass(prepared, feeds, source, Shard(), threads, provider, executor, None, progress)
    return prepared, counting.count()


def opened(
    prepared: Prepared, data: Data, samples: int | None, batch_size: int, reading: ReadOptions
) -> tuple[Feeds, Source]:
    """The data, once the model is known to hold something that it is for."""
    observed_tensors(prepared)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    feeds = open_feeds(data, inputs, outputs=outputs, samples=samples, batch_size=batch_size, **reading)
    return feeds, Source.of(data, feeds, samples, batch_size, reading)

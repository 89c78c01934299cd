"""A calibration from its data to its statistics, here or by workers, with checkpoints."""

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from io import BytesIO

from qtool.core.compute import Compute
from qtool.core.errors import CalibrationError, DataError
from qtool.core.process import TerminatedError, finishing, uninterrupted
from qtool.core.records.merging import Sum, whole
from qtool.core.records.parts import BatchRange, Shard, missing
from qtool.core.records.statistics import Statistics, read_statistics
from qtool.execution import run, width
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Feeds
from qtool.graph.positions import note_mask
from qtool.pipeline.calibration.blocks import BATCHES, MODEL, Block, BlockSettings, count_block
from qtool.pipeline.calibration.checkpoint import Checkpoint
from qtool.pipeline.calibration.collector import Collector
from qtool.pipeline.calibration.tensors import CalibratedTensors
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
class CalibrationRun:
    """A calibration of one shard of the data, by this process or by workers, and how far it has come.

    tensors: of the prepared graph, what is counted. shard: of the data. checkpoint: None for none. resumed: the number
    of samples that an earlier run had counted, once `count` has begun.
    """

    prepared: Prepared
    feeds: Feeds
    tensors: CalibratedTensors
    compute: Compute
    shard: Shard = field(default_factory=Shard)
    checkpoint: Checkpoint | None = None
    resumed: int = 0

    def __post_init__(self) -> None:
        self.tensors = self.tensors.masked(self.prepared.model, self.feeds.mask)

    def count(self) -> Statistics:
        """Collect and return the statistics of the shard; where it is all of the data, as a whole calibration.

        Raises:
            DataError: see `qtool.pipeline.calibration.collector.Collector`; also where there is no data.
            CalibrationError: the checkpoint is of another calibration, or of another version of qtool.
            WorkerError: workers failed.
        """
        total = self._begun()
        # a block of workers, or a function of the user's, may take longer than anybody waits
        waits = self.checkpoint is not None and self.compute.executor is None and self.feeds.source.by_path
        with finishing() if waits else nullcontext(lambda: False) as asked:
            total = self._sum(total, asked)
        total = total or Sum(self._collector().collect((), self.shard, 0, settings=self._settings()))
        found = total.statistics(complete=True)
        result = replace(found, name=self.prepared.name, read_by=self.feeds.source.read_by())
        if self.shard.count > 1:
            return result
        if result.samples == 0:
            raise DataError(f"{self.feeds.name}: holds no samples; give at least one")
        return whole(result)

    def _sum(self, total: Sum | None, asked: Callable[[], bool]) -> Sum | None:
        """Add all parts to the sum of what an earlier run has counted; less where somebody asks to stop."""
        try:
            for part in self._counted(() if total is None else total.ranges, asked):
                with uninterrupted():
                    if total is None:
                        total = Sum(part)
                    else:
                        total.add(part)
                self._tell(total.samples)
                if self.checkpoint is not None and (asked() or time.monotonic() >= self.checkpoint.due):
                    self.checkpoint.save(total)
                if asked():
                    break
        except (KeyboardInterrupt, TerminatedError):
            if self.checkpoint is not None and total is not None:
                with uninterrupted():
                    self.checkpoint.save(total)
            raise
        return total

    def _begun(self) -> Sum | None:
        if self.checkpoint is None:
            return None
        found = self.checkpoint.load(self.prepared.digest, self.prepared.recipe, self.shard, self._settings())
        if found is None:
            return None
        if tuple(found.tensors) != self.tensors.tensors:
            raise CalibrationError(f"{found.name}: is of another version of qtool; remove it to begin anew")
        self.resumed = found.samples
        return Sum(found)

    def _tell(self, samples: int) -> None:
        all_ = self.feeds.samples
        mine = all_ if all_ is None or self.shard.count == 1 else -(-all_ // self.shard.count)
        self.compute.progress("calibrate", samples, mine)

    def _counted(self, done: tuple[BatchRange, ...], asked: Callable[[], bool]) -> Iterator[Statistics]:
        """Yield parts that together are all batches that are not done; at least one, if need be without any batch.

        asked: whether to stop; a part of what is counted here then ends at once.
        """
        gaps = missing(done, 0, _ENDLESS)
        executor = self.compute.executor
        return self._here(gaps, asked) if executor is None else self._elsewhere(executor, gaps)

    def _here(self, gaps: list[BatchRange], asked: Callable[[], bool]) -> Iterator[Statistics]:
        collector = self._collector()
        settings, before = self._settings(), self.resumed
        for begin, stop in gaps:
            batches, first = _Stream(self.feeds.part(self.shard, begin, stop)), begin
            while not batches.ended:
                due = float("inf") if self.checkpoint is None else self.checkpoint.due

                def tell(samples: int, before: int = before) -> None:
                    self._tell(before + samples)

                part = collector.collect(batches.until(due, asked), self.shard, first, settings=settings, tell=tell)
                first += part.part.batches if part.part is not None else 0
                before += part.samples
                yield part

    def _settings(self) -> str:
        return hashlib.sha256(f"{self.feeds.source.settings()} {self.compute.provider}".encode()).hexdigest()

    def _collector(self) -> Collector:
        return Collector(self.prepared, self.tensors, self.feeds.states, self.compute)

    def _elsewhere(self, executor: Executor, gaps: list[BatchRange]) -> Iterator[Statistics]:
        shared = self._shared()
        samples, each = self.feeds.samples, self.feeds.source.batch_size * self.shard.count
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
            yield part

    def _named_blocks(
        self, shared: BlockSettings, gaps: list[BatchRange], size: int, ended: list[int]
    ) -> Iterator[Block]:
        """Yield blocks that workers read for themselves, until one has found the end of the data."""
        for begin, stop in gaps:
            for first in range(begin, stop, size):
                if first >= ended[0]:
                    return
                yield Block(shared, first, min(first + size, stop))

    def _given_blocks(self, shared: BlockSettings, gaps: list[BatchRange], size: int) -> Iterator[Block]:
        """Yield blocks with their batches, which are read here, once."""
        for begin, stop in gaps:
            first = begin
            for held in _portions(self.feeds.part(self.shard, begin, stop), size):
                yield Block(shared, first, first + len(held), held)
                first += len(held)

    def _shared(self) -> BlockSettings:
        prepared = self.prepared
        return BlockSettings(
            key=uuid.uuid4().hex,
            model=ModelFile.of(prepared.path),
            name=prepared.name,
            recipe=prepared.recipe,
            tensors=self.tensors,
            source=self.feeds.source,
            states=self.feeds.states,
            shard=self.shard,
            settings=self._settings(),
            compute=self.compute.in_worker(),
        )


def block_size(batches: int | None, workers: int) -> int:
    """Choose and return the number of batches that a block holds.

    Several blocks for each worker, so that none waits; but few in all, since each is merged.

    Args:
        batches: of the shard, None where that is not known.
        workers: how many blocks are counted at a time.
    """
    if batches is None:
        return _SMALLEST
    fair = -(-batches // workers)
    return max(1, min(fair, max(_SMALLEST, -(-batches // _MOST), min(_LARGEST, fair // _SHARES))))


def _portions(batches: Iterator[Batch], most: int) -> Iterator[tuple[Batch, ...]]:
    """Yield so many batches at a time, or fewer where they are large."""
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

    def until(self, due: float, asked: Callable[[], bool]) -> Iterator[Batch]:
        """Yield the next batches, at least one, until a time in time.monotonic, the end, or somebody asks to stop."""
        for batch in self._batches:
            yield batch
            if asked() or time.monotonic() >= due:
                return
        self.ended = True


def count_prepared(
    prepared: Prepared, steps: Sequence[str], feeds: Feeds, tensors: CalibratedTensors, compute: Compute
) -> tuple[Prepared, Statistics]:
    """Do the steps to a prepared graph that none was done to; return what becomes of it, and its statistics.

    Raises:
        DataError, WorkerError: see `CalibrationRun.count`.
    """
    prepared = with_steps(prepared, steps, feeds, compute)
    statistics = CalibrationRun(prepared, feeds, tensors, compute).count()
    note_mask(prepared.model, statistics.mask)
    return prepared, statistics


def with_steps(prepared: Prepared, steps: Sequence[str], feeds: Feeds, compute: Compute) -> Prepared:
    """Do the steps to a prepared graph that none was done to, and return what becomes of it.

    For any step, all of the data is read.

    Raises:
        DataError: the model cannot run on the data, or there is none.
    """
    return apply(prepared, decide(prepared, steps, feeds, compute)) if steps else prepared

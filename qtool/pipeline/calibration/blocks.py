"""Blocks of batches, counted by workers."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from qtool.core.compute import Compute
from qtool.core.records.parts import Shard
from qtool.core.records.recipe import Recipe
from qtool.core.state import State
from qtool.execution import Missing
from qtool.execution.running import Supplies
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Feeds, open_source
from qtool.feeds.source import Source
from qtool.graph import edit, model_io
from qtool.graph.finite import fed_specs
from qtool.pipeline.calibration.collector import Collector
from qtool.pipeline.calibration.tensors import CalibratedTensors
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.steps import apply

MODEL, BATCHES = "model", "batches"
"""What a worker may lack."""


@dataclass(frozen=True, slots=True)
class BlockSettings:
    """The settings that all blocks of a calibration have in common.

    key: of this one calibration, since workers outlive it, and the data may be another by the next. name: what to call
    the model in messages. compute: of one worker.
    """

    key: str
    model: ModelFile
    name: str
    recipe: Recipe
    tensors: CalibratedTensors
    source: Source
    states: tuple[State, ...]
    shard: Shard
    settings: str
    compute: Compute


@dataclass(frozen=True, slots=True)
class Block:
    """The batches `first` to before `stop` of the shard; `batches` where the data cannot be opened elsewhere."""

    shared: BlockSettings
    first: int
    stop: int
    batches: tuple[Batch, ...] | None = None


@dataclass(frozen=True, slots=True)
class _BlockCounter:
    """A model ready to be counted, and the data if it is there."""

    collector: Collector
    feeds: Feeds | None


_KEPT = 2
_LOCK = threading.Lock()
_COUNTERS: OrderedDict[str, _BlockCounter] = OrderedDict()


def count_block(block: Block, supplies: Supplies) -> bytes | Missing:
    """Return the statistics of a block as a file's bytes, of fewer batches than asked for where the data ends.

    Raises:
        DataError: see `Collector.collect`.
    """
    shared = block.shared
    with _LOCK:
        counter = _COUNTERS.get(shared.key) or _block_counter(shared, supplies)
        if counter is None:
            return Missing((MODEL,))
        _COUNTERS[shared.key] = counter
        _COUNTERS.move_to_end(shared.key)
        while len(_COUNTERS) > _KEPT:
            _COUNTERS.popitem(last=False)
    batches = block.batches or supplies.get(BATCHES)
    if batches is None:
        if counter.feeds is None:
            return Missing((BATCHES,))
        batches = counter.feeds.part(shared.shard, block.first, block.stop)
    return counter.collector.collect(batches, shared.shard, block.first, settings=shared.settings).to_bytes()


def _block_counter(shared: BlockSettings, supplies: Supplies) -> _BlockCounter | None:
    path = shared.model.find(supplies.get(MODEL))
    if path is None:
        return None
    prepared = replace(apply(prepare(model_io.load(path)), shared.recipe), name=shared.name)
    collector = Collector(prepared, shared.tensors, shared.states, shared.compute)
    inputs, outputs = fed_specs(prepared.model), edit.output_specs(prepared.model)
    return _BlockCounter(collector, open_source(shared.source, inputs, outputs))

"""Blocks of batches, counted by workers."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from qtool.core.records.parts import Shard
from qtool.core.records.recipe import Recipe
from qtool.core.state import State
from qtool.execution import Missing
from qtool.execution.running import Supplies
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Feeds
from qtool.feeds.source import Source
from qtool.graph import edit, model_io
from qtool.pipeline.calibration.collector import Collector
from qtool.pipeline.calibration.tensors import collector_of
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.steps import apply

MODEL, BATCHES = "model", "batches"
"""What a worker may lack."""


@dataclass(frozen=True, slots=True)
class PassSettings:
    """What all blocks of a calibration have in common.

    key: of this one pass, since workers outlive it, and the data may be another by the next. threads: that one block
    may use.
    """

    key: str
    model: ModelFile
    name: str
    recipe: Recipe
    source: Source
    states: tuple[State, ...]
    shard: Shard
    settings: str
    provider: str
    threads: int


@dataclass(frozen=True, slots=True)
class Block:
    """The batches `first` to before `stop` of the shard; `batches` where the data cannot be opened elsewhere."""

    shared: PassSettings
    first: int
    stop: int
    batches: tuple[Batch, ...] | None = None


@dataclass(frozen=True, slots=True)
class _BlockCounter:
    """A model ready to be observed, and the data if it is there."""

    collector: Collector
    feeds: Feeds | None


_KEPT = 2
_LOCK = threading.Lock()
_COUNTERS: OrderedDict[str, _BlockCounter] = OrderedDict()


def count_block(block: Block, supplies: Supplies) -> bytes | Missing:
    """The statistics of a block, as a file's bytes; fewer batches than asked for where the data ends."""
    shared = block.shared
    with _LOCK:
        counter = _COUNTERS.get(shared.key) or _made(shared, supplies)
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
    statistics = counter.collector.observe(
        batches, shared.shard, block.first, settings=shared.settings, threads=shared.threads
    )
    return statistics.to_bytes()


def _made(shared: PassSettings, supplies: Supplies) -> _BlockCounter | None:
    path = shared.model.find(supplies.get(MODEL))
    if path is None:
        return None
    prepared = replace(apply(prepare(model_io.load(path)), shared.recipe), name=shared.name)
    collector = collector_of(prepared, shared.states, shared.provider)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    return _BlockCounter(collector, shared.source.open_here(inputs, outputs))

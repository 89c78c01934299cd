"""Blocks of batches, counted by workers."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from qtool.calibration.observed import collector_of
from qtool.core.parts import Shard
from qtool.core.preparation import Preparation
from qtool.core.state import State
from qtool.execution import Missing
from qtool.execution.running import Supplies
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Feeds
from qtool.feeds.source import Source
from qtool.graph import edit, model_io
from qtool.recovery.preparing import apply
from qtool.stages.calibrate import Collector
from qtool.stages.prepare import prepare

MODEL, BATCHES = "model", "batches"
"""What a worker may lack."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all blocks of a calibration have in common.

    key: of this one pass, since workers outlive it, and the data may be another by the next. threads: that one block
    may use.
    """

    key: str
    model: ModelFile
    name: str
    preparation: Preparation
    source: Source
    states: tuple[State, ...]
    shard: Shard
    settings: str
    provider: str
    threads: int


@dataclass(frozen=True, slots=True)
class Block:
    """The batches `first` to before `stop` of the shard; `batches` where the data cannot be opened elsewhere."""

    recipe: Recipe
    first: int
    stop: int
    batches: tuple[Batch, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Bench:
    """A model ready to be observed, and the data if it is there."""

    collector: Collector
    feeds: Feeds | None


_KEPT = 2
_LOCK = threading.Lock()
_BENCHES: OrderedDict[str, _Bench] = OrderedDict()


def count_block(block: Block, supplies: Supplies) -> bytes | Missing:
    """The statistics of a block, as a file's bytes; fewer batches than asked for where the data ends."""
    recipe = block.recipe
    with _LOCK:
        bench = _BENCHES.get(recipe.key) or _made(recipe, supplies)
        if bench is None:
            return Missing((MODEL,))
        _BENCHES[recipe.key] = bench
        _BENCHES.move_to_end(recipe.key)
        while len(_BENCHES) > _KEPT:
            _BENCHES.popitem(last=False)
    batches = block.batches or supplies.get(BATCHES)
    if batches is None:
        if bench.feeds is None:
            return Missing((BATCHES,))
        batches = bench.feeds.part(recipe.shard, block.first, block.stop)
    statistics = bench.collector.observe(
        batches, recipe.shard, block.first, settings=recipe.settings, threads=recipe.threads
    )
    return statistics.to_bytes()


def _made(recipe: Recipe, supplies: Supplies) -> _Bench | None:
    path = recipe.model.find(supplies.get(MODEL))
    if path is None:
        return None
    prepared = replace(apply(prepare(model_io.load(path)), recipe.preparation), name=recipe.name)
    collector = collector_of(prepared, recipe.states, recipe.provider)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    return _Bench(collector, recipe.source.open_here(inputs, outputs))

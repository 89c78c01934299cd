"""Every model over the same batches, here or by workers; what they make of a batch comes back in order."""

import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from qtool.core.compute import Compute
from qtool.core.concurrency import in_order
from qtool.core.records.parts import Shard
from qtool.core.records.recipe import check_fixed
from qtool.core.state import State, sequence_length
from qtool.evaluation.doubts import Spread, spreads_of
from qtool.evaluation.parts import FloatOutputs
from qtool.evaluation.recurrence import run_sequence
from qtool.evaluation.trial import run_numeric
from qtool.execution import Missing, run
from qtool.execution.running import Supplies
from qtool.execution.supplies import ModelFile
from qtool.feeds import Batch, Feeds, open_source
from qtool.feeds.batching import Place
from qtool.feeds.source import Source
from qtool.graph.finite import fed_specs_of
from qtool.runtime.session import Session

_BLOCK = 16
"""Batches of a block."""
_BATCHES = "batches"
_MODEL = "model "


@dataclass(frozen=True, slots=True)
class BatchRun:
    """The outputs of all models for a batch, the first model's first, and what is asked of the batch itself.

    spreads, shapes: of its inputs, by name. inputs: themselves, None where workers were not asked for them. places: of
    its samples. mask: the input whose zeros are padding, None where there is none.
    """

    outputs: tuple[dict[str, np.ndarray], ...]
    labels: dict[str, np.ndarray]
    start: int
    size: int
    steps: int
    origin: str
    spreads: dict[str, Spread]
    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, np.ndarray] | None
    places: tuple[Place, ...]
    mask: np.ndarray | None = None


@dataclass(slots=True)
class Reference:
    """The first of the models, and what it computes on data that is run over again and again, as far as that fits.

    room: bytes that are left for it. judged: how its outputs are, once that is known.
    """

    session: Session
    room: int
    judged: FloatOutputs | None = None
    known: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def outputs(self, batch: Batch, states: Sequence[State]) -> dict[str, np.ndarray]:
        """Return the outputs for a batch of this data. Raises as `run_models` does."""
        found = self.known.get(batch.start)
        if found is None:
            found = _outputs(self.session, batch, states)
            size = sum(output.nbytes for output in found.values())
            if size <= self.room:
                self.room -= size
                self.known[batch.start] = found
        return found


def run_models(
    sessions: Sequence[Session],
    paths: Sequence[Path],
    feeds: Feeds,
    compute: Compute,
    *,
    beside: bool = False,
    reference: Reference | None = None,
    inputs: bool = False,
) -> Iterator[BatchRun]:
    """Run each batch through all models, where `compute` says; yields them in order.

    Args:
        sessions: the models in this process.
        paths: their files, which workers load.
        beside: let the threads take a batch each, so that their number changes no figure, instead of all of them the
            same one; `sessions` have one thread then.
        reference: of the first model, where it has one; workers do without.
        inputs: whether what the models were fed is wanted back from workers.

    Raises:
        ModelError: an output is not a tensor of numbers.
        DataError: a model does not run on a batch, or is made for one value of an input, and the data hold another.
        WorkerError: a worker failed.
    """
    if compute.executor is None:
        threads = compute.threads if beside else 1
        return run_here(sessions, feeds, feeds.states, threads, reference, mask=feeds.mask)
    return _run_elsewhere(compute.executor, paths, feeds, compute.in_worker(), beside=beside, inputs=inputs)


def run_here(
    sessions: Sequence[Session],
    batches: Iterable[Batch],
    states: Sequence[State],
    beside: int = 1,
    reference: Reference | None = None,
    *,
    mask: str | None = None,
) -> Iterator[BatchRun]:
    """Run each batch through all models in this process, so many batches at once; yields them in order.

    `mask`: the input whose zeros are padding. Raises as `run_models` does.
    """

    def run(batch: Batch) -> BatchRun:
        for session in sessions:
            check_fixed(batch.inputs, session.fixed, batch.origin, session.name)
        known = () if reference is None else (reference.outputs(batch, states),)
        outputs = (*known, *(_outputs(session, batch, states) for session in sessions[len(known) :]))
        steps = sequence_length(states, batch.inputs) if states else 0
        shapes = {name: array.shape for name, array in batch.inputs.items()}
        spreads = spreads_of(batch.inputs)
        of_batch = (batch.labels, batch.start, batch.size, steps, batch.origin)
        masked = None if mask is None else batch.inputs[mask]
        return BatchRun(outputs, *of_batch, spreads, shapes, batch.inputs, batch.places, masked)

    if beside == 1:
        yield from map(run, batches)
        return
    with ThreadPoolExecutor(beside) as pool:
        yield from in_order(pool, beside + 1, run, batches)


def _outputs(session: Session, batch: Batch, states: Sequence[State]) -> dict[str, np.ndarray]:
    return run_sequence(session, batch.inputs, states) if states else run_numeric(session, batch.inputs)


@dataclass(frozen=True, slots=True)
class _Block:
    """The batches `first` to before `stop` through the models; `batches` where the data cannot be opened elsewhere.

    key: of this one evaluation, since the data may be another by the next. compute: of one worker. beside, inputs: as
    for `run_models`.
    """

    key: str
    models: tuple[ModelFile, ...]
    source: Source
    states: tuple[State, ...]
    mask: str | None
    compute: Compute
    beside: bool
    inputs: bool
    first: int
    stop: int
    batches: tuple[Batch, ...] | None = None


def _run_elsewhere(
    executor: Executor, paths: Sequence[Path], feeds: Feeds, compute: Compute, *, beside: bool, inputs: bool
) -> Iterator[BatchRun]:
    models = tuple(ModelFile.of(path) for path in paths)
    key = uuid.uuid4().hex
    ended = False

    def block(first: int, batches: tuple[Batch, ...] | None = None) -> _Block:
        stop = first + _BLOCK
        return _Block(
            key, models, feeds.source, feeds.states, feeds.mask, compute, beside, inputs, first, stop, batches
        )

    def blocks() -> Iterator[_Block]:
        first, given = 0, iter(feeds)
        while not ended:
            batches = None if feeds.source.by_path else tuple(islice(given, _BLOCK))
            if batches == ():
                return
            yield block(first, batches)
            first += _BLOCK

    def supply(wanted: _Block, what: str) -> object:
        if what == _BATCHES:
            return tuple(feeds.part(Shard(), wanted.first, wanted.stop))
        return models[int(what.removeprefix(_MODEL))].content()

    for work, found in run(executor, _run_block, blocks(), supply, in_order=True):
        ended = ended or len(found) < work.stop - work.first
        yield from found


@dataclass(frozen=True, slots=True)
class _BlockRunner:
    """The models in sessions, and the data if it is there."""

    sessions: tuple[Session, ...]
    feeds: Feeds | None


_LOCK = threading.Lock()
_RUNNERS: dict[str, _BlockRunner] = {}


def _run_block(block: _Block, supplies: Supplies) -> list[BatchRun] | Missing:
    with _LOCK:
        runner = _RUNNERS.get(block.key)
        if runner is None:
            paths = [model.find(supplies.get(f"{_MODEL}{i}")) for i, model in enumerate(block.models)]
            lacking = tuple(f"{_MODEL}{i}" for i, path in enumerate(paths) if path is None)
            if lacking:
                return Missing(lacking)
            # models come and go while tuning: one set at a time
            _RUNNERS.clear()
            runner = _RUNNERS[block.key] = _block_runner(block, [path for path in paths if path is not None])
    batches = block.batches or supplies.get(_BATCHES)
    if batches is None:
        if runner.feeds is None:
            return Missing((_BATCHES,))
        batches = runner.feeds.part(Shard(), block.first, block.stop)
    threads = block.compute.threads if block.beside else 1
    found = run_here(runner.sessions, batches, block.states, threads, mask=block.mask)
    return [run if block.inputs else replace(run, inputs=None) for run in found]


def _block_runner(block: _Block, paths: Sequence[Path]) -> _BlockRunner:
    compute = block.compute
    sessions = tuple(
        Session(path, threads=1 if block.beside else compute.threads, provider=compute.provider, name=model.path)
        for path, model in zip(paths, block.models, strict=True)
    )
    inputs = fed_specs_of(sessions[0].inputs, paths[0])
    return _BlockRunner(sessions, open_source(block.source, inputs, sessions[0].output_specs))

"""The base networks over the data, and what they hand to the parts that run again, within a memory budget."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.concurrency import in_order
from qtool.core.errors import VerificationError
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import check_fixed
from qtool.core.records.sensitivity import View
from qtool.feeds import Batch, Feeds
from qtool.graph import compose
from qtool.graph.edit import Model
from qtool.pipeline.rewrite.static import rewrite
from qtool.runtime.census import take_census
from qtool.runtime.session import Session
from qtool.targets.rules import Target
from qtool.tuning.sensitivity.cut import Base, Cut

Key = tuple[View | None, str, bool]
"""A tensor: of the base of which view (None: an input of the model), its name, and whether in 8 bits."""
_STREAMED = 8
"""Jobs that are measured side by side where nothing can be kept."""


@dataclass(frozen=True, slots=True)
class Job:
    """One layer in one view: the plan that differs in it, what must run again, and what that reads of the base."""

    layer: str
    view: View
    variant: Plan
    cut: Cut
    needs: tuple[Key, ...]


def make_job(layer: str, view: View, base: Base, variant: Plan) -> Job:
    """Cut the base where the variant differs from it, and return the job that runs again."""
    inputs = {str(v.name) for v in base.model.graph.inputs}
    cut = base.cut(variant)
    made, needs = set(cut.piece.makes), dict.fromkeys(cut.piece.reads)
    for stage in base.stages[cut.next_stage :]:
        needs.update({tensor: None for tensor in stage.reads if tensor not in made})
        made |= set(stage.makes)
    keys = tuple((None if name in inputs else view, name, stored) for name, stored in needs)
    return Job(layer, view, variant, cut, keys)


@dataclass(frozen=True, slots=True)
class Item:
    """One batch. outputs: of each view's base; float's under `alone`. live: what was asked for of their inside.

    shapes: of the inputs, by name.
    """

    start: int
    size: int
    labels: dict[str, np.ndarray]
    digest: bytes
    outputs: dict[View, dict[str, np.ndarray]]
    live: dict[Key, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs whose inputs are kept at once, and which are measured one after another.

    Not `kept`: what a single one reads is too large; it is computed anew, and all are measured batch by batch.
    """

    jobs: tuple[Job, ...]
    kept: bool


class Bases:
    """The float network and the one that is quantised throughout, run over all data as often as it takes."""

    def __init__(self, prepared: Model, full: Plan, target: Target, feeds: Feeds, name: str, memory: int) -> None:
        self._prepared, self._full, self._target = prepared, full, target
        self._feeds, self._name, self._memory = feeds, name, memory
        self._quantized = rewrite(prepared, full)
        self._stored = compose.stored_names(prepared, self._quantized)
        self._batches: list[Batch] | None = None
        self.outputs = [str(v.name) for v in prepared.graph.outputs]

    def groups(self, jobs: Sequence[Job]) -> list[Group]:
        """Return the jobs in their order, as many in a group as fit into memory.

        Raises:
            DataError: there is no data, or an input has another value than the one that it is fixed to.
        """
        first = next(iter(self._feeds))
        item = self._item(first, *self._sessions(jobs))
        batches = -(-(self._feeds.samples or sum(batch.size for batch in self._feeds)) // first.size)
        fed = sum(a.nbytes for a in first.inputs.values()) * batches
        room = self._memory
        if fed <= room // 4:
            self._batches = []
            room -= fed
        room -= batches * sum(a.nbytes for outputs in item.outputs.values() for a in outputs.values())
        groups: list[Group] = []
        taken: list[Job] = []
        kept = True
        for job in jobs:
            fits = self._fits([job], item, batches, room)
            full = not self._fits([*taken, job], item, batches, room) if kept else len(taken) == _STREAMED
            if taken and (fits != kept or full):
                groups.append(Group(tuple(taken), kept))
                taken = []
            taken.append(job)
            kept = fits
        return [*groups, Group(tuple(taken), kept)]

    def _fits(self, jobs: Sequence[Job], item: Item, batches: int, room: int) -> bool:
        keys = {key for job in jobs for key in job.needs}
        return sum(item.live[key].nbytes for key in keys) * batches <= room

    def items(
        self, jobs: Sequence[Job], pool: ThreadPoolExecutor, ahead: int, known: Sequence[Item] = ()
    ) -> Iterator[Item]:
        """Yield every batch, in order, with what the jobs read.

        `known`: the items of other jobs, if they were kept.
        """
        sessions, wanted = self._sessions(jobs)
        if not known:
            yield from in_order(pool, ahead, lambda batch: self._item(batch, sessions, wanted), self._data())
            return
        used = {view: session for view, session in sessions.items() if wanted[view]}

        def renewed(pair: tuple[Item, Batch]) -> Item:
            item, batch = pair
            return replace(item, live=self._live(batch, used, wanted, {}))

        yield from in_order(pool, ahead, renewed, zip(known, self._data(), strict=True))

    def _data(self) -> Iterable[Batch]:
        if self._batches is None:
            return self._feeds
        if not self._batches:
            self._batches = list(self._feeds)
        return self._batches

    def _sessions(self, jobs: Sequence[Job]) -> tuple[dict[View, Session], dict[View, dict[str, Key]]]:
        """A session for each base, and which of its outputs is which tensor."""
        wanted: dict[View, dict[str, Key]] = {"alone": {}, "without": {}}
        for key in (key for job in jobs for key in job.needs):
            view, tensor, stored = key
            if view is not None:
                wanted[view][self._stored[tensor] if stored else tensor] = key
        exact = compose.with_outputs(self._prepared, list(dict.fromkeys([*self.outputs, *wanted["alone"]])))
        quantized = compose.with_outputs(self._quantized, list(dict.fromkeys([*self.outputs, *wanted["without"]])))
        session, census = take_census(quantized, self._target.session)
        for layer in self._full.layers:
            kernels = self._full.integer.get(layer) if self._target.on_cpu else None
            if kernels is not None and not census.runs_as(layer, kernels):
                raise VerificationError(
                    f"layer {layer!r} was planned to run in integers, but this onnxruntime runs it in float; "
                    "please report this model"
                )
        return {"alone": Session(exact, name=self._name), "without": session}, wanted

    def _item(self, batch: Batch, sessions: Mapping[View, Session], wanted: Mapping[View, Mapping[str, Key]]) -> Item:
        check_fixed(batch.inputs, sessions["alone"].fixed, batch.origin, "the calibration")
        outputs: dict[View, dict[str, np.ndarray]] = {}
        live = self._live(batch, sessions, wanted, outputs)
        labels = {name: _read_only(array) for name, array in batch.labels.items()}
        shapes = {name: array.shape for name, array in batch.inputs.items()}
        return Item(batch.start, batch.size, labels, _digest(batch), outputs, live, shapes)

    def _live(
        self,
        batch: Batch,
        sessions: Mapping[View, Session],
        wanted: Mapping[View, Mapping[str, Key]],
        outputs: dict[View, dict[str, np.ndarray]],
    ) -> dict[Key, np.ndarray]:
        """What is wanted of the inside of the bases; their outputs go into `outputs`."""
        live: dict[Key, np.ndarray] = {(None, name, False): array for name, array in batch.inputs.items()}
        for view, session in sessions.items():
            made = session.run(batch.inputs)
            live.update({key: made[name] for name, key in wanted[view].items()})
            outputs[view] = {name: _read_only(made[name]) for name in self.outputs}
        return live


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _digest(batch: Batch) -> bytes:
    digest = hashlib.sha256()
    for kind in (batch.inputs, batch.labels):
        for name, array in sorted(kind.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return digest.digest()

"""Measures variants of the float and of the quantised network over all data, in this process."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from qtool.core.compute import Compute
from qtool.core.records.sensitivity import View
from qtool.feeds import Feeds
from qtool.feeds.formats.sequences import unrolled
from qtool.graph import model_io
from qtool.runtime.session import Session
from qtool.targets.rules import Target
from qtool.tuning.sensitivity.analysis import Analysis
from qtool.tuning.sensitivity.bases import Bases, Group, Item, Job, make_job
from qtool.tuning.sensitivity.chain import PieceChain, PieceModel
from qtool.tuning.sensitivity.cut import Base
from qtool.tuning.sensitivity.variants import Variant


def measure(
    analysis: Analysis,
    variants: Sequence[Variant],
    target: Target,
    feeds: Feeds,
    compute: Compute,
    memory: int,
    earlier: dict[str, str],
) -> None:
    """Find the figures of the variants, and, where the analysis has none yet, those of the whole networks.

    Args:
        earlier: the identity of what an earlier run left on disk, which must be this one's; empty for none.
    """
    prepared, full = analysis.prepared, analysis.full
    if feeds.states:
        feeds = unrolled(feeds, Session(model_io.serialize(prepared.model), name=prepared.name).run)
    networks: Mapping[View, Base] = {
        "alone": Base(prepared.model, full.without_all()),
        "without": Base(prepared.model, full),
    }
    jobs = [make_job(variant.layer, variant.view, networks[variant.view], variant.plan) for variant in variants]
    stages: dict[tuple[View, int], PieceModel] = {}

    def build(job: Job) -> PieceChain:
        return PieceChain(job, networks[job.view], stages, target, prepared.name)

    bases = Bases(prepared.model, full, target, feeds, prepared.name, memory)
    workers = compute.threads
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as builder:
        try:
            known: list[Item] = []
            for group in bases.groups(jobs):
                kept = list(bases.items(group.jobs, pool, workers + 1, known)) if group.kept else []
                items = _Items(bases, group, kept, pool, workers + 1)
                if not analysis.samples:
                    analysis.overall(iter(items), feeds.name, earlier)
                steps = [(job,) for job in group.jobs] if group.kept else [group.jobs]
                upcoming: list[Future[PieceChain]] = []
                for n, step in enumerate(steps):
                    compute.progress("measure layers", analysis.done, analysis.total)
                    chains = upcoming or [builder.submit(build, job) for job in step]
                    upcoming = [builder.submit(build, job) for job in steps[n + 1]] if n + 1 < len(steps) else []
                    analysis.measure(step, chains, iter(items), pool, workers + 1)
                known = [replace(item, live={}) for item in kept]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            builder.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Items:
    """The batches of a group, as often as they are wanted."""

    bases: Bases
    group: Group
    kept: list[Item]
    pool: ThreadPoolExecutor
    ahead: int

    def __iter__(self) -> Iterator[Item]:
        return iter(self.kept) if self.group.kept else self.bases.items(self.group.jobs, self.pool, self.ahead)

"""sensitivity: what each layer costs when it alone is quantised, and what is gained when it alone is not.

Measured on what onnxruntime executes. Source: the paper, section 6.2 (partial quantisation). Only what lies behind the
changed layer is run again; what that reads was kept from one run of the float network, or of the quantised one.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from qtool.core.errors import ModelError, UsageError
from qtool.core.files import check_writable
from qtool.core.plan import Plan
from qtool.core.progress import Progress, silent
from qtool.core.ranges import Calibrator, chosen_calibrators
from qtool.core.scheme import CORRECTIONS, Correction, Scheme
from qtool.core.sensitivity import VIEWS, Sensitivity, View
from qtool.core.statistics import Statistics
from qtool.evaluation.metrics import Metric, MetricSpec, resolve_metrics
from qtool.feeds import Data, Feeds, ReadOptions, open_feeds
from qtool.feeds.sequences import unrolled
from qtool.graph import edit, model_io
from qtool.recovery.preparing import apply_recorded, statistics_for
from qtool.runtime.session import Session
from qtool.stages.prepare import Prepared, prepare
from qtool.targets.rules import Target
from qtool.targets.tables import find_target
from qtool.tuning.sensitivity_analysis import Analysis
from qtool.tuning.sensitivity_chain import Chain, PieceModel
from qtool.tuning.sensitivity_cut import Base
from qtool.tuning.sensitivity_file import load_found
from qtool.tuning.sensitivity_plans import Planner, PlanOf, alone, emptied
from qtool.tuning.sensitivity_store import Bases, Group, Item, Job, make_job

PathLike = str | Path
MEMORY = 2**30


def sensitivity(
    model: PathLike,
    data: Data,
    *,
    calibration: PathLike | Statistics,
    metric: MetricSpec | None = None,
    calibrator: Calibrator | str | None = None,
    scheme: Scheme | None = None,
    target: str = "auto",
    bias_correction: Correction = "auto",
    views: Sequence[View] = VIEWS,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    memory: int = MEMORY,
    output: PathLike | None = None,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Sensitivity:
    """Measure every layer that would be quantised, alone and left out, and rank them.

    Args:
        model: path of a float ONNX model.
        data: samples, and labels where the metric needs them; see `qtool.evaluate`, also for metric.
        calibration: a calibration file, or the statistics themselves.
        metric: one metric. None: as in `qtool.evaluate`, where that is not sqnr, else SQNR alone.
        calibrator, scheme, target, bias_correction: as for `qtool.quantize`.
        views: `alone`: one layer quantised; `without`: all quantised but one. The first one given ranks.
        samples: use the first so many samples; None uses all.
        batch_size: samples run at once, where the model's batch dimension is free.
        threads: batches run side by side, None for all cores; the result is the same at any number.
        memory: bytes that kept tensors may take; less costs time, not precision.
        output: a file that every finished layer is written to; if it exists, the analysis goes on from it.
        progress: is told of every layer.
        reading: preprocess, tokenizer, max_length, trim, state: see `qtool.feeds.ReadOptions`. With `state` steps are
            measured one by one, each from the float model's state.

    Raises:
        UsageError: options that make no sense, or an `output` that belongs to another analysis.
        ModelError, DataError, CalibrationError, OutputError: as their names say.
        VerificationError: this onnxruntime does not run the quantised model as planned.
    """
    if bias_correction not in CORRECTIONS:
        raise UsageError(f"unknown bias correction {bias_correction!r}; choose one of {', '.join(CORRECTIONS)}")
    if output is not None:
        check_writable(output)
    runs_on = find_target(target)
    prepared = prepare(model_io.load(model))
    statistics = statistics_for(prepared, calibration)
    prepared = apply_recorded(prepared, statistics)
    planner = Planner(
        prepared, statistics, runs_on, scheme or Scheme(), chosen_calibrators(calibrator), bias_correction
    )
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    feeds = open_feeds(data, inputs, outputs=outputs, samples=samples, batch_size=batch_size, **reading)
    return measure_layers(
        prepared,
        planner,
        runs_on,
        feeds,
        metric=metric,
        views=views,
        threads=threads,
        memory=memory,
        output=output,
        progress=progress,
    )


def measure_layers(
    prepared: Prepared,
    plan_of: PlanOf,
    target: Target,
    feeds: Feeds,
    *,
    metric: MetricSpec | None = None,
    views: Sequence[View] = VIEWS,
    threads: int | None = None,
    memory: int = MEMORY,
    output: PathLike | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """`sensitivity` with plans from anywhere: `plan_of(())` is the full one, `plan_of((layer,))` leaves a layer out."""
    if not target.on_cpu:
        raise UsageError(
            f"target {target.name} does not run on this machine, where sensitivity is measured; choose auto"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads are impossible; give 1 or more")
    if not views or not set(views) <= set(VIEWS):
        raise UsageError(f"unknown views {', '.join(views) or '(none)'}; choose among {', '.join(VIEWS)}")
    chosen = resolve_metrics([metric])[0] if metric is not None else None
    path = None if output is None else Path(output)
    full = plan_of(())
    identity = _identity(full, chosen, views)
    found, earlier = load_found(path, identity) if path is not None else ({}, {})
    analysis = Analysis(prepared, full, chosen, tuple(views), identity, path, found, feeds.states)
    if feeds.states:
        feeds = unrolled(feeds, Session(model_io.serialize(prepared.model), name=prepared.name).run)
    networks: dict[View, Base] = {
        "alone": Base(prepared.model, emptied(full)),
        "without": Base(prepared.model, full),
    }
    jobs = list(_jobs(networks, plan_of, target, views, analysis))
    stages: dict[tuple[View, int], PieceModel] = {}

    def build(job: Job) -> Chain:
        return Chain(job, networks[job.view], stages, target, prepared.name)

    bases = Bases(prepared.model, full, target, feeds, prepared.name, memory)
    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as builder:
        try:
            known: list[Item] = []
            for group in bases.groups(jobs):
                kept = list(bases.items(group.jobs, pool, workers + 1, known)) if group.kept else []
                items = _Items(bases, group, kept, pool, workers + 1)
                if not analysis.samples:
                    analysis.overall(iter(items), feeds.name, earlier)
                steps = [(job,) for job in group.jobs] if group.kept else [group.jobs]
                upcoming: list[Future[Chain]] = []
                for n, step in enumerate(steps):
                    progress("measure layers", analysis.done, analysis.total)
                    chains = upcoming or [builder.submit(build, job) for job in step]
                    upcoming = [builder.submit(build, job) for job in steps[n + 1]] if n + 1 < len(steps) else []
                    analysis.measure(step, chains, iter(items), pool, workers + 1)
                known = [replace(item, live={}) for item in kept]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            builder.shutdown(wait=False, cancel_futures=True)
    progress("measure layers", analysis.total, analysis.total)
    return analysis.finish()


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


def _identity(full: Plan, metric: Metric | None, views: Sequence[View]) -> dict[str, str]:
    plan = json.dumps(full.to_dict(), sort_keys=True).encode()
    return {
        "model": full.model_digest,
        "plan": hashlib.sha256(plan).hexdigest(),
        "metric": "default" if metric is None else metric.name,
        "views": ", ".join(views),
    }


def _jobs(
    networks: Mapping[View, Base], plan_of: PlanOf, target: Target, views: Sequence[View], analysis: Analysis
) -> Iterator[Job]:
    """What is still to be measured, in graph order."""
    model, full = networks["without"].model, networks["without"].plan
    operators = {str(n.name): n.op_type for n in model.graph}
    for layer in full.layers:
        for view in views:
            if layer not in full.integer or (layer, view) in analysis.found:
                continue
            if view == "alone":
                rule = target.rules[operators[layer]]
                yield make_job(layer, view, networks[view], alone(model, full, layer, needs_output=rule.needs_output))
                continue
            try:
                yield make_job(layer, view, networks[view], plan_of((layer,)))
            except ModelError as error:
                analysis.found[layer, view] = str(error)

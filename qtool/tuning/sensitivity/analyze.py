"""sensitivity: what each layer costs when it alone is quantised, and what is gained when it alone is not.

Measured on what onnxruntime executes. Source: the paper, section 6.2 (partial quantisation). Only what lies behind the
changed layer is run again; what that reads was kept from one run of the float network, or of the quantised one.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Unpack

from qtool.core.errors import ModelError, UsageError
from qtool.core.files import check_writable
from qtool.core.numerics.calibrators import Calibrator, chosen_calibrators
from qtool.core.progress import Progress, silent
from qtool.core.records.codec import encoded
from qtool.core.records.options import CORRECTIONS, Correction, Scheme
from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import VIEWS, Sensitivity, View
from qtool.core.records.statistics import Statistics
from qtool.evaluation.metrics.registry import Metric, MetricSpec, resolve_metrics
from qtool.feeds import Data, Feeds, ReadOptions, open_feeds
from qtool.feeds.source import NOWHERE, Source
from qtool.graph import edit, model_io
from qtool.graph.edit import Model
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.recovery.steps import apply_recorded, statistics_for
from qtool.targets.rules import Target
from qtool.targets.tables import find_target
from qtool.tuning.sensitivity.analysis import Analysis
from qtool.tuning.sensitivity.resume import load_found
from qtool.tuning.sensitivity.run import Variant, measure
from qtool.tuning.sensitivity.variants import Planner, PlanOf, alone
from qtool.tuning.sensitivity.workers import measure_elsewhere

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
    executor: Executor | None = None,
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
        executor: where layers are measured, a few in each piece of work, `threads` and `memory` each; None is this
            process. See `qtool.calibrate`.
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
    if not runs_on.on_cpu:
        raise UsageError(
            f"target {runs_on.name} does not run on this machine, where sensitivity is measured; choose auto"
        )
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
        executor=executor,
        source=Source.of(data, feeds, samples, batch_size, reading),
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
    executor: Executor | None = None,
    source: Source = NOWHERE,
    progress: Progress = silent,
) -> Sensitivity:
    """`sensitivity` with plans from anywhere: `plan_of(())` is the full one, `plan_of((layer,))` leaves a layer out.

    `source` is where the executor's workers find the data of `feeds`.
    """
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
    variants = _variants(prepared.model, full, plan_of, target, views, analysis)
    if executor is None:
        measure(analysis, variants, target, feeds, threads, memory, earlier, progress)
    else:
        measure_elsewhere(analysis, variants, feeds, source, metric, threads, memory, earlier, executor, progress)
    progress("measure layers", analysis.total, analysis.total)
    return analysis.finish()


def _variants(
    model: Model, full: Plan, plan_of: PlanOf, target: Target, views: Sequence[View], analysis: Analysis
) -> list[Variant]:
    """What is still to be measured, in graph order."""
    operators = {str(n.name): n.op_type for n in model.graph}
    variants: list[Variant] = []
    for layer in full.layers:
        for view in views:
            if layer not in full.integer or (layer, view) in analysis.found:
                continue
            if view == "alone":
                rule = target.rules[operators[layer]]
                variants.append(Variant(layer, view, alone(model, full, layer, needs_output=rule.needs_output)))
                continue
            try:
                variants.append(Variant(layer, view, plan_of((layer,))))
            except ModelError as error:
                analysis.found[layer, view] = str(error)
    return variants


def _identity(full: Plan, metric: Metric | None, views: Sequence[View]) -> dict[str, str]:
    plan = json.dumps(encoded(full), sort_keys=True).encode()
    return {
        "model": full.model_digest,
        "plan": hashlib.sha256(plan).hexdigest(),
        "metric": "default" if metric is None else metric.name,
        "views": ", ".join(views),
    }

"""sensitivity: what each layer costs when it alone is quantised, and what is gained when it alone is not.

Measured on what onnxruntime executes. Source: the paper, section 6.2 (partial quantisation). Only what lies behind the
changed layer is run again; what that reads was kept from one run of the float network, or of the quantised one.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal, Unpack

from qtool.core.arguments import checked_types
from qtool.core.compute import HERE, Compute
from qtool.core.concurrency import cores
from qtool.core.errors import ModelError, NothingToQuantizeError, UsageError, arg
from qtool.core.files import check_writable
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.progress import Progress, during, silent
from qtool.core.records.codec import encoded
from qtool.core.records.options import Correction, Form, Names, Scheme
from qtool.core.records.plan import Plan
from qtool.core.records.sensitivity import VIEWS, Sensitivity, View
from qtool.core.records.statistics import Statistics
from qtool.evaluation.decoding.user import DecodeSpec, decoder_name
from qtool.evaluation.evaluate import probe, with_boxes
from qtool.evaluation.metrics.registry import Metric, MetricSpec, resolve_metric
from qtool.feeds import Data, Feeds, LabelledOptions, open_for_model
from qtool.feeds.reading import refuse_mask
from qtool.graph.edit import Model
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.steps import apply_recorded, statistics_for
from qtool.quantization.candidates import best_plan
from qtool.quantization.halves import halved, original_of
from qtool.quantization.ranking import quantized_heads
from qtool.quantization.request import Request, prepared_for
from qtool.targets.rules import Target
from qtool.targets.tables import find_target
from qtool.tuning.sensitivity.analysis import LABELLED, Analysis
from qtool.tuning.sensitivity.resume import load_found
from qtool.tuning.sensitivity.run import measure
from qtool.tuning.sensitivity.variants import PlanOf, Variant, excluded_names, variant_of, variant_of_head
from qtool.tuning.sensitivity.workers import measure_elsewhere

PathLike = str | Path
MEMORY = 2**30


@checked_types
def sensitivity(
    model: PathLike,
    data: Data,
    *,
    calibration: PathLike | Statistics,
    metric: MetricSpec | None = None,
    decode: DecodeSpec | None = None,
    calibrator: Calibrator | str | None = None,
    scheme: Scheme | None = None,
    target: str = "auto",
    form: Form | Literal["auto"] = "auto",
    bias_correction: Correction = "auto",
    smoothing: Correction = "auto",
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    views: View | Sequence[View] = VIEWS,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    memory: int = MEMORY,
    output: PathLike | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Sensitivity:
    """Measure every layer that `quantize` would quantise, and every head, alone and left out; return them ranked.

    The plan, and the float graph that it is for, are those that `qtool.quantize` chooses with the same calibration.

    Args:
        model: path of a float ONNX model.
        data: samples, and labels where the metric needs them; see `qtool.evaluate`, also for metric.
        calibration: a calibration file, or the statistics themselves.
        metric: one metric. None: as in `qtool.evaluate`, where that is not sqnr, else SQNR alone.
        decode: how the outputs become boxes, as in `qtool.evaluate`.
        calibrator, scheme, target, form, bias_correction, smoothing, include_ops, exclude_ops, exclude: as for
            `qtool.quantize`.
        views: `alone`: one layer quantised; `without`: all quantised but one. The first one given ranks.
        samples: use the first so many samples; None uses all.
        batch_size: samples run at once, where the model's batch dimension is free.
        threads: batches run side by side, None for all cores; the result is the same at any number.
        memory: bytes that kept tensors may take; less costs time, not precision.
        output: a file that every finished layer is written to; if it exists, the analysis goes on from it.
        executor: where layers are measured, a few in each piece of work, `threads` and `memory` each; None is this
            process. See `qtool.calibrate`.
        progress: is told of every layer.
        reading: preprocess, tokenizer, max_length, trim, state, labels: see `qtool.feeds.LabelledOptions`. With `state`
            steps are measured one by one, each from the float model's state.

    Raises:
        UsageError: options that make no sense, or an `output` that belongs to another analysis.
        ModelError, DataError, CalibrationError, OutputError: as their names say.
        VerificationError: this onnxruntime does not run the quantised model as planned, or no layer can be measured.
    """
    if output is not None:
        check_writable(output)
    # within a worker a single thread, which has the others beside it
    every = 1 if executor is not None else cores()
    compute = Compute(every if threads is None else threads, executor=executor, progress=progress)
    runs_on = find_target(target)
    if not runs_on.on_cpu:
        raise UsageError(
            f"target {runs_on.name} does not run on this machine, where sensitivity is measured; choose "
            f"{arg('target', 'auto')}"
        )
    wanted = (scheme or Scheme()).selecting(include_ops, exclude_ops, exclude)
    refuse_mask(reading)
    request = Request.of(
        wanted,
        runs_on,
        form=form,
        calibrator=calibrator,
        correction=bias_correction,
        smoothing=smoothing,
    )
    prepared = during(progress, "prepare", lambda: prepared_for(request, model))
    statistics = statistics_for(prepared, calibration)
    prepared = apply_recorded(prepared, statistics)
    # what the data lacks is said before the search
    found = probe(model, data, metric, decode, **reading)
    if found.metrics[0].name == "sqnr" and not (found.numbers or found.places):
        raise UsageError(f"{prepared.name}: no output holds numbers, so SQNR is not measured; {LABELLED}")
    half = halved(prepared, statistics)
    loaded = prepared
    best, _ = during(
        progress, "choose the plan", lambda: best_plan(loaded, half.choosing, request, original_of(loaded, half))
    )
    prepared = best.graph.prepared
    if not best.plan.quantized:
        raise NothingToQuantizeError(
            f"{prepared.name}: no layer is quantised with these options, and tables of rows are not ranked; leave more "
            "layers to quantise"
        )
    feeds = open_for_model(prepared.model, data, samples=samples, batch_size=batch_size, **with_boxes(decode, reading))
    feeds.source.check_like(statistics.read_by, statistics.name)
    return measure_layers(
        prepared,
        lambda floating: best.leaving(floating, settled=False),
        runs_on,
        feeds,
        again=best.leaving,
        metric=metric,
        decode=decode,
        views=views,
        compute=compute,
        memory=memory,
        output=output,
    )


def measure_layers(
    prepared: Prepared,
    plan_of: PlanOf,
    target: Target,
    feeds: Feeds,
    *,
    again: PlanOf | None = None,
    metric: MetricSpec | None = None,
    decode: DecodeSpec | None = None,
    views: View | Sequence[View] = VIEWS,
    compute: Compute = HERE,
    memory: int = MEMORY,
    output: PathLike | None = None,
) -> Sensitivity:
    """Measure every layer of the full plan, and every head of several layers, alone and left out; return them ranked.

    `plan_of` makes the plans: `plan_of(())` is the full one, `plan_of((layer,))` leaves a layer out. `again` makes them
    where onnxruntime does not run the others as planned. Other arguments and the errors are those of `sensitivity`.
    """
    asked: tuple[View, ...] = (views,) if isinstance(views, str) else tuple(views)
    if not asked or not set(asked) <= set(VIEWS):
        raise UsageError(f"unknown views {', '.join(asked) or '(none)'}; choose among {', '.join(VIEWS)}")
    chosen = resolve_metric(metric) if metric is not None else None
    path = None if output is None else Path(output)
    compute.progress("run all layers", 0, None)
    full = plan_of(())
    identity = _identity(full, chosen, asked)
    if decode is not None:
        identity["decode"] = decoder_name(decode)
    found, earlier = load_found(path, identity) if path is not None else ({}, {})
    regions = {head: excluded_names(plan_of, head) for head in quantized_heads(prepared.model, full)}
    analysis = Analysis(prepared, full, chosen, asked, identity, path, found, feeds.states, decode, regions)

    def run(variants: Sequence[Variant]) -> None:
        if compute.executor is None:
            measure(analysis, variants, target, feeds, compute, memory, earlier)
        else:
            measure_elsewhere(analysis, variants, feeds, metric, compute, memory, earlier)

    variants = _variants(prepared.model, full, plan_of, target, asked, analysis)
    run(variants)
    odd = {(v.layer, v.view): v.plan for v in variants if isinstance(analysis.found[v.layer, v.view], str)}
    if odd:
        planned = _variants(prepared.model, full, again or plan_of, target, asked, analysis, odd)
        run([variant for variant in planned if variant.plan != odd[variant.layer, variant.view]])
    compute.progress("measure layers", analysis.total, analysis.total)
    analysis.check_any_measured()
    return analysis.finish()


def _variants(
    model: Model,
    full: Plan,
    plan_of: PlanOf,
    target: Target,
    views: Sequence[View],
    analysis: Analysis,
    odd: Collection[tuple[str, View]] = (),
) -> list[Variant]:
    """What is still to be measured, layers in graph order, then heads.

    `odd`: only these, in another form: they did not run as planned.
    """
    heads = {head.name: head for head in analysis.regions}
    variants: list[Variant] = []
    for name in analysis.names:
        for view in views:
            if ((name, view) not in odd) if odd else ((name, view) in analysis.found):
                continue
            try:
                if name in heads:
                    variants.append(variant_of_head(model, full, plan_of, heads[name], view))
                else:
                    variants.append(variant_of(model, full, plan_of, target, name, view, closed=bool(odd)))
            except ModelError as error:
                analysis.found[name, view] = str(error)
    return variants


def _identity(full: Plan, metric: Metric | None, views: Sequence[View]) -> dict[str, str]:
    plan = json.dumps(encoded(full), sort_keys=True).encode()
    return {
        "model": full.model_digest,
        "plan": hashlib.sha256(plan).hexdigest(),
        "metric": "default" if metric is None else metric.name,
        "views": ", ".join(views),
    }

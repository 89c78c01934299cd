"""`quantize`, stage by stage. No click, no printing."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.errors import UsageError, arg
from qtool.core.files import together
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress, during, silent
from qtool.core.records.doubts import calibration_doubts, grid_doubts, notes, with_ranges
from qtool.core.records.evaluation import MaxDrop
from qtool.core.records.options import Bits, BlockWise, Correction, Form, Names, Rounding, Scheme, Written
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import ASKED
from qtool.core.records.results import MUCH_SMALLER, Quantized, Verdict
from qtool.core.records.statistics import Statistics
from qtool.evaluation.decoding.likely import likely_decoders
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import with_boxes
from qtool.evaluation.limits import Limits, ShareLimit, SizeLimit
from qtool.evaluation.metrics.registry import MetricSpec
from qtool.feeds import Data, Feeds, LabelledOptions, open_for_model
from qtool.feeds.reading import as_given, unlabelled
from qtool.graph import model_io
from qtool.graph.contents import contents
from qtool.graph.model_files import model_size
from qtool.pipeline.calibration.advice import advising
from qtool.pipeline.calibration.run import count_prepared
from qtool.pipeline.calibration.tensors import CalibratedTensors, find_tensors
from qtool.pipeline.planning.place import place
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.prepare.fixed_inputs import Fixing, parse_fixed
from qtool.pipeline.recovery.steps import chosen_steps, idle_lines, statistics_for
from qtool.pipeline.recovery.weight_rounding import left_alone
from qtool.quantization.asked import asked_of, grid_options
from qtool.quantization.blind import arithmetic_alone, check_raised, is_blind, without_data
from qtool.quantization.decision import Decision, Proven, decide, mend, prove
from qtool.quantization.gates import gates_of
from qtool.quantization.given import as_calibrated, check_files, given_plan, grid_given, refuse_decided
from qtool.quantization.halves import halved, original_of
from qtool.quantization.labelled import DropLimit
from qtool.quantization.request import Goal, Request, blocks_of, prepared_for, refuse_beside_blocks
from qtool.quantization.timing import timed
from qtool.quantization.wanted import Wanted
from qtool.runtime.providers import find_provider
from qtool.runtime.versions import version_doubts
from qtool.targets.tables import find_target

PathLike = str | Path
_NO_EXAMPLES = "the calibration holds no examples"


@checked_types
def quantize(
    model: PathLike,
    output: PathLike,
    *,
    calibration: PathLike | Statistics | None = None,
    data: Data | None = None,
    calibrator: Calibrator | str | None = None,
    scheme: Scheme | None = None,
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    target: str = "auto",
    form: Form | Literal["auto"] = "auto",
    weights: Bits | None = None,
    block: int | None = None,
    rounding: Rounding | None = None,
    weight_format: Written | None = None,
    bias_correction: Correction = "auto",
    smoothing: Correction = "auto",
    refine: Correction = "auto",
    optimize_for: Goal = "accuracy",
    min_sqnr: float | None = None,
    min_agreement: ShareLimit = None,
    min_integer: ShareLimit = None,
    min_speedup: float | None = None,
    max_size: SizeLimit = None,
    metric: MetricSpec | None = None,
    decode: DecodeSpec | None = None,
    max_drop: MaxDrop | str | float | None = None,
    max_float_macs: float | str | None = None,
    partial: bool = True,
    equalize: bool = False,
    absorb_biases: bool = False,
    fix: Fixing = (),
    plan: PathLike | Plan | None = None,
    save_plan: PathLike | None = None,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int = 1,
    provider: str = "cpu",
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Quantized:
    """Write the int8 model, after checking what onnxruntime will really run; return what was done and measured.

    Args:
        model: path of a float ONNX model.
        output: where to write the int8 model.
        calibration: a calibration file, or the statistics themselves.
        data: calibrates first instead; see `calibrate`, also for samples, batch_size, threads, provider and reading.
        calibrator: how ranges are chosen; None or "auto" tries `qtool.core.numerics.calibrators.CANDIDATES` on the
            examples that the statistics hold and keeps the best by SQNR of the outputs.
        scheme: representation, granularity, and what stays float.
        include_ops, exclude_ops, exclude: operator types, and names of nodes or globs; as in `Scheme`, which must not
            have the same one.
        target: where the model shall run; `auto` is this machine.
        bias_correction: let the biases take back the shift that rounding the weights makes, measured on the examples;
            `auto` keeps it where the outputs' SQNR is better with it.
        min_sqnr: the SQNR of the worst output that is asked for, in dB. Where it is missed the model is written all the
            same, and `Quantized.verdict` says so. None wants 20 dB.
        min_agreement, min_integer, min_speedup, max_size: gates on what is written, which `Quantized.gates` answers:
            the share of predictions on the examples that are float's, of multiply-accumulates in integer kernels
            ("95%", or 0.95), the speed as a multiple of float's here, the size ("30%" of float's, "5MB", or bytes).
        max_drop: gate on a metric with labels, which `data` must have: "1%" of float's value, or 0.01 in its unit,
            measured on the samples that did not choose; `Quantized.evaluation` has the figures.
        metric, decode: of `max_drop`, as in `evaluate`; a single metric.
        max_float_macs: the share of multiply-accumulates that may be left in float for it, 0 to 1 or "10%", which None
            means as well.
        partial: where the SQNR on the examples is less, leave the fewest and cheapest layers in float that mend it.
        equalize, absorb_biases: with data, see `calibrate`; a calibration file that was made with them has them
            already, one that was made without them is refused.
        fix: with data or without any, see `calibrate`; a calibration file and a plan have it already.
        plan: apply this plan (a file or a value) instead of making one, to the graph that it was made for; it needs no
            data. Without, the arithmetic is checked on made-up inputs, and accuracy is not measured.
        save_plan: where to write the plan.
        form: of the layers. `dynamic` and `weight-only` need no data; `auto` measures static and dynamic ones where
            layers over tokens allow both, and takes what is better.
        weights: store the matrices of products and tables in blocks of so many bits, and nothing else: see `BlockWise`,
            which block (32 without it), rounding and weight_format are of. What cannot be in blocks is stored in 8 bits
            by channel. With data, as few weights as reach `min_sqnr` have 8 bits instead of 4, unless `partial` is
            unset. The scheme is that of the blocks' grids.
        smoothing: migrate outliers of activations into weights (SmoothQuant); `auto` where it measures better.
        refine: round the weights of static layers to what these compute on the examples (GPTQ), with scales that fit
            it; `auto` where weights have one scale a tensor or 7 bits, and it measures better.
        optimize_for: `latency` times the candidates on this machine, takes the fastest of those near the best SQNR, and
            lets a profile decide what stays float. `size` leaves nothing in float for speed; by default, what is faster
            there by the target's table of times stays float, which is the same on any machine.

    Raises:
        UsageError: options that contradict each other.
        ModelError, DataError, CalibrationError, OutputError: as their names say; nothing has been written then.
        VerificationError: the model would compute something else than planned; nothing has been written then.
    """
    check_files(
        model, {"output": output, "save_plan": save_plan}, {"calibration": calibration, "data": data, "plan": plan}
    )
    drop = DropLimit.of(max_drop, metric, decode, reading, has_data=data is not None)
    reading = with_boxes(decode, reading)
    form, blocks = blocks_of(form, weights, block, rounding, weight_format)
    blind = is_blind(form, calibration, data, reading, planned=plan is not None)
    compute = Compute(threads, provider, progress=progress)
    _check_provider(provider, used=data is not None)
    measures = {
        "min_sqnr": min_sqnr is not None,
        "min_agreement": min_agreement is not None,
        "min_speedup": min_speedup is not None,
        "max_float_macs": max_float_macs is not None,
        "partial": not partial,
    }
    on_data = "on" in (bias_correction, smoothing, refine) or optimize_for == "latency"
    _refuse_unmeasured(measures, blocks, blind=blind, on_data=on_data)
    aim = Wanted.of(min_sqnr, max_float_macs)
    limits = Limits.of(min_agreement, min_integer, min_speedup, max_size)
    spent = aim if partial and not blind else None
    wanted = (scheme or Scheme()).selecting(include_ops=include_ops, exclude_ops=exclude_ops, exclude=exclude)
    request = replace(
        Request.of(
            wanted,
            find_target(target),
            form=form,
            calibrator=calibrator,
            correction="off" if blind else bias_correction,
            smoothing="off" if blind else smoothing,
            goal=optimize_for,
            progress=progress,
            blocks=blocks,
        ),
        refinement="off" if blind else refine,
    )
    steps = chosen_steps(equalize=equalize, absorb_biases=absorb_biases)
    if plan is not None:
        refuse_decided(
            calibrator=calibrator not in (None, "auto"),
            **grid_given(wanted),
            target=target != "auto",
            weights=blocks is not None,
            form=form != "auto",
            bias_correction=bias_correction != "auto",
            smoothing=smoothing != "auto",
            refine=refine != "auto",
            optimize_for=optimize_for != "accuracy",
            max_float_macs=measures["max_float_macs"],
            partial=measures["partial"],
            fix=bool(fix),
            **{ASKED[step]: True for step in steps},
        )
    asked_of_graph = request if plan is None else None
    prepared = during(progress, "prepare", lambda: prepared_for(asked_of_graph, model, parse_fixed(fix)))
    given, absent, feeds = None, _NO_EXAMPLES, None
    if plan is not None:
        prepared, given = given_plan(plan, prepared)

    def opened(prepared: Prepared, data: Data) -> Feeds:
        return open_for_model(prepared.model, data, samples=samples, batch_size=batch_size, **reading)

    if data is not None:
        tensors = _countable(prepared, request, functools.partial(opened, prepared, data))
        feeds = opened(prepared, data)
        if drop is not None:
            drop.check(model, feeds)
        prepared, statistics = count_prepared(prepared, steps, feeds, tensors, compute)
    else:
        statistics, absent = without_data(prepared) if calibration is None else _kept(prepared, calibration)
        prepared = as_calibrated(prepared, statistics, steps) if given is None else prepared
    check_raised(prepared, statistics)
    half = halved(prepared, statistics)
    original = original_of(prepared, half, absent)
    with advising(prepared, None):
        decided = (
            during(progress, "measure candidates", lambda: decide(prepared, half, request, original, spent))
            if given is None
            else Decision(prepared, given)
        )
    proven = mend(
        during(progress, "prove", lambda: prove(decided, original)),
        spent,
        request,
        original,
    )
    final, prepared = _final(proven.decision, statistics, given), proven.decision.prepared
    timing = during(progress, "time", lambda: timed(original, prepared.model, final, proven.model, blind=blind))
    noted = proven.model.noting(notes(final))
    labelled = None if drop is None else drop.measured(model, noted, Path(output), feeds, half.chose, compute)
    with together(*([] if save_plan is None else [save_plan]), output):
        if save_plan is not None:
            final.save(save_plan)
        size = model_io.write(noted, output)
    before = model_size(model)
    verdict = (
        None
        if blind
        else _verdict(proven, aim, min_sqnr is not None, partial=partial and given is None and blocks is None)
    )
    return Quantized(
        final,
        arithmetic_alone(proven.proof) if blind else replace(proven.proof, held_out=half.held_out),
        proven.decision.trials,
        prepared.changes,
        Path(output),
        size,
        before,
        warnings=(
            *version_doubts(),
            *(() if blind else _doubts(statistics, final, prepared)),
            *(() if blind or given is not None else _idle(prepared, steps, smoothing)),
            *(() if labelled is None else labelled.warnings),
        ),
        evaluation=None if labelled is None else replace(labelled, warnings=()),
        parts=contents(proven.model) if before < MUCH_SMALLER * size else (),
        verdict=verdict,
        timing=timing,
        gates=(
            *(() if labelled is None else labelled.gates),
            *gates_of(limits, Path(output).name, proven, original, timing, verdict, (size, before)),
        ),
        asked=asked_of(
            model,
            data,
            calibration,
            as_given(unlabelled(reading)) or statistics.reading,
            {**grid_options(wanted, target), "fix": fix, **({} if drop is None else drop.asked)},
        ),
        unrefined=_unrefined(proven, len(half.choosing.examples), asked=refine == "on"),
        decoders=() if blind or not original.outputs else likely_decoders(original.checked[0], original.outputs[0]),
    )


def _countable(prepared: Prepared, request: Request, opened: Callable[[], Feeds]) -> CalibratedTensors:
    """What is counted of the prepared graph for what is asked of it. Raises `ModelError` where nothing can be done."""
    with advising(prepared, opened):
        if request.form is not None:
            place(prepared.model, request.target, request.scheme, name=prepared.name, folded=prepared.folded)
        return find_tensors(prepared)


def _kept(prepared: Prepared, calibration: PathLike | Statistics) -> tuple[Statistics, str]:
    """The statistics that were made of it before, and why they hold no examples, where they hold none."""
    return statistics_for(prepared, calibration), _NO_EXAMPLES


def _final(decision: Decision, statistics: Statistics, given: Plan | None) -> Plan:
    """The plan, with what calibration says of inputs that have no grid; one that was given has that."""
    if given is not None:
        return decision.plan
    return with_ranges(decision.plan, statistics, {str(v.name) for v in decision.prepared.model.graph.inputs})


def _unrefined(proven: Proven, examples: int, *, asked: bool) -> dict[str, str]:
    """What was left as it is where weights were refined, or should be; a plan that was given has decided that."""
    decision = proven.decision
    if decision.candidate is None or not (asked or decision.plan.refined):
        return {}
    return left_alone(decision.prepared.model, decision.plan, examples)


def _doubts(statistics: Statistics, plan: Plan, prepared: Prepared) -> tuple[str, ...]:
    """What is odd about the data."""
    inputs = {str(v.name) for v in prepared.model.graph.inputs}
    return (*calibration_doubts(statistics), *grid_doubts(statistics, plan, inputs))


def _idle(prepared: Prepared, steps: Sequence[str], smoothing: Correction) -> tuple[str, ...]:
    """A line for each change of the float graph that was asked for and found nothing to change."""
    lines = idle_lines(prepared.recipe, steps)
    if smoothing == "on" and not prepared.recipe.smoothing:
        lines += (
            "smoothing was asked for, and changes nothing: no layer over tokens reads channels so different that it "
            "would gain",
        )
    return lines


def _check_provider(provider: str, *, used: bool) -> None:
    """Refuse a provider that is not there, or that nothing would be run on."""
    if not used and provider != "cpu":
        raise UsageError(f"provider {provider} is where data calibrates; give {arg('data')}, or leave it out")
    find_provider(provider)


def _refuse_unmeasured(given: Mapping[str, bool], blocks: BlockWise | None, *, blind: bool, on_data: bool) -> None:
    """Refuse what is asked of an accuracy that is not measured, and a limit of what is not done.

    on_data: whether something is asked for that data decides.
    """
    if blind and on_data:
        raise UsageError(
            f"bias correction, smoothing, refining and latency are measured on data; give {arg('data')} or "
            f"{arg('calibration')}, or leave them out"
        )
    refuse_beside_blocks(blocks, blind=blind, max_float_macs=given["max_float_macs"])
    for name, is_given in given.items():
        if is_given and blind:
            raise UsageError(
                f"{arg(name)} says nothing without data, as accuracy is measured on it; give {arg('data')} or "
                f"{arg('calibration')}, or leave it out"
            )
    if given["partial"] and given["max_float_macs"]:
        raise UsageError(
            f"{arg('max_float_macs')} says nothing to {arg('partial', False)}, which leaves no layer in float; leave "
            "one of them out"
        )


def _verdict(proven: Proven, wanted: Wanted, asked: bool, *, partial: bool) -> Verdict:
    """What the proof says of the accuracy that is wanted."""
    proof = proven.proof
    measured = [db for db in (*proof.sqnr_db_by_output.values(), *proof.sqnr_db_before.values()) if db is not None]
    met = loudness(proven.proof.judged_db) >= wanted.min_sqnr if measured else None
    most = wanted.max_float_macs if partial else None
    needed = proven.float_needed if met is False else None
    return Verdict(wanted.min_sqnr, asked, met, proven.before_db, proven.left, most, needed, proven.noisiest)

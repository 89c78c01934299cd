"""`tune`: the paper's workflow end to end, from a float model and data to the best int8 model found."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.concurrency import cores, limited
from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import CANDIDATES, Calibrator, listed_calibrators
from qtool.core.progress import Progress, silent
from qtool.core.records.evaluation import Evaluation, MaxDrop, MetricInfo, MetricKind
from qtool.core.records.options import Correction, Names, Scheme, share
from qtool.core.records.tuning import Step, Tuned
from qtool.core.scratch import scratch_folder
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import compare, probe, undecoded, with_boxes
from qtool.evaluation.gates import check_gates, check_max_drop
from qtool.evaluation.metrics.registry import MetricSpec, check_decode, resolve_metric
from qtool.feeds import Data, LabelledOptions, open_for_model
from qtool.feeds.reading import as_given, unlabelled
from qtool.feeds.source import same_data
from qtool.finetuning.finetune import require_torch
from qtool.graph import model_io
from qtool.pipeline.calibration.advice import advising
from qtool.pipeline.calibration.tensors import find_tensors
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.selection import static_scheme
from qtool.pipeline.prepare import prepare
from qtool.pipeline.prepare.fixed_inputs import Fixing, parse_fixed
from qtool.quantization.asked import asked_of, grid_options
from qtool.runtime.providers import find_provider
from qtool.targets.rules import Target
from qtool.targets.tables import find_target, target_of
from qtool.tuning.aim import Aim
from qtool.tuning.budget import TRAINING, Budget
from qtool.tuning.search import Search
from qtool.tuning.shares import Shares, part_data
from qtool.tuning.starts import Starts
from qtool.tuning.trail import Trail
from qtool.tuning.trained import Trainer

PathLike = str | Path
_REPORTS = 4
"""Models that the data which reports is asked about at most, where it misses the target."""
_STEP_DB = 1.0
"""How much more SQNR is asked for then, at least."""


@checked_types
def tune(
    model: PathLike,
    data: Data,
    output: PathLike,
    *,
    eval_data: Data | None = None,
    metric: MetricSpec | None = None,
    decode: DecodeSpec | None = None,
    max_drop: MaxDrop | str | float | None = None,
    min_sqnr: float | None = None,
    calibrators: Calibrator | str | Sequence[Calibrator | str] = CANDIDATES,
    max_float_macs: float | str = 0.1,
    time_budget: float | None = None,
    scheme: Scheme | None = None,
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    fix: Fixing = (),
    refine: Correction = "auto",
    finetune: bool = False,
    target: str = "auto",
    save_plan: PathLike | None = None,
    samples: int | None = None,
    threads: int | None = None,
    provider: str = "cpu",
    executor: Executor | None = None,
    tell: Callable[[Step], None] | None = None,
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Tuned:
    """Search for the best int8 model by the paper's workflow, and return what was tried and found.

    Calibrates once, tries plans, and leaves in float what has to be. Where the data that reports misses the target all
    the same, the search goes on for a model with a higher SQNR, a few times. The best model so far is on disk from the
    first trial on, also when this is interrupted or out of time.

    Args:
        model, data, scheme, include_ops, exclude_ops, exclude, fix, target, samples, reading: as in `calibrate` and
            `quantize`; `labels` in `reading` are those of `eval_data`, where that is given.
        output: where the best model goes.
        save_plan: where the plan of the best model goes, whenever that is written.
        eval_data: labelled data that reports, while `data` calibrates and chooses; where `data` has no labels, of
            two samples of `eval_data` one chooses and one reports. None: of four samples of `data` two calibrate,
            one chooses, one reports.
        metric: what to hold, as in `evaluate`; None without labels is agreement with the float model.
        decode: how the outputs become boxes, as in `evaluate`; without labelled boxes box_agreement is held.
        max_drop: of that metric, "1%" of float's value or 0.01 in its unit. None is 1%, and without labels, where
            `min_sqnr` is given, nothing.
        min_sqnr: asked for as well, in dB.
        calibrators: what to try; also as a text such as "max,percentile:99.9".
        max_float_macs: the share of multiply-accumulates that may stay in float, 0 to 1 or "10%".
        refine: as in `quantize`; here `on` tries it whatever the weights are.
        finetune: trains the best plan in the end, where the target is missed until then; with `eval_data` of four
            samples of `data` three calibrate and train, and one chooses. Needs torch, the extra `finetune`.
        time_budget: seconds, or None. It is kept from the first round to the last evaluation, for which room is left:
            where it is short, less of the data calibrates, chooses and reports (at least one sample each), and what is
            not tried is in `Tuned.untried`.
        provider: where the float model is calibrated, and every model judged: cpu, cuda or tensorrt, which alone runs
            target tensorrt and is then what `auto` means. What ranks, and the verification, run on the CPU.
        threads: how much is done side by side, None for all cores, and one a worker; the result is the same at any
            number, but where `finetune` trains, with as many threads. Every model runs in one thread.
        executor: where data is calibrated, models are judged and layers are ranked; see `calibrate`.
        tell: is told of every model that was tried.

    Raises:
        UsageError, ModelError, DataError, OutputError, VerificationError: as their names say.
    """
    budget = _budget(time_budget, finetune=finetune)
    # within a worker a single thread, which has the others beside it
    every = 1 if executor is not None else cores()
    compute = Compute(every if threads is None else threads, provider, executor, budget.watched(progress))
    tried = listed_calibrators(calibrators)
    drop = None if max_drop is None else MaxDrop.parse(max_drop)
    aim = Aim(metric, drop, min_sqnr, _float_macs(max_float_macs), decode)
    _check_aim(aim)
    runs_on = _measurable(target, provider)
    if eval_data is not None and same_data(data, eval_data):
        raise UsageError(
            f"{arg('eval_data')} is {arg('data')}, so that what chooses would report; leave {arg('eval_data')} out: "
            "other samples report then"
        )
    model_io.check_output(output, model)
    if save_plan is not None:
        _check_plan(save_plan, model, output)
    wanted = (scheme or Scheme()).selecting(include_ops, exclude_ops, exclude)
    with limited(compute.threads), scratch_folder() as folder:
        progress("prepare", 0, None)
        prepared = prepare(model_io.load(model), parse_fixed(fix))
        plain = reading if eval_data is None else unlabelled(reading)
        with advising(prepared, lambda: open_for_model(prepared.model, data, samples=samples, **plain)):
            placed = static_scheme(prepared.model, runs_on, wanted)
            place(prepared.model, runs_on, placed, name=prepared.name, folded=prepared.folded)
            tensors = find_tensors(prepared)
        parts = part_data(
            prepared, data, eval_data, samples, with_boxes(decode, reading), budget, compute.threads, apart=finetune
        )
        by_sample = _check_data(model, aim, parts, provider)
        starts = Starts(Path(model), prepared, tensors, runs_on, wanted, aim, parts, folder, budget, compute)
        trail = Trail(Path(output), None if save_plan is None else Path(save_plan), budget, tell or (lambda _: None))
        trainer = Trainer(Path(model), aim, parts, folder, budget, compute) if finetune else None
        search = Search(starts.attempts(), trail, compute.progress, refine=refine, train=trainer)

        def report() -> Evaluation:
            progress("report", 0, None)
            told = replace(compute, progress=progress)
            return compare(model, [output], parts.reporting, metric, decode, told, parts.feeds.again)

        progress("calibrate and try", 0, None)
        search.complete(tried)
        evaluation, reports = report(), 1
        while not search.ended and reports < _REPORTS and aim.misses(evaluation.candidates[0]):
            before, _, _ = trail.found()
            if not math.isfinite(before.sqnr_db):
                break
            search.go_on(before.sqnr_db + max(_STEP_DB, aim.short_db(evaluation.candidates[0])))
            if trail.best is not before:
                evaluation, reports = report(), reports + 1
    best, plan, proof = trail.found()
    hints = undecoded(evaluation, metric, decode, reading)
    found = evaluation.candidates[0]
    missed, complete = aim.misses(found), parts.reporting.cut is None
    if best.float_macs > aim.max_float_macs:
        most = f"asked at most {100 * aim.max_float_macs:.4g} %"
        missed = (*missed, f"{100 * best.float_macs:.1f} % of multiply-accumulates in float, {most}")
    one = aim.one_sample(evaluation, by_sample=by_sample)
    return Tuned(
        output=Path(output),
        met=not missed and complete,
        best=best,
        steps=tuple(trail.steps),
        stopped=search.stopped,
        untried=trail.untried,
        split="; ".join((parts.words, *starts.cut())),
        metric=aim.reached(found).name,
        max_drop=None if aim.reached(found).drop is None else str(aim.max_drop),
        min_sqnr=min_sqnr,
        missed=missed,
        complete=complete,
        reports=reports,
        one_sample=one,
        one_chosen=None if one is None or not starts.chosen else one * evaluation.samples / starts.chosen,
        float_needed=search.needed,
        evaluation=replace(evaluation, warnings=(*parts.notes, *starts.doubts, *evaluation.warnings, *hints)),
        verification=proof,
        plan=plan,
        training=None if trainer is None else trainer.done,
        asked=asked_of(
            model,
            data,
            None,
            as_given(reading),
            {"eval_data": eval_data, "metric": metric, "decode": decode, **grid_options(wanted, target), "fix": fix},
        ),
    )


def _budget(seconds: float | None, *, finetune: bool) -> Budget:
    """The time that there is, some of it kept for training. Raises `UsageError`: torch is not installed for that."""
    if finetune:
        require_torch()
    budget = Budget(seconds)
    budget.reserved = TRAINING * seconds if finetune and seconds is not None else 0.0
    return budget


def _check_plan(save_plan: PathLike, model: PathLike, output: PathLike) -> None:
    """Refuse a file for the plan that cannot be written or is another's. Raises `UsageError`, `OutputError`."""
    model_io.check_output(save_plan, model)
    if Path(save_plan).resolve() == Path(output).resolve():
        raise UsageError(f"{arg('save_plan', save_plan)}: is {arg('output')} already; name another file")


def _float_macs(given: float | str) -> float:
    try:
        return share(given)
    except UsageError as error:
        raise UsageError(f"{arg('max_float_macs')}: {error.marked}") from error


def _check_aim(aim: Aim) -> None:
    """Refuse a target that every model meets, or none can be measured by. Raises `UsageError`."""
    check_gates((), None, aim.min_sqnr)
    found = None if aim.metric is None else resolve_metric(aim.metric)
    check_decode(() if found is None else (found,), aim.decode)
    chosen = None if found is None else found.info
    if chosen is None or chosen.kind is MetricKind.SIMILARITY:
        # of what stands in for it, the share of equal predictions; the metrics by default have the same bounds
        chosen = MetricInfo("what is measured", MetricKind.ACCURACY, lower_is_better=False, worst=0.0)
    check_max_drop(chosen, aim.max_drop)


def _check_data(model: PathLike, aim: Aim, parts: Shares, provider: str) -> bool:
    """Run the float model on a sample that chooses and on one that reports, so that what they lack is said at once.

    Returns whether the classes that it says are those of samples.
    """
    found = [
        probe(model, records, aim.metric, aim.decode, provider=provider, **parts.feeds.again)
        for records in (parts.choosing.records, parts.reporting.records)
    ]
    for one in found:
        aim.check(one)
    return all(one.by_sample for one in found)


def _measurable(target: str, provider: str) -> Target:
    """The target of that name, which the provider must run as it will be run."""
    find_provider(provider)
    own = target_of(provider)
    runs_on = own if own is not None and target == "auto" else find_target(target)
    if own is not None and runs_on.on_cpu:
        raise UsageError(f"target {runs_on.name} is not for provider {provider}, where tuning measures; leave one out")
    if own is None and not runs_on.on_cpu:
        raise UsageError(
            f"target {runs_on.name} does not run on this machine, where tuning measures; choose another, or "
            f"{arg('provider', runs_on.provider)}"
        )
    return runs_on

"""`finetune`: the numbers of an int8 model learned by gradients, from the ONNX file and data without labels."""

import functools
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, cast

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.concurrency import cores, limited
from qtool.core.errors import UsageError, arg
from qtool.core.extras import installed_by
from qtool.core.files import together
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress, during, silent
from qtool.core.records.doubts import notes
from qtool.core.records.finetuning import Finetuned, MetricFigures
from qtool.core.records.options import Names, Scheme, names
from qtool.core.records.plan import Plan
from qtool.core.records.statistics import Statistics
from qtool.core.scratch import scratch_folder
from qtool.core.text import amount
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import with_boxes
from qtool.evaluation.metrics.registry import MetricSpec
from qtool.feeds import Data, Feeds, LabelledOptions, open_for_model
from qtool.feeds.reading import as_given, unlabelled
from qtool.feeds.source import same_data
from qtool.finetuning.loss_names import LossSpec
from qtool.finetuning.measure import Measure, check_metric
from qtool.finetuning.samples import FEW, Labelled, Parted, Samples, part_samples
from qtool.finetuning.start import Given
from qtool.graph import contrib, model_io
from qtool.graph.edit import Model
from qtool.graph.model_files import model_size
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.rewrite.static import shift_biases
from qtool.pipeline.rewrite.unfold import lighten
from qtool.pipeline.verify.original import Original
from qtool.quantization.asked import asked_of, grid_options
from qtool.quantization.decision import Decision, Proven, prove
from qtool.quantization.given import check_files, grid_given, refuse_decided
from qtool.quantization.request import Request
from qtool.quantization.timing import timed
from qtool.targets.tables import find_target

if TYPE_CHECKING:
    from qtool.finetuning.work import Done

PathLike = str | Path
LEARNED = ("weights", "biases", "scales")
"""What may be learned."""
EPOCHS = 30
MEMORY = 1024
"""MiB for the activations of a block."""
BATCH = 8
"""Samples of a step."""
_ENDLESS = 10**6
_MIB = 2**20


@checked_types
def finetune(
    model: PathLike,
    data: Data,
    output: PathLike,
    *,
    calibration: PathLike | Statistics | None = None,
    plan: PathLike | Plan | None = None,
    eval_data: Data | None = None,
    metric: MetricSpec | None = None,
    decode: DecodeSpec | None = None,
    labels_loss: LossSpec | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    time_budget: float | None = None,
    learn: Names = LEARNED,
    rounding: Literal["nearest", "learned"] = "nearest",
    blocks: bool | None = None,
    memory: int = MEMORY,
    views: bool = True,
    learning_rate: float = 1.0,
    batch_size: int = BATCH,
    seed: int = 0,
    resume: bool = False,
    scheme: Scheme | None = None,
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    target: str = "auto",
    form: Literal["auto", "static"] = "auto",
    partial: bool = True,
    provider: str = "cpu",
    save_plan: PathLike | None = None,
    save_float: PathLike | None = None,
    samples: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Finetuned:
    """Write an int8 model that was trained to give what the float model gives; return what was done.

    It begins with the best plan that `quantize` finds by the calibration, without one by the samples that train, or
    with `plan`. Where the best one has dynamic layers alone, it is the best of static ones. The forward pass computes
    what onnxruntime's integer kernels compute, which is checked first. Needs torch, the extra `finetune`.

    Args:
        model, output, save_plan, scheme, include_ops, exclude_ops, exclude, target, partial: as in `quantize`.
        data: needs no labels. A quarter chooses, a quarter reports, the others train; of 320 samples and more a tenth.
        eval_data: reports instead. Where a metric needs labels that `data` has not, of two of its samples one chooses.
        metric: chooses and reports in the place of SQNR, as in `evaluate`; what is equal by it, SQNR decides.
        decode: how the outputs become boxes, as in `evaluate`.
        labels_loss: joins a loss on the labels of `data` to that of the float model: `cross_entropy`, or a function as
            in `qtool.finetuning.labels`, also as `file.py:NAME`. Both move the numbers alike at first.
        calibration: a calibration file, or the statistics themselves.
        plan: begins with this plan (a file or a value) of `quantize`, `tune` or an earlier `finetune` instead.
        epochs: how often each sample is seen; None is 30, or what `steps` or `time_budget` ask for.
        steps: how many steps of training instead.
        time_budget: seconds of training, or None.
        learn: of weights, biases and scales (of activations), all or some.
        rounding: `learned` moves no weight by more than its rounding, down or up, which is learned (AdaRound).
        blocks: True trains block by block first, in half of the steps, then end to end; False end to end alone. None:
            by block where rounding is learned.
        memory: MiB that the activations of a block may take; what is more is read from a file.
        views: train end to end on mirrored and shifted pictures with more and less contrast, of which the float model
            says what to give; where inputs are pictures in colour, and without `labels_loss`.
        learning_rate: a factor of how far a step moves: 0.5 is half as far.
        batch_size: samples of a step.
        seed: of the order of samples.
        resume: go on from the checkpoint beside `output` that an interrupted run left.
        form: `static` begins without dynamic layers, which are not trained.
        provider: where torch computes: cpu or cuda. What chooses and reports is run by onnxruntime on the CPU.
        save_float: where the float model is written with the trained biases and weights, these as they are rounded.
        samples: take the first so many only.
        threads: of torch, None for all cores; with the same number, the same bytes come out.
        reading: as in `evaluate`; `labels` are those of `eval_data`, where that is given and `labels_loss` is not.

    Raises:
        UsageError: options that contradict each other, torch is not installed, or finds no such device.
        ModelError, DataError, CalibrationError, OutputError: as their names say; nothing has been written then.
        VerificationError: torch computes something else than onnxruntime, or the model something else than planned.
    """
    require_torch()
    chosen = _chosen(learn, rounding)
    _check(calibration, plan, eval_data, data, epochs, steps, time_budget, learning_rate, batch_size)
    if memory < 1:
        raise UsageError(f"{arg('memory', memory)}: give 1 or more")
    from qtool.finetuning.descent import Settings
    from qtool.finetuning.device import device_of
    from qtool.finetuning.work import Work

    device = device_of(provider)
    check_metric(metric, decode)
    unfinished = Path(f"{output}.finetune")
    written = {"output": output, "save_plan": save_plan, "save_float": save_float, "resume": unfinished}
    check_files(model, written, {"calibration": calibration, "data": data, "plan": plan, "eval_data": eval_data})
    _refuse_unfinished(unfinished, resume=resume)
    wanted = (scheme or Scheme()).selecting(include_ops, exclude_ops, exclude)
    request = Request.of(
        wanted, find_target(target), form=form, calibrator=None, correction="auto", smoothing="auto",
        progress=progress,
    )  # fmt: skip
    if plan is not None:
        refuse_decided(**grid_given(wanted), target=target != "auto", form=form != "auto", partial=not partial)
    used = cores() if threads is None else threads
    given = {
        "plan": plan, "eval_data": eval_data, "metric": metric, "decode": decode, "labels_loss": labels_loss,
        "epochs": epochs, "steps": steps, "time_budget": None if time_budget is None else f"{time_budget:g}s",
        "learn": None if chosen == LEARNED else ",".join(chosen), "static": form == "static", "no_partial": not partial,
        "samples": samples, "threads": threads, "output": output, "save_plan": save_plan, "save_float": save_float,
        **_unusual(learning_rate=(learning_rate, 1.0), batch_size=(batch_size, BATCH), seed=(seed, 0)),
        **_unusual(provider=(provider, "cpu"), rounding=(rounding, "nearest"), memory=(memory, MEMORY)),
        "blocks": blocks, "no_views": not views,
    }  # fmt: skip
    with limited(used), scratch_folder() as folder, Samples(folder / "in") as inputs, Samples(folder / "l") as labels:
        prepared = prepare(model_io.load(model))
        start = Given.of(prepared, plan, calibration)
        own = eval_data is None or labels_loss is not None
        plain = reading if own else cast(LabelledOptions, unlabelled(reading))
        opened = functools.partial(open_for_model, start.prepared.model, samples=samples)
        parted = part_samples(
            _stateless(opened(data, **with_boxes(decode, plain))),
            None if eval_data is None else opened(eval_data, **with_boxes(decode, reading)),
            inputs,
            None if labels_loss is None else labels,
            labelled=metric is not None,
        )
        begun = start.beginning(inputs, request, Compute(used, progress=progress), partial=partial)
        begun = begun.better(parted.choosing.inputs)
        started = begun.decision
        measure = _measure(Path(model), started.prepared, metric, decode, folder, parted, Compute(used))
        by_block = rounding == "learned" if blocks is None else blocks
        settings = Settings(
            *_lasting(epochs, steps, time_budget), batch_size, learning_rate, seed, by_block, memory * _MIB, views
        )
        work = Work(
            started.prepared, started.plan, parted, chosen, settings, unfinished, resume, progress, measure,
            labels_loss, device, rounding == "learned", folder,
        )  # fmt: skip
        with Samples(folder / "out") as exact:
            done = work.run(exact, used)
        original = Original(Path(model), prepared.widened, parted.reporting.inputs)
        verdict = _proven(started, done, original, measure, parted.reporting)
        before, after = verdict.before, verdict.after
        doubts = (*_few(parted), *_anew(unfinished, asked=resume, resumed=done.resumed))
        doubts += () if begun.dynamic is None else (_instead(prove(begun.dynamic, original), after),)
    with together(*[path for path in (save_plan, save_float) if path is not None], output):
        if save_plan is not None:
            after.decision.plan.save(save_plan)
        if save_float is not None:
            trained = _float_model(started.prepared.model, after.decision.plan)
            model_io.write(model_io.consume(trained), save_float)
        size = model_io.write(after.model.noting(notes(after.decision.plan)), output)
        done.checkpoint.remove()
    return Finetuned(
        plan=after.decision.plan,
        verification=after.proof,
        output=Path(output),
        size=size,
        float_size=model_size(model),
        kept=verdict.kept,
        before_db=before.proof.judged_db,
        after_db=after.proof.judged_db,
        chosen_db=done.chosen_db,
        gain=done.gain,
        refused_db=verdict.refused_db,
        rounds=done.training.rounds,
        steps=done.training.steps,
        seconds=done.seconds,
        resumed=done.resumed,
        split=parted.words,
        learned=done.counts,
        untrained=done.untrained,
        agreement=done.agreement,
        blocks=done.training.blocks,
        metric=verdict.metric,
        float_path=None if save_float is None else Path(save_float),
        warnings=doubts,
        asked=asked_of(model, data, calibration, as_given(reading), {**grid_options(wanted, target), **given}),
        timing=during(
            progress,
            "time",
            lambda: timed(original, started.prepared.model, after.decision.plan, after.model, blind=False),
        ),
    )


def _few(parted: Parted) -> tuple[str, ...]:
    count = len(parted.training)
    few = f"only {amount(count, 'sample trains', 'samples train')}, which a network learns by heart"
    return (f"{few}; some hundreds are worth more than more epochs",) if count < FEW else ()


def _unusual(**options: tuple[object, object]) -> dict[str, object]:
    """Of options with their values and what these are by default, those that are something else."""
    return {name: value for name, (value, usual) in options.items() if value != usual}


def _measure(
    model: Path,
    prepared: Prepared,
    metric: MetricSpec | None,
    decode: DecodeSpec | None,
    folder: Path,
    parted: Parted,
    compute: Compute,
) -> Measure | None:
    """What measures by the metric that is asked for. Raises `UsageError`, `DataError`: the data does not let it."""
    if metric is None:
        return None
    measure = Measure(model, prepared.model, metric, decode, folder, parted.choosing, compute)
    measure.check(parted.choosing, parted.reporting)
    return measure


def _anew(path: Path, *, asked: bool, resumed: bool) -> tuple[str, ...]:
    """That there was nothing to go on from, where that was asked for."""
    return (f"{path}: is not there, so that training began anew",) if asked and not resumed else ()


def _instead(dynamic: Proven, after: Proven) -> str:
    """What the better plan with dynamic layers has, which `quantize` would have taken."""
    figures = (
        f"{dynamic.proof.judged_db:.1f} dB on the samples that report, where these have {after.proof.judged_db:.1f} dB"
    )
    better = loudness(dynamic.proof.judged_db) > loudness(after.proof.judged_db)
    return (
        f"every layer has calibrated ranges, since the dynamic ones that quantize finds better have none to train: "
        f"{figures}{'; for accuracy alone quantize is the better choice' if better else ''}"
    )


def require_torch() -> None:
    """Refuse to go on without torch. Raises `UsageError`, which says what to install."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(f"finetune: needs torch: {installed_by('finetune')}")


def _chosen(learn: Names, rounding: str) -> tuple[str, ...]:
    found = [part.strip() for text in names(learn) for part in text.split(",") if part.strip()]
    for name in found:
        if name not in LEARNED:
            raise UsageError(f"{arg('learn', name)}: is unknown; choose of {', '.join(LEARNED)}")
    if not found:
        raise UsageError(f"{arg('learn')}: names nothing; choose of {', '.join(LEARNED)}")
    if rounding == "learned" and "weights" not in found:
        raise UsageError(f"{arg('rounding', rounding)} says nothing where no weights are learned ({arg('learn')})")
    return tuple(found)


def _check(
    calibration: object,
    plan: object,
    eval_data: object,
    data: object,
    epochs: int | None,
    steps: int | None,
    time_budget: float | None,
    learning_rate: float,
    batch_size: int,
) -> None:
    if calibration is not None and plan is not None:
        raise UsageError(
            f"{arg('calibration')} says nothing to {arg('plan')}, which has decided it; leave one of them out"
        )
    if epochs is not None and steps is not None:
        raise UsageError(f"{arg('epochs')} and {arg('steps')} say the same; leave one of them out")
    if eval_data is not None and same_data(data, eval_data):
        raise UsageError(
            f"{arg('eval_data')} is {arg('data')}, so that what trains would report; leave {arg('eval_data')} out: "
            "other samples report then"
        )
    for name, number in (("epochs", epochs), ("steps", steps), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise UsageError(f"{arg(name, number)}: give 1 or more")
    for name, value in (("time_budget", time_budget), ("learning_rate", learning_rate)):
        if value is not None and not 0.0 < value < float("inf"):
            raise UsageError(f"{arg(name, value)}: give a number above 0")


def _lasting(epochs: int | None, steps: int | None, seconds: float | None) -> tuple[int, int | None, float | None]:
    """Epochs, steps and seconds; where the time is the only end that is asked for, there is no other."""
    most = _ENDLESS if seconds is not None and epochs is None else EPOCHS
    return most if epochs is None else epochs, steps, seconds


def _stateless(feeds: Feeds) -> Feeds:
    if feeds.states:
        raise UsageError(f"{arg('state')}: models that are fed their own outputs are not trained; leave it out")
    return feeds


def _refuse_unfinished(path: Path, *, resume: bool) -> None:
    if path.exists() and not resume:
        raise UsageError(
            f"{path}: is there already, where an unfinished training is kept; go on with {arg('resume')}, or remove it"
        )


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The plan to begin with and the one to be written, proven on the samples that report.

    kept: whether it is what was trained. refused_db: of what was trained, where these samples refused it.
    """

    before: Proven
    after: Proven
    kept: bool
    refused_db: float | None
    metric: MetricFigures | None


def _proven(
    started: Decision, done: "Done", original: Original, measure: Measure | None, reporting: Labelled
) -> _Verdict:
    """The verdict of the samples that report: where they lose, what trained and what chose was learned by heart."""
    begun = replace(started, candidate=None)
    before = prove(begun, original)
    trained = prove(replace(begun, plan=done.plan), original) if done.kept else before
    louder = loudness(trained.proof.judged_db) >= loudness(before.proof.judged_db)
    if measure is None:
        kept, figures = done.kept and louder, None
    else:
        plans = [before.decision.plan, trained.decision.plan]
        exact, (first, last) = measure.reported(plans, reporting)
        one, two = measure.worth(first), measure.worth(last)
        kept = done.kept and (two > one or (two == one and louder))
        assert done.metric is not None
        name, lower = measure.info.name, measure.info.lower_is_better
        figures = MetricFigures(name, lower, exact, first, last if kept else first, done.metric)
    refused = trained.proof.judged_db if done.kept and not kept else None
    return _Verdict(before, trained if kept else before, kept, refused, figures)


def _float_model(prepared: Model, plan: Plan) -> Model:
    """The float model with the weights and biases of a plan."""
    model = shift_biases(prepared, plan)
    lighten(model)
    contrib.define(model)
    return model

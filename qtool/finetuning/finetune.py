"""`finetune`: the numbers of an int8 model learned by gradients, from the ONNX file and data without labels."""

import functools
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from qtool.core.arguments import checked_types
from qtool.core.concurrency import cores, limited
from qtool.core.errors import UsageError, arg
from qtool.core.files import together
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress, silent
from qtool.core.records.doubts import notes
from qtool.core.records.finetuning import Finetuned
from qtool.core.records.options import Names, Scheme, names
from qtool.core.records.plan import Plan
from qtool.core.records.statistics import Statistics
from qtool.core.scratch import scratch_folder
from qtool.feeds import Data, Feeds, ReadOptions, open_for_model
from qtool.feeds.source import same_data
from qtool.finetuning.samples import FEW, Samples, part_samples
from qtool.graph import contrib, model_io
from qtool.graph.edit import Model
from qtool.graph.model_files import model_size
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.recovery.steps import statistics_for
from qtool.pipeline.rewrite.static import shift_biases
from qtool.pipeline.rewrite.unfold import lighten
from qtool.pipeline.verify.original import Original
from qtool.quantization.decision import Decision, Proven, decide, mend, prove
from qtool.quantization.given import as_calibrated, check_files, given_plan, refuse_decided
from qtool.quantization.halves import halved
from qtool.quantization.request import Request
from qtool.quantization.wanted import MAX_FLOAT_MACS, Wanted
from qtool.targets.tables import find_target

if TYPE_CHECKING:
    pass

PathLike = str | Path
LEARNED = ("weights", "biases", "scales")
"""What may be learned."""
EPOCHS = 30
_ENDLESS = 10**6


@checked_types
def finetune(
    model: PathLike,
    data: Data,
    output: PathLike,
    *,
    calibration: PathLike | Statistics | None = None,
    plan: PathLike | Plan | None = None,
    eval_data: Data | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    time_budget: float | None = None,
    learn: Names = LEARNED,
    learning_rate: float = 1.0,
    batch_size: int = 8,
    seed: int = 0,
    resume: bool = False,
    scheme: Scheme | None = None,
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    target: str = "auto",
    partial: bool = True,
    save_plan: PathLike | None = None,
    save_float: PathLike | None = None,
    samples: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Finetuned:
    """Write an int8 model that was trained to give what the float model gives; return what was done.

    It begins with the best plan that `quantize` finds by the calibration, or with `plan`. The forward pass computes
    what onnxruntime's integer kernels compute, which is checked first. Needs torch, the extra `finetune`.

    Args:
        model, output, save_plan, scheme, include_ops, exclude_ops, exclude, target, partial: as in `quantize`.
        data: without labels. Of ten samples eight train, one chooses, one reports.
        eval_data: reports instead.
        calibration: a calibration file, or the statistics themselves.
        plan: begins with this plan (a file or a value) of `quantize`, `tune` or an earlier `finetune` instead.
        epochs: how often each sample is seen; None is 30, or what `steps` or `time_budget` ask for.
        steps: how many steps of training instead.
        time_budget: seconds of training, or None.
        learn: of weights, biases and scales (of activations), all or some.
        learning_rate: a factor of how far a step moves: 0.5 is half as far.
        batch_size: samples of a step.
        seed: of the order of samples.
        resume: go on from the checkpoint beside `output` that an interrupted run left.
        save_float: where the float model is written with the trained biases and weights, these as they are rounded.
        samples: take the first so many only.
        threads: of torch, None for all cores; with the same number, the same bytes come out.
        reading: as in `calibrate`.

    Raises:
        UsageError: options that contradict each other, or torch is not installed.
        ModelError, DataError, CalibrationError, OutputError: as their names say; nothing has been written then.
        VerificationError: torch computes something else than onnxruntime, or the model something else than planned.
    """
    require_torch()
    chosen = _chosen(learn)
    _check(calibration, plan, eval_data, data, epochs, steps, time_budget, learning_rate, batch_size)
    from qtool.finetuning.training import Settings
    from qtool.finetuning.work import Work

    unfinished = Path(f"{output}.finetune")
    written = {"output": output, "save_plan": save_plan, "save_float": save_float, "resume": unfinished}
    check_files(model, written, {"calibration": calibration, "data": data, "plan": plan, "eval_data": eval_data})
    _refuse_unfinished(unfinished, resume=resume)
    wanted = (scheme or Scheme()).selecting(include_ops, exclude_ops, exclude)
    request = Request.of(
        wanted, find_target(target), form="auto", calibrator=None, correction="auto", smoothing="auto",
        progress=progress,
    )  # fmt: skip
    if plan is not None:
        selected = {"include_ops": include_ops, "exclude_ops": exclude_ops, "exclude": exclude}
        refuse_decided(
            scheme=scheme not in (None, Scheme()),
            **{name: bool(given) for name, given in selected.items()},
            target=target != "auto",
            partial=not partial,
        )
    used = cores() if threads is None else threads
    with limited(used), scratch_folder() as folder, Samples(folder / "in") as inputs:
        prepared = prepare(model_io.load(model))
        started = _start(Path(model), prepared, calibration, plan, request, partial=partial)
        opened = functools.partial(open_for_model, started.prepared.model, samples=samples, **reading)
        parted = part_samples(_stateless(opened(data)), None if eval_data is None else opened(eval_data), inputs)
        settings = Settings(*_lasting(epochs, steps, time_budget), batch_size, learning_rate, seed)
        work = Work(started.prepared, started.plan, parted, chosen, settings, unfinished, resume, progress)
        with Samples(folder / "out") as exact:
            done = work.run(exact, used)
        original = Original(Path(model), prepared.widened, parted.reporting)
        before, after, kept = _proven(started, done.plan, original, kept=done.kept)
    with together(*[path for path in (save_plan, save_float) if path is not None], output):
        if save_plan is not None:
            after.decision.plan.save(save_plan)
        if save_float is not None:
            trained = _float_model(started.prepared.model, after.decision.plan)
            model_io.write(model_io.consume(trained), save_float)
        size = model_io.write(after.model.noting(notes(after.decision.plan)), output)
        done.checkpoint.remove()
    few = len(parted.training) < FEW
    return Finetuned(
        plan=after.decision.plan,
        verification=after.proof,
        output=Path(output),
        size=size,
        float_size=model_size(model),
        kept=kept,
        before_db=before.proof.judged_db,
        after_db=after.proof.judged_db,
        chosen_db=done.chosen_db,
        rounds=done.training.rounds,
        steps=done.training.steps,
        seconds=done.seconds,
        resumed=done.resumed,
        split=parted.words,
        learned=done.counts,
        untrained=done.untrained,
        agreement=done.agreement,
        float_path=None if save_float is None else Path(save_float),
        warnings=(_FEW.format(len(parted.training)),) if few else (),
    )


_FEW = "only {} samples train, which a network learns by heart; some hundreds are worth more than more epochs"


def require_torch() -> None:
    """Refuse to go on without torch. Raises `UsageError`, which says what to install."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("finetune: needs torch: pip install 'qtool[finetune]'")


def _chosen(learn: Names) -> tuple[str, ...]:
    found = [part.strip() for text in names(learn) for part in text.split(",") if part.strip()]
    for name in found:
        if name not in LEARNED:
            raise UsageError(f"{arg('learn', name)}: is unknown; choose of {', '.join(LEARNED)}")
    if not found:
        raise UsageError(f"{arg('learn')}: names nothing; choose of {', '.join(LEARNED)}")
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
    if (calibration is None) == (plan is None):
        raise UsageError(f"give a calibration file or a plan to begin with ({arg('calibration')}, {arg('plan')})")
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


def _start(
    model: Path,
    prepared: Prepared,
    calibration: PathLike | Statistics | None,
    plan: PathLike | Plan | None,
    request: Request,
    *,
    partial: bool,
) -> Decision:
    """The plan to begin with: a given one, or the best that `quantize` finds."""
    if plan is not None:
        ready, given = given_plan(plan, prepared)
        return Decision(ready, given)
    assert calibration is not None
    statistics = statistics_for(prepared, calibration)
    ready = as_calibrated(prepared, statistics, ())
    half = halved(ready, statistics)
    original = Original(model, ready.widened, half.reporting)
    proven = prove(decide(ready, half, request, original), original)
    return mend(proven, Wanted.of(None, MAX_FLOAT_MACS) if partial else None, request, original).decision


def _stateless(feeds: Feeds) -> Feeds:
    if feeds.states:
        raise UsageError(f"{arg('state')}: models that are fed their own outputs are not trained; leave it out")
    return feeds


def _refuse_unfinished(path: Path, *, resume: bool) -> None:
    if path.exists() and not resume:
        raise UsageError(
            f"{path}: is there already, where an unfinished training is kept; go on with {arg('resume')}, or remove it"
        )


def _proven(started: Decision, plan: Plan, original: Original, *, kept: bool) -> tuple[Proven, Proven, bool]:
    """The plan to begin with and the one to be written, on the samples that report, and whether it is what was trained.

    It is not where those samples lose by it: what trained and what chose was learned by heart then.
    """
    begun = replace(started, candidate=None)
    before = prove(begun, original)
    trained = prove(replace(begun, plan=plan), original) if kept else before
    better = kept and loudness(trained.proof.judged_db) >= loudness(before.proof.judged_db)
    return before, trained if better else before, better


def _float_model(prepared: Model, plan: Plan) -> Model:
    """The float model with the weights and biases of a plan."""
    model = shift_biases(prepared, plan)
    lighten(model)
    contrib.define(model)
    return model

"""The table of contents: what the commands do, in order. No click, no printing."""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from qtool.core.errors import DataError, NothingToQuantizeError, UsageError
from qtool.core.evaluation import MaxDrop
from qtool.core.files import check_writable
from qtool.core.placement import Placement
from qtool.core.plan import Plan, load_plan
from qtool.core.preparation import ABSORB_BIASES, EQUALIZE
from qtool.core.progress import Progress, silent
from qtool.core.ranges import CANDIDATES, Calibrator, chosen_calibrators
from qtool.core.results import Calibrated, Quantized
from qtool.core.scheme import Correction, Form, Scheme
from qtool.core.statistics import Statistics
from qtool.core.tuning import Step, Tuned
from qtool.evaluation import evaluate
from qtool.evaluation.filesize import model_files, model_size
from qtool.evaluation.metrics import MetricSpec
from qtool.feeds import Data, Feeds, ReadOptions, open_feeds
from qtool.feeds.invented import invented_inputs
from qtool.feeds.reading import Reading
from qtool.graph import edit, model_io
from qtool.recovery.preparing import apply, apply_recorded, chosen_steps, decide, statistics_for
from qtool.recovery.refining import smoothed, softened
from qtool.recovery.smoothing import smoothable_tensors, token_layers
from qtool.runtime.session import Session
from qtool.stages.calibrate import collect
from qtool.stages.fit_plan import fit_plan
from qtool.stages.place import place
from qtool.stages.prepare import Prepared, prepare
from qtool.stages.rewrite import rewrite, shift_biases
from qtool.stages.verify import verify
from qtool.targets.tables import TARGETS, find_target
from qtool.tuning.forms import Goal, Job, best_plan, recurrent_layers
from qtool.tuning.split import evaluation_parts, parts
from qtool.tuning.tune import Search
from qtool.tuning.workshop import Aim, Workshop

PathLike = str | Path


def calibrate(
    model: PathLike,
    data: Data,
    output: PathLike | None = None,
    *,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int = 1,
    equalize: bool = False,
    absorb_biases: bool = False,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Calibrated:
    """Collect statistics of every activation that any target quantises, in one streaming pass.

    Args:
        model: path of a float ONNX model.
        data: anything `qtool eval` and `qtool calibrate` take as DATA, or arrays by input name, or a function that
            yields dictionaries of arrays.
        output: where to write the calibration file; None writes nothing.
        samples: use the first so many samples; None uses all.
        batch_size: samples run at once, where the model's batch dimension is free.
        threads: batches run side by side; the result is the same at any number.
        equalize: rescale channels between layers first (cross-layer equalisation); what is quantised with these
            statistics is that graph.
        absorb_biases: move what a channel never falls below into the next layer's bias first.
        progress: is told of every batch.
        reading: preprocess, tokenizer, max_length, trim, state: see `qtool.feeds.ReadOptions`.

    Raises:
        ModelError: the model cannot be read, is already quantised, or holds nothing to quantise.
        DataError: the data cannot be fed to the model, is empty, or leads to NaN or Inf.
        OutputError: `output` cannot be written.
    """
    if output is not None:
        _check_output(output, model)
    prepared = prepare(model_io.load(model))
    steps = chosen_steps(equalize=equalize, absorb_biases=absorb_biases)
    feeds = _opened(prepared, data, samples, batch_size, reading)
    _, statistics = _observed(prepared, steps, feeds, threads, progress)
    size = 0
    if output is not None:
        size = statistics.save(output)
        statistics = replace(statistics, name=str(output))
    return Calibrated(statistics, None if output is None else Path(output), size)


def quantize(
    model: PathLike,
    output: PathLike,
    *,
    calibration: PathLike | Statistics | None = None,
    data: Data | None = None,
    calibrator: Calibrator | str | None = None,
    scheme: Scheme | None = None,
    target: str = "auto",
    form: Form | Literal["auto"] = "auto",
    bias_correction: Correction = "auto",
    smoothing: Correction = "auto",
    optimize_for: Goal = "accuracy",
    equalize: bool = False,
    absorb_biases: bool = False,
    plan: PathLike | Plan | None = None,
    save_plan: PathLike | None = None,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int = 1,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Quantized:
    """Write the int8 model, after checking what onnxruntime will really run.

    Args:
        model: path of a float ONNX model.
        output: where to write the int8 model.
        calibration: a calibration file, or the statistics themselves.
        data: calibrates first instead; see `calibrate`, also for samples, batch_size, threads and reading.
        calibrator: how ranges are chosen; None or "auto" tries `qtool.core.ranges.CANDIDATES` on the examples that the
            statistics hold and keeps the best by SQNR of the outputs.
        scheme: representation, granularity, and what stays float.
        target: where the model shall run; `auto` is this machine.
        bias_correction: let the biases take back the shift that rounding the weights makes, measured on the examples;
            `auto` keeps it where the outputs' SQNR is better with it.
        equalize, absorb_biases: with data, see `calibrate`; a calibration file that was made with them needs no word,
            one that was made without them is refused.
        plan: apply this plan (a file or a value) instead of making one, to the graph that it was made for.
        save_plan: where to write the plan.
        form: of the layers. `dynamic` and `weight-only` need no data; `auto` measures static and dynamic ones where
            layers over tokens allow both, and takes what is better.
        smoothing: migrate outliers of activations into weights (SmoothQuant); `auto` where it measures better.
        optimize_for: `latency` times the candidates on this machine, and takes the fastest of those near the best SQNR.

    Raises:
        UsageError: options that contradict each other.
        ModelError, DataError, CalibrationError, OutputError: as their names say; nothing has been written then.
        VerificationError: the model would compute something else than planned; nothing has been written then.
    """
    for path in (output, save_plan):
        if path is not None:
            _check_output(path, model)
    blind = _blind(form, calibration, data, reading)
    if blind and ("on" in (bias_correction, smoothing) or optimize_for != "accuracy"):
        raise UsageError("bias correction, smoothing and latency are measured on data; give some, or leave them out")
    job = Job(
        replace(scheme or Scheme(), form="static" if form == "auto" else form),
        find_target(target),
        None if form == "auto" else form,
        chosen_calibrators(calibrator),
        "off" if blind else bias_correction,
        "off" if blind else smoothing,
        optimize_for,
        progress,
    )
    steps = chosen_steps(equalize=equalize, absorb_biases=absorb_biases)
    if plan is not None and steps:
        raise UsageError(f"{steps[0]} says nothing to a plan, which has decided it; leave one of them out")
    prepared = prepare(model_io.load(model))
    given = None
    if plan is not None:
        prepared, given = _given(plan, prepared)
    if data is not None:
        if job.form is not None:
            place(prepared.model, job.target, job.scheme, name=prepared.name)
        feeds = _opened(prepared, data, samples, batch_size, reading)
        prepared, statistics = _observed(prepared, steps, feeds, threads, progress)
    else:
        statistics = _without_data(prepared) if calibration is None else statistics_for(prepared, calibration)
        if given is None:
            prepared = _as_calibrated(prepared, statistics, steps)
    prepared, final, trials = best_plan(prepared, statistics, job) if given is None else (prepared, given, ())
    proven = model_io.consume(rewrite(prepared.model, final))
    shifted = shift_biases(prepared.model, final)
    runs_on = TARGETS[final.target]
    proof = verify(Path(model), prepared.model, shifted, proven, final, runs_on, statistics.examples, prepared.widened)
    if blind:
        proof = replace(proof, examples=0, output_sqnr_db=float("nan"))
    with model_io.output(proven, output) as size:
        if save_plan is not None:
            final.save(save_plan)
    return Quantized(final, proof, trials, prepared.changes, Path(output), size, model_size(model))


def tune(
    model: PathLike,
    data: Data,
    output: PathLike,
    *,
    eval_data: Data | None = None,
    metric: MetricSpec | None = None,
    max_drop: MaxDrop | str | float = "1%",
    min_sqnr: float | None = None,
    calibrators: Sequence[Calibrator] = CANDIDATES,
    max_float_macs: float = 0.1,
    time_budget: float | None = None,
    scheme: Scheme | None = None,
    target: str = "auto",
    samples: int | None = None,
    threads: int = 1,
    tell: Callable[[Step], None] | None = None,
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Tuned:
    """The paper's workflow end to end: calibrate once, try, and leave in float what has to be.

    The best model found so far is on disk from the first trial on, also when this is interrupted or out of time.

    Args:
        model, data, scheme, target, samples, threads, reading: as in `calibrate` and `quantize`.
        output: where the best model goes.
        eval_data: labelled data that reports, while `data` calibrates and chooses; where `data` has no labels, every
            other sample of `eval_data` chooses and the others report. None: of four samples of `data` two calibrate,
            one chooses, one reports.
        metric: what to hold, as in `evaluate`; None without labels is agreement with the float model.
        max_drop: of that metric, "1%" of float's value or 0.01 in its unit.
        min_sqnr: asked for as well, in dB.
        calibrators: what to try.
        max_float_macs: the share of multiply-accumulates that may stay in float, 0 to 1.
        time_budget: seconds, or None.
        tell: is told of every model that was tried.

    Raises:
        UsageError, ModelError, DataError, OutputError, VerificationError: as their names say.
    """
    deadline = time.monotonic() + time_budget if time_budget is not None else float("inf")
    runs_on = find_target(target)
    if not runs_on.on_cpu:
        raise UsageError(f"target {runs_on.name} does not run on this machine, where tuning measures; choose another")
    _check_output(output, model)
    wanted = scheme or Scheme()
    aim = Aim(metric, MaxDrop.parse(max_drop), min_sqnr, max_float_macs)
    prepared = prepare(model_io.load(model))
    place(prepared.model, runs_on, wanted, name=prepared.name)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    feeds = open_feeds(data, inputs, outputs=outputs, samples=samples, **reading)
    if eval_data is None:
        calibrating, choosing, reporting = parts(feeds, 4, (0, 1), (2,), (3,))
        split = f"of four samples of {feeds.name} two calibrate, one chooses, one reports"
        feeds = open_feeds(calibrating, inputs, outputs=outputs, state=feeds.states)
    else:
        other = open_feeds(eval_data, inputs, outputs=outputs, samples=samples, **reading)
        choosing, reporting, split = evaluation_parts(feeds, other)
    with tempfile.TemporaryDirectory(prefix="qtool-tune-") as folder:

        def workshop(ready: Prepared, statistics: Statistics, dynamic: Sequence[str] = ()) -> Workshop:
            scheme = replace(wanted, dynamic=(*dynamic, *recurrent_layers(ready.model, runs_on)))
            return Workshop(
                Path(model), ready, statistics, runs_on, scheme, aim, choosing, Path(folder), threads, feeds.states
            )

        plain = functools.cache(lambda: _observed(prepared, (), feeds, threads, progress))

        def refined(*, dynamic: bool) -> Workshop | None:
            tokens = token_layers(prepared.model)
            if not tokens:
                return None
            ready, statistics = plain()
            ready = softened(ready, statistics.examples)
            placed = place(ready.model, runs_on, wanted, name=prepared.name)
            found = smoothed(ready, statistics, tuple(placed.integer)) or (ready, statistics)
            return workshop(*found, tokens if dynamic else ())

        def stepped(*steps: str) -> Workshop | None:
            ready, statistics = _observed(prepared, steps, feeds, threads, progress)
            if (EQUALIZE in steps and not ready.preparation.scales) or (
                ABSORB_BIASES in steps and not ready.preparation.shifts
            ):
                return None
            return workshop(ready, statistics)

        forms = {
            "smoothed, ": lambda: refined(dynamic=False),
            "smoothed, dynamic, ": lambda: refined(dynamic=True),
            "": lambda: workshop(*plain()),
            "equalised, ": lambda: stepped(EQUALIZE),
            "equalised and biases absorbed, ": lambda: stepped(EQUALIZE, ABSORB_BIASES),
        }
        search = Search(forms, Path(output), deadline, tell or (lambda _: None), progress)
        stopped = search.complete(calibrators)
        chosen = None if metric is None else [metric]
        evaluation = evaluate(model, [output], reporting, metrics=chosen, threads=threads, state=feeds.states)
    best, plan, proof = search.found()
    met = aim.meets(evaluation.candidates[0]) and best.float_macs <= max_float_macs
    return Tuned(
        output=Path(output),
        met=met,
        best=best,
        steps=tuple(search.steps),
        stopped=stopped,
        split=split,
        metric=evaluation.metrics[0].name,
        max_drop=str(aim.max_drop),
        evaluation=evaluation,
        verification=proof,
        plan=plan,
    )


def _given(plan: PathLike | Plan, prepared: Prepared) -> tuple[Prepared, Plan]:
    """The plan, and the graph that it was made for."""
    final = plan if isinstance(plan, Plan) else load_plan(plan)
    name = "the plan" if isinstance(plan, Plan) else str(plan)
    if final.model_digest != prepared.digest:
        raise UsageError(f"{name}: made for another model than {prepared.name}; make it again with --save-plan")
    if final.target not in TARGETS:
        raise UsageError(f"{name}: for target {final.target!r}, which is unknown; choose one of {', '.join(TARGETS)}")
    try:
        prepared = apply(prepared, final.preparation)
    except ValueError as error:
        raise UsageError(f"{name}: damaged preparation ({error}); make the plan again with --save-plan") from error
    fit_plan(prepared.model, final, name)
    return prepared, final


def _blind(form: str, calibration: object, data: object, reading: ReadOptions) -> bool:
    """Whether there is no data at all. Raises `UsageError` where that, or two kinds of it, cannot be."""
    if calibration is not None and data is not None:
        raise UsageError("give either a calibration file or data to calibrate with, and not both")
    if data is None and Reading.of(reading) != Reading():
        raise UsageError(f"{', '.join(reading)}: says how to read data, and here none is read")
    blind = calibration is None and data is None
    if blind and form not in ("dynamic", "weight-only"):
        raise UsageError("give a calibration file or data to calibrate with; only dynamic and weight-only need neither")
    return blind


def _without_data(prepared: Prepared) -> Statistics:
    """Statistics of nothing, with made-up inputs if the model runs on them: they check arithmetic, not accuracy."""
    invented = invented_inputs(edit.input_specs(prepared.model))
    try:
        Session(model_io.serialize(prepared.model), name=prepared.name).run(invented)
    except DataError:
        return Statistics("no data", prepared.digest, 0, {}, ())
    return Statistics("no data", prepared.digest, 0, {}, (invented,))


def _as_calibrated(prepared: Prepared, statistics: Statistics, steps: tuple[str, ...]) -> Prepared:
    """The graph that the statistics were collected on; `steps` are those that the caller expects of it."""
    for step in steps:
        if step not in statistics.preparation.steps:
            raise UsageError(
                f"{statistics.name}: calibrated without --{step}; calibrate again with it, or leave it out here"
            )
    return apply_recorded(prepared, statistics)


def _opened(
    prepared: Prepared,
    data: Data,
    samples: int | None,
    batch_size: int,
    reading: ReadOptions,
) -> Feeds:
    """The data, once the model is known to hold something that it is for."""
    observed_tensors(prepared)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    return open_feeds(data, inputs, outputs=outputs, samples=samples, batch_size=batch_size, **reading)


def _observed(
    prepared: Prepared, steps: tuple[str, ...], feeds: Feeds, threads: int, progress: Progress
) -> tuple[Prepared, Statistics]:
    """The graph with the steps done to it, and its statistics."""
    if threads < 1:
        raise UsageError(f"{threads} threads are impossible; give 1 or more")
    if steps:
        prepared = apply(prepared, decide(prepared, steps, feeds, progress))
    statistics = collect(
        prepared.model,
        observed_tensors(prepared),
        feeds,
        name=prepared.name,
        digest=prepared.digest,
        channels=smoothable_tensors(prepared.model),
        threads=threads,
        progress=progress,
    )
    return prepared, replace(statistics, preparation=prepared.preparation)


def observed_tensors(prepared: Prepared) -> tuple[str, ...]:
    """The tensors that the statistics must hold so that they serve every target, in graph order.

    Raises:
        NothingToQuantizeError: no target finds anything.
    """
    placements: list[Placement] = []
    failure: NothingToQuantizeError | None = None
    for name in ("x86", "tensorrt"):
        try:
            placements.append(place(prepared.model, TARGETS[name], Scheme(), name=prepared.name))
        except NothingToQuantizeError as error:
            failure = failure or error
    if not placements:
        assert failure is not None
        raise failure
    return tuple(dict.fromkeys(tensor for placement in placements for tensor in placement.observed))


def _check_output(output: PathLike, model: PathLike) -> None:
    target = check_writable(output)
    written = [path for path in (target, model_io.data_path(target)) if path.exists()]
    if Path(model).is_file() and any(path.samefile(file) for path in written for file in model_files(model)):
        raise UsageError(f"{target}: would overwrite the float model; choose another output")

"""The table of contents: what the commands do, in order. No click, no printing."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from qtool.calibration.checkpoint import Checkpoint
from qtool.calibration.observed import observed_tensors
from qtool.calibration.passes import Pass, observed
from qtool.core.errors import DataError, UsageError
from qtool.core.files import check_writable
from qtool.core.merging import merge as merged
from qtool.core.model_files import model_size
from qtool.core.parts import Shard
from qtool.core.plan import Plan, load_plan
from qtool.core.progress import Progress, silent
from qtool.core.ranges import Calibrator, chosen_calibrators
from qtool.core.results import Calibrated, Quantized
from qtool.core.scheme import Correction, Form, Scheme
from qtool.core.statistics import Statistics, load_statistics
from qtool.feeds import Data, Feeds, ReadOptions, open_feeds
from qtool.feeds.invented import invented_inputs
from qtool.feeds.reading import Reading
from qtool.feeds.source import Source
from qtool.graph import edit, model_io
from qtool.recovery.preparing import apply, apply_recorded, chosen_steps, decide, statistics_for
from qtool.runtime.providers import find_provider
from qtool.runtime.session import Session
from qtool.stages.fit_plan import fit_plan
from qtool.stages.place import place
from qtool.stages.prepare import Prepared, prepare
from qtool.stages.rewrite import rewrite, shift_biases
from qtool.stages.verify import verify
from qtool.stages.verify.original import Original
from qtool.targets.tables import TARGETS, find_target
from qtool.tuning.forms import Goal, Job, best_plan

PathLike = str | Path
CHECKPOINT_S = 60.0
"""How often an unfinished calibration is written."""


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
    provider: str = "cpu",
    shard: Shard | str | None = None,
    checkpoint: float = CHECKPOINT_S,
    executor: Executor | None = None,
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
        provider: where the float model runs: cpu, cuda or tensorrt.
        shard: only this part of the data, such as "3/16": the third of sixteen; `merge` adds them together.
        checkpoint: seconds. So often what has been counted is written beside `output`, if the data is a path; an
            interrupted calibration goes on from there when it is called again.
        executor: where the batches are counted, `threads` each: `qtool.execution.Workers`, `qtool.execution.Cluster`,
            or any other executor of processes; None is this process. The result is the same.
        progress: is told of every batch.
        reading: preprocess, tokenizer, max_length, trim, state: see `qtool.feeds.ReadOptions`.

    Raises:
        UsageError: a provider that is not there, a shard of what needs all of the data.
        ModelError: the model cannot be read, is already quantised, or holds nothing to quantise.
        DataError: the data cannot be fed to the model, is empty, or leads to NaN or Inf.
        CalibrationError: there is the checkpoint of another calibration.
        OutputError: `output` cannot be written.
        WorkerError: the executor failed.
    """
    if output is not None:
        model_io.check_output(output, model)
    find_provider(provider)
    part_of_data = Shard.parse(shard) if isinstance(shard, str) else shard or Shard()
    steps = chosen_steps(equalize=equalize, absorb_biases=absorb_biases)
    if steps and part_of_data.count > 1:
        raise UsageError(f"--{steps[0]} is decided on all of the data; leave it out with --shard")
    if threads < 1:
        raise UsageError(f"{threads} threads are impossible; give 1 or more")
    prepared = prepare(model_io.load(model))
    feeds, source = _opened(prepared, data, samples, batch_size, reading)
    if steps:
        prepared = apply(prepared, decide(prepared, steps, feeds, progress, provider))
    origin, kept = source.origin(), None
    if output is not None and origin is not None:
        kept = Checkpoint(checkpoint_path(output), checkpoint, origin)
    counting = Pass(prepared, feeds, source, part_of_data, threads, provider, executor, kept, progress)
    statistics = counting.count()
    size = 0
    if output is not None:
        size = statistics.save(output)
        statistics = replace(statistics, name=str(output))
    if kept is not None:
        kept.remove()
    return Calibrated(statistics, None if output is None else Path(output), size, counting.resumed)


def merge(calibrations: Sequence[PathLike], output: PathLike) -> Calibrated:
    """Add calibration files together: all shards of one calibration, or whole calibrations of one model.

    Args:
        calibrations: files of `calibrate`, in any order. The shards of one calibration give the bytes that one run over
            everything gives.
        output: where to write the calibration file.

    Raises:
        CalibrationError: a file that cannot be read, files that do not belong together, a shard that is missing,
            unfinished or there twice.
        OutputError: `output` cannot be written.
    """
    check_writable(output)
    if not calibrations:
        raise UsageError("there is nothing to merge; name the calibration files")
    statistics = merged([load_statistics(file) for file in calibrations])
    size = statistics.save(output)
    return Calibrated(replace(statistics, name=str(output)), Path(output), size)


def checkpoint_path(output: PathLike) -> Path:
    """Where an unfinished calibration is kept."""
    return Path(f"{output}.checkpoint")


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
    provider: str = "cpu",
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Quantized:
    """Write the int8 model, after checking what onnxruntime will really run.

    Args:
        model: path of a float ONNX model.
        output: where to write the int8 model.
        calibration: a calibration file, or the statistics themselves.
        data: calibrates first instead; see `calibrate`, also for samples, batch_size, threads, provider and reading.
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
            model_io.check_output(path, model)
    blind = _blind(form, calibration, data, reading)
    if data is None and provider != "cpu":
        raise UsageError(f"provider {provider} is where data calibrates; give data, or leave it out")
    find_provider(provider)
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
        feeds, source = _opened(prepared, data, samples, batch_size, reading)
        prepared, statistics = observed(prepared, steps, feeds, source, threads, provider, None, progress)
    else:
        statistics = _without_data(prepared) if calibration is None else statistics_for(prepared, calibration)
        if given is None:
            prepared = _as_calibrated(prepared, statistics, steps)
    original = Original(Path(model), prepared.widened, statistics.examples)
    prepared, final, trials = best_plan(prepared, statistics, job, original) if given is None else (prepared, given, ())
    proven = model_io.consume(rewrite(prepared.model, final))
    shifted = shift_biases(prepared.model, final)
    runs_on = TARGETS[final.target]
    proof = verify(original, prepared.model, shifted, proven, final, runs_on)
    if blind:
        proof = replace(proof, examples=0, output_sqnr_db=float("nan"))
    with model_io.output(proven, output) as size:
        if save_plan is not None:
            final.save(save_plan)
    return Quantized(final, proof, trials, prepared.changes, Path(output), size, model_size(model))


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
    prepared: Prepared, data: Data, samples: int | None, batch_size: int, reading: ReadOptions
) -> tuple[Feeds, Source]:
    """The data, once the model is known to hold something that it is for."""
    observed_tensors(prepared)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    feeds = open_feeds(data, inputs, outputs=outputs, samples=samples, batch_size=batch_size, **reading)
    return feeds, Source.of(data, feeds, samples, batch_size, reading)

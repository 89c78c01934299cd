"""The table of contents: what the commands do, in order. No click, no printing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtool.core.errors import CalibrationError, NothingToQuantizeError, UsageError
from qtool.core.files import atomic_output, check_writable
from qtool.core.placement import Placement
from qtool.core.plan import Plan, load_plan
from qtool.core.progress import Progress, silent
from qtool.core.ranges import CANDIDATES, METHODS, Calibrator
from qtool.core.results import Calibrated, Quantized, Trial
from qtool.core.scheme import CORRECTIONS, Correction, Scheme
from qtool.core.statistics import Statistics, load_statistics
from qtool.feeds import Data, Preprocess, open_feeds
from qtool.graph import edit, model_io
from qtool.stages.calibrate import collect_or_explain
from qtool.stages.choose import choose
from qtool.stages.fit_plan import fit_plan
from qtool.stages.place import place
from qtool.stages.plan import make_plan
from qtool.stages.prepare import Prepared, prepare
from qtool.stages.rewrite import rewrite, shift_biases
from qtool.stages.verify import verify
from qtool.targets.rules import Target
from qtool.targets.tables import TARGETS, find_target
from qtool.tuning.first import first_plan

PathLike = str | Path


def calibrate(
    model: PathLike,
    data: Data,
    output: PathLike | None = None,
    *,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int = 1,
    preprocess: Preprocess | PathLike | Mapping[str, Any] | None = None,
    progress: Progress = silent,
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
        preprocess: how uint8 images become the model's input.
        progress: is told of every batch.

    Raises:
        ModelError: the model cannot be read, is already quantised, or holds nothing to quantise.
        DataError: the data cannot be fed to the model, is empty, or leads to NaN or Inf.
        OutputError: `output` cannot be written.
    """
    if output is not None:
        _check_output(output, model)
    prepared = prepare(model_io.load(model))
    statistics = _statistics(prepared, data, samples, batch_size, threads, preprocess, progress)
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
    bias_correction: Correction = "auto",
    plan: PathLike | Plan | None = None,
    save_plan: PathLike | None = None,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int = 1,
    preprocess: Preprocess | PathLike | Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Quantized:
    """Write the int8 model, after checking what onnxruntime will really run.

    Args:
        model: path of a float ONNX model.
        output: where to write the int8 model.
        calibration: a calibration file, or the statistics themselves.
        data: calibrates first instead; see `calibrate`, also for samples, batch_size, threads and preprocess.
        calibrator: how ranges are chosen; None or "auto" tries `qtool.core.ranges.CANDIDATES` on the examples that the
            statistics hold and keeps the best by SQNR of the outputs.
        scheme: representation, granularity, and what stays float.
        target: where the model shall run; `auto` is this machine.
        bias_correction: let the biases take back the shift that rounding the weights makes, measured on the examples;
            `auto` keeps it where the outputs' SQNR is better with it.
        plan: apply this plan (a file or a value) instead of making one.
        save_plan: where to write the plan.

    Raises:
        UsageError: options that contradict each other.
        ModelError, DataError, CalibrationError, OutputError: as their names say; nothing has been written then.
        VerificationError: the model would compute something else than planned; nothing has been written then.
    """
    for path in (output, save_plan):
        if path is not None:
            _check_output(path, model)
    if (calibration is None) == (data is None):
        raise UsageError("give either a calibration file or data to calibrate with, and not both")
    if bias_correction not in CORRECTIONS:
        raise UsageError(f"unknown bias correction {bias_correction!r}; choose one of {', '.join(CORRECTIONS)}")
    job = _Job(scheme or Scheme(), find_target(target), _calibrators(calibrator), bias_correction, progress)
    prepared = prepare(model_io.load(model))
    if data is not None:
        place(prepared.model, job.target, job.scheme, name=prepared.name)
        statistics = _statistics(prepared, data, samples, batch_size, threads, preprocess, progress)
    else:
        statistics = _loaded(calibration, prepared)
    final, trials = (_given(plan, prepared), ()) if plan is not None else _planned(prepared, statistics, job)
    proven = model_io.to_bytes(rewrite(prepared.model, final))
    shifted = shift_biases(prepared.model, final)
    runs_on = TARGETS[final.target]
    proof = verify(Path(model), prepared.model, shifted, proven, final, runs_on, statistics.examples)
    with atomic_output(output) as temporary:
        temporary.write_bytes(proven)
        if save_plan is not None:
            final.save(save_plan)
    return Quantized(
        final, proof, trials, prepared.changes, Path(output), len(proven), model_io.size_on_disk(Path(model))
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """What a plan is made for."""

    scheme: Scheme
    target: Target
    calibrators: tuple[Calibrator, ...]
    correction: Correction
    progress: Progress


def _calibrators(given: Calibrator | str | None) -> tuple[Calibrator, ...]:
    if isinstance(given, Calibrator):
        return (given,)
    if given is None or given == "auto":
        return CANDIDATES
    if given not in METHODS:
        raise UsageError(f"unknown calibrator {given!r}; choose one of auto, {', '.join(METHODS)}")
    return (Calibrator(given),)


def _given(plan: PathLike | Plan, prepared: Prepared) -> Plan:
    final = plan if isinstance(plan, Plan) else load_plan(plan)
    name = "the plan" if isinstance(plan, Plan) else str(plan)
    if final.model_digest != prepared.digest:
        raise UsageError(f"{name}: made for another model than {prepared.name}; make it again with --save-plan")
    if final.target not in TARGETS:
        raise UsageError(f"{name}: for target {final.target!r}, which is unknown; choose one of {', '.join(TARGETS)}")
    fit_plan(prepared.model, final, name)
    return final


def _planned(prepared: Prepared, statistics: Statistics, job: _Job) -> tuple[Plan, tuple[Trial, ...]]:
    """The best plan for the job, with what was tried."""
    placement = place(prepared.model, job.target, job.scheme, name=prepared.name)

    def plan_by(calibrator: Calibrator) -> Plan:
        return make_plan(
            prepared.model,
            placement,
            choose(placement, statistics, calibrator),
            digest=prepared.digest,
            target=job.target,
            scheme=job.scheme,
            calibrator=calibrator,
        )

    return first_plan(
        prepared.model, plan_by, job.calibrators, job.correction, statistics.examples, job.target.session, job.progress
    )


def _loaded(calibration: PathLike | Statistics | None, prepared: Prepared) -> Statistics:
    if not isinstance(calibration, Statistics):
        assert calibration is not None
        calibration = load_statistics(calibration, prepared.digest, prepared.name)
    elif calibration.model_digest != prepared.digest:
        raise CalibrationError(f"the statistics belong to another model than {prepared.name}; calibrate this model")
    wanted = {spec.name for spec in edit.input_specs(prepared.model)}
    if not calibration.examples or any(set(example) != wanted for example in calibration.examples):
        raise CalibrationError(f"{calibration.name}: its samples are not the model's inputs; calibrate again")
    return calibration


def _statistics(
    prepared: Prepared,
    data: Data,
    samples: int | None,
    batch_size: int,
    threads: int,
    preprocess: Preprocess | PathLike | Mapping[str, Any] | None,
    progress: Progress,
) -> Statistics:
    if threads < 1:
        raise UsageError(f"{threads} threads are impossible; give 1 or more")
    tensors = observed_tensors(prepared)
    feeds = open_feeds(
        data, edit.input_specs(prepared.model), preprocess=preprocess, samples=samples, batch_size=batch_size
    )
    return collect_or_explain(
        prepared.model,
        tensors,
        feeds,
        name=prepared.name,
        digest=prepared.digest,
        threads=threads,
        progress=progress,
    )


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
    if target.exists() and Path(model).exists() and target.samefile(model):
        raise UsageError(f"{target}: would overwrite the float model; choose another output")

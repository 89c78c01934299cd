"""`calibrate` and `merge`: the statistics of a model over data, in parts or whole."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.errors import UsageError, arg
from qtool.core.files import check_writable
from qtool.core.progress import Progress, silent
from qtool.core.records.doubts import calibration_doubts
from qtool.core.records.merging import merge as merged
from qtool.core.records.parts import Shard
from qtool.core.records.recipe import ASKED
from qtool.core.records.results import Calibrated
from qtool.core.records.statistics import load_statistics
from qtool.feeds import Data, Feeds, ReadOptions, open_for_model
from qtool.feeds.reading import as_given
from qtool.graph import model_io
from qtool.pipeline.calibration.advice import advising
from qtool.pipeline.calibration.checkpoint import Checkpoint
from qtool.pipeline.calibration.run import CalibrationRun, with_steps
from qtool.pipeline.calibration.tensors import find_tensors
from qtool.pipeline.prepare import prepare
from qtool.pipeline.prepare.fixed_inputs import Fixing, parse_fixed
from qtool.pipeline.recovery.steps import chosen_steps, idle_lines
from qtool.runtime.providers import find_provider
from qtool.runtime.session import Session

PathLike = str | Path
CHECKPOINT_S = 60.0
"""How often an unfinished calibration is written."""


@checked_types
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
    fix: Fixing = (),
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
        fix: inputs that have one value in all data, such as {"sr": 16000}: what hangs on them becomes constant, also
            which branch an If takes. The input stays in the signature, and the int8 model serves that value only.
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
        ModelError: the model cannot be read, onnxruntime does not load it, it is already quantised, or holds nothing to
            quantise.
        DataError: the data cannot be fed to the model, is empty, or leads to NaN or Inf.
        CalibrationError: there is the checkpoint of another calibration.
        OutputError: `output` cannot be written.
        WorkerError: the executor failed.
    """
    if output is not None:
        model_io.check_output(output, model)
    compute = Compute(threads, provider, executor, progress)
    find_provider(provider)
    part_of_data = Shard.parse(shard) if isinstance(shard, str) else shard or Shard()
    steps = chosen_steps(equalize=equalize, absorb_biases=absorb_biases)
    if steps and part_of_data.count > 1:
        raise UsageError(f"{arg(ASKED[steps[0]])} is decided on all of the data; leave it out with {arg('shard')}")
    if not checkpoint >= 0:
        raise UsageError(f"a checkpoint every {checkpoint:g} seconds is impossible; give 0 or more")
    prepared = prepare(model_io.load(model), parse_fixed(fix))

    def opened() -> Feeds:
        return open_for_model(prepared.model, data, samples=samples, batch_size=batch_size, **reading)

    with advising(prepared, opened):
        tensors = find_tensors(prepared)
    # what is prepared may load where the model as it came does not, and nobody could use the statistics then
    Session(model, optimize=False)
    feeds = opened()
    prepared = with_steps(prepared, steps, feeds, compute)
    kept = None
    if output is not None:
        origin = feeds.source.origin((Path(output), checkpoint_path(output)))
        if origin is not None:
            kept = Checkpoint(checkpoint_path(output), checkpoint, origin)
    counting = CalibrationRun(prepared, feeds, tensors, compute, part_of_data, kept)
    statistics = replace(counting.count(), reading=as_given(reading))
    size = 0
    if output is not None:
        size = statistics.save(output)
        statistics = replace(statistics, name=str(output))
    if kept is not None:
        kept.remove()
    doubts = (*calibration_doubts(statistics), *idle_lines(prepared.recipe, steps))
    return Calibrated(statistics, None if output is None else Path(output), size, counting.resumed, doubts)


@checked_types
def merge(calibrations: PathLike | Sequence[PathLike], output: PathLike) -> Calibrated:
    """Add calibration files together, all shards of one calibration or whole ones of one model, and return the sum.

    Args:
        calibrations: files of `calibrate`, in any order. The shards of one calibration give the bytes that one run over
            everything gives.
        output: where to write the calibration file.

    Raises:
        UsageError: there are no files, or one is named twice.
        CalibrationError: a file that cannot be read, files that do not belong together, a shard that is missing,
            unfinished or there twice.
        OutputError: `output` cannot be written.
    """
    check_writable(output)
    calibrations = [calibrations] if isinstance(calibrations, str | Path) else calibrations
    if not calibrations:
        raise UsageError("there is nothing to merge; name the calibration files")
    places = [Path(file).resolve() for file in calibrations]
    for file, place in zip(calibrations, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{file}: is named twice; give each file once")
    statistics = merged([load_statistics(file) for file in calibrations])
    size = statistics.save(output)
    return Calibrated(
        replace(statistics, name=str(output)), Path(output), size, warnings=calibration_doubts(statistics)
    )


def checkpoint_path(output: PathLike) -> Path:
    """Return where an unfinished calibration is kept, for the path of the calibration file."""
    return Path(f"{output}.checkpoint")

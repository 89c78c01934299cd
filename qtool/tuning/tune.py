"""`tune`: the paper's workflow end to end, from a float model and data to the best int8 model found."""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import CANDIDATES, Calibrator, listed_calibrators
from qtool.core.progress import Progress, silent
from qtool.core.records.evaluation import MaxDrop, MetricInfo, MetricKind
from qtool.core.records.options import Scheme, share
from qtool.core.records.recipe import ABSORB_BIASES, EQUALIZE
from qtool.core.records.statistics import Statistics
from qtool.core.records.tuning import Step, Tuned
from qtool.evaluation.evaluate import evaluate
from qtool.evaluation.gates import check_gates, check_max_drop
from qtool.evaluation.metrics.registry import MetricSpec, resolve_metrics
from qtool.feeds import Data, ReadOptions, open_feeds
from qtool.feeds.source import Source
from qtool.graph import edit, model_io
from qtool.pipeline.calibration.run import observed
from qtool.pipeline.planning.place import place
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.recovery.refining import smoothed, softened
from qtool.pipeline.recovery.smoothing import token_layers
from qtool.quantization.candidates import recurrent_layers
from qtool.runtime.providers import find_provider
from qtool.targets.rules import Target
from qtool.targets.tables import find_target
from qtool.tuning.judge import Aim, Judge
from qtool.tuning.search import Search
from qtool.tuning.split import evaluation_subsets, subsets

PathLike = str | Path


def tune(
    model: PathLike,
    data: Data,
    output: PathLike,
    *,
    eval_data: Data | None = None,
    metric: MetricSpec | None = None,
    max_drop: MaxDrop | str | float = "1%",
    min_sqnr: float | None = None,
    calibrators: Calibrator | str | Sequence[Calibrator | str] = CANDIDATES,
    max_float_macs: float | str = 0.1,
    time_budget: float | None = None,
    scheme: Scheme | None = None,
    target: str = "auto",
    samples: int | None = None,
    threads: int = 1,
    provider: str = "cpu",
    executor: Executor | None = None,
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
        calibrators: what to try; also as a text such as "max,percentile:99.9".
        max_float_macs: the share of multiply-accumulates that may stay in float, 0 to 1 or "10%".
        time_budget: seconds, or None.
        provider: where the float model is calibrated, and every model judged: cpu, cuda or tensorrt, which alone runs
            target tensorrt and is then what `auto` means. What ranks, and the verification, run on the CPU.
        executor: where data is calibrated, models are judged and layers are ranked; see `calibrate`.
        tell: is told of every model that was tried.

    Raises:
        UsageError, ModelError, DataError, OutputError, VerificationError: as their names say.
    """
    deadline = time.monotonic() + time_budget if time_budget is not None else float("inf")
    tried = listed_calibrators(calibrators)
    aim = Aim(metric, MaxDrop.parse(max_drop), min_sqnr, _float_macs(max_float_macs))
    _check_aim(aim)
    if time_budget is not None and not time_budget > 0.0:
        raise UsageError(f"{arg('time_budget', time_budget)}: give more than 0 seconds")
    runs_on = _measurable(target, provider)
    model_io.check_output(output, model)
    wanted = scheme or Scheme()
    prepared = prepare(model_io.load(model))
    place(prepared.model, runs_on, wanted, name=prepared.name)
    inputs, outputs = edit.input_specs(prepared.model), edit.output_specs(prepared.model)
    feeds = open_feeds(data, inputs, outputs=outputs, samples=samples, **reading)
    source = Source.of(data, feeds, samples, 1, reading)
    if eval_data is None:
        calibrating, choosing, reporting = subsets(feeds, 4, (0, 1), (2,), (3,))
        split = f"of four samples of {feeds.name} two calibrate, one chooses, one reports"
        feeds = open_feeds(calibrating, inputs, outputs=outputs, state=feeds.states)
        source = Source.of(calibrating, feeds, None, 1, {"state": feeds.states})
    else:
        other = open_feeds(eval_data, inputs, outputs=outputs, samples=samples, **reading)
        choosing, reporting, split = evaluation_subsets(feeds, other)
    with tempfile.TemporaryDirectory(prefix="qtool-tune-") as folder:

        def judge(ready: Prepared, statistics: Statistics, dynamic: Sequence[str] = ()) -> Judge:
            scheme = replace(wanted, dynamic=(*dynamic, *recurrent_layers(ready.model, runs_on)))
            return Judge(
                Path(model),
                ready,
                statistics,
                runs_on,
                scheme,
                aim,
                choosing,
                Path(folder),
                threads,
                feeds.states,
                provider,
                executor,
            )

        def stepped_through(*steps: str) -> tuple[Prepared, Statistics]:
            return observed(prepared, steps, feeds, source, threads, provider, executor, progress)

        plain = functools.cache(stepped_through)

        def refined(*, dynamic: bool) -> Judge | None:
            tokens = token_layers(prepared.model)
            if not tokens or not runs_on.on_cpu:
                return None
            ready, statistics = plain()
            ready = softened(ready, statistics.examples)
            placed = place(ready.model, runs_on, wanted, name=prepared.name)
            found = smoothed(ready, statistics, tuple(placed.integer)) or (ready, statistics)
            return judge(*found, tokens if dynamic else ())

        def stepped(*steps: str) -> Judge | None:
            ready, statistics = stepped_through(*steps)
            if (EQUALIZE in steps and not ready.recipe.scales) or (ABSORB_BIASES in steps and not ready.recipe.shifts):
                return None
            return judge(ready, statistics)

        forms = {
            "smoothed, ": lambda: refined(dynamic=False),
            "smoothed, dynamic, ": lambda: refined(dynamic=True),
            "": lambda: judge(*plain()),
            "equalised, ": lambda: stepped(EQUALIZE),
            "equalised and biases absorbed, ": lambda: stepped(EQUALIZE, ABSORB_BIASES),
        }
        search = Search(forms, Path(output), deadline, tell or (lambda _: None), progress)
        stopped = search.complete(tried)
        chosen = None if metric is None else [metric]
        evaluation = evaluate(
            model,
            [output],
            reporting,
            metrics=chosen,
            threads=threads,
            provider=provider,
            executor=executor,
            state=feeds.states,
        )
    best, plan, proof = search.found()
    met = aim.meets(evaluation.candidates[0]) and best.float_macs <= aim.max_float_macs
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


def _float_macs(given: float | str) -> float:
    try:
        return share(given)
    except UsageError as error:
        raise UsageError(f"{arg('max_float_macs')}: {error.marked}") from error


def _check_aim(aim: Aim) -> None:
    """Refuse a target that every model meets, or none can be measured by. Raises `UsageError`."""
    check_gates((), None, aim.min_sqnr)
    chosen = None if aim.metric is None else resolve_metrics(aim.metric)[0].info
    if chosen is None or chosen.kind is MetricKind.SIMILARITY:
        # of what stands in for it, the share of equal predictions; the metrics by default have the same bounds
        chosen = MetricInfo("what is measured", MetricKind.ACCURACY, lower_is_better=False, worst=0.0)
    check_max_drop(chosen, aim.max_drop)


def _measurable(target: str, provider: str) -> Target:
    """The target of that name, which the provider must run as it will be run."""
    find_provider(provider)
    there = provider == "tensorrt"
    runs_on = find_target("tensorrt" if there and target == "auto" else target)
    if there and runs_on.on_cpu:
        raise UsageError(f"target {runs_on.name} is not for provider tensorrt, where tuning measures; leave one out")
    if not there and not runs_on.on_cpu:
        raise UsageError(
            f"target {runs_on.name} does not run on this machine, where tuning measures; choose another, or "
            f"{arg('provider', runs_on.name)}"
        )
    return runs_on

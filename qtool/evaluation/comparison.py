"""`evaluate`: every model over the same samples, in one streaming pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qtool.core.errors import DataError, ModelError, UsageError
from qtool.core.evaluation import Evaluation, Latency, LatencySetup, MaxDrop, ModelResult
from qtool.core.progress import Progress, silent
from qtool.evaluation.classes import ClassOutput, find_class_output, has_class_labels
from qtool.evaluation.filesize import model_size
from qtool.evaluation.gates import check_gates, judge, scored_drop
from qtool.evaluation.interface import check_interface
from qtool.evaluation.latency import WARMUP_ROUNDS, measure_latency
from qtool.evaluation.metrics import Metric, MetricSpec, resolve_metrics
from qtool.evaluation.observation import Observation
from qtool.evaluation.trial import Trial, check_outputs, first_nan, run_numeric, scores_of
from qtool.feeds import Batch, Data, Feeds, Preprocess, open_feeds
from qtool.runtime.session import Session

DEFAULT_LATENCY_RUNS = 50
PreprocessSpec = Preprocess | str | Path | Mapping[str, Any] | None


def evaluate(
    float_model: str | Path,
    candidates: str | Path | Sequence[str | Path],
    data: Data,
    *,
    metrics: Sequence[MetricSpec] | None = None,
    max_drop: MaxDrop | str | float | None = None,
    min_sqnr: float | None = None,
    samples: int | None = None,
    batch_size: int = 1,
    preprocess: PreprocessSpec = None,
    latency: bool = False,
    latency_runs: int = DEFAULT_LATENCY_RUNS,
    threads: int = 1,
    progress: Progress = silent,
) -> Evaluation:
    """Measure candidates beside the float model that they were made from.

    The data is streamed: memory does not depend on the number of samples. A failed gate is no error: look at
    `Evaluation.passed` and `Evaluation.gates`.

    Args:
        float_model, candidates: ONNX files with the same inputs and outputs.
        data: samples, and labels where a metric needs them; everything that `qtool.feeds.open_feeds` reads.
        metrics: top1, top5, cosine, sqnr, mse, `MODULE:NAME`, `file.py:NAME`, or functions and classes as in
            `qtool.evaluation.usermetric`. None: top1 if the data has class labels and a model output has
            class scores, else sqnr.
        max_drop: gate on every accuracy metric (top1, top5, a user's): "1%" of float's value, or 0.01 in its
        unit.
        min_sqnr: gate on the SQNR of all outputs together, dB.
        samples: use the first so many samples; None uses all.
        batch_size: samples a run, where the model's batch is dynamic.
        preprocess: how to turn images into the model's input; a preset's name, a file, or its keys.
        latency: also time the models, one sample a run, `latency_runs` interleaved rounds.
        threads: intra-op threads of every model.
        progress: told after every batch and every timed round.

    Raises:
        UsageError: arguments that make no sense, an unknown metric, a gate that cannot be judged.
        ModelError: a file that is no model, or candidates whose inputs or outputs differ from float's.
        DataError: data that cannot be fed, labels missing or out of range, NaN in the float model's outputs,
            a user's metric that fails.
    """
    counts = {"samples": samples, "batch_size": batch_size, "latency_runs": latency_runs, "threads": threads}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}; give 1 or more")
    drop = None if max_drop is None else MaxDrop.parse(max_drop)
    chosen = resolve_metrics(metrics) if metrics else None
    check_gates([m.info for m in chosen or ()], drop if chosen else None, min_sqnr)
    paths = _existing(float_model, candidates)
    sessions = [Session(path, threads=threads) for path in paths]
    for session in sessions[1:]:
        check_interface(sessions[0], session, batch_size)
    feeds = open_feeds(data, sessions[0].inputs, preprocess=preprocess, samples=samples, batch_size=batch_size)
    comparison = _Comparison(sessions, chosen, drop, min_sqnr)
    comparison.run(feeds, progress)
    timed: tuple[Latency, ...] | None = None
    setup = None
    if latency:
        one = _one_sample(feeds, data, sessions[0], preprocess)
        timed = measure_latency(sessions, one.inputs, latency_runs, progress)
        setup = LatencySetup(latency_runs, WARMUP_ROUNDS, one.size)
    models = comparison.results(paths, timed)
    infos = tuple(metric.info for metric in comparison.metrics)
    return Evaluation(
        data=feeds.name,
        samples=comparison.samples,
        batch_size=comparison.batch_size,
        threads=threads,
        metrics=infos,
        float_model=models[0],
        candidates=tuple(models[1:]),
        gates=judge(models[0], models[1:], infos, drop, min_sqnr),
        class_output=comparison.output.name if comparison.output else None,
        latency=setup,
    )


@dataclass(slots=True)
class _Comparison:
    """The pass over the data; which metrics there are is known once float has run one batch."""

    sessions: Sequence[Session]
    chosen: tuple[Metric, ...] | None
    max_drop: MaxDrop | None
    min_sqnr: float | None
    metrics: tuple[Metric, ...] = ()
    output: ClassOutput | None = None
    trials: tuple[Trial, ...] = ()
    samples: int = 0
    batch_size: int = 0

    def run(self, feeds: Feeds, progress: Progress) -> None:
        for batch in feeds:
            reference = run_numeric(self.sessions[0], batch.inputs)
            _refuse_nan(self.sessions[0], reference, batch)
            if not self.trials:
                self._begin(reference, batch)
            labels = {name: _read_only(array) for name, array in batch.labels.items()}
            for trial in self.trials:
                outputs = reference
                if not trial.is_float:
                    outputs = run_numeric(trial.session, batch.inputs)
                    check_outputs(trial.session, outputs, reference)
                trial.update(Observation(trial.session.name, outputs, reference, labels, batch.start, batch.size))
            self.samples += batch.size
            self.batch_size = max(self.batch_size, batch.size)
            progress("evaluating", self.samples, feeds.samples)
        if not self.samples:
            raise DataError(f"{feeds.name}: holds no samples; give data with at least one")

    def _begin(self, reference: dict[str, np.ndarray], batch: Batch) -> None:
        self.output = find_class_output(reference, batch.size)
        self.metrics = self.chosen or resolve_metrics([self._default_metric(batch)])
        check_gates([metric.info for metric in self.metrics], self.max_drop, self.min_sqnr)
        self.trials = tuple(
            Trial(session, self.metrics, self.output, is_float=index == 0)
            for index, session in enumerate(self.sessions)
        )

    def _default_metric(self, batch: Batch) -> str:
        return "top1" if self.output is not None and has_class_labels(batch.labels, batch.size) else "sqnr"

    def results(self, paths: Sequence[Path], timed: Sequence[Latency] | None) -> list[ModelResult]:
        """One result a model, float's first."""
        reference = self.trials[0].values()
        results: list[ModelResult] = []
        for index, (trial, path, name) in enumerate(zip(self.trials, paths, _display_names(paths), strict=True)):
            values = reference if trial.is_float else trial.values()
            scores = tuple(scored_drop(m.info, values[m.name], reference[m.name]) for m in self.metrics)
            results.append(
                ModelResult(
                    name=name,
                    path=str(path),
                    size_bytes=model_size(path),
                    scores=scores_of({m.name: values[m.name] for m in self.metrics}) if trial.is_float else scores,
                    sqnr_db=trial.sqnr.result() if trial.sqnr else None,
                    sqnr_db_by_output=trial.sqnr.by_output() if trial.sqnr else (),
                    agreement=trial.agreement.result() if trial.agreement else None,
                    nan=trial.nan,
                    latency=timed[index] if timed else None,
                )
            )
        return results


def _existing(float_model: str | Path, candidates: str | Path | Sequence[str | Path]) -> list[Path]:
    several = [candidates] if isinstance(candidates, str | Path) else list(candidates)
    if not several:
        raise UsageError("there is nothing to compare the float model with; name at least one candidate")
    paths = [Path(path) for path in (float_model, *several)]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path}: is no file; name an ONNX model")
    return paths


def _display_names(paths: Sequence[Path]) -> list[str]:
    """File names; the paths as given where two are the same, numbered where even those are."""
    short = Counter(path.name for path in set(paths))
    names = [path.name if short[path.name] == 1 else str(path) for path in paths]
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for name in names:
        seen[name] += 1
        printable = name.encode("utf-8", "replace").decode("utf-8")
        unique.append(printable if seen[name] == 1 else f"{printable} ({seen[name]})")
    return unique


def _refuse_nan(session: Session, outputs: dict[str, np.ndarray], batch: Batch) -> None:
    found = first_nan(outputs, batch.size)
    if found is not None:
        sample = batch.start + int(found[1].argmax())
        raise DataError(
            f"{session.name}: NaN in output '{found[0]}' of sample {sample} ({batch.origin}); the "
            "float model must be "
            "sound there: correct or remove the sample"
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _one_sample(feeds: Feeds, data: Data, session: Session, preprocess: PreprocessSpec) -> Batch:
    """The first sample, or the first batch where the model fixes its size."""
    fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in session.inputs)
    if fixed:
        return next(iter(feeds))
    return next(iter(open_feeds(data, session.inputs, preprocess=preprocess, samples=1, batch_size=1)))

"""`calibrate_pipeline` and `evaluate_pipeline`: all parts of a pipeline together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

import numpy as np

from qtool.core.arguments import checked_types
from qtool.core.errors import DataError, NothingToQuantizeError, UsageError, arg, naming
from qtool.core.files import identity_of
from qtool.core.progress import Progress, silent
from qtool.core.records.evaluation import Evaluation, MaxDrop, MetricInfo, ModelResult, Score
from qtool.core.records.recipe import FLOAT
from qtool.core.records.results import Calibrated
from qtool.evaluation.gates import check_gates, judge, scored_drop
from qtool.evaluation.limits import NO_LIMITS, Limits
from qtool.evaluation.metrics.heads import LABELS, ClassOutput, Heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import NAMES, Accumulator, Metric, MetricSpec, resolve_metrics
from qtool.evaluation.metrics.transcripts import EXACT, TRANSCRIPT_METRICS
from qtool.feeds import Data, LabelledOptions
from qtool.generation.description import Description, files_of_pipeline, read_description
from qtool.generation.pipeline import TEXT, TOKENS, PartFeeds, Pipeline, open_pipeline_data
from qtool.graph.model_files import metadata_of, model_size
from qtool.graph.model_io import digest_of
from qtool.pipeline.calibration.calibrate import calibrate


@checked_types
def calibrate_pipeline(
    pipeline: str | Path,
    data: Data,
    *,
    samples: int | None = None,
    threads: int = 1,
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> dict[str, Calibrated]:
    """Collect the statistics of each part of a pipeline on what the float pipeline feeds it; return them by part.

    The loop runs once for each part. The files are those that the description names, `PART.calib` beside it by default.
    A part in which there is nothing to quantise stays float, and has none.

    Args:
        pipeline: a TOML file that describes it, see docs/generation.md.
        data: samples of the first part, everything that `qtool.feeds.open_feeds` reads.
        samples: use the first so many; None uses all.
        threads: runs of a part that are counted side by side.
        progress: told after every run of a part.
        reading: preprocess, tokenizer, max_length, trim: see `qtool.feeds.LabelledOptions`.

    Raises:
        UsageError: the description or an argument makes no sense, or a calibration file is one of the inputs.
        NothingToQuantizeError: there is nothing to quantise in any part.
        ModelError, DataError, OutputError: as `qtool.calibrate`.
    """
    description = read_description(pipeline)
    _check_outputs(description, data)
    made: dict[str, Calibrated] = {}
    nothing: NothingToQuantizeError | None = None
    for part in description.parts:
        fed = PartFeeds(description, part.name, data, samples, dict(reading))
        try:
            made[part.name] = calibrate(part.float_model, fed, part.calibration, threads=threads, progress=progress)
        except NothingToQuantizeError as error:
            nothing = error
    if nothing is not None and not made:
        raise nothing
    return made


def _check_outputs(description: Description, data: Data) -> None:
    read = files_of_pipeline(description.path)
    read += [Path(data)] if isinstance(data, str | Path) else []
    inputs = {place for path in read if (place := identity_of(path)) is not None}
    for part in description.parts:
        if identity_of(part.calibration) in inputs:
            raise UsageError(
                f"{description.path}: the calibration of part '{part.name}' would be written over "
                f"{part.calibration}, which is read; name another file"
            )


@naming(metric="metrics")
@checked_types
def evaluate_pipeline(
    pipeline: str | Path,
    data: Data,
    *,
    metrics: MetricSpec | Sequence[MetricSpec] | None = None,
    max_drop: MaxDrop | str | float | None = None,
    limits: Limits = NO_LIMITS,
    samples: int | None = None,
    threads: int = 1,
    provider: str = "cpu",
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Evaluation:
    """Run a pipeline in float and in int8 over the same samples, and return the figures of what both say.

    Where several parts have int8 models, the pipeline also runs with each of them alone, which tells whose error
    counts.

    Args:
        pipeline: a TOML file that describes it, see docs/generation.md.
        data: samples of the first part, and labels: texts, or rows of tokens padded with -1.
        metrics: of texts and tokens: wer, cer, exact_match, bleu, chrf, or your own; those of the description by
            default, or exact_match where there are labels.
        max_drop: gate on every metric, as for `qtool.evaluate`.
        limits: gates on the agreement of what is said, and on the size of all models together; no others.
        samples: use the first so many; None uses all.
        threads, provider: of every model.
        progress: told after every sample.
        reading: preprocess, tokenizer, max_length, trim: see `qtool.feeds.LabelledOptions`.

    Raises:
        UsageError: the description or an argument makes no sense, no part has an int8 model, or a metric does not read
            what is said.
        ModelError, DataError: as `qtool.evaluate`.
    """
    description = read_description(pipeline)
    drop = None if max_drop is None else MaxDrop.parse(max_drop)
    asked = metrics if metrics is not None else description.metrics or None
    chosen = None if asked is None else resolve_metrics(asked)
    for metric in chosen or ():
        kind = metric.name.partition(":")[0]
        if kind in NAMES and kind not in TRANSCRIPT_METRICS:
            names = ", ".join(TRANSCRIPT_METRICS)
            raise UsageError(f"{arg('metric', metric.name)}: does not read what a pipeline says; use {names}")
    trials = [_trial(*variant, threads=threads, provider=provider) for variant in _variants(description)]
    for name, part in trials[1].pipeline.parts.items():
        part.check_stands_for(trials[0].pipeline.parts[name])
    feeds = open_pipeline_data(description, trials[0].pipeline, data, samples, **reading)
    found: tuple[Metric, ...] | None = chosen
    count = 0
    for batch in feeds:
        if found is None:
            found = resolve_metrics(EXACT) if LABELS in batch.labels else ()
        if not count:
            check_gates([metric.info for metric in found], drop, None)
        reference = trials[0].pipeline(batch)
        for trial in trials:
            outputs = reference if trial is trials[0] else trial.pipeline(batch)
            trial.add(Observation(trial.name, outputs, reference, batch.labels, batch.start, batch.size), found)
        count += batch.size
        progress("evaluating", count, feeds.samples)
    if not count:
        raise DataError(f"{feeds.name}: holds no samples; give data with at least one")
    infos = tuple(metric.info for metric in found or ())
    idle = [name for name in trials[1].int8 if name not in trials[1].ran]
    measured = [trial for trial in trials if trial is trials[0] or trial.ran.intersection(trial.int8)]
    if len(measured) == 1:
        raise DataError(
            f"{description.path}: the loop never runs a part with an int8 model on this data ({', '.join(idle)}), so "
            "that nothing is measured; give data that needs it"
        )
    models = _results(measured, infos)
    return Evaluation(
        data=feeds.name,
        samples=count,
        batch_size=1,
        threads=threads,
        metrics=infos,
        float_model=models[0],
        candidates=tuple(models[1:]),
        gates=judge(models[0], models[1:2], infos, drop, None, limits),
        class_output=None,
        latency=None,
        provider=provider,
        warnings=(*feeds.notes, *_never_run(idle), *_of_others(description), *_doubts(models[0])),
    )


def _trial(description: Description, int8: bool, name: str, *, threads: int, provider: str) -> "_Trial":
    ran: set[str] = set()
    pipeline = Pipeline(description, int8=int8, heard=lambda part, _: ran.add(part), threads=threads, provider=provider)
    quantized = tuple(part.name for part in description.parts if int8 and part.int8_model is not None)
    return _Trial(pipeline, name, quantized, ran)


def _never_run(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"part '{name}' never ran on this data, so that its int8 model is not measured; give data that needs it, or "
        "leave the part out"
        for name in parts
    )


def _of_others(description: Description) -> tuple[str, ...]:
    """What int8 models say of the float model that they are made of, where that is not the part's."""
    doubts = []
    for part in description.parts:
        made_of = None if part.int8_model is None else metadata_of(part.int8_model).get(FLOAT)
        if made_of is not None and made_of != digest_of(part.float_model):
            doubts.append(
                f"part '{part.name}': {part.int8_model} is made of another float model than {part.float_model}, or of "
                "one that has changed; quantise it again"
            )
    return tuple(doubts)


def _variants(description: Description) -> Iterator[tuple[Description, bool, str]]:
    """The float pipeline, the int8 one, and where that has several int8 parts, each of them alone; with their names."""
    name = description.path.name
    int8 = [part.name for part in description.parts if part.int8_model is not None]
    if not int8:
        raise UsageError(
            f"{description.path}: no part has an int8 model; write int8 = 'FILE' below [parts."
            f"{description.parts[0].name}]"
        )
    yield description, False, f"{name} float"
    yield description, True, f"{name} int8"
    for alone in int8 if len(int8) > 1 else ():
        parts = tuple(part if part.name == alone else replace(part, int8_model=None) for part in description.parts)
        yield replace(description, parts=parts), True, f"only {alone} int8"


@dataclass(slots=True)
class _Trial:
    """One form of the pipeline, with the sums of its metrics. int8, ran: the parts that are, and that ran so far."""

    pipeline: Pipeline
    name: str
    int8: tuple[str, ...]
    ran: set[str]
    alike: int = 0
    samples: int = 0
    accumulators: list[Accumulator] = field(default_factory=list)

    def add(self, seen: Observation, metrics: Sequence[Metric]) -> None:
        if not self.samples:
            texts = TEXT if TEXT in seen.outputs else None
            tokens = None if texts else ClassOutput(TOKENS, 1, holds_class=True)
            self.accumulators = [metric.start(Heads(tokens=tokens, texts=texts)) for metric in metrics]
        for accumulator in self.accumulators:
            accumulator.update(seen)
        said = [np.array_equal(seen.outputs.get(name, ()), exact) for name, exact in seen.reference.items()]
        self.alike += all(said) * seen.size
        self.samples += seen.size


def _results(trials: Sequence[_Trial], infos: Sequence[MetricInfo]) -> list[ModelResult]:
    values = [[accumulator.result() for accumulator in trial.accumulators] for trial in trials]
    results = []
    for trial, own in zip(trials, values, strict=True):
        is_float = trial is trials[0]
        scores = tuple(
            Score(info.name, value) if is_float else scored_drop(info, value, exact)
            for info, value, exact in zip(infos, own, values[0], strict=True)
        )
        results.append(
            ModelResult(
                name=trial.name,
                path=", ".join(map(str, trial.pipeline.files)),
                size_bytes=sum(model_size(path) for path in trial.pipeline.files),
                scores=scores,
                agreement=None if is_float else trial.alike / trial.samples,
            )
        )
    return results


def _doubts(reference: ModelResult) -> tuple[str, ...]:
    """What is odd about float's own figures."""
    return tuple(
        f"{reference.name}: {score.metric} is 0: nothing is said as the labels have it; check start, end and the "
        "tokenizer"
        for score in reference.scores
        if score.metric.partition(":")[0] in (EXACT, "bleu", "chrf") and score.value == 0
    )

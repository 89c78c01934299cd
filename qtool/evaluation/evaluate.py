"""`evaluate`: every model over the same samples, which are streamed once."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Unpack

import numpy as np

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.concurrency import side_by_side
from qtool.core.errors import DataError, ModelError, UsageError, arg, naming
from qtool.core.numerics.sqnr import measured_outputs
from qtool.core.progress import Progress, silent
from qtool.core.recognition import no_model
from qtool.core.records.evaluation import (
    Evaluation,
    Latency,
    LatencySetup,
    MaxDrop,
    MetricInfo,
    MetricKind,
    ModelResult,
)
from qtool.core.state import rollout
from qtool.core.tensorspec import InputSpec
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.doubts import LabelDoubts, Spread, add_spreads, all_doubts, input_grids, nothing_right
from qtool.evaluation.files import display_names, read_otherwise, with_share
from qtool.evaluation.gates import check_gates, judge, scored_drop
from qtool.evaluation.interface import check_interface
from qtool.evaluation.latency import WARMUP_ROUNDS, measure_latency
from qtool.evaluation.limits import Limits, ShareLimit, SizeLimit
from qtool.evaluation.metrics.heads import NO_HEADS, Heads, default_metric, find_heads, why_unlabelled
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import Metric, MetricSpec, check_decode, resolve_metrics
from qtool.evaluation.parts import FloatOutputs, float_outputs
from qtool.evaluation.run import BatchRun, Reference, run_here, run_models
from qtool.evaluation.trial import Measurement, check_outputs, scores_of
from qtool.evaluation.worst.keep import Keeper, worst_folder
from qtool.feeds import Batch, Data, Feeds, LabelledOptions, ReadOptions, open_feeds
from qtool.feeds.formats.annotations import AUTO
from qtool.feeds.preprocess import DETECTORS, preset_of
from qtool.feeds.shown import PictureInput
from qtool.graph.finite import fed_specs_of
from qtool.graph.model_files import model_size
from qtool.graph.quantizers import is_quantized
from qtool.runtime.session import Session

DEFAULT_LATENCY_RUNS = 50


@naming(metric="metrics")
@checked_types
def evaluate(
    float_model: str | Path,
    candidates: str | Path | Sequence[str | Path],
    data: Data,
    *,
    metrics: MetricSpec | Sequence[MetricSpec] | None = None,
    decode: DecodeSpec | None = None,
    max_drop: MaxDrop | str | float | None = None,
    min_sqnr: float | None = None,
    min_agreement: ShareLimit = None,
    min_integer: ShareLimit = None,
    min_speedup: float | None = None,
    max_size: SizeLimit = None,
    samples: int | None = None,
    batch_size: int = 1,
    save_worst: tuple[int, str | Path] | None = None,
    latency: bool = False,
    latency_runs: int = DEFAULT_LATENCY_RUNS,
    threads: int = 1,
    provider: str = "cpu",
    executor: Executor | None = None,
    progress: Progress = silent,
    **reading: Unpack[LabelledOptions],
) -> Evaluation:
    """Measure candidates beside the float model that they were made from, and return the figures of all.

    The data is streamed: memory does not depend on the number of samples. A failed gate is no error: look at
    `Evaluation.passed` and `Evaluation.gates`.

    Args:
        float_model, candidates: ONNX files with the same inputs and outputs.
        data: samples, and labels where a metric needs them; everything that `qtool.feeds.open_feeds` reads.
        metrics: one or several: names (`qtool.evaluation.metrics.registry.NAMES`), `wer:ctc=BLANK`, `wer:end=TOKEN`,
            `MODULE:NAME`, `file.py:NAME`, or functions and classes as in `qtool.evaluation.metrics.user`. None:
            token_accuracy or top1 if the labels are classes of tokens or samples that an output has scores for, else
            sqnr. With `decode`: map, or without labelled boxes box_agreement.
        decode: how the outputs become boxes, for the metrics that read these: a name of
            `qtool.evaluation.decoding.decoders.DECODERS`, `MODULE:NAME`, `file.py:NAME`, or a function as in
            `qtool.evaluation.decoding.user`.
        max_drop: gate on every metric that compares with labels: "1%" of float's value, or 0.01 in its unit.
        min_sqnr: gate on the SQNR of the worst output, dB.
        min_agreement: gate on the share of samples, or of tokens, with the class that float predicts: "99%", or 0.99.
        min_integer: gate on the share of multiply-accumulates that run in integer kernels on the CPU: "95%", or 0.95.
        min_speedup: gate on the speed, as a multiple of float's; the models are timed for it, as with `latency`.
        max_size: gate on the size with external data: "30%" of float's, "5MB", or bytes.
        samples: use the first so many samples; None uses all. With `state` in `reading` a sample is a sequence, every
            model feeds back its own state, and a time is of one step.
        batch_size: samples a run, where the model's batch is dynamic.
        save_worst: (N, FOLDER): draw the N samples of each candidate on which it differs most from float, into a folder
            that is made where it is not there; `Evaluation.worst` lists the pictures. For models of pictures whose
            outputs are boxes, masks, pictures or classes; needs the extra `images`.
        latency: also time the models, one sample a run, `latency_runs` interleaved rounds.
        threads: intra-op threads of every model.
        provider: where every model runs, and is timed: cpu, cuda or tensorrt.
        executor: where the models run over the data; None is this process. The figures are the same, and times are
            always taken here. See `qtool.calibrate`.
        progress: told after every batch and every timed round.
        reading: preprocess, tokenizer, max_length, trim, state, labels: see `qtool.feeds.LabelledOptions`. With
            `decode` boxes are looked for beside pictures where `labels` does not say where they are.

    Raises:
        UsageError: arguments that make no sense, an unknown metric, a gate that cannot be judged, a provider that is
            not there.
        OutputError: `save_worst` names a folder with other files, or one that cannot be written.
        ModelError: a file that is no model, or candidates whose inputs or outputs differ from float's.
        DataError: data that cannot be fed, labels missing or out of range, a metric that is NaN for the float model,
            a user's metric that fails.
    """
    counts = {"samples": samples, "batch_size": batch_size, "latency_runs": latency_runs}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{arg(name, count)}: give 1 or more")
    compute = Compute(threads, provider, executor, progress)
    drop = None if max_drop is None else MaxDrop.parse(max_drop)
    limits = Limits.of(min_agreement, min_integer, min_speedup, max_size)
    chosen = None if metrics is None else resolve_metrics(metrics)
    check_decode(chosen or (), decode)
    check_gates([m.info for m in chosen or ()], drop if chosen else None, min_sqnr)
    reading = with_boxes(decode, reading)
    folder = None if save_worst is None else worst_folder(*save_worst, (data, reading.get("labels")))
    paths = _existing(float_model, candidates)
    sessions = [Session(path, threads=threads, provider=provider) for path in paths]
    for session in sessions[1:]:
        check_interface(sessions[0], session, batch_size)
    specs = {"inputs": fed_specs_of(sessions[0].inputs, paths[0]), "outputs": sessions[0].output_specs}
    feeds = open_feeds(data, **specs, samples=samples, batch_size=batch_size, **reading)
    judged = float_outputs(paths[0], None if feeds.states else lambda: next(iter(feeds)).inputs, feeds.mask)
    comparison = _Comparison(sessions, chosen, drop, min_sqnr, decode, judged)
    if save_worst is not None and folder is not None:
        comparison.worst = _keeper(save_worst[0], folder, paths, feeds, specs["inputs"])
    comparison.add(run_models(sessions, paths, feeds, compute, inputs=folder is not None), feeds, progress)
    timed: tuple[Latency, ...] | None = None
    setup = one = None
    if latency or min_speedup is not None or limits.min_integer is not None:
        one = _one_sample(feeds, data, specs["inputs"], sessions[0], reading)
    if one is not None and (latency or min_speedup is not None):
        timed = measure_latency(sessions, one.inputs, latency_runs, progress)
        setup = LatencySetup(latency_runs, WARMUP_ROUNDS, one.size)
    found = comparison.evaluation(paths, feeds, provider, timed)
    if one is not None and limits.min_integer is not None:
        found = replace(found, candidates=tuple(with_share(model, one.inputs) for model in found.candidates))
    gates = judge(found.float_model, found.candidates, found.metrics, drop, min_sqnr, limits, judged.ended)
    hints = undecoded(found, metrics, decode, reading)
    doubts = (*feeds.notes, *comparison.doubts(found.float_model, paths), *hints, *read_otherwise(found, feeds))
    worst = None if comparison.worst is None else comparison.worst.save()
    return replace(found, threads=threads, gates=gates, latency=setup, warnings=doubts, worst=worst)


def _keeper(number: int, folder: Path, paths: Sequence[Path], feeds: Feeds, inputs: Sequence[InputSpec]) -> Keeper:
    """What keeps the worst samples. Raises `UsageError` where the inputs are no pictures."""
    if feeds.states:
        raise UsageError(f"{arg('save_worst')}: does not go with {arg('state')}; leave one out")
    return Keeper(number, folder, display_names(paths)[1:], PictureInput(inputs, feeds.source.reading.preprocess))


def compare(
    float_model: str | Path,
    candidates: Sequence[str | Path],
    data: Data,
    metric: MetricSpec | None,
    decode: DecodeSpec | None,
    compute: Compute,
    reading: ReadOptions,
    reference: Reference | None = None,
) -> Evaluation:
    """Return the figures of candidates and the float model, measured a batch a thread: the same on any number of them.

    Each model runs in one thread. `reference`: of the float model, where this data was run over before. Other
    arguments, and the errors, are those of `evaluate`.
    """
    paths = _existing(float_model, candidates)
    made = paths if reference is None else paths[1:]
    sessions = list(side_by_side(lambda path: Session(path, provider=compute.provider), made))
    sessions = sessions if reference is None else [reference.session, *sessions]
    for session in sessions[1:]:
        check_interface(sessions[0], session, 1)
    inputs = fed_specs_of(sessions[0].inputs, paths[0])
    feeds = open_feeds(data, inputs, outputs=sessions[0].output_specs, **reading)
    judged = None if reference is None else reference.judged
    if judged is None:
        judged = float_outputs(paths[0], None if feeds.states else lambda: next(iter(feeds)).inputs, feeds.mask)
    chosen = None if metric is None else resolve_metrics(metric)
    comparison = _Comparison(sessions, chosen, None, None, decode, judged)
    batches = run_models(sessions, paths, feeds, compute, beside=True, reference=reference)
    comparison.add(batches, feeds, compute.progress)
    found = comparison.evaluation(paths, feeds, compute.provider)
    if reference is None:
        return replace(found, warnings=comparison.doubts(found.float_model, paths))
    reference.judged = judged
    return found


@dataclass(frozen=True, slots=True)
class Probed:
    """The measures that can be taken of a model on data.

    metrics: those that `evaluate` takes. classes: whether an output says classes, so that predictions can be compared
    with float's. numbers: whether an output has an SQNR. by_sample: whether these classes are of samples, not tokens.
    places: whether an output says places or classes, of which differences have no size, but may be ranked by.
    unlabelled: why the data has no labels that a metric compares with, where no metric was asked for.
    """

    metrics: tuple[MetricInfo, ...]
    classes: bool
    numbers: bool
    by_sample: bool
    places: bool
    unlabelled: str


def probe(
    model: str | Path,
    data: Data,
    metric: MetricSpec | None,
    decode: DecodeSpec | None,
    *,
    provider: str = "cpu",
    **reading: Unpack[LabelledOptions],
) -> Probed:
    """Run a model on the first batch of the data, as `evaluate` would; return what is measured.

    Raises:
        UsageError, ModelError, DataError: see `evaluate`.
    """
    chosen = None if metric is None else resolve_metrics(metric)
    check_decode(chosen or (), decode)
    session = Session(model, provider=provider)
    inputs = fed_specs_of(session.inputs, Path(model))
    reading = with_boxes(decode, reading)
    feeds = open_feeds(data, inputs, outputs=session.output_specs, **reading)
    comparison = _Comparison([session], chosen, None, None, decode, float_outputs(Path(model), None))
    comparison.add(run_here([session], islice(feeds, 1), feeds.states), feeds, silent)
    infos = tuple(found.info for found in comparison.metrics)
    heads = comparison.heads
    classes = heads.predicted is not None
    by_sample = classes and heads.predicted == heads.classes
    return Probed(infos, classes, comparison.numbers, by_sample, bool(heads.places), comparison.unlabelled)


def with_boxes(decode: DecodeSpec | None, reading: LabelledOptions) -> LabelledOptions:
    """Return options of reading by which boxes are looked for where they are to be decoded."""
    return {**reading, "labels": AUTO} if decode is not None and reading.get("labels") is None else reading


def undecoded(found: Evaluation, asked: object, decode: DecodeSpec | None, reading: LabelledOptions) -> tuple[str, ...]:
    """Return a line where pictures are preprocessed as for a detector, and nothing says how its boxes are read.

    asked: the metrics that were, None for none. What was measured with labels needs no such line.
    """
    name = preset_of(reading.get("preprocess"))
    decoders = DETECTORS.get(name or "", ())
    labelled = any(metric.kind is MetricKind.ACCURACY for metric in found.metrics)
    if asked is not None or decode is not None or labelled or not decoders:
        return ()
    return (
        f"preprocess {name} is for detectors, of whose boxes SQNR says little; give decode "
        f"({', '.join(decoders)}, or a function of your own), and what they detect is compared",
    )


@dataclass(slots=True)
class _Comparison:
    """What the models make of the data; which metrics there are is known once float has run one batch."""

    sessions: Sequence[Session]
    chosen: tuple[Metric, ...] | None
    max_drop: MaxDrop | None
    min_sqnr: float | None
    decode: DecodeSpec | None
    judged: FloatOutputs = field(default_factory=FloatOutputs)
    metrics: tuple[Metric, ...] = ()
    heads: Heads = NO_HEADS
    numbers: bool = False
    trials: tuple[Measurement, ...] = ()
    samples: int = 0
    batch_size: int = 0
    steps: int = 0
    unlabelled: str = ""
    spreads: dict[str, Spread] = field(default_factory=dict)
    labels: LabelDoubts | None = None
    worst: Keeper | None = None

    def add(self, batches: Iterable[BatchRun], feeds: Feeds, progress: Progress) -> None:
        for batch in batches:
            reference = batch.outputs[0]
            if not self.trials:
                self._begin(reference, batch, in_steps=bool(feeds.states))
            labels = {name: _read_only(array) for name, array in batch.labels.items()}
            padding, mask = self.judged.padding, batch.mask
            kept = None if padding is None or mask is None else padding.kept({padding.mask: mask})
            seen = []
            for trial, outputs in zip(self.trials, batch.outputs, strict=True):
                if not trial.is_float:
                    check_outputs(trial.session, outputs, reference)
                name, of_batch = trial.session.name, (labels, batch.start, batch.size, batch.shapes, kept)
                seen.append(Observation(name, outputs, reference, *of_batch))
                trial.update(seen[-1])
            if self.worst is not None and batch.inputs is not None:
                if not self.samples:
                    self.worst.begin(self.metrics, self.heads, seen[0], batch.inputs)
                self.worst.update(seen[0], seen[1:], batch.inputs, batch.places)
            add_spreads(self.spreads, batch.spreads)
            if self.labels is not None:
                self.labels.update(reference, labels)
            self.samples += batch.size
            self.steps += batch.steps
            self.batch_size = max(self.batch_size, batch.size)
            progress("evaluating", self.samples, feeds.samples)
        if not self.samples:
            raise DataError(f"{feeds.name}: holds no samples; give data with at least one")

    def _begin(self, reference: dict[str, np.ndarray], batch: BatchRun, *, in_steps: bool) -> None:
        self.numbers = bool(set(measured_outputs(reference)) - self.judged.places)
        heads = find_heads(reference, batch.labels, batch.size, in_steps=in_steps, decode=self.decode)
        self.heads = replace(
            heads.with_places(self.judged.places.intersection(reference)),
            parts=self.judged.parts,
            padding=self.judged.padding,
        )
        self.metrics = self.chosen or resolve_metrics([default_metric(self.heads, batch.labels, batch.size)])
        if self.chosen is None:
            self.unlabelled = why_unlabelled(self.heads, batch.labels)
        check_gates([metric.info for metric in self.metrics], self.max_drop, self.min_sqnr, self.unlabelled)
        labelled = any(metric.info.kind is MetricKind.ACCURACY for metric in self.metrics)
        self.labels = LabelDoubts(self.heads.classes) if labelled and self.heads.classes is not None else None
        self.trials = tuple(
            Measurement(session, self.metrics, self.heads, is_float=index == 0)
            for index, session in enumerate(self.sessions)
        )

    def evaluation(
        self, paths: Sequence[Path], feeds: Feeds, provider: str, timed: Sequence[Latency] | None = None
    ) -> Evaluation:
        """Return the figures of all models, which have run in one thread, without gates."""
        models = self.results(paths, timed)
        infos = tuple(metric.info for metric in self.metrics)
        return Evaluation(
            data=feeds.name,
            samples=self.samples,
            batch_size=self.batch_size,
            threads=1,
            metrics=infos,
            float_model=models[0],
            candidates=tuple(models[1:]),
            gates=(),
            class_output=_class_output(self.heads, models[1:], infos),
            latency=None,
            steps=self.steps if feeds.states else None,
            states=tuple(map(str, feeds.states)),
            provider=provider,
        )

    def doubts(self, reference: ModelResult, paths: Sequence[Path]) -> tuple[str, ...]:
        """Return what is odd about float's figures and the data, for the labels and for each model beside float's."""
        names = display_names(paths)
        grids = ((name, input_grids(path)) for name, path in zip(names[1:], paths[1:], strict=True))
        labels = self.labels.lines(names[0]) if self.labels else ()
        return (*nothing_right(reference), *all_doubts(grids, self.spreads, self.samples, labels))

    def results(self, paths: Sequence[Path], timed: Sequence[Latency] | None) -> list[ModelResult]:
        """Return one result a model, float's first."""
        reference = self.trials[0].values()
        results: list[ModelResult] = []
        for index, (trial, path, name) in enumerate(zip(self.trials, paths, display_names(paths), strict=True)):
            values = reference if trial.is_float else trial.values()
            scores = [scored_drop(m.info, values[m.name], reference[m.name]) for m in self.metrics]
            if trial.is_float:
                scores = scores_of({m.name: values[m.name] for m in self.metrics})
            results.append(
                ModelResult(
                    name=name,
                    path=str(path),
                    size_bytes=model_size(path),
                    scores=tuple(replace(one, by_class=trial.by_class.get(one.metric, ())) for one in scores),
                    sqnr_db=trial.sqnr.measured() if trial.sqnr else None,
                    sqnr_db_by_output=trial.sqnr.by_output() if trial.sqnr else (),
                    agreement=trial.agreement.result() if trial.agreement else None,
                    confusion=trial.agreement.confusion() if trial.agreement else None,
                    nan=trial.nan,
                    latency=timed[index] if timed else None,
                    nodes=trial.session.nodes,
                    quantized=trial.is_float and is_quantized(path),
                )
            )
        return results


def _class_output(heads: Heads, candidates: Sequence[ModelResult], metrics: Sequence[MetricInfo]) -> str | None:
    """The output that was read as class scores, if anything was."""
    read = any(model.agreement is not None for model in candidates)
    read |= any(metric.kind is MetricKind.ACCURACY for metric in metrics)
    return heads.predicted.name if heads.predicted is not None and read else None


def _existing(float_model: str | Path, candidates: str | Path | Sequence[str | Path]) -> list[Path]:
    several = [candidates] if isinstance(candidates, str | Path) else list(candidates)
    if not several:
        raise UsageError("there is nothing to compare the float model with; name at least one candidate")
    paths = [Path(path) for path in (float_model, *several)]
    for path in paths:
        why = no_model(path)
        if why is not None:
            raise ModelError(f"{path}: {why}")
    return paths


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _one_sample(
    feeds: Feeds, data: Data, inputs: Sequence[InputSpec], session: Session, reading: LabelledOptions
) -> Batch:
    """Read the first sample, or the first batch where the model fixes its size; of a sequence, the first step."""
    if feeds.states:
        first = next(iter(feeds))
        step, _ = next(rollout(lambda _, fed: session.run(fed), feeds.states, first.inputs))
        return replace(first, inputs=step)
    fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in session.inputs)
    if fixed:
        return next(iter(feeds))
    return next(iter(open_feeds(data, inputs, samples=1, batch_size=1, **reading)))

"""The metrics by name, and the accumulators that they become once the first batch has shown the outputs."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from qtool.core.errors import UsageError, arg
from qtool.core.records.evaluation import MetricInfo, MetricKind
from qtool.evaluation.decoding.decoders import DECODERS
from qtool.evaluation.decoding.user import DecodeSpec, decoder_name
from qtool.evaluation.metrics.auc import Auc
from qtool.evaluation.metrics.classes import TopK, require_class_output
from qtool.evaluation.metrics.confusion import F1, Matthews
from qtool.evaluation.metrics.correlation import Pearson, Spearman
from qtool.evaluation.metrics.detection import COCO_OVERLAPS, BoxAgreement, Detector, MeanAveragePrecision
from qtool.evaluation.metrics.heads import ClassOutput, Heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.pictures import Psnr, Ssim, peak_of
from qtool.evaluation.metrics.pixels import PixelClasses
from qtool.evaluation.metrics.retrieval import RANKING, RECALL, RankingAgreement, RecallAtK, neighbours_of
from qtool.evaluation.metrics.similarity import Cosine, Mse, Sqnr
from qtool.evaluation.metrics.tokens import TokenAccuracy, TokenAgreement, require_tokens
from qtool.evaluation.metrics.transcripts import (
    BLEU,
    CER,
    CHRF,
    EXACT,
    WER,
    CorpusScore,
    ErrorRate,
    ExactMatch,
    Transcription,
)
from qtool.evaluation.metrics.user import UserAccumulator, UserMetric, check_user_metric, load_user_metric

MetricSpec = str | UserMetric
_TOKENIZER = "tokenizer="


class Accumulator(Protocol):
    """An object that sees every batch of one model, then gives the metric."""

    def update(self, seen: Observation) -> None:
        """Take one batch of the model into account. Raises `DataError`."""

    def result(self) -> float:
        """Return the metric over all batches. Raises `DataError`."""


@runtime_checkable
class ByClass(Protocol):
    """An accumulator that gives the metric of each class too, by the class's number."""

    def by_class(self) -> dict[str, float]:
        """Return the value of each class, once `result` was asked for."""


class Content(Enum):
    """The things that a metric reads outputs as, where they can be drawn into a picture."""

    BOXES = "boxes"
    MASKS = "masks"
    PICTURES = "pictures"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that can be measured.

    perfect: float's own value where the metric compares with float. content: what it reads; of boxes the heads must
    have a detector.
    """

    info: MetricInfo
    start: Callable[[Heads], Accumulator]
    perfect: float | None = None
    content: Content | None = None

    @property
    def name(self) -> str:
        """The name by which users ask for it, and reports show it."""
        return self.info.name

    @property
    def decodes(self) -> bool:
        """Whether it reads boxes."""
        return self.content is Content.BOXES


def resolve_metrics(specs: MetricSpec | Sequence[MetricSpec]) -> tuple[Metric, ...]:
    """Return the metrics that `specs` name, each once, in their order; a single name, function or class is one metric.

    Names may stand in one text, with commas between them.

    A user's metric is called by its function's name, or by the whole of its spec where that is taken.

    Raises:
        UsageError: an unknown name, or a user's metric that cannot be loaded.
    """
    resolved: dict[str, Metric] = {}
    given = [specs] if isinstance(specs, str) or callable(specs) else specs
    several = [name for spec in given for name in (_split(spec) if isinstance(spec, str) else [spec])]
    for spec in dict.fromkeys(several):
        if isinstance(spec, str) and (spec in _BUILTIN or spec.partition(":")[0] in _PARAMETERS):
            resolved[spec] = _BUILTIN[spec] if spec in _BUILTIN else _PARAMETERS[spec.partition(":")[0]](spec)
            continue
        if isinstance(spec, str):
            short, full, found = spec.rpartition(":")[2], spec, load_user_metric(spec, _BUILTIN)
        else:
            short = full = getattr(spec, "__name__", type(spec).__name__)
            found = check_user_metric(spec, short)
        name = full if short in resolved or short in _BUILTIN else short
        if name in resolved:
            raise UsageError(f"two metrics are called {name}; give one of them another name")
        resolved[name] = _user(found, name)
    return tuple(resolved.values())


def resolve_metric(spec: MetricSpec) -> Metric:
    """Return the one metric that `spec` names. Raises `UsageError`, also where it names several."""
    found = resolve_metrics(spec)
    if len(found) > 1:
        raise UsageError(f"{arg('metric', spec)}: names {len(found)} metrics; give one of them")
    return found[0]


def tokenizers_from(spec: str, folder: Path) -> str:
    """Return a text that names metrics with the files of their tokenizers starting from a folder, else as it is.

    `wer:tokenizer=t.json` from `here` is `wer:tokenizer=here/t.json`.
    """
    return ",".join(":".join(_from_folder(name.split(":"), folder)) for name in _split(spec))


def tokenizers_of(spec: str) -> list[Path]:
    """Return the files of the tokenizers in a text that names metrics."""
    named = [_tokenizer(name.split(":"), word) for name in _split(spec) for word in name.split(":")]
    return [Path(file) for file in named if file]


def _from_folder(words: Sequence[str], folder: Path) -> Iterator[str]:
    for word in words:
        file = _tokenizer(words, word)
        yield f"{_TOKENIZER}{folder / file}" if file else word


def _tokenizer(words: Sequence[str], word: str) -> str:
    """The file that one of the words of a metric's name says, "" where it says none."""
    return word.removeprefix(_TOKENIZER) if words[0] in _PARAMETERS and word.startswith(_TOKENIZER) else ""


def check_decode(metrics: Sequence[Metric], decode: DecodeSpec | None) -> None:
    """Refuse a metric of boxes that nobody says how to decode, and a decoder whose boxes nothing reads.

    Raises:
        UsageError: it is so.
    """
    reading = [metric.name for metric in metrics if metric.decodes]
    if reading and decode is None:
        raise UsageError(
            f"{arg('metric', reading[0])}: reads boxes; say how the outputs become boxes with {arg('decode')}: "
            f"{', '.join(DECODERS)}, or file.py:FUNCTION"
        )
    if metrics and decode is not None and not reading:
        raise UsageError(
            f"{arg('decode', decoder_name(decode))}: says nothing to {', '.join(metric.name for metric in metrics)}; "
            f"add {arg('metric', 'map')}, or leave it out"
        )


def _split(spec: str) -> list[str]:
    """Names of metrics with commas between them; what is no name stays as it is."""
    parts = [part.strip() for part in spec.split(",")]
    return parts if all(part in _BUILTIN or part.partition(":")[0] in _PARAMETERS for part in parts) else [spec]


def _user(found: UserMetric, name: str) -> Metric:
    lower = bool(getattr(found, "lower_is_better", False))
    return Metric(MetricInfo(name, MetricKind.ACCURACY, lower), lambda _: UserAccumulator(found, name))


def _accuracy(
    name: str, start: Callable[[Heads], Accumulator], worst: float = 0.0, content: Content | None = None
) -> Metric:
    return Metric(MetricInfo(name, MetricKind.ACCURACY, lower_is_better=False, worst=worst), start, content=content)


def _of_classes(name: str, start: Callable[[ClassOutput], Accumulator], worst: float = 0.0, k: int = 1) -> Metric:
    return _accuracy(name, lambda heads: start(require_class_output(heads.classes, name, k)), worst)


def _transcript(name: str) -> Metric:
    """A metric of what is said, with its settings behind colons."""
    Transcription.parse(name)
    kind = name.partition(":")[0]
    info = MetricInfo(name, MetricKind.ACCURACY, kind in (WER, CER), worst=0.0 if kind == EXACT else None)
    return Metric(info, lambda heads: _TRANSCRIPTS[kind](heads, name))


def _recall(name: str) -> Metric:
    neighbours_of(name)
    return _accuracy(name, lambda heads: RecallAtK(heads, name))


def _ranking(name: str) -> Metric:
    neighbours_of(name)
    return _similarity(name, lambda heads: RankingAgreement(heads, name), 1.0)


_TRANSCRIPTS: dict[str, Callable[[Heads, str], Accumulator]] = {
    WER: ErrorRate,
    CER: ErrorRate,
    EXACT: ExactMatch,
    BLEU: CorpusScore,
    CHRF: CorpusScore,
}


def _boxes(name: str, overlaps: Sequence[float]) -> Metric:
    return _accuracy(name, lambda heads: MeanAveragePrecision(name, _detector(heads), overlaps), content=Content.BOXES)


def _detector(heads: Heads) -> Detector:
    assert heads.detector is not None, "check_decode has seen to it"
    return heads.detector


def _picture(make: Callable[[str, float | None], Accumulator], spec: str, worst: float | None = None) -> Metric:
    peak = peak_of(spec)
    info = MetricInfo(spec, MetricKind.ACCURACY, lower_is_better=False, worst=worst)
    return Metric(info, lambda _: make(spec.partition(":")[0], peak), content=Content.PICTURES)


def _similarity(
    name: str, start: Callable[[Heads], Accumulator], perfect: float, *, lower_is_better: bool = False
) -> Metric:
    return Metric(MetricInfo(name, MetricKind.SIMILARITY, lower_is_better), start, perfect)


_BUILTIN = {
    metric.name: metric
    for metric in (
        _of_classes("top1", lambda output: TopK(1, output)),
        _of_classes("top5", lambda output: TopK(5, output), k=5),
        _of_classes("f1", lambda output: F1(output, "f1", macro=False)),
        _of_classes("f1_macro", lambda output: F1(output, "f1_macro", macro=True)),
        _of_classes("matthews", lambda output: Matthews(output, "matthews"), worst=-1.0),
        _of_classes("auc", Auc),
        _accuracy("pearson", lambda heads: Pearson(heads.score), worst=-1.0),
        _accuracy("spearman", lambda heads: Spearman(heads.score), worst=-1.0),
        _recall(RECALL),
        _accuracy("token_accuracy", lambda heads: TokenAccuracy(require_tokens(heads, "token_accuracy"))),
        *map(_transcript, _TRANSCRIPTS),
        _similarity("token_agreement", lambda heads: TokenAgreement(require_tokens(heads, "token_agreement")), 1.0),
        _boxes("map", COCO_OVERLAPS),
        _boxes("map50", COCO_OVERLAPS[:1]),
        Metric(
            MetricInfo("box_agreement", MetricKind.SIMILARITY, lower_is_better=False, share=True),
            lambda heads: BoxAgreement(_detector(heads)),
            1.0,
            Content.BOXES,
        ),
        _accuracy("miou", lambda _: PixelClasses("miou", mean=True), content=Content.MASKS),
        _accuracy("pixel_accuracy", lambda _: PixelClasses("pixel_accuracy", mean=False), content=Content.MASKS),
        _picture(Psnr, "psnr"),
        _picture(Ssim, "ssim", -1.0),
        _ranking(RANKING),
        _similarity("cosine", lambda _: Cosine(), 1.0),
        _similarity("sqnr", lambda heads: Sqnr(heads.parts, heads.places, heads.padding), math.inf),
        _similarity("mse", lambda _: Mse(), 0.0, lower_is_better=True),
    )
}
_PARAMETERS: dict[str, Callable[[str], Metric]] = {
    **dict.fromkeys(_TRANSCRIPTS, _transcript),
    RECALL: _recall,
    RANKING: _ranking,
    "psnr": lambda spec: _picture(Psnr, spec),
    "ssim": lambda spec: _picture(Ssim, spec, -1.0),
}
"""Those that take something behind a colon."""
NAMES = tuple(_BUILTIN)
"""In the order of the documentation."""

"""The records of an evaluation: what was measured on each model, what was asked, what was found.

A null in JSON means "does not apply"; a number that is not finite is null there too, and stands in `not_finite`, see
`qtool.core.records.header.document`.
"""

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from qtool.core.arguments import check_type
from qtool.core.errors import UsageError
from qtool.core.records.codec import PAIRS, UNWRITTEN, Real, called, keyed
from qtool.core.records.header import document
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount


class MetricKind(Enum):
    """The kinds of metrics, by what they compare a model's outputs with."""

    ACCURACY = "accuracy"
    """the labels: float has a score of its own, and a candidate can drop below it"""
    SIMILARITY = "similarity"
    """the float model's outputs: float is perfect by definition, so a drop says nothing"""


class GateRule(Enum):
    """The questions that a gate can ask."""

    MAX_DROP = "max-drop"
    MIN_SQNR = "min-sqnr"
    MIN_AGREEMENT = "min-agreement"
    MIN_SPEEDUP = "min-speedup"
    MIN_INTEGER = "min-integer"
    MAX_SIZE = "max-size"


@dataclass(frozen=True, slots=True)
class MaxDrop:
    """The amount that an accuracy metric may drop: a fraction of float's value, or an amount in its own unit."""

    value: float
    relative: bool

    def __post_init__(self) -> None:
        check_type("value", self.value, float)
        check_type("relative", self.relative, bool)
        if not self.value >= 0:
            raise UsageError(f"a drop of {self.value} makes no sense; give a percentage such as 1%, or 0.01")

    @classmethod
    def parse(cls, value: "MaxDrop | str | float") -> "MaxDrop":
        """Return the drop that a text or number says.

        `"1%"` is relative to float's metric; `"0.01"` and `0.01` are absolute, in the metric's unit.

        Raises:
            UsageError: not a number, negative, or not finite.
        """
        if isinstance(value, MaxDrop):
            return value
        number = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*", str(value))
        try:
            if number is None:
                raise ValueError
            amount = float(number.group(1))
        except ValueError:
            raise UsageError(f"a drop of '{value}' makes no sense; give a percentage such as 1%, or 0.01") from None
        return cls(amount / 100, relative=True) if number.group(2) else cls(amount, relative=False)

    def __str__(self) -> str:
        return percent(self.value) if self.relative else f"{self.value:.4g}"


_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class MaxSize:
    """The size that a model may have: bytes, or a fraction of float's."""

    value: float
    relative: bool

    def __post_init__(self) -> None:
        check_type("value", self.value, float)
        check_type("relative", self.relative, bool)
        if not 0 < self.value < math.inf:
            raise UsageError(f"a size of {self.value} makes no sense; give a share of float's such as 30%, or 5MB")
        if not self.relative and self.value < 1:
            raise UsageError(
                f"a size of {self.value:g} bytes is less than any file's; for that share of float's say "
                f"{percent(self.value)}"
            )

    @classmethod
    def parse(cls, value: "MaxSize | str | int") -> "MaxSize":
        """Return the size that a text or number says.

        `"30%"` is of float's size; `"5MB"`, `"5MiB"`, `"800kB"` and a number alone are bytes.

        Raises:
            UsageError: no number, another unit, or not above 0.
        """
        if isinstance(value, MaxSize):
            return value
        number = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|[A-Za-z]*)\s*", str(value))
        unit = number and ({"%": 0.01} | _UNITS).get(number.group(2))
        if number is None or unit is None:
            folded = {name.casefold(): name for name in _UNITS}
            near = number and folded.get(number.group(2).casefold())
            hint = f" (did you mean {number.group(1)}{near}?)" if number and near else ""
            raise UsageError(f"a size of '{value}' makes no sense{hint}; give a share of float's such as 30%, or 5MB")
        return cls(float(number.group(1)) * unit, relative=number.group(2) == "%")

    def __str__(self) -> str:
        return f"{percent(self.value)} of float's" if self.relative else amount(round(self.value), "byte")


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric that was measured.

    name: as `--metric` takes it. kind: what it compares with. lower_is_better: whether it counts what is wrong. share:
    whether a similarity is the share of what both models say, so that what one alone says is a drop from 1.
    worst: the least value of a metric whose best is 1; None where there is none, or the metric is the user's.
    """

    name: str
    kind: MetricKind
    lower_is_better: bool
    worst: Real | None = None
    share: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one model.

    value: in the metric's own unit. drop: how much worse than float it is, positive = worse, whichever way the metric
    counts; None for float itself and for similarity metrics, unless these are shares. relative_drop: the same as a
    fraction of float's value; None likewise, and where float scores 0. by_class: the value of each class by its number,
    empty for metrics that have none.
    """

    # documents have it as the key of the others
    metric: str = field(metadata=UNWRITTEN)
    value: Real
    drop: Real | None = None
    relative_drop: Real | None = None
    by_class: tuple[tuple[str, Real], ...] = field(default=(), metadata=PAIRS)


@dataclass(frozen=True, slots=True)
class NanFound:
    """NaN or Inf in a model's outputs unlike float's: where first, and in how many samples.

    output: of the model. sample: the first one. samples: how many. what: NaN, Inf, or a number where float has neither.
    """

    output: str
    sample: int
    samples: int
    what: str = "NaN"

    def __str__(self) -> str:
        found = f"{self.what} in {amount(self.samples, 'sample')}"
        return f"{found}, first in output '{self.output}' of sample {self.sample}"


@dataclass(frozen=True, slots=True)
class Latency:
    """The latency of one model.

    median_ms, p10_ms, p90_ms: of its runs, the median and the 10th and 90th percentile; these None where they were not
    measured. speedup: float's median over it; 1 for float. noisy: whether the rounds differ so much that the ratio says
    nothing. rough: whether they differ so much that it may be 15 % off; of float, its time.
    """

    median_ms: float
    speedup: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    noisy: bool = False
    rough: bool = False


@dataclass(frozen=True, slots=True)
class LatencySetup:
    """The setup of a latency measurement.

    runs: rounds that were timed, each of which runs every model once. warmup: rounds before these. batch: samples of a
    run.
    """

    runs: int
    warmup: int
    batch: int


@dataclass(frozen=True, slots=True)
class ConfusedClasses:
    """Two classes, of which a model predicts one where float predicts the other, and how often.

    exact: what float predicts. found: what the model does. count: of samples or tokens.
    """

    exact: str = field(metadata=called("float"))
    found: str = field(metadata=called("model"))
    count: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """The classes that a model predicts where float predicts another, the most frequent pairs first.

    counted: samples or tokens that were compared. pairs: of classes. left_out: how many are in pairs that are not
    listed.
    """

    counted: int
    pairs: tuple[ConfusedClasses, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model's part of an evaluation.

    name: of its file, with as much of the path as tells it from the others. path: as it was given. size_bytes: with its
    external data. scores: by metric. sqnr_db: of the worst output; None where it is not measured, and for the float
    model.
    sqnr_db_by_output: each output's own; None where it is not measured. agreement: the share of samples, or of tokens,
    with the same predicted class as float's; None where the model predicts none. confusion: the classes where these
    differ. nan: NaN or Inf unlike float's; None where there is none. latency: None where it was not asked for. nodes:
    how many each execution provider of onnxruntime runs, empty on the CPU. quantized: whether it is the float model and
    is quantised itself. integer_share: of the multiply-accumulates, what runs in integer kernels, 0 to 1; None where it
    was not asked for, or is not known.
    """

    name: str
    path: str
    size_bytes: int
    scores: tuple[Score, ...] = field(metadata=keyed("metric", "metrics"))
    sqnr_db: Real | None = None
    sqnr_db_by_output: tuple[tuple[str, Real | None], ...] = field(default=(), metadata=PAIRS)
    agreement: float | None = None
    nan: NanFound | None = None
    latency: Latency | None = None
    nodes: tuple[tuple[str, int], ...] = field(default=(), metadata=PAIRS)
    quantized: bool = False
    confusion: Confusion | None = None
    integer_share: float | None = None

    def score(self, metric: str) -> Score:
        """Return the score of the metric of that name. Raises `KeyError`."""
        for score in self.scores:
            if score.metric == metric:
                return score
        raise KeyError(metric)


@dataclass(frozen=True, slots=True)
class Gate:
    """One question put to one candidate, and the answer.

    model: the candidate's name. rule: what was asked. metric: of which metric, or what else was measured. limit: the
    most that it may drop, or the most bytes that it may have, as a fraction of float's where `relative`; or the least
    SQNR in dB, the least share of equal predictions or of multiply-accumulates in integers (0 to 1), the least speed as
    a multiple of float's. relative: see limit. found: in the unit of limit; None where it is not defined, or was not
    measured. passed: the answer. message: it in words.
    """

    model: str
    rule: GateRule
    metric: str
    limit: float
    relative: bool
    found: Real | None
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class WorstSample:
    """A sample on which a model differs much from float, and the picture of it.

    model: its name. rank: 1 is the worst. sample: its index in the data. source: its own file, where it has one.
    picture: the name of the PNG file. float_score, score: of float and of the model, None where there is none; see
    `WorstSamples.measure`.
    sqnr_db: of the model's outputs for it. pixels: how what was fed became pixels. said: what float and the model say
    of it, a sentence each; empty where the picture shows it.
    """

    model: str
    rank: int
    sample: int
    source: str | None
    picture: str
    float_score: Real | None
    score: Real | None
    sqnr_db: Real | None
    pixels: str
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorstSamples:
    """The pictures that were written, as `worst.json` beside them lists them.

    folder: that they are in. measure: what the scores of a sample are, in words. samples: of each model, the worst
    first. score: the name of the scores, such as top1; "" where there are none.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("worst", 2)

    folder: str
    measure: str
    samples: tuple[WorstSample, ...]
    score: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the list as strict JSON; docs/json.md has its keys."""
        return document(self)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Models compared on the same samples.

    data: its name. samples: how many were run. batch_size: at most so many at once. threads: of each model. metrics:
    that were measured, in their order. float_model: what the others are compared with. candidates: the others, as they
    were given. gates: what was asked of them, and the answers. class_output: the output read as class scores of samples
    or tokens; None where none has their shape. latency: how it was measured; None where it was not. steps: with states,
    of all sequences together. states: INPUT=OUTPUT of what is fed back, where a sample is a sequence. provider: where
    the models ran. warnings: what is odd about the data, and what to check. worst: the pictures that were asked for;
    None where none were.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("evaluation", 2)
    DERIVED: ClassVar[tuple[str, ...]] = ("passed",)

    data: str
    samples: int
    batch_size: int
    threads: int
    metrics: tuple[MetricInfo, ...]
    float_model: ModelResult
    candidates: tuple[ModelResult, ...]
    gates: tuple[Gate, ...] = ()
    class_output: str | None = None
    latency: LatencySetup | None = None
    steps: int | None = None
    states: tuple[str, ...] = ()
    provider: str = "cpu"
    warnings: tuple[str, ...] = ()
    worst: WorstSamples | None = None

    def __repr__(self) -> str:
        models = (self.float_model, *self.candidates)
        shown = [
            f"{shortened(m.name)} {', '.join(f'{s.metric} {s.value:.4g}' for s in m.scores[:3])}" for m in models[:4]
        ]
        return summary(
            "Evaluation",
            f"{amount(self.samples, 'sample')} of {shortened(self.data)}",
            *shown,
            amount(len(models) - 4, "more model") if len(models) > 4 else "",
            f"{'passed' if self.passed else 'failed'} {amount(len(self.gates), 'gate')}" if self.gates else "",
        )

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as strict JSON; docs/json.md has its keys."""
        return document(self)


def percent(fraction: float) -> str:
    """Return a fraction in percent, with four significant digits at most: 0.0123 as "1.23%"."""
    return f"{100 * fraction:.4g}%"

"""The records of an evaluation: what was measured on each model, what was asked, what was found.

A null in JSON means "does not apply"; an SQNR that is infinite is a string there, see `qtool.core.records.codec`.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from qtool.core.arguments import check_type
from qtool.core.errors import UsageError
from qtool.core.records.codec import UNWRITTEN, Real, encoded, json_number
from qtool.core.records.header import header
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

SCHEMA_VERSION = 1


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


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric that was measured.

    share: whether a similarity is the share of what both models say, so that what one alone says is a drop from 1.
    worst: the least value of a metric whose best is 1; None where there is none, or the metric is the user's.
    """

    name: str
    kind: MetricKind
    lower_is_better: bool
    worst: float | None = field(default=None, metadata=UNWRITTEN)
    share: bool = field(default=False, metadata=UNWRITTEN)


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one model.

    `drop` is how much worse than float it is, positive = worse, whichever way the metric counts;
    `relative_drop` is the same as a fraction of float's value. Both are None for float itself and for
    similarity metrics (unless these are shares), and `relative_drop` where float scores 0. `by_class` is the value of
    each class by its number, empty for metrics that have none.
    """

    # documents have it as the key of the others
    metric: str = field(metadata=UNWRITTEN)
    value: float
    drop: float | None = None
    relative_drop: float | None = None
    by_class: tuple[tuple[str, float], ...] = field(default=(), metadata=UNWRITTEN)


@dataclass(frozen=True, slots=True)
class NanFound:
    """NaN or Inf in a model's outputs unlike float's: where first, and in how many samples.

    what: NaN, Inf, or a number where float has neither.
    """

    output: str
    sample: int
    samples: int
    what: str = field(default="NaN", metadata=UNWRITTEN)

    def __str__(self) -> str:
        found = f"{self.what} in {amount(self.samples, 'sample')}"
        return f"{found}, first in output '{self.output}' of sample {self.sample}"


@dataclass(frozen=True, slots=True)
class Latency:
    """The median of one model's runs with their 10th and 90th percentile, and float's median over it (1 for float).

    noisy: whether the rounds differ so much that the ratio says nothing.
    """

    median_ms: float
    speedup: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    noisy: bool = False


@dataclass(frozen=True, slots=True)
class LatencySetup:
    """The setup of a latency measurement: rounds after warm-up rounds, each running every model once."""

    runs: int
    warmup: int
    batch: int


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model's part of an evaluation.

    `sqnr_db` is the worst output's, `sqnr_db_by_output` has each output's own; None where it is not measured, and None
    and empty for the float model.
    `agreement` is the share of samples, or of tokens, with the same predicted class as float's, None where the
    model predicts none. `nodes` is how many nodes each execution provider of onnxruntime runs, empty on the CPU.
    `quantized` is whether the float model is none.
    """

    name: str
    path: str
    size_bytes: int
    scores: tuple[Score, ...]
    sqnr_db: float | None = None
    sqnr_db_by_output: tuple[tuple[str, float | None], ...] = ()
    agreement: float | None = None
    nan: NanFound | None = None
    latency: Latency | None = None
    nodes: tuple[tuple[str, int], ...] = ()
    quantized: bool = False

    def score(self, metric: str) -> Score:
        """Return the score of the metric of that name. Raises `KeyError`."""
        for score in self.scores:
            if score.metric == metric:
                return score
        raise KeyError(metric)


@dataclass(frozen=True, slots=True)
class Gate:
    """One question put to one candidate, and the answer.

    `found` is in the unit of `limit`, None where it is not defined.
    """

    model: str
    rule: GateRule
    metric: str
    limit: float
    relative: bool
    found: float | None
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class WorstSample:
    """A sample on which a model differs much from float, and the picture of it.

    rank: 1 is the worst. sample: its index in the data. source: its own file, where it has one. picture: the name of
    the PNG file. float_score, score: of float and of the model, None where there is none; see `WorstSamples.measure`.
    sqnr_db: of the model's outputs for it. pixels: how what was fed became pixels.
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


@dataclass(frozen=True, slots=True)
class WorstSamples:
    """The pictures that were written. measure: what the scores of a sample are, in words."""

    folder: str
    measure: str
    samples: tuple[WorstSample, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Models compared on the same samples.

    With `states`, each as INPUT=OUTPUT, a sample is a sequence, and `steps` is how many there were in all.
    `class_output` names the output read as class scores of samples or tokens, None where none has their shape.
    `provider` is where the models ran. `warnings` say what is odd about the data, and what to check. `worst` are the
    pictures that were asked for, None where none were.
    """

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
            f"{len(models) - 4} more models" if len(models) > 4 else "",
            f"{'passed' if self.passed else 'failed'} {len(self.gates)} gates" if self.gates else "",
        )

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as strict JSON, in a fixed order."""
        return {
            **header("evaluation", SCHEMA_VERSION),
            "passed": self.passed,
            "data": self.data,
            "samples": self.samples,
            "steps": self.steps,
            "states": list(self.states),
            "batch_size": self.batch_size,
            "threads": self.threads,
            "provider": self.provider,
            "class_output": self.class_output,
            "latency": encoded(self.latency),
            "metrics": encoded(self.metrics),
            "float_model": _model(self.float_model),
            "candidates": [_model(model) for model in self.candidates],
            "gates": encoded(self.gates),
            "warnings": list(self.warnings),
            "worst": encoded(self.worst),
        }


def percent(fraction: float) -> str:
    """Return a fraction in percent, with four significant digits at most: 0.0123 as "1.23%"."""
    return f"{100 * fraction:.4g}%"


def _score(score: Score) -> dict[str, Any]:
    by_class = {"by_class": encoded(dict(score.by_class))} if score.by_class else {}
    return {**encoded(score), **by_class}


def _model(model: ModelResult) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": model.path,
        "size_bytes": model.size_bytes,
        "metrics": {score.metric: _score(score) for score in model.scores},
        "sqnr_db": json_number(model.sqnr_db),
        "sqnr_db_by_output": encoded(dict(model.sqnr_db_by_output)),
        "agreement": model.agreement,
        "nan": encoded(model.nan),
        "latency": encoded(model.latency),
        "nodes": dict(model.nodes),
    }

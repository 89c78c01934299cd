"""The result of `tune`: the trail of what it tried, and how the best model does on data that chose nothing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qtool.core.records.codec import Real
from qtool.core.records.evaluation import Evaluation
from qtool.core.records.finetuning import TrainingStep
from qtool.core.records.header import document
from qtool.core.records.plan import Plan
from qtool.core.records.results import Asked
from qtool.core.records.summary import shortened, summary
from qtool.core.records.verification import Verification
from qtool.core.text import amount

AGREEMENT = "agreement"
"""What is held where there are no labels: the share of predictions that are float's."""
FLOAT = "layers in float"
"""What partial quantisation is called in `Tuned.untried`."""
TRAINED = "finetune"
"""What training is called there."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model that was tried, measured on the choosing part of the data.

    what: in words. measured: the name of what is held: the metric, or `agreement` with float where there are no
    labels, or `sqnr`. metric, drop: its value, and how much worse that is than float's, as a share of float's where
    `relative`, else in its own unit; no drop where it cannot drop. sqnr_db: of the worst output; NaN where none is
    measured.
    float_layers, float_macs: the layers that were left in float though they could be integer, and their share of the
    multiply-accumulates, 0 to 1. relative: see drop. exact: what the metric is of the float model;
    None where it compares with that. samples: that it was measured on. data: they are of. met: the target and the limit
    of float.
    """

    what: str
    metric: Real
    drop: Real | None
    sqnr_db: Real
    float_layers: int
    float_macs: float
    met: bool
    measured: str
    relative: bool
    exact: Real | None = None
    samples: int = 0
    data: str = ""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of `tune`: the model that was written, how it was found, and how well it does.

    output: the int8 model. met: whether the target is met on all of the reporting part of the data, within the limit of
    float. missed: what is not, in words. complete: whether all of that part was measured, for which the time budget may
    be too short.
    best: the step that was kept. steps: the trail, in order. stopped: why it ended before all was tried, or None.
    untried: what was not tried or could not be, and why. metric: the name of what is held, see `Step`. max_drop: of
    it, None where it cannot drop. min_sqnr: asked for as well, dB. reports: how many models the reporting part was
    asked about, since the search goes on where it misses the target. one_sample, one_chosen: how much one sample of the
    reporting and of the choosing part counts in the metric, as a share or in its unit, as max_drop is; None where the
    metric is no share of samples. float_needed: the share of multiply-accumulates in float with which the target is met
    on the choosing part, where that is more than may stay in float. evaluation: of the model written, on the reporting
    part. verification: what onnxruntime runs of the model. plan: of it. split: the parts of the data, in words.
    training: how the last step went, where there was one. asked: what it was given.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("tune", 3)

    output: Path
    met: bool
    best: Step
    steps: tuple[Step, ...]
    stopped: str | None
    untried: dict[str, str]
    split: str
    metric: str
    max_drop: str | None
    min_sqnr: float | None
    missed: tuple[str, ...]
    complete: bool
    reports: int
    one_sample: float | None
    one_chosen: float | None
    float_needed: float | None
    evaluation: Evaluation
    verification: Verification
    plan: Plan
    training: TrainingStep | None = None
    asked: Asked = field(default_factory=Asked)

    @property
    def target(self) -> str:
        """The target in words: the drop, the SQNR, or both."""
        parts = [f"{self.metric} drop at most {self.max_drop}"] if self.max_drop is not None else []
        if self.min_sqnr is not None:
            parts.append(f"SQNR at least {self.min_sqnr:.4g} dB")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return summary(
            "Tuned",
            shortened(self.output),
            f"target {'met' if self.met else 'missed'}: {shortened(self.target)}",
            amount(len(self.steps), "step"),
            f"kept {shortened(self.best.what)}",
            f"{amount(self.best.float_layers, 'layer')} float",
            repr(self.verification),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as strict JSON, with its steps, evaluation, verification and plan; see docs/json.md."""
        return document(self)

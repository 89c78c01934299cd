"""The result of `tune`: the trail of what it tried, and how the best model does on data that chose nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.core.records.codec import encoded
from qtool.core.records.evaluation import Evaluation
from qtool.core.records.header import header
from qtool.core.records.plan import Plan
from qtool.core.records.summary import shortened, summary
from qtool.core.records.verification import Verification
from qtool.core.text import amount


@dataclass(frozen=True, slots=True)
class Step:
    """One model that was tried, measured on the choosing part of the data.

    what: in words. metric, drop: of the metric asked for; drop is relative to float where float's value is not 0.
    sqnr_db: of the worst output; NaN where none is measured.
    float_layers, float_macs: the layers that were left in float though they could be integer, and their share of the
    multiply-accumulates, 0 to 1. met: the target and the limit of float.
    """

    what: str
    metric: float
    drop: float
    sqnr_db: float
    float_layers: int
    float_macs: float
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the step as strict JSON; numbers that are not finite become strings."""
        result: dict[str, Any] = encoded(self)
        return result


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of `tune`: the model that was written, how it was found, and how well it does.

    met: whether the target is met on the reporting part of the data, within the limit of float.
    best: the step that was kept. steps: the trail, in order. stopped: why it ended before all was tried, or None.
    evaluation: of the model written, on the reporting part. split: the parts of the data, in words.
    """

    output: Path
    met: bool
    best: Step
    steps: tuple[Step, ...]
    stopped: str | None
    split: str
    metric: str
    max_drop: str
    evaluation: Evaluation
    verification: Verification
    plan: Plan

    def __repr__(self) -> str:
        return summary(
            "Tuned",
            shortened(self.output),
            f"target {'met' if self.met else 'missed'}: {shortened(self.metric)} drop at most {self.max_drop}",
            amount(len(self.steps), "step"),
            f"kept {shortened(self.best.what)}",
            f"{amount(self.best.float_layers, 'layer')} float",
            repr(self.verification),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as strict JSON, with its steps, evaluation, verification and plan."""
        return {
            **header("tune", 1),
            "output": str(self.output),
            "met": self.met,
            "metric": self.metric,
            "max_drop": self.max_drop,
            "stopped": self.stopped,
            "split": self.split,
            "best": self.best.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
            "evaluation": self.evaluation.to_dict(),
            "verification": self.verification.to_dict(),
            "plan": self.plan.to_dict(),
        }

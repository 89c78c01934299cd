"""The result of `finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtool.core.records.codec import encoded, json_number
from qtool.core.records.header import header
from qtool.core.records.plan import Plan
from qtool.core.records.results import Asked
from qtool.core.records.summary import shortened, summary
from qtool.core.records.verification import Verification


@dataclass(frozen=True, slots=True)
class Round:
    """The figures that were measured after so many steps.

    loss: the mean over the steps before, of noise in units of the signal's power; None before the first.
    held_out_db: SQNR of the samples that choose, dB, as onnxruntime runs it. metric: of the same, as
    onnxruntime runs them, where one chooses.
    """

    step: int
    loss: float | None
    held_out_db: float
    metric: float | None = None


@dataclass(frozen=True, slots=True)
class TrainedBlock:
    """A block of layers that was trained by itself.

    layers: those with weights. steps: of training. noise: of what it makes of what the int8 model gives it, before and
    after, in units of the signal's power, over the samples that train. held_out_db: SQNR of the whole model on the
    samples that choose, before and after, dB, as onnxruntime runs it. kept: whether that rose; else the block is as it
    was. spilled: bytes of its activations that were read from a file, for want of memory.
    """

    layers: tuple[str, ...]
    steps: int
    noise: tuple[float, float]
    held_out_db: tuple[float, float]
    kept: bool
    spilled: int

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "TrainedBlock":
        """Return the block of which `dataclasses.asdict` made a dictionary, and JSON lists of its tuples."""
        layers, noise, held_out = (tuple(saved[name]) for name in ("layers", "noise", "held_out_db"))
        return cls(layers, saved["steps"], noise, held_out, saved["kept"], saved["spilled"])

    def to_dict(self) -> dict[str, Any]:
        """Return the block as strict JSON."""
        return {
            "layers": list(self.layers),
            "steps": self.steps,
            "noise": {"before": self.noise[0], "after": self.noise[1]},
            "held_out_db": {"before": json_number(self.held_out_db[0]), "after": json_number(self.held_out_db[1])},
            "kept": self.kept,
            "spilled": self.spilled,
        }


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """A training as a step of tuning.

    what: the step that it began with. steps: of training. seconds: that it took. kept: whether what was trained was
    better on the samples that choose. chosen_db: SQNR in dB of the outputs on these, as onnxruntime runs them, before
    and after. rounds: what was measured meanwhile. split: who trains and who chooses, in words.
    """

    what: str
    steps: int
    seconds: float
    kept: bool
    chosen_db: tuple[float | None, float | None]
    rounds: tuple[Round, ...]
    split: str


@dataclass(frozen=True, slots=True)
class TorchAgreement:
    """The nearness of torch to onnxruntime, before anything is trained.

    db: SQNR in dB of the noisiest output, onnxruntime's run of the int8 model against torch's; None where none differs.
    differing: share of the elements of the outputs that differ, 0 to 1. layers_differing: that of the 8-bit tensors,
    where every layer reads what onnxruntime's reads. layers_steps: the most quantisation steps that one is off then.
    tensor: where that is. outputs_db: of the noisiest output then; None where none differs.
    """

    db: float | None
    differing: float
    layers_differing: float
    layers_steps: int
    tensor: str
    outputs_db: float | None


@dataclass(frozen=True, slots=True)
class MetricFigures:
    """The metric that chose and reported: of the float model, and of the plan to begin with and of what was written.

    reference, before, after: on the samples that report. chosen: of the plan to begin with and of what was trained, on
    the samples that choose.
    """

    name: str
    lower_is_better: bool
    reference: float
    before: float
    after: float
    chosen: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as strict JSON; numbers that are not finite become strings."""
        result: dict[str, Any] = encoded(self)
        return result


@dataclass(frozen=True, slots=True)
class Finetuned:
    """The result of `finetune`: the model that was written, and how it became that.

    kept: whether what was trained is better on the samples that choose, no worse on those that report, and so was
    written; else it is the plan that training began with. before_db, after_db: SQNR in dB of the outputs as onnxruntime
    runs them, on the samples that report: of the plan to begin with, of what was written. chosen_db: of the former and
    of what was trained, on the samples that choose. refused_db: of what was trained, where the samples that report
    refused it. metric: what chose and reported in the place of SQNR.
    rounds: what was measured while training. steps: of training. seconds: that it took. split: who trains, chooses and
    reports, in words. learned: how many numbers, by kind. untrained: layers that no gradient reaches, and why. blocks:
    those that were trained by themselves first. float_path: where the trained float model was written. asked: what it
    was given.
    """

    plan: Plan
    verification: Verification
    output: Path
    size: int
    float_size: int
    kept: bool
    before_db: float
    after_db: float
    chosen_db: tuple[float | None, float | None]
    rounds: tuple[Round, ...]
    steps: int
    seconds: float
    resumed: bool
    split: str
    learned: dict[str, int]
    untrained: dict[str, str]
    agreement: TorchAgreement
    metric: MetricFigures | None = None
    refused_db: float | None = None
    blocks: tuple[TrainedBlock, ...] = ()
    float_path: Path | None = None
    warnings: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)

    def __repr__(self) -> str:
        return summary(
            "Finetuned",
            shortened(self.output),
            f"outputs {self.before_db:.1f} -> {self.after_db:.1f} dB",
            f"{self.steps} steps" if self.kept else "as it was",
            repr(self.plan),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as strict JSON, with the loss curve, its plan and verification."""
        return {
            **header("finetune", 1),
            "output": str(self.output),
            "float_output": None if self.float_path is None else str(self.float_path),
            "bytes": self.size,
            "float_bytes": self.float_size,
            "kept": self.kept,
            "before_db": json_number(self.before_db),
            "after_db": json_number(self.after_db),
            "chosen_db": {"before": json_number(self.chosen_db[0]), "after": json_number(self.chosen_db[1])},
            "refused_db": None if self.refused_db is None else json_number(self.refused_db),
            "metric": None if self.metric is None else self.metric.to_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "resumed": self.resumed,
            "split": self.split,
            "learned": self.learned,
            "untrained": self.untrained,
            "agreement": encoded(self.agreement),
            "blocks": [one.to_dict() for one in self.blocks],
            "rounds": [encoded(one) for one in self.rounds],
            "warnings": list(self.warnings),
            "verification": self.verification.to_dict(),
            "plan": self.plan.to_dict(),
        }

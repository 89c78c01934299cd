"""The result of `finetune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qtool.core.records.codec import Real, called
from qtool.core.records.header import document
from qtool.core.records.plan import Plan
from qtool.core.records.results import Asked
from qtool.core.records.summary import shortened, summary
from qtool.core.records.timing import Timing
from qtool.core.records.verification import Verification
from qtool.core.text import amount

_ERRORS = 2.0
"""Of several states the best is chosen, which flatters it: one standard error is no proof."""


@dataclass(frozen=True, slots=True)
class Round:
    """The figures that were measured after so many steps.

    step: how many. loss: the mean over the steps before, of noise in units of the signal's power; None before the
    first. held_out_db: SQNR of the samples that choose, dB, as onnxruntime runs it. metric: of the same, where one
    chooses.
    """

    step: int
    loss: Real | None
    held_out_db: Real
    metric: Real | None = None


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
    noise: tuple[Real, Real]
    held_out_db: tuple[Real, Real]
    kept: bool
    spilled: int

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "TrainedBlock":
        """Return the block of which `dataclasses.asdict` made a dictionary, and JSON lists of its tuples."""
        layers, noise, held_out = (tuple(saved[name]) for name in ("layers", "noise", "held_out_db"))
        return cls(layers, saved["steps"], noise, held_out, saved["kept"], saved["spilled"])


@dataclass(frozen=True, slots=True)
class PairedGain:
    """The gain of what was trained over what it began with, sample by sample, on those that choose.

    by: `SQNR`, or the metric. samples: that have a figure of their own. mean: of their gains, in dB or in the metric's
    units; above 0 is better. error: its standard error.
    """

    by: str
    samples: int
    mean: Real
    error: Real

    @property
    def sure(self) -> bool:
        """Whether the gain is more than the noise of the samples: than two standard errors."""
        return self.mean > _ERRORS * self.error


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """A training as a step of tuning.

    what: the step that it began with. steps: of training. seconds: that it took. kept: whether what was trained was
    better on the samples that choose, by more than their noise. chosen_db: SQNR in dB of the outputs on these, as
    onnxruntime runs them, before and after. rounds: what was measured meanwhile. split: who trains and who chooses, in
    words.
    """

    what: str
    steps: int
    seconds: float
    kept: bool
    chosen_db: tuple[Real | None, Real | None]
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

    db: Real | None
    differing: float
    layers_differing: float
    layers_steps: int
    tensor: str
    outputs_db: Real | None


@dataclass(frozen=True, slots=True)
class MetricFigures:
    """The metric that chose and reported: of the float model, and of the plan to begin with and of what was written.

    name: of the metric. lower_is_better: whether less of it is better. reference, before, after: on the samples that
    report. chosen: of the plan to begin with and of what was trained, on the samples that choose.
    """

    name: str
    lower_is_better: bool
    reference: Real
    before: Real
    after: Real
    chosen: tuple[Real, Real]


@dataclass(frozen=True, slots=True)
class Finetuned:
    """The result of `finetune`: the model that was written, and how it became that.

    plan, verification: of the int8 model. output: it. size, float_size: of the int8 and the float model in bytes. kept:
    whether what was trained is better on the samples that choose by more than their noise, no worse on those that
    report, and so was written; else it is the plan that training began with. before_db, after_db: SQNR in dB of the
    outputs as onnxruntime runs them, on the samples that report: of the plan to begin with, of what was written.
    chosen_db: of the former and of what was trained, on the samples that choose. gain: of what was trained, sample by
    sample; None where fewer than two of those that choose have a figure of their own. refused_db: of what was trained,
    where the samples that report refused it. metric: what chose and reported in the place of SQNR. rounds: what was
    measured while training. steps: of training. seconds: that it took. split: who trains, chooses and reports. learned:
    how many numbers, by kind. untrained: layers that no gradient reaches, and why. blocks: those that were trained by
    themselves first. resumed: whether from a checkpoint. agreement: of torch with onnxruntime, before anything is
    trained. float_path: where the trained float model was written. warnings: what is odd about the data, and what to
    check. asked: what it was given. timing: how fast it is beside float on this machine.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("finetune", 2)

    plan: Plan
    verification: Verification
    output: Path
    size: int = field(metadata=called("bytes"))
    float_size: int = field(metadata=called("float_bytes"))
    kept: bool
    before_db: Real
    after_db: Real
    chosen_db: tuple[Real | None, Real | None]
    rounds: tuple[Round, ...]
    steps: int
    seconds: float
    resumed: bool
    split: str
    learned: dict[str, int]
    untrained: dict[str, str]
    agreement: TorchAgreement
    metric: MetricFigures | None = None
    gain: PairedGain | None = None
    refused_db: Real | None = None
    blocks: tuple[TrainedBlock, ...] = ()
    float_path: Path | None = field(default=None, metadata=called("float_output"))
    warnings: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)
    timing: Timing = field(default_factory=Timing)

    def __repr__(self) -> str:
        return summary(
            "Finetuned",
            shortened(self.output),
            f"outputs {self.before_db:.1f} -> {self.after_db:.1f} dB",
            amount(self.steps, "step") if self.kept else "as it was",
            repr(self.plan),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as strict JSON, with the loss curve, its plan and verification; see docs/json.md."""
        return document(self)

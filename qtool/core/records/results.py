"""The results of `calibrate` and `quantize`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.codec import TEXT, UNWRITTEN, Real, called
from qtool.core.records.evaluation import Evaluation, Gate
from qtool.core.records.header import document
from qtool.core.records.plan import Plan
from qtool.core.records.statistics import Statistics
from qtool.core.records.summary import shortened, summary
from qtool.core.records.timing import Timing
from qtool.core.records.verification import Verification
from qtool.core.text import amount

MUCH_SMALLER = 1.2
"""A model that is not smaller than float's by this factor needs an explanation."""


@dataclass(frozen=True, slots=True)
class CountedTensor:
    """The values of one tensor over all samples.

    name: of the tensor in the prepared graph. minimum, maximum: the least and greatest value; not finite where nothing
    was counted. count: how many values.
    """

    name: str
    minimum: Real = field(metadata=called("min"))
    maximum: Real = field(metadata=called("max"))
    count: int


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The result of `calibrate` or `merge`: the statistics, and where they are.

    output: the calibration file; None where they are only in memory. size: of it in bytes. resumed: of how many samples
    an earlier, interrupted run had counted. warnings: what is odd about the data, and what
        to check.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("calibrate", 2)
    DERIVED: ClassVar[tuple[str, ...]] = ("model_sha256", "samples", "shard", "tensors")

    statistics: Statistics = field(metadata=UNWRITTEN)
    output: Path | None
    size: int = field(metadata=called("bytes"))
    resumed: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def model_sha256(self) -> str:
        """The SHA-256 of the float model that the statistics belong to."""
        return self.statistics.model_digest

    @property
    def samples(self) -> int:
        """The number of samples that were counted."""
        return self.statistics.samples

    @property
    def shard(self) -> str | None:
        """The part of the data that was counted, such as 3/16; None where it is all of it."""
        return None if self.statistics.part is None else str(self.statistics.part.shard)

    @property
    def tensors(self) -> tuple[CountedTensor, ...]:
        """The tensors that were counted, in the order of the graph."""
        return tuple(CountedTensor(name, h.minimum, h.maximum, h.count) for name, h in self.statistics.tensors.items())

    def __repr__(self) -> str:
        where = "in memory" if self.output is None else shortened(self.output)
        return summary("Calibrated", where, f"{self.size} bytes", repr(self.statistics))

    def to_dict(self, command: str = "calibrate") -> dict[str, Any]:
        """Return the result as strict JSON, as that of `command`; docs/json.md has its keys."""
        return document(self, command)


@dataclass(frozen=True, slots=True)
class Trial:
    """A calibrator that was tried, with bias correction or not, and the SQNR of the outputs (dB) on the examples.

    calibrator: with its parameter. bias_correction: whether biases take back the shift of rounding the weights.
    sqnr_db: None where no output has one. form: of the layers, where several were tried. smoothed: whether outliers
    were migrated into weights. latency_ms: median of one run, where latency was asked for. samples: how many of the
    examples it was measured on; where that is much work, only the best are measured on all. floats: how it was decided
    what is left in float for speed, where that was not by the target's table. refined: how many weights were rounded
    to what their layers compute. rounding: of weights in blocks, "" where there are none; wide: how many of them had 8
    bits instead of 4.
    """

    calibrator: Calibrator = field(metadata=TEXT)
    bias_correction: bool
    sqnr_db: Real | None
    form: str = "static"
    smoothed: bool = False
    latency_ms: float | None = None
    samples: int = 0
    floats: str = ""
    refined: int = 0
    rounding: str = ""
    wide: int = 0


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a model's file.

    what: in words. size: in bytes. largest: the name of its largest constant; "" where it has none.
    """

    IN_8_BITS: ClassVar[str] = "weights in 8 bits"
    IN_BLOCKS: ClassVar[str] = "weights in blocks with their scales"
    PADDING: ClassVar[str] = "padding, which fills blocks up"

    what: str
    size: int
    largest: str


@dataclass(frozen=True, slots=True)
class LeftFloat:
    """Nodes that follow each other and are left in float since they put noise into the outputs.

    nodes: by name, in order. macs_share: of the multiply-accumulates, 0 to 1. gain_db: how much less SQNR the outputs
    have on the examples with these in integers; None where it was not measured.
    """

    nodes: tuple[str, ...]
    macs_share: float
    gain_db: Real | None


@dataclass(frozen=True, slots=True)
class NoisyRegion:
    """Nodes that follow each other and are in integers, and what these alone cost.

    nodes: by name, in order. macs_share: of the multiply-accumulates, 0 to 1. alone_db: the SQNR of the outputs in dB
    with these alone in integers.
    """

    nodes: tuple[str, ...]
    macs_share: float
    alone_db: Real


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of the accuracy of the outputs on the examples, and what was done for it.

    min_sqnr: what is wanted, dB; asked: whether by the caller, or by default. before_db: what the best plan
    measured before any layer was left in float for it; None where no output has an SQNR, and of a plan that was
    given. left: what was left in float for it. max_float_macs: the share of multiply-accumulates that might be, None
    where none might; `float_macs` is more only where no share was asked for: then what is as fast in float does not
    count, nor all else where the model stays faster than float by the target's times. float_needed: the share with
    which the examples that choose meet what is wanted, where that is more; None where no share does, or none is
    needed. met: None where no output has an SQNR. noisiest: what is in integers and puts the most noise into the
    outputs, the worst first, where layers were to be left in float.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("float_macs",)

    min_sqnr: float
    asked: bool
    met: bool | None
    before_db: Real | None = None
    left: tuple[LeftFloat, ...] = ()
    max_float_macs: float | None = None
    float_needed: float | None = None
    noisiest: tuple[NoisyRegion, ...] = ()

    @property
    def float_macs(self) -> float:
        """The share of multiply-accumulates that was left in float, 0 to 1."""
        return sum(one.macs_share for one in self.left)


@dataclass(frozen=True, slots=True)
class Asked:
    """The names of what a call was given, for the commands that a report proposes; None: it has none.

    model, data, calibration: paths. reading, options: the options that say how the data is read, and what else there
    was, with their values; no value of a flag.
    """

    model: str = "MODEL"
    data: str | None = None
    calibration: str | None = None
    reading: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()


GRU_STEPS = "GRU made a product with its whole input and a Scan of steps, which are layers of their own"
"""What preparation does to a GRU of many units, behind how many."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """The result of `quantize`: the model that was written, its plan, and what was verified.

    plan: as `--save-plan` writes it. verification: what onnxruntime runs of it, and how well. output: the int8 model.
    trials: the calibrators tried, best first; empty where one was asked for.
    verdict: on its accuracy; None where there was no data to measure it on.
    changes: what preparation did to the float graph, by pass.
    size, float_size: of the int8 and the float model in bytes.
    warnings: what is odd about the data that calibrated, and what to check.
    parts: of the int8 model, the largest first, where it is not much smaller than the float one.
    timing: how fast it is beside float on this machine.
    asked: what it was given to read.
    unrefined: where weights were rounded to what their layers compute, those that were not, by tensor, and why.
    gates: what was asked of it, and the answers.
    decoders: by the shapes of its outputs, those that may read it as a detector.
    evaluation: beside float on the samples that did not choose, by the metric of which a drop was limited; None where
    none was.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("quantize", 2)
    DERIVED: ClassVar[tuple[str, ...]] = ("refined", "passed")

    plan: Plan
    verification: Verification
    trials: tuple[Trial, ...]
    changes: dict[str, int] = field(metadata=called("preparation"))
    output: Path
    size: int = field(metadata=called("bytes"))
    float_size: int = field(metadata=called("float_bytes"))
    warnings: tuple[str, ...] = ()
    parts: tuple[FilePart, ...] = ()
    verdict: Verdict | None = None
    timing: Timing = field(default_factory=Timing)
    asked: Asked = field(default_factory=Asked)
    unrefined: dict[str, str] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    decoders: tuple[str, ...] = ()
    evaluation: Evaluation | None = None

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed for gate in self.gates)

    @property
    def refined(self) -> int:
        """The number of weights that were rounded to what their layers compute."""
        return self.plan.refined

    def __repr__(self) -> str:
        return summary(
            "Quantized",
            shortened(self.output),
            f"{self.size} bytes of {self.float_size}",
            amount(len(self.trials), "trial") if self.trials else "",
            repr(self.plan),
            repr(self.verification),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as strict JSON, with its plan and verification; docs/json.md has its keys."""
        return document(self)

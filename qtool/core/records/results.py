"""The results of `calibrate` and `quantize`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.codec import encoded, json_number
from qtool.core.records.header import header
from qtool.core.records.plan import Plan
from qtool.core.records.statistics import Statistics
from qtool.core.records.summary import shortened, summary
from qtool.core.records.timing import Timing
from qtool.core.records.verification import Verification

MUCH_SMALLER = 1.2
"""A model that is not smaller than float's by this factor needs an explanation."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The result of `calibrate` or `merge`: the statistics, where they are (None: only in memory), the size in bytes.

    resumed: of how many samples an earlier, interrupted run had counted. warnings: what is odd about the data, and what
        to check.
    """

    statistics: Statistics
    output: Path | None
    size: int
    resumed: int = 0
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        where = "in memory" if self.output is None else shortened(self.output)
        return summary("Calibrated", where, f"{self.size} bytes", repr(self.statistics))

    def to_dict(self, command: str = "calibrate") -> dict[str, Any]:
        """Return the result as strict JSON, as that of `command`."""
        return {
            **header(command, 1),
            "output": None if self.output is None else str(self.output),
            "bytes": self.size,
            "model_sha256": self.statistics.model_digest,
            "samples": self.statistics.samples,
            "shard": None if self.statistics.part is None else str(self.statistics.part.shard),
            "resumed": self.resumed,
            "warnings": list(self.warnings),
            "tensors": [
                {"name": name, "min": json_number(h.minimum), "max": json_number(h.maximum), "count": h.count}
                for name, h in self.statistics.tensors.items()
            ],
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """A calibrator that was tried, with bias correction or not, and the SQNR of the outputs (dB) on the examples.

    sqnr_db: None where no output has one. form: of the layers, where several were tried. smoothed: whether outliers
    were migrated into weights. latency_ms: median of one run, where latency was asked for. samples: how many of the
    examples it was measured on; where that is much work, only the best are measured on all. floats: how it was decided
    what is left in float for speed, where that was not by the target's table. refined: how many weights were rounded
    to what their layers compute.
    """

    calibrator: Calibrator
    bias_correction: bool
    sqnr_db: float | None
    form: str = "static"
    smoothed: bool = False
    latency_ms: float | None = None
    samples: int = 0
    floats: str = ""
    refined: int = 0


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a model's file: what it is, its bytes, and the name of its largest constant ("": it has none)."""

    IN_8_BITS: ClassVar[str] = "weights in 8 bits"

    what: str
    size: int
    largest: str


@dataclass(frozen=True, slots=True)
class LeftFloat:
    """Nodes that follow each other and are left in float since they put noise into the outputs.

    macs_share: of the multiply-accumulates, 0 to 1. gain_db: how much less SQNR the outputs have on the examples with
    these in integers; None where it was not measured.
    """

    nodes: tuple[str, ...]
    macs_share: float
    gain_db: float | None


@dataclass(frozen=True, slots=True)
class NoisyRegion:
    """Nodes that follow each other, and the SQNR of the outputs in dB with these alone in integers.

    macs_share: of the multiply-accumulates, 0 to 1.
    """

    nodes: tuple[str, ...]
    macs_share: float
    alone_db: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of the accuracy of the outputs on the examples, and what was done for it.

    min_sqnr: what is wanted, dB; asked: whether by the caller, or by default. before_db: what the best plan
    measured before any layer was left in float for it; None where no output has an SQNR, and of a plan that was
    given. left: what was left in float for it. max_float_macs: the share of multiply-accumulates that might be;
    None where none might. float_needed: the share with which the examples that choose meet what is wanted, where
    that is more; None where no share does, or none is needed. met: None where no output has an SQNR. noisiest: what
    is in integers and puts the most noise into the outputs, the worst first, where layers were to be left in float.
    """

    min_sqnr: float
    asked: bool
    met: bool | None
    before_db: float | None = None
    left: tuple[LeftFloat, ...] = ()
    max_float_macs: float | None = None
    float_needed: float | None = None
    noisiest: tuple[NoisyRegion, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a gate that was asked for was missed."""
        return self.asked and not self.met

    @property
    def float_macs(self) -> float:
        """The share of multiply-accumulates that was left in float, 0 to 1."""
        return sum(one.macs_share for one in self.left)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as strict JSON."""
        result: dict[str, Any] = {**encoded(self), "float_macs": self.float_macs}
        return result


@dataclass(frozen=True, slots=True)
class Asked:
    """The names of what a call was given, for the commands that a report proposes; None: it has none.

    reading, options: the options that say how the data is read, and what else there was, with their values; no value
    of a flag.
    """

    model: str = "MODEL"
    data: str | None = None
    calibration: str | None = None
    reading: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Quantized:
    """The result of `quantize`: the model that was written, its plan, and what was verified.

    trials: the calibrators tried, best first; empty where one was asked for.
    verdict: on its accuracy; None where there was no data to measure it on.
    changes: what preparation did to the float graph, by pass.
    size, float_size: of the int8 and the float model in bytes.
    warnings: what is odd about the data that calibrated, and what to check.
    parts: of the int8 model, the largest first, where it is not much smaller than the float one.
    timing: how fast it is beside float on this machine.
    asked: what it was given to read.
    unrefined: where weights were rounded to what their layers compute, those that were not, by tensor, and why.
    """

    plan: Plan
    verification: Verification
    trials: tuple[Trial, ...]
    changes: dict[str, int]
    output: Path
    size: int
    float_size: int
    warnings: tuple[str, ...] = ()
    parts: tuple[FilePart, ...] = ()
    verdict: Verdict | None = None
    timing: Timing = field(default_factory=Timing)
    asked: Asked = field(default_factory=Asked)
    unrefined: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return summary(
            "Quantized",
            shortened(self.output),
            f"{self.size} bytes of {self.float_size}",
            f"{len(self.trials)} trials" if self.trials else "",
            repr(self.plan),
            repr(self.verification),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as strict JSON, with its plan and verification."""
        return {
            **header("quantize", 1),
            "output": str(self.output),
            "bytes": self.size,
            "float_bytes": self.float_size,
            "parts": [encoded(part) for part in self.parts],
            "preparation": self.changes,
            "warnings": list(self.warnings),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "trials": [encoded(t) | {"calibrator": str(t.calibrator)} for t in self.trials],
            "timing": self.timing.to_dict(),
            "refined": self.plan.refined,
            "unrefined": self.unrefined,
            "verification": self.verification.to_dict(),
            "plan": self.plan.to_dict(),
        }

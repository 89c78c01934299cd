"""The record of a verification."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from qtool.core.numerics.sqnr import Uneven, loudness, worst
from qtool.core.records.codec import UNWRITTEN, Real
from qtool.core.records.summary import summary
from qtool.core.text import amount

MADE_UP = "made-up inputs"
"""The reasons why nothing was run that data of the user's would mend begin with it."""


def percent(share: float | None) -> str:
    """Return a share in words: `98.1 %`, or that it is unknown; never 0 or 100 % where it only rounds to that."""
    if share is None:
        return "an unknown share"
    if 0.0 < share < 0.0005:
        return "less than 0.1 %"
    return "more than 99.9 %" if 0.9995 <= share < 1.0 else f"{100 * share:.1f} %"


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """One quantised activation, as executed.

    tensor: its name. node: that makes it in the prepared graph; "" for an input. sqnr_db: against the float graph, of
    the whole network up to here; None where its shape was another there.
    steps: largest distance between the integer kernel and the unoptimised layer on the same inputs, in steps; on as
        many examples as are enough for that.
    """

    tensor: str
    sqnr_db: Real | None
    steps: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """The kernels that onnxruntime will run, and whether they compute what was planned.

    kernels: operator -> count in the optimised graph.
    integer_kernels: those of them that compute in integers.
    layers: nodes that multiply and accumulate, with weights or without; integer_layers: those that run as integer
        kernels.
    macs: multiply-accumulates of one batch of the examples, with bodies the mean of all; None where they are unknown.
        integer_macs: those in integer kernels, as far as they are known.
    uncounted: layers of which nothing says how often they multiply, such as those in a body that cannot run by itself.
    fallbacks: other nodes that were planned as integers and run as float.
    float_layers: layer -> why it is float.
    preparation_sqnr_db: the model's own outputs against the prepared graph's (worst output); those of a float16 model
        are computed in float32 for it.
    widening_sqnr_db: the outputs of a float16 model as it came against those in float32 (worst output); inf for others.
    steps: the largest of the tensors' `steps`, and of those of tensors whose grid is found in each run; None where no
        8-bit tensor was compared.
    optimized_sqnr_db: unoptimised against optimised outputs of the whole quantised model (worst output). Single steps
        that differ early grow through a deep network, so this may be as low as the quantisation noise itself.
    output_sqnr_db: float against quantised outputs (worst output), on the examples; NaN where no output is measured.
    sqnr_db_by_output: the same of each output, of its worst part where it has several; None where its shape depends on
        its values, and was another, or where it holds no finite number.
    sqnr_db_before: output -> the SQNR of what the Sigmoid or Softmax at its end reads, where that is saturated in the
        examples, so that the output says little; or of what the ArgMax there reads.
    agreement_by_output: of the outputs that say places or classes, of which a difference has no size, the share of
        entries that are float's, 0 to 1.
    unlike: output -> how many of its entries are NaN or Inf where float's are not, or the other way round.
    examples: how many samples that was measured on. held_out: whether none of them chose what was done.
    tensors: each quantised activation. uneven: of the worst output, where one example alone decides its figure.
    unchecked: why nothing was run to compare the arithmetic and to count; "" where it was.
    idle_bodies: the bodies of If, Loop and Scan with 8-bit tensors that no sample runs, so that nothing checks these.
    blocks_sqnr_db: of the layers whose weights are in blocks, each by itself, the worst against their definition, which
        is computed without onnxruntime; None where there are none, or nothing was run.
    trainable: whether what an integer layer computes reaches an output around all bodies, so that training reaches it.
    census: False where the target does not run on this machine's provider, and only structure and arithmetic count.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("integer_share",)

    kernels: dict[str, int]
    # documents have their names in `kernels`
    integer_kernels: tuple[str, ...] = field(metadata=UNWRITTEN)
    layers: int
    integer_layers: int
    macs: int | None
    integer_macs: int
    uncounted: tuple[str, ...]
    fallbacks: tuple[str, ...]
    float_layers: dict[str, str]
    preparation_sqnr_db: Real
    widening_sqnr_db: Real
    steps: int | None
    optimized_sqnr_db: Real
    output_sqnr_db: Real
    examples: int
    unchecked: str
    census: bool
    tensors: tuple[TensorCheck, ...]
    sqnr_db_by_output: dict[str, Real | None] = field(default_factory=dict)
    unlike: dict[str, int] = field(default_factory=dict)
    sqnr_db_before: dict[str, Real] = field(default_factory=dict)
    agreement_by_output: dict[str, float] = field(default_factory=dict)
    held_out: bool = True
    uneven: Uneven | None = None
    idle_bodies: tuple[str, ...] = ()
    blocks_sqnr_db: Real | None = None
    trainable: bool = field(default=True, metadata=UNWRITTEN)

    @property
    def judged_db(self) -> float:
        """The SQNR of the outputs, or in front of the end of one where that is worse; NaN: none is measured."""
        measured = any(db is not None for db in self.sqnr_db_by_output.values()) or bool(self.unlike)
        outputs = [self.output_sqnr_db] if measured or not self.sqnr_db_before else []
        found = worst([*outputs, *self.sqnr_db_before.values()])
        return math.nan if found is None else found

    def but_for_one(self, min_sqnr: float) -> bool:
        """Return whether all is as accurate as wanted, in dB, but for one example that is far worse than the others."""
        before = min(self.sqnr_db_before.values(), default=math.inf)
        found = self.uneven
        return loudness(self.output_sqnr_db) < min_sqnr <= before and found is not None and found.others_db >= min_sqnr

    def __repr__(self) -> str:
        accuracy = f"outputs {self.output_sqnr_db:.1f} dB SQNR on {amount(self.examples, 'sample')}"
        return summary(
            "Verification",
            f"{self.integer_layers} of {amount(self.layers, 'layer')} integer",
            f"{percent(self.integer_share)} of multiply-accumulates",
            amount(len(self.fallbacks), "fallback") if self.fallbacks else "",
            "arithmetic not checked"
            if self.unchecked
            else f"{amount(len(self.tensors), 'tensor')} differ by {amount(self.steps or 0, 'step')} at most",
            accuracy if self.examples and not math.isnan(self.output_sqnr_db) else "accuracy not measured",
            "" if self.census else "not run as integers on this machine",
        )

    @property
    def integer_share(self) -> float | None:
        """The share of multiply-accumulates that integer kernels do, 0 to 1; None where it is unknown."""
        if self.census and self.layers and not (self.integer_layers or self.unchecked):
            # none, however many there are
            return 0.0
        return self.integer_macs / self.macs if self.macs else None

    @property
    def data_helps(self) -> bool:
        """Whether what was not checked would be with data of the user's."""
        return self.unchecked.startswith(MADE_UP)

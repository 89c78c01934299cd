"""The form of a target's table: what becomes integer there, and which inputs and outputs need Q/DQ for it."""

from dataclasses import dataclass, field
from typing import Literal

from qtool.core.numerics.affine import TensorSpec

Kind = Literal["weighted", "elementwise", "passthrough", "bridge"]


@dataclass(frozen=True, slots=True)
class OpRule:
    """One operator on one target.

    kind:
        weighted: has a weight; it is what quantisation is for, and it is always quantised.
        elementwise: becomes integer where its inputs already are; the ranges of inputs and outputs are free.
        passthrough: like elementwise, with one and the same scale and zero point in and out.
        bridge: stays float, but is cheap enough that integer layers on both sides stay worth it.
    kernels: the operators that the optimised graph holds instead; empty for a bridge.
    inputs: the inputs that carry activations; None for all of them.
    weight, bias: their input indices.
    needs_output: without Q/DQ on its output the kernel stays float.
    static: whether there is an integer kernel for calibrated ranges.
    dynamic: the kernels that the operator becomes where it quantises its input anew in each run; empty: it cannot.
    stored: the inputs whose constants `weight-only` stores as integers; the operator computes in float behind them.
    check: the name of a condition in qtool.targets.conditions that must hold.
    """

    kind: Kind
    kernels: tuple[str, ...] = ()
    inputs: tuple[int, ...] | None = None
    weight: int | None = None
    bias: int | None = None
    needs_output: bool = True
    check: str | None = None
    static: bool = True
    dynamic: tuple[str, ...] = ()
    stored: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """Where the model shall run: the operators, the types and what its kernels need.

    activations: the representation of activations by scheme.
    saturates: pairs of 8-bit products are added in 16 bits (x86 without VNNI): weights that can overflow get 7 bits.
    outputs: Q/DQ stand on the outputs of layers too; without, on inputs alone.
    integer_bias: biases are int32 with scale x * w.
    absorbs_clip: Relu and Clip before a Q vanish into its saturation.
    on_cpu: onnxruntime's CPU provider runs the result in integers, so the census can see it.
    session: onnxruntime session configuration that imitates the target's selection on another machine.
    """

    name: str
    rules: dict[str, OpRule]
    activations: dict[str, TensorSpec]
    saturates: bool = False
    outputs: bool = True
    integer_bias: bool = True
    absorbs_clip: bool = True
    on_cpu: bool = True
    session: dict[str, str] = field(default_factory=dict)

    @property
    def rules_kernels(self) -> tuple[str, ...]:
        """Every integer kernel that a weighted layer becomes here."""
        weighted = [rule for rule in self.rules.values() if rule.kind == "weighted"]
        return tuple(sorted({k for rule in weighted for k in (*rule.kernels, *rule.dynamic)}))

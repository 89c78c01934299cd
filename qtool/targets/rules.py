"""The form of a target's table: what becomes integer there, and which inputs and outputs need Q/DQ for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from qtool.core.numerics.affine import TensorSpec
from qtool.graph.edit import Node

Kind = Literal["weighted", "elementwise", "passthrough", "bridge"]
Check = Callable[[Node], str | None]
"""Why a node is left float all the same; None where it need not be."""


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
    needs_output: without Q/DQ on its output the kernel stays float.
    static: whether there is an integer kernel for calibrated ranges.
    dynamic: the kernels that the operator becomes where it quantises its input anew in each run; empty: it cannot.
    stored: whether `weight-only` stores its weights as integers; the operator computes in float behind them.
    blocks: the kernels that the operator becomes where its weight is stored in blocks; empty: it cannot be.
    folded: whether its stored weights become float32 once, when onnxruntime loads the model; large ones are stored in
        every form then, since that takes no time.
    check: a condition of qtool.targets.conditions that must hold.
    fused_branch: of an operator that is fused into the layer in front of it: the input, of those of a node, that comes
        from elsewhere. Q/DQ stand on that one alone, whether or not the other is integer.
    """

    kind: Kind
    kernels: tuple[str, ...] = ()
    inputs: tuple[int, ...] | None = None
    needs_output: bool = True
    check: Check | None = None
    static: bool = True
    dynamic: tuple[str, ...] = ()
    stored: bool = False
    blocks: tuple[str, ...] = ()
    folded: bool = False
    fused_branch: Callable[[Node], int | None] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A place where the model shall run: the operators, the types and what its kernels need.

    activations: the representation of activations by scheme.
    saturates: pairs of 8-bit products are added in 16 bits (x86 without VNNI): weights that can overflow get 7 bits.
    outputs: Q/DQ stand on the outputs of layers too; without, on inputs alone.
    integer_bias: biases are int32 with scale x * w.
    absorbs_clip: Relu and Clip before a Q vanish into its saturation.
    provider: the one of `qtool.runtime.providers` whose kernels run the result in integers.
    session: onnxruntime session configuration that imitates the target's selection on another machine.
    """

    name: str
    rules: dict[str, OpRule]
    activations: dict[str, TensorSpec]
    saturates: bool = False
    outputs: bool = True
    integer_bias: bool = True
    absorbs_clip: bool = True
    provider: str = "cpu"
    session: dict[str, str] = field(default_factory=dict)

    def rule(self, node: Node) -> OpRule | None:
        """Return what the target does with the operator of a node; None where it knows no such operator.

        Operators of another domain than ONNX's are in the table with its name: `com.microsoft.Gelu`.
        """
        own = node.domain in ("", "ai.onnx")
        return self.rules.get(node.op_type if own else f"{node.domain}.{node.op_type}")

    @property
    def on_cpu(self) -> bool:
        """Whether onnxruntime's CPU provider runs the result in integers, so that the census can see it."""
        return self.provider == "cpu"

    @property
    def only_symmetric(self) -> bool:
        """Whether its activations have symmetric grids whatever the scheme says."""
        return all(spec.symmetric for spec in self.activations.values())

    def places_like(self, other: "Target") -> bool:
        """Return whether the other target wants Q/DQ on the same tensors; their types may differ."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("rules", "outputs", "absorbs_clip", "provider")
        )

    @property
    def rules_kernels(self) -> tuple[str, ...]:
        """Every integer kernel that a weighted layer becomes here."""
        weighted = [rule for rule in self.rules.values() if rule.kind == "weighted"]
        return tuple(sorted({k for rule in weighted for k in (*rule.kernels, *rule.dynamic)}))

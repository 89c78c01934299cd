"""The targets, as tables of what becomes integer on each.

A new operator is a row here, and a pattern in tests/support/patterns.py that proves it. One with weights is a row in
qtool/graph/layers.py too.

Source: onnxruntime `core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc` and what its optimised graphs
were seen to hold; NVIDIA TensorRT's documentation on explicit quantisation for the `tensorrt` table.
"""

import platform
from pathlib import Path

from qtool.core.errors import UsageError
from qtool.core.numerics.affine import TensorSpec
from qtool.targets import conditions
from qtool.targets.rules import OpRule, Target

_DYNAMIC_MATMUL = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
_BLOCK_MATMUL = ("MatMulNBits",)
_WEIGHTED = {
    "Conv": OpRule("weighted", ("QLinearConv",), (0,), check=conditions.constant_weights, stored=True),
    "ConvTranspose": OpRule("weighted", (), (0,), check=conditions.constant_weights, static=False, stored=True),
    "Gemm": OpRule(
        "weighted",
        ("QGemm",),
        (0,),
        needs_output=False,
        check=conditions.gemm,
        dynamic=_DYNAMIC_MATMUL,
        stored=True,
        blocks=_BLOCK_MATMUL,
    ),
    "MatMul": OpRule(
        "weighted",
        ("QLinearMatMul", "MatMulIntegerToFloat"),
        (0,),
        needs_output=False,
        check=conditions.constant_weights,
        dynamic=_DYNAMIC_MATMUL,
        stored=True,
        blocks=_BLOCK_MATMUL,
    ),
    "LSTM": OpRule(
        "weighted",
        (),
        (0,),
        check=conditions.recurrent,
        static=False,
        dynamic=("DynamicQuantizeLSTM",),
        stored=True,
    ),
    "GRU": OpRule("weighted", (), (0,), check=conditions.constant_weights, static=False, stored=True, folded=True),
    "RNN": OpRule("weighted", (), (0,), check=conditions.constant_weights, static=False, stored=True, folded=True),
}
_ELEMENTWISE = {
    "Add": OpRule("elementwise", ("QLinearAdd",)),
    "Mul": OpRule("elementwise", ("QLinearMul",)),
    "Sigmoid": OpRule("elementwise", ("QLinearSigmoid",)),
    "LeakyRelu": OpRule("elementwise", ("QLinearLeakyRelu",)),
    "Softmax": OpRule("elementwise", ("QLinearSoftmax",)),
    "GlobalAveragePool": OpRule("elementwise", ("QLinearGlobalAveragePool",)),
    "AveragePool": OpRule("elementwise", ("QLinearAveragePool",), check=conditions.average_pool),
    "Concat": OpRule("elementwise", ("QLinearConcat",), check=conditions.no_constants),
}
_PASSTHROUGH = {
    "MaxPool": OpRule("passthrough", ("MaxPool", "NhwcMaxPool"), (0,), check=conditions.max_pool),
    "ReduceMax": OpRule("passthrough", ("ReduceMax",), (0,)),
    "ReduceMin": OpRule("passthrough", ("ReduceMin",), (0,)),
    "Transpose": OpRule("passthrough", ("Transpose",), (0,)),
    "Reshape": OpRule("passthrough", ("Reshape",), (0,)),
    "Flatten": OpRule("passthrough", ("Flatten", "Reshape"), (0,)),
    "Squeeze": OpRule("passthrough", ("Squeeze", "Reshape"), (0,)),
    "Unsqueeze": OpRule("passthrough", ("Unsqueeze", "Reshape"), (0,)),
    "Slice": OpRule("passthrough", ("Slice",), (0,)),
    "Gather": OpRule(
        "passthrough",
        ("Gather",),
        (0,),
        check=conditions.data_computed,
        stored=True,
        blocks=("GatherBlockQuantized",),
    ),
    "Expand": OpRule("passthrough", ("Expand",), (0,)),
    "Tile": OpRule("passthrough", ("Tile",), (0,)),
    "Split": OpRule("passthrough", ("Split",), (0,), check=conditions.all_outputs),
    "DepthToSpace": OpRule("passthrough", ("DepthToSpace",), (0,)),
    "Resize": OpRule("passthrough", ("Resize",), (0,), check=conditions.nearest),
}
# Float between integer layers: one operator over 8-bit inputs costs less than a float layer would.
_BRIDGES = {
    name: OpRule("bridge", inputs=(0,))
    for name in (
        "HardSigmoid",
        "Tanh",
        "Relu",
        "Clip",
        "PRelu",
        "Elu",
        "Softplus",
        "Erf",
        "Gelu",
        "Mish",
        "Pad",
        # of onnxruntime's own domain
        "com.microsoft.Gelu",
        "com.microsoft.FastGelu",
        "com.microsoft.QuickGelu",
    )
}
_CPU_RULES = _WEIGHTED | _ELEMENTWISE | _PASSTHROUGH | _BRIDGES

_UINT8 = {"affine": TensorSpec("uint8", symmetric=False), "symmetric": TensorSpec("uint8", symmetric=True)}
_INT8 = {"affine": TensorSpec("int8", symmetric=False), "symmetric": TensorSpec("int8", symmetric=True)}
_ZERO_POINT_ZERO = TensorSpec("int8", symmetric=True, zero_point_zero=True)

_TENSORRT_RULES = {
    "Conv": OpRule("weighted", (), (0,), needs_output=False, check=conditions.constant_weights),
    "ConvTranspose": OpRule("weighted", (), (0,), needs_output=False, check=conditions.constant_weights),
    "Gemm": OpRule("weighted", (), (0,), needs_output=False, check=conditions.gemm),
    "MatMul": OpRule("weighted", (), (0,), needs_output=False, check=conditions.constant_weights),
    # the residual branch: TensorRT fuses the Add into the convolution when its other operand is int8
    "Add": OpRule("elementwise", (), check=conditions.residual, fused_branch=conditions.residual_branch),
}

TARGETS = {
    "x86": Target("x86", _CPU_RULES, _UINT8),
    "x86-avx2": Target("x86-avx2", _CPU_RULES, _UINT8, saturates=True),
    "arm64": Target("arm64", _CPU_RULES, _INT8, session={"session.qdqisint8allowed": "1"}),
    "portable": Target("portable", _CPU_RULES, _UINT8, saturates=True),
    "tensorrt": Target(
        "tensorrt",
        _TENSORRT_RULES,
        {"affine": _ZERO_POINT_ZERO, "symmetric": _ZERO_POINT_ZERO},
        outputs=False,
        integer_bias=False,
        absorbs_clip=False,
        provider="tensorrt",
    ),
}
NAMES = ("auto", *TARGETS)


def find_target(name: str = "auto") -> Target:
    """Find the target called `name`; `auto` looks at this machine.

    Raises:
        UsageError: there is no such target.
    """
    if name == "auto":
        return TARGETS[_this_machine()]
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}; choose one of {', '.join(NAMES)}")
    return TARGETS[name]


def target_of(provider: str) -> Target | None:
    """Find the target that only this provider runs; None where there is none."""
    return next((target for target in TARGETS.values() if target.provider == provider and not target.on_cpu), None)


def distinct_targets() -> tuple[Target, ...]:
    """Return the first target of each group that wants Q/DQ on the same tensors."""
    result: list[Target] = []
    for target in TARGETS.values():
        if not any(target.places_like(other) for other in result):
            result.append(target)
    return tuple(result)


def _this_machine() -> str:
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return "arm64"
    if machine in ("x86_64", "amd64"):
        return "x86" if _has_vnni() else "x86-avx2"
    return "portable"


def _has_vnni() -> bool:
    """Whether the processor multiplies uint8 by int8 without 16-bit saturation; unknown counts as no."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags

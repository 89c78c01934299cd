"""The targets. A new operator is a row here, and a pattern in tests/targets/test_fusion.py that proves it.

Source: onnxruntime `core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc` and what its optimised graphs
were seen to hold; NVIDIA TensorRT's documentation on explicit quantisation for the `tensorrt` table.
"""

import platform
from pathlib import Path

from qtool.core.errors import UsageError
from qtool.core.numerics.affine import TensorSpec
from qtool.targets.rules import OpRule, Target

_DYNAMIC_MATMUL = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
_WEIGHTED = {
    "Conv": OpRule("weighted", ("QLinearConv",), (0,), weight=1, bias=2, check="conv", stored=(1,)),
    "ConvTranspose": OpRule("weighted", (), (0,), weight=1, check="conv_transpose", static=False, stored=(1,)),
    "Gemm": OpRule(
        "weighted",
        ("QGemm",),
        (0,),
        weight=1,
        bias=2,
        needs_output=False,
        check="gemm",
        dynamic=_DYNAMIC_MATMUL,
        stored=(1,),
    ),
    "MatMul": OpRule(
        "weighted",
        ("QLinearMatMul", "MatMulIntegerToFloat"),
        (0,),
        weight=1,
        needs_output=False,
        check="matmul",
        dynamic=_DYNAMIC_MATMUL,
        stored=(1,),
    ),
    "LSTM": OpRule(
        "weighted",
        (),
        (0,),
        weight=1,
        check="recurrent",
        static=False,
        dynamic=("DynamicQuantizeLSTM",),
        stored=(1, 2),
    ),
    "GRU": OpRule("weighted", (), (0,), weight=1, check="recurrent", static=False, stored=(1, 2)),
    "RNN": OpRule("weighted", (), (0,), weight=1, check="recurrent", static=False, stored=(1, 2)),
}
_ELEMENTWISE = {
    "Add": OpRule("elementwise", ("QLinearAdd",)),
    "Mul": OpRule("elementwise", ("QLinearMul",)),
    "Sigmoid": OpRule("elementwise", ("QLinearSigmoid",)),
    "LeakyRelu": OpRule("elementwise", ("QLinearLeakyRelu",)),
    "Softmax": OpRule("elementwise", ("QLinearSoftmax",)),
    "GlobalAveragePool": OpRule("elementwise", ("QLinearGlobalAveragePool",)),
    "AveragePool": OpRule("elementwise", ("QLinearAveragePool",), check="average_pool"),
    "Concat": OpRule("elementwise", ("QLinearConcat",), check="no_constants"),
}
_PASSTHROUGH = {
    "MaxPool": OpRule("passthrough", ("MaxPool", "NhwcMaxPool"), (0,), check="max_pool"),
    "ReduceMax": OpRule("passthrough", ("ReduceMax",), (0,)),
    "ReduceMin": OpRule("passthrough", ("ReduceMin",), (0,)),
    "Transpose": OpRule("passthrough", ("Transpose",), (0,)),
    "Reshape": OpRule("passthrough", ("Reshape",), (0,)),
    "Flatten": OpRule("passthrough", ("Flatten", "Reshape"), (0,)),
    "Squeeze": OpRule("passthrough", ("Squeeze", "Reshape"), (0,)),
    "Unsqueeze": OpRule("passthrough", ("Unsqueeze", "Reshape"), (0,)),
    "Slice": OpRule("passthrough", ("Slice",), (0,)),
    "Gather": OpRule("passthrough", ("Gather",), (0,), check="data_computed", stored=(0,)),
    "Expand": OpRule("passthrough", ("Expand",), (0,)),
    "Tile": OpRule("passthrough", ("Tile",), (0,)),
    "Split": OpRule("passthrough", ("Split",), (0,), check="all_outputs"),
    "DepthToSpace": OpRule("passthrough", ("DepthToSpace",), (0,)),
    "Resize": OpRule("passthrough", ("Resize",), (0,), check="nearest"),
}
# Float between integer layers: one operator over 8-bit inputs costs less than a float layer would.
_BRIDGES = {
    name: OpRule("bridge", inputs=(0,))
    for name in (
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Relu",
        "Clip",
        "PRelu",
        "Elu",
        "Softplus",
        "Erf",
        "Gelu",
        "Mish",
    )
}
_CPU_RULES = _WEIGHTED | _ELEMENTWISE | _PASSTHROUGH | _BRIDGES

_UINT8 = {"affine": TensorSpec("uint8", symmetric=False), "symmetric": TensorSpec("uint8", symmetric=True)}
_INT8 = {"affine": TensorSpec("int8", symmetric=False), "symmetric": TensorSpec("int8", symmetric=True)}
_ZERO_POINT_ZERO = TensorSpec("int8", symmetric=True, zero_point_zero=True)

_TENSORRT_RULES = {
    "Conv": OpRule("weighted", (), (0,), weight=1, bias=2, needs_output=False, check="conv"),
    "ConvTranspose": OpRule("weighted", (), (0,), weight=1, bias=2, needs_output=False, check="conv_transpose"),
    "Gemm": OpRule("weighted", (), (0,), weight=1, bias=2, needs_output=False, check="gemm"),
    "MatMul": OpRule("weighted", (), (0,), weight=1, needs_output=False, check="matmul"),
    # the residual branch: TensorRT fuses the Add into the convolution when its other operand is int8
    "Add": OpRule("elementwise", (), check="residual"),
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
        on_cpu=False,
    ),
}
NAMES = ("auto", *TARGETS)


def find_target(name: str = "auto") -> Target:
    """The target called `name`; `auto` looks at this machine.

    Raises:
        UsageError: there is no such target.
    """
    if name == "auto":
        return TARGETS[_this_machine()]
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}; choose one of {', '.join(NAMES)}")
    return TARGETS[name]


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

"""What onnxruntime does since some version, where earlier ones that pyproject.toml admits do otherwise.

Tests ask `has` for it, and docs/operators.md shows it (`python -m tests.support.operator_reference`).
"""

import re
from dataclasses import dataclass

import onnxruntime


@dataclass(frozen=True, slots=True)
class Since:
    """A change of onnxruntime. version: the first that has it. what: the models. earlier, now: what becomes of them."""

    version: tuple[int, int]
    what: str
    earlier: str
    now: str


SINCE = {
    "scale-shape": Since(
        (1, 32),
        "an Add or Mul between Q/DQ whose scales have the shape [1]",
        "loaded without optimisations alone: `inspect` refuses it, and says why",
        "runs in float: rule `scale-shape`",
    ),
    "wrong-axis": Since(
        (1, 32),
        "a MatMul whose weight has scales along its input channels",
        "runs in integers and computes something else: rule `wrong-result`, with this as its cause",
        "runs in float: rule `wrong-axis`",
    ),
    "bias-scale": Since(
        (1, 27),
        "a Conv whose bias has another scale than that of input times weight",
        "runs in integers and computes something else: rule `wrong-result`, with this as its cause",
        "runs in float: rule `bias-scale`",
    ),
    "blocks-by-channel": Since(
        (1, 25),
        "a MatMul behind a weight in 8 bits by channel (`--weight-only`)",
        "runs in float, and is told so",
        "runs as MatMulNBits, which rounds its input to 8 bits",
    ),
    "gemm-of-blocks": Since(
        (1, 25),
        "a Gemm behind a weight in blocks of DequantizeLinear (`--weight-format qdq`); with 8 bits a MatMul too",
        "runs in float: its weight gets 8 bits by channel instead, which is told",
        "runs as MatMulNBits",
    ),
    "shared-by-channel": Since(
        (1, 27),
        "two MatMul behind one weight in 8 bits by channel (`--weight-only`)",
        "run as MatMulNBits on 1.25 and 1.26, in float on 1.24",
        "run in float, and are told so",
    ),
    "computed-product": Since(
        (1, 32),
        "a MatMul of two activations behind a convolution",
        "the convolution is told to run in float, and stays so",
        "the convolution runs in integers",
    ),
    "empty-convolution": Since(
        (1, 32),
        "a Conv whose weight has no output channels, beside others",
        "is not loaded, be it float or int8: `quantize` refuses it",
        "loaded; `quantize` leaves that Conv in float",
    ),
    "signed-pixels": Since(
        (1, 28),
        "a DepthToSpace between two convolutions on signed 8-bit numbers (arm64)",
        "the first convolution is told to run in float, and stays so",
        "both run in integers",
    ),
    "negative-axes": Since(
        (1, 27),
        "a Resize of some axes that are counted from the end",
        "is not loaded, be it float or int8: `quantize` refuses it",
        "loaded; `quantize` writes it with all axes",
    ),
}


def has(change: str) -> bool:
    """Whether the onnxruntime that is installed has a change."""
    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    assert found is not None, onnxruntime.__version__
    return (int(found[1]), int(found[2])) >= SINCE[change].version

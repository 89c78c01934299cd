"""The integer operators that other tools write into a file: which of their inputs hold what.

Source: onnxruntime docs/ContribOperators.md, and the operators' pages of ONNX.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IntegerOperator:
    """An operator that computes on integers in the file already; the numbers of its inputs, None where it has none.

    counted_as: the float operator whose multiply-accumulates it does, "" of one that does none. x, w, y: what it reads,
    its weight, and what it makes, each with scale and zero point. dynamic: whether the grid of the input is found anew
    in each run. axis: of the output channels of the weight, where a scale each is possible.
    """

    counted_as: str = ""
    x: int = 0
    x_scale: int | None = None
    x_zero: int | None = None
    w: int | None = None
    w_scale: int | None = None
    w_zero: int | None = None
    y_scale: int | None = None
    y_zero: int | None = None
    dynamic: bool = False
    axis: int | None = None


NBITS = "MatMulNBits"
"""Weights of 2, 4 or 8 bits in blocks, packed into bytes."""
_UNARY = IntegerOperator(x_scale=1, x_zero=2, y_scale=3, y_zero=4)
_BINARY = IntegerOperator(x_scale=1, x_zero=2, w=3, w_scale=4, w_zero=5, y_scale=6, y_zero=7)

INTEGER_OPERATORS = {
    "QLinearConv": IntegerOperator("Conv", 0, 1, 2, 3, 4, 5, 6, 7, axis=0),
    "QLinearMatMul": IntegerOperator("MatMul", 0, 1, 2, 3, 4, 5, 6, 7, axis=-1),
    "QGemm": IntegerOperator("Gemm", 0, 1, 2, 3, 4, 5, 7, 8, axis=1),
    "MatMulInteger": IntegerOperator("MatMul", w=1, x_zero=2, w_zero=3, dynamic=True, axis=-1),
    "ConvInteger": IntegerOperator("Conv", w=1, x_zero=2, w_zero=3, dynamic=True, axis=0),
    "MatMulIntegerToFloat": IntegerOperator("MatMul", w=1, x_scale=2, w_scale=3, x_zero=4, w_zero=5, axis=-1),
    "DynamicQuantizeMatMul": IntegerOperator("MatMul", w=1, w_scale=2, w_zero=3, dynamic=True, axis=-1),
    "DynamicQuantizeLSTM": IntegerOperator("LSTM", w=1, w_scale=8, w_zero=9, dynamic=True),
    NBITS: IntegerOperator(NBITS, w=1, w_scale=2, w_zero=3),
    "QAttention": IntegerOperator("Attention", w=1, x_scale=3, w_scale=4, x_zero=6, w_zero=7),
    "QLinearAdd": _BINARY,
    "QLinearMul": _BINARY,
    "QLinearSigmoid": _UNARY,
    "QLinearLeakyRelu": _UNARY,
    "QLinearSoftmax": _UNARY,
    "QLinearGlobalAveragePool": _UNARY,
    "QLinearAveragePool": _UNARY,
    "QLinearReduceMean": _UNARY,
    "QLinearConcat": IntegerOperator(x=2, x_scale=3, x_zero=4, y_scale=0, y_zero=1),
    "QLinearWhere": IntegerOperator(x=1, x_scale=2, x_zero=3, y_scale=7, y_zero=8),
}
LAYERS = frozenset(op for op, row in INTEGER_OPERATORS.items() if row.counted_as)
"""Those that multiply and accumulate."""

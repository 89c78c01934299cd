"""The one table from an operator to the function of torch that computes it.

A new operator is a row here and its cases in tests/support/operator_cases.py, which hold it against onnxruntime. What
has no row, or whose row refuses a node by its `check`, is a border (`qtool.finetuning.borders`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from qtool.finetuning.calls import TYPES, Call
from qtool.finetuning.functions import activations as act
from qtool.finetuning.functions import arithmetic as math
from qtool.finetuning.functions import attention, layers, normalization, pooling, recurrence, resizing, shaping
from qtool.finetuning.functions import reductions as red
from qtool.graph import edit
from qtool.graph.edit import Node, Value

_ORT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class TorchOperator:
    """A row: the function that computes an operator.

    function: of a `Call` and the inputs, returns a tensor or a tuple of them. outputs: how many it gives at most, None:
    as many as there are. gradient: whether one passes; none does through integers, comparisons and steps.
    check: returns why the function does not compute what this node says, None where it does.
    """

    function: Callable[..., Any]
    outputs: int | None = 1
    gradient: bool = True
    check: Callable[[Call], str | None] | None = None


def _steps(function: Callable[..., Any], **more: Any) -> TorchOperator:
    return TorchOperator(function, gradient=False, **more)


OPERATORS: dict[tuple[str, str], TorchOperator] = {
    # layers
    ("", "Conv"): TorchOperator(layers.conv),
    ("", "ConvTranspose"): TorchOperator(layers.conv_transpose),
    ("", "Gemm"): TorchOperator(layers.gemm),
    ("", "MatMul"): TorchOperator(layers.matmul),
    (_ORT, "FusedMatMul"): TorchOperator(layers.fused_matmul, check=layers.keeps_batches),
    ("", "Einsum"): TorchOperator(layers.einsum),
    ("", "LSTM"): TorchOperator(recurrence.lstm, outputs=3, check=recurrence.runs),
    ("", "GRU"): TorchOperator(recurrence.gru, outputs=2, check=recurrence.runs),
    ("", "RNN"): TorchOperator(recurrence.rnn, outputs=2, check=recurrence.runs),
    ("", "Attention"): TorchOperator(attention.attention, outputs=3, check=attention.attends),
    (_ORT, "Attention"): TorchOperator(attention.joint_attention, check=attention.joins),
    (_ORT, "MultiHeadAttention"): TorchOperator(attention.multi_head_attention, check=attention.is_split),
    # activations
    ("", "Relu"): TorchOperator(act.relu),
    ("", "LeakyRelu"): TorchOperator(act.leaky_relu),
    ("", "PRelu"): TorchOperator(act.prelu),
    ("", "Elu"): TorchOperator(act.elu),
    ("", "Celu"): TorchOperator(act.celu),
    ("", "Selu"): TorchOperator(act.selu),
    ("", "ThresholdedRelu"): TorchOperator(act.thresholded_relu),
    ("", "Shrink"): TorchOperator(act.shrink),
    ("", "Clip"): TorchOperator(act.clip),
    ("", "Sigmoid"): TorchOperator(act.sigmoid),
    ("", "HardSigmoid"): TorchOperator(act.hard_sigmoid),
    ("", "HardSwish"): TorchOperator(act.hard_swish),
    ("", "Swish"): TorchOperator(act.swish),
    ("", "Tanh"): TorchOperator(act.tanh),
    ("", "Gelu"): TorchOperator(act.gelu),
    (_ORT, "Gelu"): TorchOperator(act.gelu),
    (_ORT, "BiasGelu"): TorchOperator(act.bias_gelu),
    (_ORT, "FastGelu"): TorchOperator(act.fast_gelu),
    (_ORT, "QuickGelu"): TorchOperator(act.quick_gelu),
    ("", "Softplus"): TorchOperator(act.softplus),
    ("", "Softsign"): TorchOperator(act.softsign),
    ("", "Mish"): TorchOperator(act.mish),
    ("", "Softmax"): TorchOperator(act.softmax),
    ("", "LogSoftmax"): TorchOperator(act.log_softmax),
    ("", "Hardmax"): _steps(act.hardmax),
    # arithmetic
    ("", "Add"): TorchOperator(math.binary(torch.add)),
    ("", "Sub"): TorchOperator(math.binary(torch.sub)),
    ("", "Mul"): TorchOperator(math.binary(torch.mul)),
    ("", "Div"): TorchOperator(math.div),
    ("", "Pow"): TorchOperator(math.power),
    ("", "Mod"): TorchOperator(math.mod),
    ("", "Max"): TorchOperator(math.variadic(torch.maximum)),
    ("", "Min"): TorchOperator(math.variadic(torch.minimum)),
    ("", "Sum"): TorchOperator(math.variadic(torch.add)),
    ("", "Mean"): TorchOperator(math.mean),
    ("", "Sqrt"): TorchOperator(math.unary(torch.sqrt)),
    ("", "Exp"): TorchOperator(math.unary(torch.exp)),
    ("", "Log"): TorchOperator(math.unary(torch.log)),
    ("", "Neg"): TorchOperator(math.unary(torch.neg)),
    ("", "Abs"): TorchOperator(math.unary(torch.abs)),
    ("", "Reciprocal"): TorchOperator(math.unary(torch.reciprocal)),
    ("", "Erf"): TorchOperator(math.unary(torch.erf)),
    ("", "Sin"): TorchOperator(math.unary(torch.sin)),
    ("", "Cos"): TorchOperator(math.unary(torch.cos)),
    ("", "Tan"): TorchOperator(math.unary(torch.tan)),
    ("", "Atan"): TorchOperator(math.unary(torch.atan)),
    ("", "Sinh"): TorchOperator(math.unary(torch.sinh)),
    ("", "Cosh"): TorchOperator(math.unary(torch.cosh)),
    ("", "Asin"): TorchOperator(math.unary(torch.asin)),
    ("", "Acos"): TorchOperator(math.unary(torch.acos)),
    ("", "Asinh"): TorchOperator(math.unary(torch.asinh)),
    ("", "Acosh"): TorchOperator(math.unary(torch.acosh)),
    ("", "Atanh"): TorchOperator(math.unary(torch.atanh)),
    ("", "Where"): TorchOperator(math.where),
    ("", "CumSum"): TorchOperator(math.cumsum),
    ("", "Cast"): TorchOperator(math.cast, check=math.has_type),
    ("", "CastLike"): TorchOperator(math.cast_like),
    ("", "Floor"): _steps(math.unary(torch.floor)),
    ("", "Ceil"): _steps(math.unary(torch.ceil)),
    ("", "Round"): _steps(math.unary(torch.round)),
    ("", "Sign"): _steps(math.unary(torch.sign)),
    ("", "IsNaN"): _steps(math.unary(torch.isnan)),
    ("", "IsInf"): _steps(math.is_infinite),
    ("", "Not"): _steps(math.unary(torch.logical_not)),
    ("", "And"): _steps(math.binary(torch.logical_and)),
    ("", "Or"): _steps(math.binary(torch.logical_or)),
    ("", "Xor"): _steps(math.binary(torch.logical_xor)),
    ("", "Equal"): _steps(math.binary(torch.eq)),
    ("", "Greater"): _steps(math.binary(torch.gt)),
    ("", "GreaterOrEqual"): _steps(math.binary(torch.ge)),
    ("", "Less"): _steps(math.binary(torch.lt)),
    ("", "LessOrEqual"): _steps(math.binary(torch.le)),
    # reductions
    ("", "ReduceMean"): TorchOperator(red.reduction(red.average)),
    ("", "ReduceSum"): TorchOperator(red.reduction(red.total)),
    ("", "ReduceMax"): TorchOperator(red.reduction(red.largest)),
    ("", "ReduceMin"): TorchOperator(red.reduction(red.smallest)),
    ("", "ReduceProd"): TorchOperator(red.reduction(red.product)),
    ("", "ReduceL1"): TorchOperator(red.reduction(red.first_norm)),
    ("", "ReduceL2"): TorchOperator(red.reduction(red.second_norm)),
    ("", "ReduceSumSquare"): TorchOperator(red.reduction(red.sum_of_squares)),
    ("", "ReduceLogSum"): TorchOperator(red.reduction(red.log_of_sum)),
    ("", "ReduceLogSumExp"): TorchOperator(red.reduction(red.log_of_sum_of_exponents)),
    ("", "ArgMax"): _steps(red.argmax),
    ("", "ArgMin"): _steps(red.argmin),
    ("", "TopK"): TorchOperator(red.top_k, outputs=2),
    # pools
    ("", "MaxPool"): TorchOperator(pooling.max_pool),
    ("", "AveragePool"): TorchOperator(pooling.average_pool),
    ("", "LpPool"): TorchOperator(pooling.lp_pool),
    ("", "GlobalAveragePool"): TorchOperator(pooling.global_average),
    ("", "GlobalMaxPool"): TorchOperator(pooling.global_max),
    ("", "GlobalLpPool"): TorchOperator(pooling.global_lp),
    # normalisations
    ("", "BatchNormalization"): TorchOperator(normalization.batch_norm, check=normalization.infers),
    ("", "LayerNormalization"): TorchOperator(normalization.layer_norm, outputs=3),
    ("", "RMSNormalization"): TorchOperator(normalization.rms_norm),
    ("", "SimplifiedLayerNormalization"): TorchOperator(normalization.rms_norm, outputs=2),
    (_ORT, "SkipLayerNormalization"): TorchOperator(normalization.skip_layer_norm, outputs=4),
    ("", "InstanceNormalization"): TorchOperator(normalization.instance_norm),
    ("", "GroupNormalization"): TorchOperator(normalization.group_norm),
    ("", "MeanVarianceNormalization"): TorchOperator(normalization.mean_variance_norm),
    ("", "LpNormalization"): TorchOperator(normalization.lp_norm),
    ("", "LRN"): TorchOperator(normalization.local_response_norm),
    # shapes and places
    ("", "Identity"): TorchOperator(shaping.identity),
    ("", "Dropout"): TorchOperator(shaping.dropout, outputs=2, check=shaping.drops_nothing),
    ("", "Reshape"): TorchOperator(shaping.reshape),
    ("", "Flatten"): TorchOperator(shaping.flatten),
    ("", "Transpose"): TorchOperator(shaping.transpose),
    ("", "Squeeze"): TorchOperator(shaping.squeeze),
    ("", "Unsqueeze"): TorchOperator(shaping.unsqueeze),
    ("", "Expand"): TorchOperator(shaping.expand),
    ("", "Tile"): TorchOperator(shaping.tile),
    ("", "Concat"): TorchOperator(shaping.concat),
    ("", "Split"): TorchOperator(shaping.split, outputs=None),
    ("", "Slice"): TorchOperator(shaping.slice_of),
    ("", "Gather"): TorchOperator(shaping.gather),
    ("", "GatherElements"): TorchOperator(shaping.gather_elements),
    ("", "GatherND"): TorchOperator(shaping.gather_nd),
    ("", "ScatterElements"): TorchOperator(shaping.scatter_elements, check=shaping.scatters),
    ("", "ScatterND"): TorchOperator(shaping.scatter_nd, check=shaping.scatters),
    ("", "Pad"): TorchOperator(shaping.pad),
    ("", "Resize"): TorchOperator(resizing.resize, check=resizing.resizes),
    ("", "DepthToSpace"): TorchOperator(shaping.depth_to_space),
    ("", "SpaceToDepth"): TorchOperator(shaping.space_to_depth),
    ("", "Trilu"): TorchOperator(shaping.trilu),
    ("", "Constant"): _steps(shaping.constant, check=shaping.holds_numbers),
    ("", "ConstantOfShape"): _steps(shaping.constant_of_shape),
    ("", "Shape"): _steps(shaping.shape_of),
    ("", "Size"): _steps(shaping.size_of),
    ("", "Range"): _steps(shaping.arange),
    ("", "EyeLike"): _steps(shaping.eye_like, check=math.has_type),
    ("", "OneHot"): _steps(shaping.one_hot),
}


def key_of(node: Node) -> tuple[str, str]:
    """Return domain and operator of a node, as the table has them."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def missing(node: Node, call: Call) -> str | None:
    """Return why there is no function for a node; None where there is one."""
    row = OPERATORS.get(key_of(node))
    if row is None:
        return "has no counterpart in torch here"
    if row.outputs is not None and call.most_outputs > row.outputs:
        return f"its output {call.most_outputs} is read"
    for value in (*node.inputs, *node.outputs):
        if value is not None and not computed(value):
            return f"reads or makes {value.name!r}, of a type that torch does not compute with here"
    return None if row.check is None else row.check(call)


def computed(value: Value) -> bool:
    """Return whether a value is a tensor of a type that torch computes with, as far as is known."""
    return edit.is_tensor(value) and (value.dtype is None or value.dtype.name in TYPES)

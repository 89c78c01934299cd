"""Every node that multiplies and accumulates, and how often it does: the one list of what a share of a network is of.

Layers with weights are rows of `qtool.graph.layers`. What else multiplies is a row here, so that it is counted as the
float work that it is. Source: the operators' pages of ONNX, onnxruntime's docs/ContribOperators.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from qtool.graph import edit
from qtool.graph.edit import Node, Value
from qtool.graph.layers import OPERATORS, Layer, Shape

Shapes = Mapping[str, Shape]
_Sizes = Sequence[Shape | None]
# from a node, the shapes of its inputs, and that of its first output
_Count = Callable[[Node, _Sizes, Shape | None], int | None]

_ORT = "com.microsoft"
_BLOCKED = "com.microsoft.nchwc"


def multiplies(node: Node) -> bool:
    """Return whether a node multiplies and accumulates."""
    return _layer(node) is not None or _key(node) in _COUNTS


def is_product(domain: str, operator: str) -> bool:
    """Return whether nodes of an operator multiply and accumulate, as `multiplies` says of a node.

    `domain`: "" or "ai.onnx" for the operators of ONNX.
    """
    key = ("" if domain == "ai.onnx" else domain, operator)
    layer = None if key[0] else OPERATORS.get(operator)
    return key in _COUNTS or key in _SAME or (layer is not None and layer.kind != "table")


def counted(node: Node) -> tuple[Value, ...]:
    """Return the values whose shapes `macs` needs; constants know theirs."""
    layer = _layer(node)
    if layer is not None:
        return layer.counted
    values = (*node.inputs, *node.outputs[:1])
    return tuple(v for v in values if v is not None and v.name and not v.is_initializer())


def macs(node: Node, shapes: Shapes) -> int | None:
    """Return the multiply-accumulates of one run of a node, by the shapes of the values `counted`.

    None where a shape is missing, or no shape says how often it multiplies.
    """
    layer = _layer(node)
    if layer is not None:
        return layer.macs(shapes)
    inputs = [_shape(value, shapes) for value in node.inputs]
    return _COUNTS[_key(node)](node, inputs, _shape(node.outputs[0], shapes))


def _key(node: Node) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _layer(node: Node) -> Layer | None:
    """A node that is counted as a layer with weights."""
    known = OPERATORS.get(_SAME.get(_key(node), ""))
    layer = Layer.of(node) if known is None else Layer(node, known)
    return None if layer is None or layer.operator.kind == "table" else layer


def _shape(value: Value | None, shapes: Shapes) -> Shape | None:
    if value is None:
        return None
    return shapes.get(str(value.name), edit.static_shape(value) if value.is_initializer() else None)


def _product(node: Node, inputs: _Sizes, output: Shape | None) -> int | None:
    """A product of matrices: each element of the output is a sum over an axis of the first input."""
    first = inputs[0]
    if first is None or output is None:
        return None
    transposed = Layer(node, OPERATORS["Gemm"]).transposes_input
    axis = (-1 if not transposed else 0 if edit.attribute(node, "transBatchA", 0) else -2) if len(first) > 1 else 0
    return math.prod(output) * first[axis]


def _einsum(node: Node, inputs: _Sizes, _output: Shape | None) -> int | None:
    """One product for each combination of all indices, where any of them is summed over."""
    left, arrow, right = str(edit.attribute(node, "equation", "")).replace(" ", "").partition("->")
    terms = left.split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        if shape is None:
            return None
        head, dots, tail = term.partition("...")
        between = len(shape) - len(head) - len(tail) if dots else 0
        labels = [*head, *(f"...{i}" for i in reversed(range(between))), *tail]
        for label, size in zip(labels, shape, strict=False):
            sizes[label] = max(sizes.get(label, 1), size)
    letters = [label for label in sizes if len(label) == 1]
    summed = [x for x in letters if (x not in right if arrow else left.count(x) > 1)]
    return (len(terms) - 1) * math.prod(sizes.values()) if summed else 0


def _attention(node: Node, inputs: _Sizes, _output: Shape | None) -> int | None:
    """Attention of com.microsoft: the product with the joined weights, then scores and sums."""
    x, weight, past = inputs[0], inputs[1], inputs[4] if len(inputs) > 4 else None
    if x is None or weight is None or (past is None and len(inputs) > 4 and node.inputs[4] is not None):
        return None
    batch, length, size = x
    widths = [int(n) for n in edit.attribute(node, "qkv_hidden_sizes", None) or [weight[1] // 3] * 3]
    reach = length + (past[3] if past is not None else 0)
    return batch * length * (size * weight[1] + reach * (widths[0] + widths[2]))


def _heads(node: Node, inputs: _Sizes, _output: Shape | None) -> int | None:
    """MultiHeadAttention of com.microsoft: scores and sums."""
    query, key, value = [*inputs, None, None][:3]
    earlier = inputs[6] if len(inputs) > 6 else None
    if query is None or any(v is not None and s is None for v, s in zip(node.inputs, inputs, strict=True)):
        return None
    batch, length, size = query[0], query[1], query[2] if len(query) == 3 else query[2] * query[4]
    if key is None:
        reach, width = length, size
    elif len(key) == 4:
        reach, width = key[2], key[1] * (value[3] if value is not None else key[3])
    else:
        reach, width = key[1], value[2] if value is not None else size
    reach += earlier[2] if earlier is not None else 0
    return batch * length * reach * (size + width)


def _grouped(node: Node, inputs: _Sizes, _output: Shape | None) -> int | None:
    """GroupQueryAttention of com.microsoft: scores and sums; what came before is as long as its buffer."""
    query, key, _, earlier = [*inputs, *[None] * 4][:4]
    if query is None or any(v is not None and s is None for v, s in zip(node.inputs[:4], inputs, strict=False)):
        return None
    heads, held = (int(edit.attribute(node, name, 1)) for name in ("num_heads", "kv_num_heads"))
    width = query[2] if key is not None else query[2] * heads // (heads + 2 * held)
    return 2 * query[0] * query[1] * (query[1] + (earlier[2] if earlier is not None else 0)) * width


def _attention_of_onnx(node: Node, inputs: _Sizes, _output: Shape | None) -> int | None:
    """Attention of ONNX, since opset 23: scores and sums; heads are an axis, or a part of the last."""
    query, key, value = [*inputs, None, None][:3]
    earlier = inputs[4] if len(inputs) > 4 else None
    if query is None or key is None or value is None:
        return None
    past = earlier[2] if earlier is not None else 0
    if len(query) == 4:
        return math.prod(query[:3]) * (key[2] + past) * (query[3] + value[3])
    heads, held = (int(edit.attribute(node, f"{which}_num_heads", 1)) for which in ("q", "kv"))
    return math.prod(query[:2]) * (key[1] + past) * (query[2] + heads * value[2] // held)


def _linear(node: Node, inputs: _Sizes, _output: Shape | None) -> int | None:
    """A linear model of ai.onnx.ml: each coefficient once for each row."""
    first = inputs[0]
    rows = None if first is None else first[0] if len(first) > 1 else 1
    return None if rows is None else rows * len(edit.attribute(node, "coefficients", None) or ())


def _unknown(_node: Node, _inputs: _Sizes, _output: Shape | None) -> int | None:
    """It multiplies, and how often depends on what no shape says."""
    return None


# counted as the layer that they are a form of
_SAME = {
    ("", "DeformConv"): "Conv",
    (_ORT, "FusedConv"): "Conv",
    (_ORT, "NhwcFusedConv"): "Conv",
    (_BLOCKED, "Conv"): "Conv",
    (_ORT, "ConvTransposeWithDynamicPads"): "ConvTranspose",
    (_ORT, "AttnLSTM"): "LSTM",
}
_COUNTS: dict[tuple[str, str], _Count] = {
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention_of_onnx,
    ("", "LinearAttention"): _unknown,
    ("", "CausalConvWithState"): _unknown,
    (_ORT, "Attention"): _attention,
    (_ORT, "MultiHeadAttention"): _heads,
    (_ORT, "GroupQueryAttention"): _grouped,
    ("ai.onnx.ml", "LinearClassifier"): _linear,
    ("ai.onnx.ml", "LinearRegressor"): _linear,
    ("ai.onnx.ml", "SVMClassifier"): _unknown,
    ("ai.onnx.ml", "SVMRegressor"): _unknown,
    **{
        (_ORT, op): _product
        for op in ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "FusedGemm", "GemmFastGelu")
    },
    **{
        (_ORT, op): _unknown
        for op in (
            "BeamSearch", "CDist", "CausalConvWithState", "DecoderAttention", "DecoderMaskedMultiHeadAttention",
            "DecoderMaskedSelfAttention", "GatedRelativePositionBias", "GemmFloat8",
            "GreedySearch", "LinearAttention", "LongformerAttention", "MatMulBnb4",
            "MatMulFpQ4", "MoE", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QMoE", "Sampling",
            "SparseAttention", "SparseToDenseMatMul", "WhisperBeamSearch", "WordConvEmbedding",
        )
    },
}  # fmt: skip

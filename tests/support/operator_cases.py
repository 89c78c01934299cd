"""Nodes for every row of `qtool.finetuning.operators`: what the interpreter must compute as onnxruntime does.

A row without a case fails a test. Each variant of an operator that its function tells apart has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
_ORT = "com.microsoft"
_LARGE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Case:
    """A node with its inputs.

    inputs: arrays, None where one is absent. outputs: how many are read. smooth: the inputs in floats have a gradient.
    """

    op: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any]
    opset: int = 17
    domain: str = ""
    outputs: int = 1
    smooth: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """The row that it proves."""
        return self.domain, self.op

    @property
    def title(self) -> str:
        """Says what is tried."""
        said = [f"{name}={value}" for name, value in self.attributes.items() if not hasattr(value, "dims")]
        shapes = ["none" if a is None else "x".join(map(str, a.shape)) or "scalar" for a in self.inputs]
        return " ".join([self.op, *shapes, *said, f"opset={self.opset}"])

    def feeds(self) -> dict[str, Array]:
        """The inputs by name."""
        return {f"i{n}": array for n, array in enumerate(self.inputs) if array is not None}

    def model(self) -> onnx.ModelProto:
        """A model of this node."""
        names = ["" if array is None else f"i{n}" for n, array in enumerate(self.inputs)]
        outputs = [f"o{n}" for n in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, name="node", domain=self.domain, **self.attributes)
        fed = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in self.feeds().items()
        ]
        made = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph([node], "g", fed, made)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        if self.domain or self.op == "SimplifiedLayerNormalization":
            for value in model.graph.output:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        else:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        return model


_RNG = np.random.default_rng(5)


def _x(*shape: int) -> Array:
    return _RNG.normal(size=shape).astype(np.float32)


def _positive(*shape: int) -> Array:
    return (np.abs(_RNG.normal(size=shape)) + 0.5).astype(np.float32)


def _i(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def _n(number: float, dtype: Any = np.float32) -> Array:
    return np.array(number, dtype)


def _case(op: str, *inputs: Array | None, **named: Any) -> Case:
    """Of attributes, and of what else a `Case` says."""
    fields = {name: named.pop(name) for name in ("opset", "domain", "outputs", "smooth") if name in named}
    return Case(op, inputs, named, **fields)


def _layers() -> Iterator[Case]:
    x, w, b = _x(2, 4, 9, 8), _x(6, 4, 3, 3), _x(6)
    yield _case("Conv", x, w, b)
    yield _case("Conv", x, w, b, pads=[1, 1, 1, 1], strides=[2, 1])
    yield _case("Conv", x, w, pads=[0, 1, 2, 0], dilations=[2, 1])
    yield _case("Conv", x, _x(8, 2, 3, 3), group=2)
    yield _case("Conv", x, _x(4, 1, 3, 3), _x(4), group=4, pads=[1, 1, 1, 1])
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield _case("Conv", x, w, b, auto_pad=auto, strides=[2, 2])
    yield _case("Conv", _x(2, 3, 11), _x(5, 3, 4), _x(5), strides=[2], pads=[1, 2])
    yield _case("Conv", _x(1, 2, 5, 6, 4), _x(3, 2, 2, 3, 2), _x(3), pads=[1, 0, 1, 0, 1, 1])
    w = _x(4, 3, 3, 3)
    yield _case("ConvTranspose", x, w, _x(3))
    yield _case("ConvTranspose", x, w, _x(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    yield _case("ConvTranspose", x, w, strides=[3, 2], dilations=[2, 1], pads=[0, 1, 2, 0])
    yield _case("ConvTranspose", x, w, _x(3), strides=[2, 2], output_shape=[19, 17])
    yield _case("ConvTranspose", x, w, _x(3), strides=[2, 2], output_shape=[20, 17], output_padding=[1, 1])
    yield _case("ConvTranspose", x, w, _x(3), strides=[2, 2], auto_pad="SAME_UPPER")
    yield _case("ConvTranspose", x, w, _x(3), strides=[2, 2], auto_pad="SAME_LOWER")
    yield _case("ConvTranspose", x, _x(4, 2, 2, 2), _x(4), strides=[2, 2], group=2)
    yield _case("ConvTranspose", _x(2, 3, 7), _x(3, 2, 4), strides=[2])
    yield _case("ConvTranspose", _x(1, 2, 3, 4, 3), _x(2, 3, 2, 2, 2), strides=[1, 2, 1])
    yield _case("Gemm", _x(3, 5), _x(5, 4), _x(4))
    yield _case("Gemm", _x(5, 3), _x(4, 5), _x(3, 4), transA=1, transB=1, alpha=0.5, beta=2.0)
    yield _case("Gemm", _x(3, 5), _x(5, 4))
    yield _case("Gemm", _x(3, 5), _x(5, 4), _x(3, 1))
    yield _case("MatMul", _x(3, 5), _x(5, 4))
    yield _case("MatMul", _x(2, 1, 3, 5), _x(4, 5, 2))
    yield _case("MatMul", _x(2, 3, 5), _x(5))
    yield _case("FusedMatMul", _x(2, 3, 5), _x(2, 5, 4), domain=_ORT)
    yield _case("FusedMatMul", _x(2, 5, 3), _x(2, 4, 5), domain=_ORT, transA=1, transB=1, alpha=0.25)
    yield _case("Einsum", _x(2, 3, 4), _x(2, 4, 5), equation="bij,bjk->bik")
    yield _case("Einsum", _x(2, 3, 4), equation="...ij->...ji")


def _attentions() -> Iterator[Case]:
    q, k, v = _x(2, 3, 8), _x(2, 5, 8), _x(2, 5, 12)
    heads = {"q_num_heads": 2, "kv_num_heads": 2, "opset": 23}
    yield _case("Attention", q, k, v, **heads)
    yield _case("Attention", q, k, v, _x(3, 5), scale=0.3, **heads)
    yield _case("Attention", q, k, v, _x(2, 1, 3, 5) > -1, is_causal=1, **heads)
    yield _case("Attention", _x(2, 4, 3, 6), _x(2, 2, 5, 6), _x(2, 2, 5, 6), opset=23)
    yield _case("Attention", q, k, v, None, _x(2, 2, 4, 4), _x(2, 2, 4, 6), outputs=3, **heads)
    x, weight, bias = _x(2, 5, 8), _x(8, 24), _x(24)
    named = {"domain": _ORT, "num_heads": 2}
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32)
    yield _case("Attention", x, weight, bias, **named)
    yield _case("Attention", x, weight, bias, mask, **named)
    yield _case("Attention", x, weight, bias, mask.sum(1, dtype=np.int32), unidirectional=1, **named)
    yield _case("Attention", x, _x(8, 28), _x(28), qkv_hidden_sizes=[8, 8, 12], scale=0.2, **named)
    yield _case("MultiHeadAttention", q, k, v, **named)
    yield _case("MultiHeadAttention", q, k, v, _x(28), mask, **named)
    yield _case("MultiHeadAttention", q, k, v, None, None, _x(2, 2, 3, 5), scale=0.4, **named)
    yield _case("MultiHeadAttention", x, x, x, unidirectional=1, **named)


def _activations() -> Iterator[Case]:
    x = _x(2, 3, 4, 5)
    for op in ("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Softsign"):
        yield _case(op, x)
    yield _case("Mish", x, opset=18)
    for op, attributes in (
        ("LeakyRelu", {"alpha": 0.2}),
        ("Elu", {"alpha": 0.7}),
        ("Celu", {"alpha": 1.5}),
        ("Selu", {"alpha": 1.2, "gamma": 1.1}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.4}),
        ("ThresholdedRelu", {"alpha": 0.3}),
        ("Shrink", {"lambd": 0.4, "bias": 0.1}),
    ):
        yield _case(op, x)
        yield _case(op, x, **attributes)
    for slope in ((3, 1, 1), (1,), (2, 3, 4, 5)):
        yield _case("PRelu", x, _x(*slope))
    yield _case("Clip", x, _n(-0.5), _n(0.75))
    yield _case("Clip", x, None, _n(0.75))
    yield _case("Clip", x, _n(-0.5))
    yield _case("Clip", x)
    yield _case("Clip", x, _n(0.5), _n(-0.5))
    yield _case("Clip", x, opset=10, min=-0.5, max=0.75)
    yield _case("Clip", _i(3, -4, 9), _n(0, np.int64), _n(5, np.int64))
    others: dict[str, dict[str, Any]] = {"Swish": {"alpha": 1.5}, "Gelu": {"approximate": "tanh"}}
    for op, attributes in others.items():
        opset = 24 if op == "Swish" else 20
        yield _case(op, x, opset=opset)
        yield _case(op, x, opset=opset, **attributes)
    yield _case("Gelu", x, domain=_ORT)
    yield _case("QuickGelu", x, domain=_ORT, alpha=1.702)
    yield _case("BiasGelu", x, _x(5), domain=_ORT)
    yield _case("FastGelu", x, domain=_ORT)
    yield _case("FastGelu", x, _x(5), domain=_ORT)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield _case(op, x)
        yield _case(op, x, axis=1)
    for op in ("Softmax", "LogSoftmax"):
        yield _case(op, x, opset=11)
        yield _case(op, x, opset=11, axis=-2)
        yield _case(op, x, opset=11, axis=0)
    yield _case("Hardmax", np.round(x), axis=-2)


def _arithmetic() -> Iterator[Case]:
    x, positive = _x(2, 3, 4), _positive(2, 3, 4)
    for op in ("Add", "Sub", "Mul"):
        yield _case(op, x, _x(3, 1))
        yield _case(op, _i(3, -4), _i(5))
    yield _case("Div", x, positive)
    yield _case("Div", _i(7, -7, 8), _i(2, 2, -3))
    yield _case("Pow", positive, _n(1.7))
    yield _case("Pow", x, _n(2, np.int64))
    yield _case("Pow", x, _x(3, 1) * 0 + 2, smooth=False)
    yield _case("Mod", _i(7, -7, 8), _i(3, 3, -3))
    yield _case("Mod", x, positive, fmod=1)
    for op in ("Max", "Min", "Sum", "Mean"):
        yield _case(op, x)
        yield _case(op, x, _x(3, 1), _x(4))
    for op in ("Neg", "Abs", "Erf", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Exp"):
        yield _case(op, x)
    for op in ("Asin", "Acos", "Atanh"):
        yield _case(op, np.tanh(x))
    yield _case("Acosh", positive + 1)
    for op in ("Sqrt", "Log", "Reciprocal"):
        yield _case(op, positive)
    halves = np.append(x.reshape(-1) * 3, np.array([0.5, 1.5, -2.5], np.float32))
    for op in ("Floor", "Ceil", "Round", "Sign"):
        yield _case(op, halves)
    for op in ("IsNaN", "IsInf"):
        yield _case(op, np.array([1, np.nan, np.inf, -np.inf], np.float32))
    yield _case("IsInf", np.array([np.inf, -np.inf, 1], np.float32), detect_negative=0)
    yield _case("Not", x > 0)
    for op in ("And", "Or", "Xor"):
        yield _case(op, x > 0, _x(3, 1) > 0)
    for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        yield _case(op, np.round(x), np.round(_x(3, 1)))
        yield _case(op, _i(1, 2, 3), _i(2))
    yield _case("Where", x > 0, x, _x(4))
    yield _case("CumSum", x, _n(1, np.int64))
    yield _case("CumSum", x, _n(-1, np.int64), reverse=1, exclusive=1)
    for to in (TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32):
        yield _case("Cast", x * 3, to=to, smooth=to == TensorProto.DOUBLE)
    yield _case("Cast", _i(1, 0, -3), to=TensorProto.FLOAT)
    yield _case("CastLike", x, _n(1, np.float64))


def _reductions() -> Iterator[Case]:
    for op in (
        "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
        "ReduceLogSum", "ReduceLogSumExp",
    ):  # fmt: skip
        x = _positive(2, 3, 4)
        yield _case(op, x)
        yield _case(op, x, axes=[1, -1], keepdims=0)
        yield _case(op, x, _i(-2), opset=18)
        yield _case(op, x, None, opset=18, keepdims=0)
        yield _case(op, x, opset=18, noop_with_empty_axes=1)
    x = _x(2, 3, 4)
    yield _case("ReduceSum", x, axes=[1], opset=11)
    yield _case("ReduceSum", x, _i(0, 2), keepdims=0)
    yield _case("ReduceSum", x)
    yield _case("ReduceSum", x, _i(), noop_with_empty_axes=1)
    yield _case("ReduceSum", np.arange(6, dtype=np.int64), _i(0))
    yield _case("ReduceMax", np.arange(6, dtype=np.int64))
    for op in ("ArgMax", "ArgMin"):
        yield _case(op, x)
        yield _case(op, np.round(x), axis=-1, keepdims=0)
        yield _case(op, np.round(x), axis=1, select_last_index=1)
    yield _case("TopK", x, _i(2), outputs=2)
    yield _case("TopK", x, _i(2), outputs=2, axis=1, largest=0)
    yield _case("TopK", np.round(x), _i(3), outputs=2, smooth=False)


def _pools() -> Iterator[Case]:
    x = _x(2, 3, 9, 8)
    for op in ("MaxPool", "AveragePool", "LpPool"):
        opset = {"LpPool": 18}.get(op, 17)
        yield _case(op, x, kernel_shape=[3, 2], opset=opset)
        yield _case(op, x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], opset=opset)
        yield _case(op, x, kernel_shape=[2, 3], strides=[1, 2], pads=[0, 1, 1, 2], opset=opset)
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            yield _case(op, x, kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto, opset=opset)
        yield _case(op, _x(2, 3, 10), kernel_shape=[3], strides=[2], opset=opset)
        yield _case(op, _x(1, 2, 5, 4, 6), kernel_shape=[2, 2, 3], pads=[1, 0, 1, 0, 1, 1], opset=opset)
    for op in ("MaxPool", "AveragePool"):
        yield _case(op, x, kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1, opset=19)
        yield _case(op, x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, opset=19)
        yield _case(op, _x(1, 1, 4, 4), kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1, opset=19)
        yield _case(op, x, kernel_shape=[2, 3], dilations=[2, 3], pads=[1, 1, 0, 0], opset=19)
    yield _case("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    yield _case("AveragePool", x, kernel_shape=[3, 3], strides=[3, 3], pads=[0, 1, 1, 1], count_include_pad=1,
                ceil_mode=1, opset=19)  # fmt: skip
    yield _case("LpPool", x, kernel_shape=[2, 2], p=3, opset=18)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield _case(op, x)
        yield _case(op, _x(2, 3, 7))
    yield _case("GlobalLpPool", x, p=1)


def _normalizations() -> Iterator[Case]:
    x = _x(2, 6, 5, 4)
    yield _case("BatchNormalization", x, _x(6), _x(6), _x(6), _positive(6), epsilon=1e-3)
    yield _case("BatchNormalization", _x(2, 6), _x(6), _x(6), _x(6), _positive(6))
    for axis, shape in ((-1, (4,)), (2, (5, 4)), (1, (6, 5, 4))):
        yield _case("LayerNormalization", x, _x(*shape), _x(*shape), axis=axis)
    yield _case("LayerNormalization", x, _x(4), epsilon=1e-2)
    yield _case("LayerNormalization", x, _x(4), _x(4), outputs=3)
    yield _case("RMSNormalization", x, _x(4), opset=23, epsilon=1e-2)
    yield _case("SimplifiedLayerNormalization", x, _x(4))
    yield _case("SkipLayerNormalization", _x(2, 3, 8), _x(2, 3, 8), _x(8), _x(8), _x(8), domain=_ORT, epsilon=1e-3)
    yield _case("SkipLayerNormalization", _x(2, 3, 8), _x(2, 3, 8), _x(8), domain=_ORT)
    yield _case("InstanceNormalization", x, _x(6), _x(6), epsilon=1e-3)
    yield _case("InstanceNormalization", _x(2, 6, 9), _x(6), _x(6))
    yield _case("GroupNormalization", x, _x(3), _x(3), num_groups=3, opset=18)
    yield _case("GroupNormalization", x, _x(6), _x(6), num_groups=3, opset=21, epsilon=1e-3)
    yield _case("MeanVarianceNormalization", x)
    yield _case("MeanVarianceNormalization", x, axes=[1, 2])
    for p in (1, 2):
        yield _case("LpNormalization", x, p=p, axis=1)
    yield _case("LRN", x, size=3)
    yield _case("LRN", x, size=5, alpha=0.1, beta=0.6, bias=2.0)


def _shapes() -> Iterator[Case]:
    x = _x(2, 3, 4, 5)
    yield _case("Identity", x)
    yield _case("Dropout", x)
    yield _case("Dropout", x, _n(0.3), outputs=2)
    for shape in ((0, -1), (2, 0, 20), (-1,), (6, 4, 5)):
        yield _case("Reshape", x, _i(*shape))
    yield _case("Reshape", _x(0, 4), _i(3, 0), allowzero=1, smooth=False)
    for axis in (0, 1, 3, 4, -1):
        yield _case("Flatten", x, axis=axis)
    yield _case("Transpose", x)
    yield _case("Transpose", x, perm=[0, 2, 3, 1])
    one = _x(1, 3, 1, 2)
    yield _case("Squeeze", one)
    yield _case("Squeeze", one, _i(-2))
    yield _case("Squeeze", one, axes=[0, 2], opset=11)
    yield _case("Unsqueeze", x, _i(0, -1))
    yield _case("Unsqueeze", x, axes=[2], opset=11)
    yield _case("Expand", one, _i(4, 1, 5, 1))
    yield _case("Expand", one, _i(2, 2, 3, 1, 2))
    yield _case("Tile", x, _i(1, 2, 1, 3))
    yield _case("Concat", x, _x(2, 2, 4, 5), axis=1)
    yield _case("Concat", x, x, axis=-1)
    yield _case("Split", x, outputs=2, axis=2)
    yield _case("Split", x, _i(1, 3, 1), outputs=3, axis=-1)
    yield _case("Split", x, outputs=2, axis=3, num_outputs=2, opset=18)
    yield _case("Split", x, outputs=2, axis=1, split=[1, 2], opset=11)


def _places() -> Iterator[Case]:
    x = _x(2, 3, 4, 5)
    yield _case("Slice", x, _i(1), _i(3), _i(2))
    yield _case("Slice", x, _i(0, 1), _i(-1, _LARGE), _i(2, 3), _i(1, 2))
    yield _case("Slice", x, _i(-1), _i(-_LARGE), _i(3), _i(-2))
    yield _case("Slice", x, _i(1, 0), _i(2, 2))
    yield _case("Slice", x, starts=[1], ends=[100], axes=[1], opset=9)
    yield _case("Slice", x, _i(3), _i(1), _i(2))
    yield _case("Gather", x, _i(0, -1, 2), axis=1)
    yield _case("Gather", x, _n(-1, np.int64), axis=3)
    yield _case("Gather", _x(7, 4), np.array([[1, 2], [6, 0]], np.int32))
    yield _case("GatherElements", x, np.zeros((2, 3, 4, 2), np.int64) - 1, axis=3)
    yield _case("GatherND", x, np.array([[0, 1], [1, -1]], np.int64))
    yield _case("GatherND", x, np.array([[1], [2]], np.int64), batch_dims=1)
    for reduction in ("none", "add"):
        yield _case("ScatterElements", x, np.array([[[[1, -1]]]], np.int64), _x(1, 1, 1, 2), axis=3,
                    reduction=reduction, opset=18)  # fmt: skip
        yield _case("ScatterND", x, np.array([[0, 1], [1, -1]], np.int64), _x(2, 4, 5), reduction=reduction, opset=18)
    pads = _i(0, 1, 2, 1, 0, 0, 1, 2)
    yield _case("Pad", x, pads)
    yield _case("Pad", x, pads, _n(1.5))
    yield _case("Pad", x, _i(0, 0, -1, 1, 0, 0, 0, -2))
    for mode in ("reflect", "edge"):
        yield _case("Pad", x, pads, mode=mode)
    yield _case("Pad", x, pads, mode="wrap", opset=19)
    yield _case("Pad", x, _i(1, 2), _n(0.5), _i(-1), opset=18)
    yield _case("Pad", x, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5, opset=10)
    yield _case("Pad", _i(1, 2), _i(1, 1), _n(7, np.int64))
    for mode in ("DCR", "CRD"):
        yield _case("DepthToSpace", _x(2, 8, 3, 2), blocksize=2, mode=mode)
    yield _case("SpaceToDepth", _x(2, 3, 4, 6), blocksize=2)
    yield _case("Trilu", x)
    yield _case("Trilu", x, _n(-1, np.int64), upper=0)


def _made() -> Iterator[Case]:
    x = _x(2, 3, 4, 5)
    for value in (np.array([2.5], np.float32), np.array([3], np.int64)):
        yield _case("Constant", value=numpy_helper.from_array(value))
        yield _case("ConstantOfShape", _i(2, 3), value=numpy_helper.from_array(value))
    for name, number in (("value_float", 0.5), ("value_floats", [1.0, 2.0]), ("value_int", 3), ("value_ints", [4, 5])):
        yield _case("Constant", **{name: number})
    yield _case("ConstantOfShape", _i())
    yield _case("Shape", x)
    yield _case("Shape", x, start=1, end=-1)
    yield _case("Size", x)
    yield _case("Range", _n(1, np.int64), _n(8, np.int64), _n(3, np.int64))
    yield _case("Range", _n(5, np.float32), _n(1, np.float32), _n(-1.5, np.float32))
    yield _case("EyeLike", _x(3, 5), k=1)
    yield _case("EyeLike", _x(3, 5), k=-1, dtype=TensorProto.INT64)
    yield _case("OneHot", _i(1, -1, 7), _n(4, np.int64), np.array([-1, 2], np.float32))
    yield _case("OneHot", _i(1, 3), _n(4, np.int64), np.array([0, 1], np.float32), axis=0)


def _resizes() -> Iterator[Case]:
    x, none = _x(2, 3, 5, 6), np.zeros(0, np.float32)
    for scales in ((1, 1, 2, 2), (1, 1, 0.6, 1.7), (1, 1, 1.5, 0.5)):
        factor = np.array(scales, np.float32)
        for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
            named = {"coordinate_transformation_mode": mode}
            for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
                yield _case("Resize", x, none, factor, mode="nearest", nearest_mode=nearest, **named)
            yield _case("Resize", x, none, factor, mode="linear", **named)
            yield _case("Resize", x, none, factor, mode="cubic", **named)
    factor = np.array([1, 1, 0.7, 1.3], np.float32)
    for mode in ("nearest", "linear", "cubic"):
        yield _case("Resize", x, none, None, _i(2, 3, 7, 4), mode=mode)
        yield _case(
            "Resize", x, None, factor, mode=mode, coordinate_transformation_mode="half_pixel_symmetric", opset=19
        )
    yield _case("Resize", x, none, factor, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5)
    yield _case("Resize", x, None, None, _i(8, 4), axes=[2, 3], mode="linear", opset=18)
    for policy in ("not_larger", "not_smaller"):
        yield _case("Resize", x, None, None, _i(8, 9), axes=[3, 2], mode="nearest", opset=18,
                    keep_aspect_ratio_policy=policy)  # fmt: skip
    yield _case("Resize", _x(1, 2, 6), none, np.array([1, 1, 2], np.float32), mode="nearest")
    yield _case("Resize", _x(1, 2, 3, 4, 5), none, np.array([1, 1, 2, 1, 2], np.float32), mode="linear")


def _recurrences() -> Iterator[Case]:
    steps, samples, width, size = 5, 3, 4, 6
    x, lengths = _x(steps, samples, width), np.array([5, 2, 4], np.int32)
    for op, gates, states in (("LSTM", 4, 2), ("GRU", 3, 1), ("RNN", 1, 1)):
        named = {"hidden_size": size, "outputs": 1 + states, "opset": 14}
        for directions, direction in ((1, "forward"), (1, "reverse"), (2, "bidirectional")):
            w, r = _x(directions, gates * size, width), _x(directions, gates * size, size)
            bias, start = _x(directions, 2 * gates * size), [_x(directions, samples, size) for _ in range(states)]
            yield _case(op, x, w, r, direction=direction, **named)
            yield _case(op, x, w, r, bias, None, *start, direction=direction, **named)
            yield _case(op, x, w, r, bias, lengths, *start, direction=direction, **named)
        w, r, bias = w[:1], r[:1], bias[:1]
        others = {"LSTM": ["Sigmoid", "Softsign", "Relu"], "GRU": ["Sigmoid", "Softsign"], "RNN": ["Relu"]}[op]
        yield _case(op, x, w, r, bias, activations=others, **named)
        if op == "GRU":
            yield _case(op, x, w, r, bias, linear_before_reset=1, **named)
        if op == "LSTM":
            yield _case(op, x, w, r, bias, None, None, None, _x(1, 3 * size), **named)
            yield _case(op, x, w, r, bias, input_forget=1, **named)


CASES = [
    *_layers(), *_recurrences(), *_attentions(), *_activations(), *_arithmetic(), *_reductions(), *_pools(),
    *_normalizations(), *_shapes(), *_places(), *_made(), *_resizes(),
]  # fmt: skip

"""Small float models: one for each row of the CPU tables, and what onnxruntime must make of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray


class Net:
    """Builds a model node by node; values are their names. Weights keep activations near unit variance."""

    def __init__(self, *shape: int, opset: int = 17, batch: int | str = "N", ir_version: int = 8) -> None:
        self.shape = shape or (3, 8, 8)
        self.opset = opset
        self.batch = batch
        self.ir_version = ir_version
        self.rng = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    @overload
    def __call__(
        self, op: str, *inputs: str, outputs: int, name: str | None = None, **attributes: Any
    ) -> list[str]: ...
    @overload
    def __call__(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str: ...
    def __call__(
        self, op: str, *inputs: str, outputs: int | None = None, name: str | None = None, **attributes: Any
    ) -> str | list[str]:
        """Add a node; returns its output, or a list of as many as were asked for."""
        name = name or f"{op}_{len(self.nodes)}"
        made = [f"{name}_out"] if outputs is None else [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=name, **attributes))
        return made[0] if outputs is None else made

    def const(self, array: object, name: str | None = None, dtype: Any = np.float32) -> str:
        """Add an initializer."""
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def weight(self, *shape: int, inputs: int, name: str | None = None) -> str:
        """A random weight for sums of `inputs` products."""
        return self.const(self.rng.normal(size=shape) / np.sqrt(inputs), name)

    def bias(self, size: int) -> str:
        """A random vector."""
        return self.const(self.rng.normal(size=size) * 0.3)

    def conv(
        self, x: str, before: int, after: int, *, kernel: tuple[int, ...] = (3, 3), group: int = 1,
        bias: bool = True, name: str | None = None,
    ) -> str:  # fmt: skip
        """Conv of the same size: `before` channels -> `after`."""
        per_group = before // group
        weight = self.weight(after, per_group, *kernel, inputs=per_group * int(np.prod(kernel)))
        pads = [k // 2 for k in kernel] * 2
        extra = [self.bias(after)] if bias else []
        return self("Conv", x, weight, *extra, name=name, kernel_shape=kernel, pads=pads, group=group)

    def gemm(self, x: str, before: int, after: int, *, trans: int = 0, bias: bool = True, **attributes: Any) -> str:
        """Gemm [N, before] -> [N, after]."""
        shape = (after, before) if trans else (before, after)
        extra = [self.bias(after)] if bias else []
        made: str = self("Gemm", x, self.weight(*shape, inputs=before), *extra, transB=trans, **attributes)
        return made

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The checked model; shapes of outputs are inferred."""
        initializers = [numpy_helper.from_array(a, n) for n, a in self.constants.items()]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])
        fed = [x]
        if self.ir_version < 4:
            fed += [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in self.constants.items()
            ]
        domains = sorted({node.domain for node in self.nodes} - {""})
        # inference ends at what has no schema; then they have the rank of the input
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (1 + len(self.shape)))
            if domains
            else helper.make_empty_tensor_value_info(name)
            for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "g", fed, results, initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in domains]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model

    def save(self, path: Path, *outputs: str) -> Path:
        """Write the model."""
        onnx.save(self.model(*outputs), path)
        return path

    def samples(self, count: int = 6) -> dict[str, Array]:
        """Random inputs."""
        return {"x": np.random.default_rng(3).normal(size=(count, *self.shape)).astype(np.float32)}


@dataclass(frozen=True)
class Pattern:
    """A model and its expected optimised graph.

    op: the row that it proves.
    build: fills a Net and returns the names of the outputs.
    kernels: every operator of the optimised graph with its count; Transposes that change the layout are not counted.
    edges: (QuantizeLinear, DequantizeLinear) left; one each where the whole model is integer.
    """

    op: str
    build: Callable[[Net], tuple[str, ...]]
    kernels: dict[str, int]
    edges: tuple[int, int] = (1, 1)
    shape: tuple[int, ...] = (3, 8, 8)
    opset: int = 17
    free: frozenset[str] = field(default=frozenset({"Transpose"}))

    def net(self) -> tuple[Net, tuple[str, ...]]:
        """Build it."""
        net = Net(*self.shape, opset=self.opset)
        return net, self.build(net)


def between(middle: Callable[[Net, str], str], channels: int = 8) -> Callable[[Net], tuple[str, ...]]:
    """Conv, `middle` (8 channels -> `channels`), Conv."""

    def build(net: Net) -> tuple[str, ...]:
        return (net.conv(middle(net, net.conv("x", 3, 8, name="first")), channels, 4, name="last"),)

    return build


def headed(middle: Callable[[Net, str], str], size: int) -> Callable[[Net], tuple[str, ...]]:
    """Conv with 8 channels, `middle` -> [N, size], Gemm with float output."""

    def build(net: Net) -> tuple[str, ...]:
        return (net.gemm(middle(net, net.conv("x", 3, 8, name="first")), size, 5),)

    return build


def _ints(net: Net, *values: int) -> str:
    return net.const(values, dtype=np.int64)


def _conv_chain(kernel: tuple[int, ...]) -> Callable[[Net], tuple[str, ...]]:
    def build(net: Net) -> tuple[str, ...]:
        return (net.conv(net.conv("x", 3, 8, kernel=kernel), 8, 4, kernel=kernel),)

    return build


def _gemm_chain(*, trans: int, bias: bool) -> Callable[[Net], tuple[str, ...]]:
    def build(net: Net) -> tuple[str, ...]:
        h = net.gemm("x", 12, 16, trans=trans, bias=bias)
        return (net.gemm(net("Relu", h), 16, 6, trans=trans, bias=bias),)

    return build


def _matmul_chain(net: Net) -> tuple[str, ...]:
    h = net("MatMul", "x", net.weight(12, 16, inputs=12))
    return (net("MatMul", h, net.weight(16, 6, inputs=16)),)


def _matmul_clip(net: Net) -> tuple[str, ...]:
    h = net("MatMul", "x", net.weight(12, 16, inputs=12))
    return (net("Tanh", net("Clip", h, net.const(0.1), net.const(2.0))),)


def _matmul_add_2d(net: Net) -> tuple[str, ...]:
    h = net("Add", net("MatMul", "x", net.weight(12, 16, inputs=12)), net.bias(16))
    return (net("Add", net.const(net.rng.normal(size=(1, 6))), net("MatMul", h, net.weight(16, 6, inputs=16))),)


def _matmul_add_3d(net: Net) -> tuple[str, ...]:
    h = net("Add", net("MatMul", "x", net.weight(12, 16, inputs=12)), net.bias(16))
    return (net("MatMul", h, net.weight(16, 6, inputs=16)),)


def _residual(net: Net, h: str) -> str:
    return net("Add", net.conv(h, 8, 8), h)


def _residual_relu(net: Net, h: str) -> str:
    return net("Relu", net("Add", net.conv(net("Relu", net.conv(h, 8, 8)), 8, 8), h))


def _silu(net: Net, h: str) -> str:
    return net("Mul", h, net("Sigmoid", h))


def _mish(net: Net, h: str) -> str:
    return net("Mul", h, net("Tanh", net("Softplus", h)))


def _squeeze_excite(net: Net, h: str) -> str:
    gate = net("Relu", net.conv(net("GlobalAveragePool", h), 8, 4, kernel=(1, 1)))
    return net("Mul", h, net("Sigmoid", net.conv(gate, 4, 8, kernel=(1, 1))))


def _hard_squeeze_excite(net: Net, h: str) -> str:
    gate = net("Relu", net.conv(net("GlobalAveragePool", h), 8, 4, kernel=(1, 1)))
    return net("Mul", h, net("HardSigmoid", net.conv(gate, 4, 8, kernel=(1, 1))))


def _split(net: Net, h: str) -> str:
    a, b = net("Split", h, _ints(net, 4, 4), outputs=2, axis=1)
    return net("Concat", b, a, axis=1)


def _split_between(net: Net) -> tuple[str, ...]:
    a, b = net("Split", net.conv("x", 3, 8), _ints(net, 4, 4), outputs=2, axis=1)
    return net.conv(a, 4, 4), net.conv(b, 4, 4)


def _head_matmul(net: Net) -> tuple[str, ...]:
    flat = net("Flatten", net("GlobalAveragePool", net("Relu", net.conv("x", 3, 8))))
    return (net("Add", net("MatMul", flat, net.weight(8, 5, inputs=8)), net.bias(5)),)


def _transposed(net: Net) -> tuple[str, ...]:
    h = net("Reshape", net.gemm("x", 12, 16), _ints(net, 0, 2, 8))
    return (net.gemm(net("Reshape", net("Transpose", h, perm=[0, 2, 1]), _ints(net, 0, 16)), 16, 5),)


def _nhwc(net: Net) -> tuple[str, ...]:
    return (net.conv(net.conv(net("Transpose", "x", perm=[0, 3, 1, 2]), 3, 8), 8, 4),)


def _clipped(low: float, high: float) -> Callable[[Net, str], str]:
    return lambda net, h: net("Clip", h, net.const(low), net.const(high))


def _bridge(op: str, **attributes: Any) -> Callable[[Net, str], str]:
    return lambda net, h: net(op, h, **attributes)


def _flat(net: Net, h: str) -> str:
    return net("Flatten", net("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2]))


def _relu_beside(net: Net, h: str) -> str:
    return net("Add", h, net("Relu", h))


def _conv_transpose(net: Net, h: str) -> str:
    skewed = np.logspace(-3, 0, 8).reshape(1, 8, 1, 1)
    return net(
        "ConvTranspose",
        h,
        net.const(net.rng.normal(size=(8, 8, 2, 2)) * skewed),
        net.bias(8),
        strides=[2, 2],
        output_shape=[16, 16],
    )


def _unused_part(net: Net, h: str) -> str:
    return net("Split", h, _ints(net, 4, 4), outputs=2, axis=1)[0]


def _two_activations(net: Net, h: str) -> str:
    return net("MatMul", h, net.conv(h, 8, 8))


CONV2 = {"QLinearConv": 2}
PATTERNS: dict[str, Pattern] = {
    "conv 1-D": Pattern("Conv", _conv_chain((3,)), CONV2, shape=(3, 20)),
    "conv 2-D": Pattern("Conv", _conv_chain((3, 3)), CONV2),
    "conv 3-D": Pattern("Conv", _conv_chain((3, 3, 3)), CONV2, shape=(3, 6, 6, 6)),
    "conv depthwise": Pattern("Conv", between(lambda n, h: n.conv(h, 8, 8, group=8)), {"QLinearConv": 3}),
    "conv without bias": Pattern("Conv", between(lambda n, h: n.conv(h, 8, 8, bias=False)), {"QLinearConv": 3}),
    "conv relu": Pattern("Conv", between(lambda n, h: n("Relu", h)), CONV2),
    "conv relu6": Pattern("Conv", between(_clipped(0.0, 6.0)), CONV2),
    "conv clip(-1, 1)": Pattern("Conv", between(_clipped(-1.0, 1.0)), CONV2),
    "gemm": Pattern("Gemm", _gemm_chain(trans=0, bias=True), {"QGemm": 2}, (1, 0), (12,)),
    "gemm transB": Pattern("Gemm", _gemm_chain(trans=1, bias=True), {"QGemm": 2}, (1, 0), (12,)),
    "gemm without bias": Pattern("Gemm", _gemm_chain(trans=0, bias=False), {"QGemm": 2}, (1, 0), (12,)),
    "gemm transB without bias": Pattern("Gemm", _gemm_chain(trans=1, bias=False), {"QGemm": 2}, (1, 0), (12,)),
    "matmul": Pattern("MatMul", _matmul_chain, {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1}, (1, 0), (12,)),
    "matmul add": Pattern("Gemm", _matmul_add_2d, {"QGemm": 2}, (1, 0), (12,)),
    "matmul add 3-D": Pattern(
        "MatMul", _matmul_add_3d, {"QLinearMatMul": 1, "QLinearAdd": 1, "MatMulIntegerToFloat": 1}, (1, 0), (5, 12)
    ),
    "gemm relu tanh": Pattern(
        "Gemm", lambda n: (n("Tanh", n("Relu", n.gemm("x", 12, 6))),), {"QGemm": 1, "Tanh": 1}, (1, 1), (12,)
    ),
    "matmul clip tanh": Pattern(
        "MatMul", _matmul_clip, {"QLinearMatMul": 1, "Clip": 1, "Tanh": 1}, (1, 1), (12,)
    ),
    "residual add": Pattern("Add", between(_residual), {"QLinearConv": 3, "QLinearAdd": 1}),
    "residual add relu": Pattern("Add", between(_residual_relu), {"QLinearConv": 4, "QLinearAdd": 1}),
    "add constant": Pattern(
        "Add", between(lambda n, h: n("Add", n("Relu", h), n.const(n.rng.normal(size=(1, 8, 8, 8))))),
        CONV2 | {"QLinearAdd": 1},
    ),
    "mul": Pattern("Mul", between(lambda n, h: n("Mul", h, n.conv(h, 8, 8))), {"QLinearConv": 3, "QLinearMul": 1}),
    "mul constant": Pattern(
        "Mul", between(lambda n, h: n("Mul", n("Relu", h), n.const(n.rng.normal(size=(8, 1, 1))))),
        CONV2 | {"QLinearMul": 1},
    ),
    "squeeze and excite": Pattern(
        "Sigmoid", between(_squeeze_excite),
        {"QLinearConv": 4, "QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "QLinearMul": 1},
    ),
    "silu": Pattern("Sigmoid", between(_silu), CONV2 | {"QLinearSigmoid": 1, "QLinearMul": 1}),
    "hard swish": Pattern("Mul", between(_bridge("HardSwish")), CONV2 | {"QLinearAdd": 1, "QLinearMul": 1}),
    "hard squeeze and excite": Pattern(
        "Mul", between(_hard_squeeze_excite), {"QLinearConv": 4, "QLinearGlobalAveragePool": 1, "QLinearMul": 1}
    ),
    "leaky relu": Pattern("LeakyRelu", between(_bridge("LeakyRelu", alpha=0.1)), CONV2 | {"QLinearLeakyRelu": 1}),
    "softmax": Pattern("Softmax", between(_bridge("Softmax", axis=1)), CONV2 | {"QLinearSoftmax": 1}),
    "global average pool": Pattern(
        "GlobalAveragePool", headed(lambda n, h: n("Flatten", n("GlobalAveragePool", h)), 8),
        {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "Flatten": 1, "QGemm": 1}, (1, 0),
    ),
    "matmul head": Pattern(
        "GlobalAveragePool", _head_matmul,
        {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "Flatten": 1, "QGemm": 1}, (1, 0),
    ),
    "average pool": Pattern(
        "AveragePool", between(_bridge("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)),
        CONV2 | {"QLinearAveragePool": 1},
    ),
    "average pool without padding": Pattern(
        "AveragePool", between(_bridge("AveragePool", kernel_shape=[2, 2], strides=[2, 2])),
        CONV2 | {"QLinearAveragePool": 1},
    ),
    "concat": Pattern(
        "Concat", between(lambda n, h: n("Concat", h, n("Relu", n.conv(h, 8, 8)), axis=1), 16),
        {"QLinearConv": 3, "QLinearConcat": 1},
    ),
    "concat of the input": Pattern(
        "Concat", between(lambda n, h: n("Concat", h, "x", axis=1), 11), CONV2 | {"QLinearConcat": 1}
    ),
    "max pool": Pattern(
        "MaxPool", between(_bridge("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])),
        CONV2 | {"NhwcMaxPool": 1},
    ),
    "reduce max": Pattern(
        "ReduceMax", headed(_bridge("ReduceMax", axes=[2, 3], keepdims=0), 8),
        {"QLinearConv": 1, "ReduceMax": 1, "QGemm": 1}, (1, 0),
    ),
    "reduce min": Pattern(
        "ReduceMin", headed(_bridge("ReduceMin", axes=[2, 3], keepdims=0), 8),
        {"QLinearConv": 1, "ReduceMin": 1, "QGemm": 1}, (1, 0),
    ),
    "transpose": Pattern(
        "Transpose", _transposed, {"QGemm": 2, "Reshape": 2, "Transpose": 1}, (1, 0), (12,), free=frozenset()
    ),
    "transpose of the input": Pattern("Transpose", _nhwc, CONV2, shape=(8, 8, 3)),
    "reshape": Pattern(
        "Reshape", between(lambda n, h: n("Reshape", h, _ints(n, 0, 16, 8, 4)), 16), CONV2 | {"Reshape": 1}
    ),
    "flatten": Pattern(
        "Flatten", headed(_flat, 128), {"QLinearConv": 1, "NhwcMaxPool": 1, "Flatten": 1, "QGemm": 1}, (1, 0)
    ),
    "squeeze": Pattern(
        "Squeeze", headed(lambda n, h: n("Squeeze", n("GlobalAveragePool", h), _ints(n, 2, 3)), 8),
        {"QLinearConv": 1, "QLinearGlobalAveragePool": 1, "Squeeze": 1, "QGemm": 1}, (1, 0),
    ),
    "unsqueeze": Pattern(
        "Unsqueeze",
        lambda n: (n.conv(n("Unsqueeze", n.conv("x", 3, 8, kernel=(3,)), _ints(n, 3)), 8, 4),),
        CONV2 | {"Unsqueeze": 1}, shape=(3, 20),
    ),
    "slice": Pattern(
        "Slice", between(lambda n, h: n("Slice", h, _ints(n, 1), _ints(n, 7), _ints(n, 2))), CONV2 | {"Slice": 1}
    ),
    "gather": Pattern(
        "Gather", between(lambda n, h: n("Gather", h, _ints(n, 7, 0, 3, 2), axis=1), 4), CONV2 | {"Gather": 1}
    ),
    "expand": Pattern(
        "Expand", between(lambda n, h: n("Expand", n("GlobalAveragePool", h), _ints(n, 1, 1, 4, 4))),
        CONV2 | {"QLinearGlobalAveragePool": 1, "Expand": 1},
    ),
    "tile": Pattern("Tile", between(lambda n, h: n("Tile", h, _ints(n, 1, 1, 2, 1))), CONV2 | {"Tile": 1}),
    "split": Pattern("Split", _split_between, {"QLinearConv": 3, "Split": 1}, (1, 2)),
    "split concat": Pattern("Split", between(_split), CONV2 | {"Split": 1, "QLinearConcat": 1}),
    "depth to space": Pattern(
        "DepthToSpace", between(_bridge("DepthToSpace", blocksize=2), 2), CONV2 | {"DepthToSpace": 1}
    ),
    "resize nearest": Pattern(
        "Resize",
        between(lambda n, h: n("Resize", h, "", n.const([1, 1, 2, 2]), mode="nearest", nearest_mode="floor")),
        CONV2 | {"Resize": 1},
    ),
}  # fmt: skip


def _float(op: str, middle: Callable[[Net, str], str], **others: int) -> Pattern:
    """A pattern whose middle stays float: Q and DQ around it, and an integer layer before and behind."""
    return Pattern(op, between(middle), CONV2 | others, (2, 2), opset=20)


BRIDGES: dict[str, Pattern] = {
    # directly behind a layer it would be a Clip
    "hard sigmoid": _float(
        "HardSigmoid", lambda n, h: n("HardSigmoid", n("Sigmoid", h)), QLinearSigmoid=1, HardSigmoid=1
    ),
    "tanh": _float("Tanh", _bridge("Tanh"), Tanh=1),
    # the Relu goes into the saturation of the Q behind it
    "relu beside": _float("Relu", _relu_beside, QLinearAdd=1),
    "clip without zero": _float("Clip", _clipped(0.1, 1.0), Clip=1),
    "prelu": _float("PRelu", lambda n, h: n("PRelu", h, n.const(n.rng.normal(size=(8, 1, 1)))), PRelu=1),
    "elu": _float("Elu", _bridge("Elu"), Elu=1),
    "softplus": _float("Softplus", _bridge("Softplus"), Softplus=1),
    "erf": _float("Erf", _bridge("Erf"), Erf=1),
    "gelu": _float("Gelu", _bridge("Gelu"), Gelu=1),
    "reflecting pad": _float("Pad", lambda n, h: n("Pad", h, _ints(n, 0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), Pad=1),
    "onnxruntime's gelu": _float("com.microsoft.Gelu", _bridge("Gelu", domain="com.microsoft"), Gelu=1),
    "fast gelu": _float("com.microsoft.FastGelu", _bridge("FastGelu", domain="com.microsoft"), FastGelu=1),
    "quick gelu": _float("com.microsoft.QuickGelu", _bridge("QuickGelu", domain="com.microsoft"), QuickGelu=1),
    "softplus and tanh": _float("Tanh", _mish, Sigmoid=1, Sub=2, Mul=1, Div=1, QLinearMul=1),
    # two nodes read the DQ
    "mish": replace(_float("Mish", _bridge("Mish"), Sigmoid=1, Sub=2, Mul=2, Div=1), edges=(2, 3)),
}
FLOAT: dict[str, Pattern] = {
    "conv transpose": _float("ConvTranspose", _conv_transpose, ConvTranspose=1),
    "linear resize": _float(
        "Resize", lambda n, h: n("Resize", h, "", n.const([1, 1, 2, 2]), mode="linear"), Resize=1
    ),
    "instance norm": _float(
        "InstanceNormalization", lambda n, h: n("InstanceNormalization", h, n.bias(8), n.bias(8)),
        InstanceNormalization=1,
    ),
    "unused part of a split": Pattern("Split", between(_unused_part, 4), CONV2 | {"Split": 1}, (2, 2)),
    "matmul of two activations": Pattern(
        "MatMul", between(_two_activations), {"QLinearConv": 3, "MatMul": 1}, (2, 3)
    ),
}  # fmt: skip

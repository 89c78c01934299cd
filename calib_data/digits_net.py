"""The demonstration network: each block knows how it runs in PyTorch and how it is written in ONNX."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 17
IR_VERSION = 8

ValueShape = tuple[str, list[str | int]]
"""A value's name, and its axes."""


@dataclass
class GraphWriter:
    """Collects nodes and initializers; every node is named for its block, its output is `<node>_out`."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: Tensor | float) -> str:
        """Add an initializer (once) and return its name."""
        array: NDArray[np.float32] = np.asarray(
            value.detach().numpy() if isinstance(value, Tensor) else value, np.float32
        )
        self.initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def integers(self, name: str, values: list[int]) -> str:
        """Add an initializer of int64 (shapes, sizes, starts) and return its name."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, op: str, name: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def split(self, name: str, x: str, sizes: list[int]) -> list[str]:
        """Add a Split along the channels and return the names of its outputs."""
        outputs = [f"{name}_out{number}" for number in range(len(sizes))]
        inputs = [x, self.integers(f"{name}_sizes", sizes)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, name=name, axis=1))
        return outputs

    def model(self, name: str, inp: ValueShape, out: ValueShape, producer: str) -> onnx.ModelProto:
        """The nodes so far as a checked model from input `inp` to output `out`, each a name and a shape."""
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                [helper.make_tensor_value_info(inp[0], TensorProto.FLOAT, inp[1])],
                [helper.make_tensor_value_info(out[0], TensorProto.FLOAT, out[1])],
                list(self.initializers.values()),
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=producer,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


class Activation(nn.Module):
    """ReLU, ReLU6 or SiLU."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        y: Tensor = {"relu": nn.functional.relu, "relu6": nn.functional.relu6, "silu": nn.functional.silu}[self.op](x)
        return y

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """Relu, the Clip that ONNX has for ReLU6, or the Sigmoid and Mul that it has for SiLU."""
        if self.op == "silu":
            return graph.node("Mul", name, [x, graph.node("Sigmoid", f"{name}_sigmoid", [x])])
        if self.op == "relu6":
            return graph.node("Clip", name, [x, graph.constant("relu6_min", 0.0), graph.constant("relu6_max", 6.0)])
        return graph.node("Relu", name, [x])


class ConvBn(nn.Module):
    """Convolution without bias, batch norm and, where `activation` names one, an activation."""

    def __init__(
        self,
        inp: int,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: str = "",
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inp, out, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.activation = Activation(activation) if activation else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) -> (N, out, H / stride, W / stride)."""
        y: Tensor = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """Conv, BatchNormalization (left for the quantizer to fold) and the activation."""
        conv, bn = self.conv, self.bn
        y = graph.node(
            "Conv",
            f"{name}_conv",
            [x, graph.constant(f"{name}_conv_weight", conv.weight)],
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=[int(p) for p in conv.padding] * 2,
            group=conv.groups,
        )
        parts = {"scale": bn.weight, "bias": bn.bias, "mean": bn.running_mean, "var": bn.running_var}
        constants = [graph.constant(f"{name}_bn_{part}", v) for part, v in parts.items() if v is not None]
        y = graph.node("BatchNormalization", f"{name}_bn", [y, *constants], epsilon=bn.eps)
        return y if self.activation is None else self.activation.write(graph, f"{name}_act", y)


class BasicBlock(nn.Module):
    """ResNet's block: two 3x3 convolutions, Add, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBn(channels, channels, 3, activation="relu")
        self.second = ConvBn(channels, channels, 3)
        self.activation = Activation("relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same."""
        y: Tensor = self.activation(x + self.second(self.first(x)))
        return y

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as nodes."""
        y = self.second.write(graph, f"{name}_2", self.first.write(graph, f"{name}_1", x))
        return self.activation.write(graph, f"{name}_act", graph.node("Add", f"{name}_add", [x, y]))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, 3x3 depthwise, 1x1 projection, Add where the shapes allow."""

    def __init__(self, inp: int, out: int, *, expand: int, stride: int = 1) -> None:
        super().__init__()
        wide = inp * expand
        self.expand = ConvBn(inp, wide, 1, activation="relu6")
        self.depthwise = ConvBn(wide, wide, 3, stride=stride, groups=wide, activation="relu6")
        self.project = ConvBn(wide, out, 1)
        self.residual = inp == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) -> (N, out, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as nodes."""
        y = self.expand.write(graph, f"{name}_expand", x)
        y = self.depthwise.write(graph, f"{name}_depthwise", y)
        y = self.project.write(graph, f"{name}_project", y)
        return graph.node("Add", f"{name}_add", [x, y]) if self.residual else y


class MaxPool(nn.MaxPool2d):
    """2x2 max pooling."""

    def __init__(self) -> None:
        super().__init__(2)

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as a node."""
        return graph.node("MaxPool", name, [x], kernel_shape=[2, 2], strides=[2, 2])


class DigitsNet(nn.Module):
    """(N, 1, 8, 8) in [0, 1] -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {
                # A "full" convolution, padded by kernel - 1, 8x8 -> 12x12: more work to time than 8x8 offers.
                "stem": ConvBn(1, 64, 5, padding=4, activation="relu6"),
                "basic": BasicBlock(64),
                "ir1": InvertedResidual(64, 64, expand=6),
                "ir2": InvertedResidual(64, 64, expand=6),
                "pool": MaxPool(),
                "ir3": InvertedResidual(64, 96, expand=3),
                "ir4": InvertedResidual(96, 96, expand=3),
                "head": ConvBn(96, 128, 1, activation="relu6"),
            }
        )
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 10)."""
        for block in self.blocks.values():
            x = block(x)
        y: Tensor = self.classifier(x.mean((2, 3)))
        return y

    def to_onnx(self) -> onnx.ModelProto:
        """The network in evaluation mode as an ONNX model: `input` (N, 1, 8, 8) -> `logits` (N, 10)."""
        graph = GraphWriter()
        x = "input"
        for name, block in self.blocks.items():
            x = block.write(graph, name, x)  # type: ignore[operator]
        x = graph.node("GlobalAveragePool", "average", [x])
        x = graph.node("Flatten", "flatten", [x], axis=1)
        weight = graph.constant("classifier_weight", self.classifier.weight)
        bias = graph.constant("classifier_bias", self.classifier.bias)
        graph.node("Gemm", "classifier", [x, weight, bias], output="logits", transB=1)
        return graph.model("digits_cnn", ("input", ["N", 1, 8, 8]), ("logits", ["N", 10]), "calib_data/train_digits.py")


def initial_network(seed: int) -> DigitsNet:
    """A network with PyTorch's own initial weights, the same ones for the same seed."""
    torch.manual_seed(seed)
    return DigitsNet()

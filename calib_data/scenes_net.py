"""The networks for scenes.py's pictures, a detector and a U-Net: each block runs in PyTorch and is written in ONNX."""

from itertools import pairwise

import numpy as np
import onnx
import torch
from digits_net import ConvBn, GraphWriter, MaxPool
from scenes_data import CLASSES, SIDE
from torch import Tensor, nn

BINS = 8
"""Distances 0..7, in cells, from a cell's centre to a side of its box, are a distribution over these (DFL)."""

STRIDES = (8, 16)

PRODUCER = "calib_data/train_scenes.py"


class Conv(nn.Conv2d):
    """A convolution with a bias: the last one of a branch."""

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as a node."""
        assert self.bias is not None
        weights = [graph.constant(f"{name}_weight", self.weight), graph.constant(f"{name}_bias", self.bias)]
        return graph.node("Conv", name, [x, *weights], kernel_shape=self.kernel_size)


class Sequence(nn.Sequential):
    """Blocks in a row."""

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as nodes."""
        for number, block in enumerate(self):
            x = block.write(graph, f"{name}_{number}", x)  # type: ignore[operator]
        return x


def doubled(graph: GraphWriter, name: str, x: str) -> str:
    """A Resize that repeats every pixel twice in both directions."""
    scales = graph.constant("scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.node("Resize", name, [x, "", scales], **mode)


class C2f(nn.Module):
    """YOLOv8's block: a half of the channels runs through a bottleneck; both halves and the result go on together."""

    def __init__(self, inp: int, out: int, *, add: bool) -> None:
        super().__init__()
        self.half, self.add = out // 2, add
        self.first = ConvBn(inp, out, 1, activation="silu")
        self.bottleneck = Sequence(*(ConvBn(self.half, self.half, 3, activation="silu") for _ in range(2)))
        self.last = ConvBn(3 * self.half, out, 1, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) -> (N, out, H, W)."""
        left, right = self.first(x).chunk(2, 1)
        y = self.bottleneck(right)
        result: Tensor = self.last(torch.cat([left, right, right + y if self.add else y], 1))
        return result

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as nodes."""
        left, right = graph.split(f"{name}_split", self.first.write(graph, f"{name}_first", x), [self.half] * 2)
        y = self.bottleneck.write(graph, f"{name}_bottleneck", right)
        if self.add:
            y = graph.node("Add", f"{name}_add", [right, y])
        return self.last.write(graph, f"{name}_last", graph.node("Concat", f"{name}_concat", [left, right, y], axis=1))


class Pyramid(nn.Module):
    """YOLOv8's SPPF: three 5x5 max poolings in a row, what went in and each result go on together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBn(channels, channels // 2, 1, activation="silu")
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.last = ConvBn(channels * 2, channels, 1, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same."""
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        result: Tensor = self.last(torch.cat(parts, 1))
        return result

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as nodes."""
        parts = [self.first.write(graph, f"{name}_first", x)]
        for number in range(3):
            parts.append(
                graph.node("MaxPool", f"{name}_pool{number}", [parts[-1]], kernel_shape=[5, 5], pads=[2, 2, 2, 2])
            )
        return self.last.write(graph, f"{name}_last", graph.node("Concat", f"{name}_concat", parts, axis=1))


class Branch(nn.Module):
    """One level of the head: a branch for the box's distributions, one for the classes."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.box, self.classes = (self._branch(channels, width, out) for out in (4 * BINS, CLASSES))

    @staticmethod
    def _branch(channels: int, width: int, out: int) -> Sequence:
        first, second = (ConvBn(inp, width, 3, activation="silu") for inp in (channels, width))
        return Sequence(first, second, Conv(width, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, 4 * BINS + CLASSES, H * W)."""
        return torch.cat([self.box(x), self.classes(x)], 1).flatten(2)

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as nodes."""
        both = [self.box.write(graph, f"{name}_box", x), self.classes.write(graph, f"{name}_classes", x)]
        y = graph.node("Concat", f"{name}_concat", both, axis=1)
        shape = graph.integers("level_shape", [0, 4 * BINS + CLASSES, -1])
        return graph.node("Reshape", f"{name}_reshape", [y, shape])


def cells() -> tuple[Tensor, Tensor]:
    """The centres (2, cells), x and y, in cells of their level, and the strides (1, cells)."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride].reshape(2, -1) + 0.5
        centres.append(np.stack([x, y]))
        strides.append(np.full((1, x.size), stride))
    return tuple(torch.from_numpy(np.concatenate(one, 1).astype(np.float32)) for one in (centres, strides))  # type: ignore[return-value]


class ScenesDetector(nn.Module):
    """A small YOLOv8: (N, 3, 96, 96) in [0, 1] -> boxes' distributions and classes' logits, (N, 42, 180 cells)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Sequence(
            ConvBn(3, 16, 3, stride=2, activation="silu"),
            ConvBn(16, 32, 3, stride=2, activation="silu"),
            C2f(32, 32, add=True),
        )
        self.middle = Sequence(ConvBn(32, 48, 3, stride=2, activation="silu"), C2f(48, 48, add=True))
        self.deep = Sequence(ConvBn(48, 48, 3, stride=2, activation="silu"), C2f(48, 48, add=True), Pyramid(48))
        self.up = C2f(48 + 48, 48, add=False)
        self.down = ConvBn(48, 48, 3, stride=2, activation="silu")
        self.out = C2f(48 + 48, 48, add=False)
        self.fine, self.coarse = Branch(48), Branch(48)

    def forward(self, x: Tensor) -> Tensor:
        """What the loss is of, (N, 4 * BINS + CLASSES, cells); the decoding is `decoded`."""
        middle = self.middle(self.stem(x))
        deep = self.deep(middle)
        fine = self.up(torch.cat([nn.functional.interpolate(deep, scale_factor=2.0), middle], 1))
        coarse = self.out(torch.cat([self.down(fine), deep], 1))
        return torch.cat([self.fine(fine), self.coarse(coarse)], 2)

    def to_onnx(self) -> onnx.ModelProto:
        """The network in evaluation mode, decoding and all, as an ONNX model: `images` (N, 3, 96, 96) -> `output0`.

        `output0` is what Ultralytics exports, (N, 4 + CLASSES, cells): a box's centre and size in pixels, and a
        probability a class.
        """
        graph = GraphWriter()
        middle = self.middle.write(graph, "middle", self.stem.write(graph, "stem", "images"))
        deep = self.deep.write(graph, "deep", middle)
        fine = graph.node("Concat", "up_join", [doubled(graph, "up_resize", deep), middle], axis=1)
        fine = self.up.write(graph, "up", fine)
        coarse = graph.node("Concat", "out_join", [self.down.write(graph, "down", fine), deep], axis=1)
        coarse = self.out.write(graph, "out", coarse)
        levels = [self.fine.write(graph, "fine", fine), self.coarse.write(graph, "coarse", coarse)]
        boxes, classes = graph.split(
            "head_split", graph.node("Concat", "head_concat", levels, axis=2), [4 * BINS, CLASSES]
        )
        centres, strides = cells()
        # Softmax over the bins, and their mean by a convolution, as Ultralytics writes it.
        x = graph.node("Reshape", "dfl_reshape", [boxes, graph.integers("dfl_shape", [0, 4, BINS, strides.shape[1]])])
        x = graph.node("Transpose", "dfl_transpose", [x], perm=[0, 2, 1, 3])
        x = graph.node("Softmax", "dfl_softmax", [x], axis=1)
        bins = graph.constant("dfl_weight", torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1))
        x = graph.node("Conv", "dfl_conv", [x, bins], kernel_shape=[1, 1])
        x = graph.node("Reshape", "distances", [x, graph.integers("distances_shape", [0, 4, strides.shape[1]])])
        near, far = graph.split("distances_split", x, [2, 2])
        points = graph.constant("points", centres[None])
        near, far = graph.node("Sub", "corner_near", [points, near]), graph.node("Add", "corner_far", [points, far])
        centre = graph.node("Add", "corner_sum", [near, far])
        centre = graph.node("Mul", "box_centre", [centre, graph.constant("half", 0.5)])
        size = graph.node("Sub", "box_size", [far, near])
        x = graph.node("Concat", "box_concat", [centre, size], axis=1)
        x = graph.node("Mul", "box_pixels", [x, graph.constant("strides", strides)])
        scores = graph.node("Sigmoid", "scores", [classes])
        graph.node("Concat", "output", [x, scores], output="output0", axis=1)
        shape: list[str | int] = ["N", 4 + CLASSES, strides.shape[1]]
        return graph.model("scenes_detector", ("images", ["N", 3, SIDE, SIDE]), ("output0", shape), PRODUCER)


def corners(raw: Tensor) -> Tensor:
    """Boxes x1 y1 x2 y2 in pixels (N, cells, 4) of a detector's distributions (N, 4 * BINS, cells)."""
    centres, strides = cells()
    bins = torch.arange(BINS, dtype=torch.float32).reshape(1, 1, BINS, 1)
    distances = (raw.unflatten(1, (4, BINS)).softmax(2) * bins).sum(2)
    both = torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], 1) * strides
    return both.transpose(1, 2)


def decoded(raw: Tensor) -> Tensor:
    """What the exported model gives, (N, 4 + CLASSES, cells), of what the trained one gives."""
    near, far = corners(raw[:, : 4 * BINS]).transpose(1, 2).chunk(2, 1)
    return torch.cat([(near + far) / 2, far - near, raw[:, 4 * BINS :].sigmoid()], 1)


class Up(nn.ConvTranspose2d):
    """A transposed convolution that doubles height and width."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__(inp, out, 2, 2)

    def write(self, graph: GraphWriter, name: str, x: str) -> str:
        """The same, as a node."""
        assert self.bias is not None
        weights = [graph.constant(f"{name}_weight", self.weight), graph.constant(f"{name}_bias", self.bias)]
        return graph.node("ConvTranspose", name, [x, *weights], kernel_shape=[2, 2], strides=[2, 2])


def twice(inp: int, out: int) -> Sequence:
    """A U-Net's block: two 3x3 convolutions with batch norm and ReLU."""
    return Sequence(ConvBn(inp, out, 3, activation="relu"), ConvBn(out, out, 3, activation="relu"))


class ScenesUnet(nn.Module):
    """A small U-Net: (N, 3, 96, 96) in [0, 1] -> logits (N, 11, 96, 96), class 0 the background."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.pool = MaxPool()
        self.ways_down = nn.ModuleList(twice(inp, out) for inp, out in zip((3, *widths), widths, strict=False))
        above = list(pairwise(widths))
        self.ups = nn.ModuleList(Up(deep, out) for out, deep in above)
        self.ways_up = nn.ModuleList(twice(2 * out, out) for out, _ in above)
        self.last = Conv(widths[0], CLASSES + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, CLASSES + 1, 96, 96)."""
        levels: list[Tensor] = []
        for block in self.ways_down:
            x = block(self.pool(x) if levels else x)
            levels.append(x)
        for level in reversed(range(len(self.ups))):
            x = self.ways_up[level](torch.cat([levels[level], self.ups[level](x)], 1))
        y: Tensor = self.last(x)
        return y

    def to_onnx(self) -> onnx.ModelProto:
        """The network in evaluation mode as an ONNX model: `images` (N, 3, 96, 96) -> `logits` (N, 11, 96, 96)."""
        graph, x, levels = GraphWriter(), "images", []
        for level, block in enumerate(self.ways_down):
            x = self.pool.write(graph, f"pool{level}", x) if level else x
            x = block.write(graph, f"down{level}", x)  # type: ignore[operator]
            levels.append(x)
        for level in reversed(range(len(self.ups))):
            x = self.ups[level].write(graph, f"up{level}_conv", x)  # type: ignore[operator]
            x = graph.node("Concat", f"up{level}_join", [levels[level], x], axis=1)
            x = self.ways_up[level].write(graph, f"up{level}", x)  # type: ignore[operator]
        x = self.last.write(graph, "last", x)
        graph.nodes[-1].output[0] = "logits"
        shape: list[str | int] = ["N", CLASSES + 1, SIDE, SIDE]
        return graph.model("scenes_unet", ("images", ["N", 3, SIDE, SIDE]), ("logits", shape), PRODUCER)

"""Random valid graphs with matching data: what `tests.support.campaign` runs. The same seed gives the same bytes.

A graph is grown block by block, each of which reads a value and gives one: of a picture [N, C, H, W], a signal
[N, C, L], tokens [N, T, C] or a vector [N, C]. Shapes are known while building, for the batch that the data has; the
model says as much of them as its draw of `free` tells. Weights keep activations near unit variance, so that what eight
bits cost can be predicted.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
SAMPLES = 8
"""Samples in the data of each graph."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of float32 while a graph grows: its name, and its shape for the batch of the builder."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RandomCase:
    """A model that onnx's checker passes and onnxruntime runs to finite outputs that vary, and its data by input."""

    seed: int
    model: onnx.ModelProto
    data: dict[str, Array]


class Builder:
    """A graph that grows: its nodes, constants, inputs, and the draws that hold for all of it."""

    def __init__(self, rng: np.random.Generator, blocks: "Mapping[str, tuple[Block, ...]]", opsets: range) -> None:
        self.rng = rng
        self.blocks = blocks
        self.opset = int(rng.integers(opsets.start, opsets.stop))
        self.free = str(rng.choice(["nothing", "batch", "batch", "all"]))
        self.batch = SAMPLES if self.free != "nothing" else int(rng.choice([1, 1, 2]))
        self.named = str(rng.choice(["plain", "plain", "paths", "none", "suffixes"]))
        self.heavy = rng.random() < 0.2
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.data: dict[str, Array] = {}
        self.values: list[Value] = []
        self.shared: dict[tuple[int, ...], str] = {}
        self.mask: str | None = None
        self.others: list[onnx.ValueInfoProto] = []

    def chance(self, share: float) -> bool:
        """Draw True in this share of cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Any) -> Any:
        """Draw one of a sequence."""
        return choices[int(self.rng.integers(len(choices)))]

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; return its first output."""
        return self.op_many(kind, *inputs, outputs=outputs, **attributes)[0]

    def op_many(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node; return its outputs."""
        count = len(self.nodes)
        name = {
            "plain": f"{kind.lower()}{count}",
            "paths": f"/model/block.{count // 4}/{kind}_{count}",
            "none": "",
            "suffixes": f"{kind.lower()}{count}{self.pick(['', '_token_1', '_nchwc', '/duplicated', '_quant'])}",
        }[self.named]
        made = [f"t{count}" if index == 0 else f"t{count}_{index}" for index in range(outputs)]
        if self.opset < 11:
            kind, inputs, attributes = self._of_old(kind, inputs, attributes)
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made

    def _of_old(
        self, kind: str, inputs: tuple[str, ...], attributes: dict[str, Any]
    ) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """The operator as opsets before 11 have it: what are inputs now were attributes."""
        first, *rest = inputs or ("",)
        held = [self.constants[name] for name in rest if name in self.constants]
        if kind == "Clip" and held:
            return kind, (first,), dict(zip(("min", "max"), (float(a) for a in held), strict=False))
        if kind == "Pad" and held:
            return kind, (first,), {"pads": held[0].tolist(), **attributes}
        if kind == "Slice" and self.opset < 10 and len(held) == 3:
            names = ("starts", "ends", "axes")
            return kind, (first,), dict(zip(names, (a.tolist() for a in held), strict=True))
        if kind == "Resize" and self.opset < 10:
            scales = {"scales": held[-1].tolist()} if self.opset < 9 else {}
            return "Upsample", (first, *([] if scales else [rest[-1]])), {"mode": "nearest", **scales}
        if kind == "Resize":
            return kind, (first, rest[-1]), {"mode": "nearest"}
        return kind, inputs, attributes

    def hand_out(self, name: str, kind: int, rank: int) -> None:
        """Make a tensor of whole numbers, or of truths, an output of the model too."""
        self.others.append(helper.make_tensor_value_info(name, kind, [None] * rank))

    def keep(self, name: str, shape: tuple[int, ...]) -> Value:
        """Note a value that may become an output, or be read again."""
        value = Value(name, tuple(int(size) for size in shape))
        self.values.append(value)
        return value

    def const(self, array: Any, dtype: Any = np.float32) -> str:
        """Add a constant: an initializer, rarely a Constant node."""
        found = np.asarray(array, dtype)
        if self.opset >= 11 and self.chance(0.05):
            name = f"k{len(self.nodes)}"
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(found)))
            return name
        name = f"c{len(self.constants)}"
        self.constants[name] = found
        return name

    def ints(self, *numbers: int) -> str:
        """Add a constant list of int64."""
        return self.const(numbers, np.int64)

    def weight(self, *shape: int, fan: int, share: bool = True) -> str:
        """Add a weight for sums of `fan` products, or give one of the same shape again."""
        if share and shape in self.shared and self.chance(0.3):
            return self.shared[shape]
        array = self.rng.standard_normal(shape) / math.sqrt(max(fan, 1))
        if self.heavy:
            array = array * np.exp(0.5 * self.rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
        name = self.const(array)
        self.shared[shape] = name
        return name

    def vector(self, size: int, spread: float = 0.3, around: float = 0.0) -> str:
        """Add a constant of one number a channel."""
        return self.const(around + spread * self.rng.standard_normal(size))

    def feed(self, name: str, array: Array, dims: tuple[int | str, ...]) -> str:
        """Add an input, with its data."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if self.free == "nothing":
            dims = (self.batch, *array.shape[1:])
        elif self.free == "batch":
            dims = ("N", *array.shape[1:])
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        self.data[name] = array
        return name

    def axes(self, kind: str, name: str, axes: list[int], since: int, **attributes: Any) -> str:
        """Add an operator whose axes became an input in opset `since`."""
        if self.opset >= since:
            return self.op(kind, name, self.ints(*axes), **attributes)
        return self.op(kind, name, axes=axes, **attributes)

    def split(self, name: str, sizes: list[int], axis: int) -> list[str]:
        """Add a Split."""
        if self.opset >= 13:
            return self.op_many("Split", name, self.ints(*sizes), outputs=len(sizes), axis=axis)
        return self.op_many("Split", name, outputs=len(sizes), axis=axis, split=sizes)

    def reshape(self, name: str, *shape: int) -> str:
        """Add a Reshape."""
        return self.op("Reshape", name, self.ints(*shape))


Block = Callable[[Builder, Value], Value]
_SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 24, 32)


_LARGEST = 2**14
_LARGE = 1e4
_ATTEMPTS = 50


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


# any shape


def activation(b: Builder, v: Value) -> Value:
    """One of the functions of an element."""
    plain = ["Relu", "Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Abs", "Neg", "Sin", "Cos", "Identity"]
    more = ["LeakyRelu", "Elu", "Selu", "HardSigmoid", "Clip", "PRelu", "Swish", "GeluErf", "Log", "Exp"]
    newer = [name for name, since in (("Celu", 12), ("HardSwish", 14), ("Mish", 18), ("Gelu", 20)) if b.opset >= since]
    kind = b.pick([*plain, *more, *newer, *newer])
    if kind in ("LeakyRelu", "Elu"):
        made = b.op(kind, v.name, alpha=b.pick([0.1, 0.01, 0.5]))
    elif kind == "Clip":
        low, high = b.pick([(0.0, 6.0), (-1.0, 1.0), (-0.5, 2.5), (0.0, 1.0)])
        made = b.op("Clip", v.name, b.const(low), *([b.const(high)] if b.chance(0.8) else []))
    elif kind == "PRelu":
        size = v.shape[1]
        slope = (size, *[1] * (len(v.shape) - 2)) if len(v.shape) > 2 else (size,)
        if len(v.shape) == 3:
            slope = (1,)
        made = b.op("PRelu", v.name, b.const(0.25 * b.rng.random(slope)))
    elif kind == "Swish":
        made = b.op("Mul", v.name, b.op("Sigmoid", v.name))
    elif kind == "GeluErf":
        inner = b.op("Erf", b.op("Div", v.name, b.const(math.sqrt(2.0))))
        made = b.op("Mul", b.op("Mul", v.name, b.op("Add", inner, b.const(1.0))), b.const(0.5))
    elif kind == "Log":
        made = b.op("Log", b.op("Add", b.op("Abs", v.name), b.const(1.0)))
    elif kind == "Exp":
        made = b.op("Exp", b.op("Clip", v.name, b.const(-4.0), b.const(1.0)))
    else:
        made = b.op(kind, v.name)
    return b.keep(made, v.shape)


def affine(b: Builder, v: Value) -> Value:
    """A chain of sums and products with scalars and vectors."""
    name = v.name
    for _ in range(int(b.rng.integers(1, 4))):
        kind = b.pick(["Add", "Sub", "Mul", "Div"])
        shape: tuple[int, ...] = b.pick([(), (1,), (v.shape[-1],), (1,) * len(v.shape)])
        if b.free == "all" and len(v.shape) == 4:
            shape = ()
        number = b.const(b.rng.uniform(0.5, 1.5, shape))
        swap = kind in ("Add", "Mul", "Sub") and b.chance(0.3)
        name = b.op(kind, number, name) if swap else b.op(kind, name, number)
    return b.keep(name, v.shape)


def two_readers(b: Builder, v: Value) -> Value:
    """Two ways from one value, added or multiplied; rarely the value with itself."""
    one, two = activation(b, v), b.pick([activation, affine])(b, v)
    itself = b.chance(0.2)
    kind = b.pick(["Add", "Mul", "Max", "Min", *([] if itself else ["Sub"])])
    made = b.op(kind, one.name, one.name if itself else two.name)
    return b.keep(made, v.shape)


# pictures and signals


def conv(b: Builder, v: Value, *, out: int | None = None, same: bool = False) -> Value:
    """Conv of one or two dimensions, with its options; `same` keeps the size."""
    channels, spatial = v.shape[1], v.shape[2:]
    group = b.pick(_divisors(channels)) if b.chance(0.3) else 1
    out = out or int(b.pick(_SIZES))
    if out % group:
        group = 1 if channels % out else math.gcd(group, out)
    kernel = [int(b.pick([1, 3, 3, 5, 2])) if not same else int(b.pick([1, 3])) for _ in spatial]
    stride = [1 if same else int(b.pick([1, 1, 2])) for _ in spatial]
    dilation = [int(b.pick([1, 1, 2])) if k > 1 else 1 for k in kernel]
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    pads = [r // 2 for r in reach] * 2
    if not same:
        pads = [int(b.rng.integers(0, r + 1)) for r in reach] + [r - r // 2 for r in reach]
    size = [(n + pads[i] + pads[i + len(spatial)] - reach[i] - 1) // stride[i] + 1 for i, n in enumerate(spatial)]
    if min(size) < 1:
        return activation(b, v)
    fan = channels // group * math.prod(kernel)
    extra = [b.vector(out)] if b.chance(0.7) else []
    attributes: dict[str, Any] = {"kernel_shape": kernel} if b.chance(0.8) else {}
    if group > 1:
        attributes["group"] = group
    if max(dilation) > 1:
        attributes["dilations"] = dilation
    weight = b.weight(out, channels // group, *kernel, fan=fan)
    made = b.op("Conv", v.name, weight, *extra, pads=pads, strides=stride, **attributes)
    return b.keep(made, (v.shape[0], out, *size))


def same_conv(b: Builder, v: Value) -> Value:
    """A Conv with as many channels and the same size."""
    return conv(b, v, out=v.shape[1], same=True)


def conv_transpose(b: Builder, v: Value) -> Value:
    """ConvTranspose, which doubles the size or keeps it near."""
    channels, spatial = v.shape[1], v.shape[2:]
    if max(spatial) > 24:
        return activation(b, v)
    group = b.pick(_divisors(channels)) if b.chance(0.3) else 1
    out = group * int(b.pick([1, 2, 3, 5]))
    kernel = [int(b.pick([1, 2, 3, 4])) for _ in spatial]
    stride = [int(b.pick([1, 2])) for _ in spatial]
    size = [(n - 1) * s + k for n, s, k in zip(spatial, stride, kernel, strict=True)]
    fan = max(channels // group * math.prod(kernel) // math.prod(stride), 1)
    extra = [b.vector(out)] if b.chance(0.5) else []
    weight = b.weight(channels, out // group, *kernel, fan=fan, share=False)
    made = b.op("ConvTranspose", v.name, weight, *extra, strides=stride, group=group)
    return b.keep(made, (v.shape[0], out, *size))


def batch_norm(b: Builder, v: Value) -> Value:
    """BatchNormalization, or an InstanceNormalization."""
    size = v.shape[1]
    scale = b.vector(size, spread=0.2, around=1.0)
    if b.chance(0.2) and math.prod(v.shape[2:]) > 4:
        return b.keep(b.op("InstanceNormalization", v.name, scale, b.vector(size)), v.shape)
    variance = b.const(b.rng.uniform(0.5, 2.0, size))
    return b.keep(b.op("BatchNormalization", v.name, scale, b.vector(size), b.vector(size), variance), v.shape)


def conv_block(b: Builder, v: Value) -> Value:
    """Conv, perhaps a BatchNormalization, perhaps an activation."""
    made = conv(b, v)
    if b.chance(0.4):
        made = batch_norm(b, made)
    return b.keep(b.op("Relu", made.name), made.shape) if b.chance(0.5) else activation(b, made)


def conv_residual(b: Builder, v: Value) -> Value:
    """One or two convolutions, added to what they read."""
    made = activation(b, same_conv(b, v))
    if b.chance(0.6):
        made = same_conv(b, made)
    pair = (v.name, made.name) if b.chance(0.5) else (made.name, v.name)
    total = b.keep(b.op("Add", *pair), v.shape)
    return b.keep(b.op("Relu", total.name), v.shape) if b.chance(0.5) else total


def squeeze_excite(b: Builder, v: Value) -> Value:
    """Channels weighed by what a small network makes of their means."""
    axes = list(range(2, len(v.shape)))
    ones = (v.shape[0], v.shape[1], *[1] * len(axes))
    pooled = b.op("GlobalAveragePool", v.name) if b.chance(0.5) else b.axes("ReduceMean", v.name, axes, 18, keepdims=1)
    inner, unit, size = int(b.pick([1, 2, 4, 5])), [1] * len(axes), v.shape[1]
    hidden = b.op("Conv", pooled, b.weight(inner, size, *unit, fan=size), b.vector(inner))
    gate = b.op("Conv", b.op("Relu", hidden), b.weight(size, inner, *unit, fan=inner), b.vector(size))
    gate = b.op(b.pick(["Sigmoid", "HardSigmoid"]), gate)
    b.keep(gate, ones)
    return b.keep(b.op("Mul", v.name, gate) if b.chance(0.5) else b.op("Mul", gate, v.name), v.shape)


def pool(b: Builder, v: Value) -> Value:
    """MaxPool or AveragePool, with padding, strides and rounding up."""
    spatial = v.shape[2:]
    kernel, stride = int(b.pick([2, 3])), int(b.pick([1, 2, 2]))
    pad = int(b.rng.integers(0, (kernel + 1) // 2)) if b.chance(0.4) else 0
    size = [(n + 2 * pad - kernel) // stride + 1 for n in spatial]
    if min(size) < 1 or min(spatial) < kernel:
        return activation(b, v)
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * len(spatial), "strides": [stride] * len(spatial)}
    if pad:
        attributes["pads"] = [pad] * 2 * len(spatial)
    kind = b.pick(["MaxPool", "AveragePool"])
    if kind == "AveragePool" and b.chance(0.3):
        attributes["count_include_pad"] = 1
    return b.keep(b.op(kind, v.name, **attributes), (*v.shape[:2], *size))


def resize(b: Builder, v: Value) -> Value:
    """Resize by 2, or Upsample's other modes."""
    spatial = v.shape[2:]
    if math.prod(spatial) > 256:
        return activation(b, v)
    mode = b.pick(["nearest", "nearest", "linear"])
    roi = "" if b.opset >= 13 else b.const([])
    scales = b.const([1.0, 1.0, *[2.0] * len(spatial)])
    ways = ["asymmetric", "half_pixel"] if b.chance(0.7) else ["align_corners"]
    attributes: dict[str, Any] = {"coordinate_transformation_mode": b.pick(ways)}
    if mode == "nearest":
        attributes["nearest_mode"] = b.pick(["floor", "round_prefer_floor"])
    made = b.op("Resize", v.name, roi, scales, mode=mode, **attributes)
    return b.keep(made, (*v.shape[:2], *[2 * n for n in spatial]))


def branches(b: Builder, v: Value) -> Value:
    """Two or three convolutions side by side, in a Concat; one of them may be the value itself."""
    parts = [same_conv(b, v) if b.chance(0.5) else conv(b, v, out=int(b.pick([1, 3, 8])), same=True) for _ in range(2)]
    if b.chance(0.4):
        parts.append(v)
    if b.chance(0.4):
        parts[0] = activation(b, parts[0])
    made = b.op("Concat", *[part.name for part in parts], axis=b.pick([1, 1 - len(v.shape)]))
    return b.keep(made, (v.shape[0], sum(part.shape[1] for part in parts), *v.shape[2:]))


def split_channels(b: Builder, v: Value) -> Value:
    """Channels in two parts, one through a convolution, and back together."""
    size = v.shape[1]
    if size < 2:
        return conv_block(b, v)
    first = int(b.rng.integers(1, size))
    one, two = b.split(v.name, [first, size - first], 1)
    left = b.keep(one, (v.shape[0], first, *v.shape[2:]))
    made = same_conv(b, left)
    order = [made.name, two] if b.chance(0.5) else [two, made.name]
    return b.keep(b.op("Concat", *order, axis=1), v.shape)


def shuffle(b: Builder, v: Value) -> Value:
    """Channels mixed between groups, by Reshape and Transpose."""
    size, spatial = v.shape[1], v.shape[2:]
    groups = b.pick(_divisors(size))
    if b.free == "all":
        return affine(b, v)
    lead = b.pick([0, -1])
    apart = b.reshape(v.name, lead, groups, size // groups, *spatial)
    swapped = b.op("Transpose", apart, perm=[0, 2, 1, *range(3, 3 + len(spatial))])
    return b.keep(b.reshape(swapped, lead, size, *spatial), v.shape)


def pad_or_slice(b: Builder, v: Value) -> Value:
    """Pad of three modes, or a Slice, of the last axis."""
    rank, last = len(v.shape), v.shape[-1]
    if last < 3:
        return activation(b, v)
    if b.chance(0.5):
        mode = b.pick(["constant", "reflect", "edge"])
        pads = [0] * (rank - 1) + [1] + [0] * (rank - 1) + [1]
        return b.keep(b.op("Pad", v.name, b.ints(*pads), mode=mode), (*v.shape[:-1], last + 2))
    start, step = int(b.pick([0, 1])), int(b.pick([1, 2]))
    made = b.op("Slice", v.name, b.ints(start), b.ints(2**31), b.ints(rank - 1), b.ints(step))
    return b.keep(made, (*v.shape[:-1], len(range(start, last, step))))


def depth_space(b: Builder, v: Value) -> Value:
    """DepthToSpace or SpaceToDepth."""
    size, (height, width) = v.shape[1], v.shape[2:]
    if size % 4 == 0 and height * width <= 256:
        made = b.op("DepthToSpace", v.name, blocksize=2, mode=b.pick(["DCR", "CRD"]))
        return b.keep(made, (v.shape[0], size // 4, 2 * height, 2 * width))
    if height % 2 or width % 2 or size > 16 or b.free == "all":
        return conv_block(b, v)
    return b.keep(b.op("SpaceToDepth", v.name, blocksize=2), (v.shape[0], 4 * size, height // 2, width // 2))


def channels_last(b: Builder, v: Value) -> Value:
    """A block of ConvNeXt: a Transpose, a normalisation, two products, and back; added to what it reads."""
    turned = b.keep(b.op("Transpose", v.name, perm=[0, 2, 3, 1]), (v.shape[0], *v.shape[2:], v.shape[1]))
    made = feed_forward(b, layer_norm(b, turned), residual=False)
    back = b.op("Transpose", made.name, perm=[0, 3, 1, 2])
    return b.keep(b.op("Add", v.name, back) if b.chance(0.7) else back, v.shape)


# tokens


def layer_norm(b: Builder, v: Value) -> Value:
    """LayerNormalization, or the operators that it was exported as before opset 17."""
    size = v.shape[-1]
    scale, shift = b.vector(size, spread=0.2, around=1.0), b.vector(size)
    if size < 4:
        return affine(b, v)
    if b.opset >= 17 and b.chance(0.7):
        return b.keep(b.op("LayerNormalization", v.name, scale, shift, axis=-1), v.shape)
    centred = b.op("Sub", v.name, b.axes("ReduceMean", v.name, [-1], 18, keepdims=1))
    spread = b.axes("ReduceMean", b.op("Pow", centred, b.const(2.0)), [-1], 18, keepdims=1)
    unit = b.op("Div", centred, b.op("Sqrt", b.op("Add", spread, b.const(1e-5))))
    return b.keep(b.op("Add", b.op("Mul", unit, scale), shift), v.shape)


def linear(b: Builder, v: Value, *, out: int | None = None) -> Value:
    """MatMul with a constant, with or without the Add of a bias; rarely an Einsum or weights for each sample."""
    size = v.shape[-1]
    out = out or int(b.pick(_SIZES))
    weight = b.weight(size, out, fan=size)
    if len(v.shape) == 3 and b.opset >= 12 and b.chance(0.08):
        made = b.op("Einsum", v.name, weight, equation="abc,cd->abd")
    elif len(v.shape) == 3 and b.chance(0.08):
        # rank 4: an axis more in front of the last
        wide = b.axes("Unsqueeze", v.name, [1], 13)
        made = b.axes("Squeeze", b.op("MatMul", wide, weight), [1], 13)
    else:
        made = b.op("MatMul", v.name, weight)
    if b.chance(0.7):
        bias = b.vector(out)
        made = b.op("Add", made, bias) if b.chance(0.6) else b.op("Add", bias, made)
    return b.keep(made, (*v.shape[:-1], out))


def feed_forward(b: Builder, v: Value, *, residual: bool = True) -> Value:
    """Two products with an activation between."""
    made = linear(b, activation(b, linear(b, v)), out=v.shape[-1])
    return b.keep(b.op("Add", v.name, made.name), v.shape) if residual else made


def attention(b: Builder, v: Value) -> Value:
    """Attention of several heads over tokens, with the mask where there is one; perhaps added to what it reads."""
    batch, length, size = v.shape
    heads = int(b.pick([1, 2, 4]))
    each = int(b.pick([2, 3, 4, 8]))
    inner = heads * each
    if b.chance(0.4):
        joined = linear(b, v, out=3 * inner)
        query, key, value = b.split(joined.name, [inner] * 3, 2)
    else:
        query, key, value = (linear(b, v, out=inner).name for _ in range(3))

    def heads_of(name: str, perm: list[int]) -> str:
        apart = b.reshape(name, 0, 0, heads, each) if b.chance(0.6) else b.reshape(name, 0, -1, heads, each)
        return b.op("Transpose", apart, perm=perm)

    q, k, held = heads_of(query, [0, 2, 1, 3]), heads_of(key, [0, 2, 3, 1]), heads_of(value, [0, 2, 1, 3])
    scores = b.op("MatMul", q, k)
    scale = math.sqrt(each)
    scores = b.op("Div", scores, b.const(scale)) if b.chance(0.5) else b.op("Mul", scores, b.const(1 / scale))
    if b.mask is not None and length == b.data["mask"].shape[1]:
        scores = b.op("Add", scores, b.mask)
    b.keep(scores, (batch, heads, length, length))
    weighed = b.op("MatMul", b.op("Softmax", scores, axis=3), held)
    merged = b.reshape(b.op("Transpose", weighed, perm=[0, 2, 1, 3]), 0, -1 if b.chance(0.5) else 0, inner)
    made = linear(b, b.keep(merged, (batch, length, inner)), out=size)
    return b.keep(b.op("Add", v.name, made.name), v.shape) if b.chance(0.7) else made


def recurrence(b: Builder, v: Value) -> Value:
    """LSTM, GRU or RNN over tokens, in one direction or two."""
    batch, length, size = v.shape
    kind, gates = b.pick([("LSTM", 4), ("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    hidden = int(b.pick([1, 3, 4, 8, 13]))
    ways = int(b.pick([1, 1, 2]))
    weights = [b.weight(ways, gates * hidden, n, fan=n, share=False) for n in (size, hidden)]
    inputs = [b.op("Transpose", v.name, perm=[1, 0, 2]), *weights]
    if b.chance(0.7):
        inputs.append(b.const(0.3 * b.rng.standard_normal((ways, 2 * gates * hidden))))
    direction = "bidirectional" if ways == 2 else b.pick(["forward", "forward", "reverse"])
    attributes: dict[str, Any] = {"linear_before_reset": b.pick([0, 1])} if kind == "GRU" else {}
    steps = b.op(kind, *inputs, hidden_size=hidden, direction=direction, **attributes)
    if ways == 1:
        made = b.op("Transpose", b.axes("Squeeze", steps, [1], 13), perm=[1, 0, 2])
    else:
        made = b.reshape(b.op("Transpose", steps, perm=[2, 0, 1, 3]), 0, 0, ways * hidden)
    return b.keep(made, (batch, length, ways * hidden))


def over_time(b: Builder, v: Value) -> Value:
    """A convolution of one dimension over tokens."""
    turned = b.keep(b.op("Transpose", v.name, perm=[0, 2, 1]), (v.shape[0], v.shape[2], v.shape[1]))
    made = conv_block(b, turned)
    return b.keep(b.op("Transpose", made.name, perm=[0, 2, 1]), (made.shape[0], made.shape[2], made.shape[1]))


def similarity(b: Builder, v: Value) -> Value:
    """Products of computed values: of the tokens with each other, and of that with the tokens."""
    size = v.shape[2]
    scores = b.op("MatMul", v.name, b.op("Transpose", v.name, perm=[0, 2, 1]))
    scores = b.op("Softmax", b.op("Mul", scores, b.const(1.0 / size)), axis=2)
    return b.keep(b.op("MatMul", scores, v.name), v.shape)


def class_token(b: Builder, v: Value) -> Value:
    """A constant token in front of the others, for each sample."""
    token = b.const(b.rng.standard_normal((1, 1, v.shape[2])))
    if b.free == "nothing":
        lead = b.op("Expand", token, b.ints(b.batch, 1, v.shape[2])) if b.batch > 1 else token
    else:
        count = b.op("Gather", b.op("Shape", v.name), b.ints(0))
        lead = b.op("Expand", token, b.op("Concat", count, b.ints(1, v.shape[2]), axis=0))
    return b.keep(b.op("Concat", lead, v.name, axis=1), (v.shape[0], v.shape[1] + 1, v.shape[2]))


def halves(b: Builder, v: Value) -> Value:
    """The last axis in two halves, one of them negated and both exchanged, as rotary positions do."""
    rank, size = len(v.shape), v.shape[-1]
    if size % 2:
        return linear(b, v)
    ends = [(0, size // 2), (size // 2, size)]
    parts = [b.op("Slice", v.name, b.ints(start), b.ints(end), b.ints(rank - 1)) for start, end in ends]
    turned = b.op("Concat", b.op("Neg", parts[1]), parts[0], axis=-1)
    if b.chance(0.5):
        return b.keep(turned, v.shape)
    one, two = (b.op("Mul", name, b.vector(size, around=0.7)) for name in (v.name, turned))
    return b.keep(b.op("Add", one, two), v.shape)


def experts(b: Builder, v: Value) -> Value:
    """A weight of its own for each of two groups of channels: a MatMul whose weight has three dimensions."""
    batch, length, size = v.shape
    if size % 2:
        return linear(b, v)
    apart = b.op("Transpose", b.reshape(v.name, 0, -1, 2, size // 2), perm=[0, 2, 1, 3])
    out = int(b.pick([2, 3, 8]))
    made = b.op("MatMul", apart, b.weight(2, size // 2, out, fan=size // 2))
    merged = b.reshape(b.op("Transpose", made, perm=[0, 2, 1, 3]), 0, -1, 2 * out)
    return b.keep(merged, (batch, length, 2 * out))


# vectors


def gemm(b: Builder, v: Value) -> Value:
    """Gemm with its options."""
    size, out = v.shape[1], int(b.pick(_SIZES))
    trans = int(b.chance(0.5))
    weight = b.weight(*((out, size) if trans else (size, out)), fan=size)
    bias = [b.const(0.3 * b.rng.standard_normal(b.pick([(out,), (1, out), (out,), (1,)])))] if b.chance(0.8) else []
    attributes: dict[str, Any] = {"transB": trans}
    if b.chance(0.2):
        attributes["alpha"] = float(b.pick([0.5, 1.5]))
    if bias and b.chance(0.2):
        attributes["beta"] = float(b.pick([0.5, 2.0]))
    return b.keep(b.op("Gemm", v.name, weight, *bias, **attributes), (v.shape[0], out))


def gemm_residual(b: Builder, v: Value) -> Value:
    """Two dense layers, added to what they read."""
    return feed_forward(b, v)


def unit_length(b: Builder, v: Value) -> Value:
    """A vector over its length."""
    length = b.axes("ReduceL2", v.name, [1], 18, keepdims=1)
    return b.keep(b.op("Div", v.name, b.op("Add", length, b.const(0.1))), v.shape)


def split_vector(b: Builder, v: Value) -> Value:
    """A vector in two parts, a dense layer each, and back together, or one as the gate of the other."""
    size = v.shape[1]
    if size < 2 or size % 2:
        return gemm(b, v)
    one, two = (b.keep(part, (v.shape[0], size // 2)) for part in b.split(v.name, [size // 2] * 2, 1))
    if b.chance(0.5):
        return b.keep(b.op("Mul", one.name, b.op("Sigmoid", two.name)), one.shape)
    one, two = linear(b, one), gemm(b, two)
    return b.keep(b.op("Concat", one.name, two.name, axis=1), (v.shape[0], one.shape[1] + two.shape[1]))


# from one kind to another


def picture_to_tokens(b: Builder, v: Value) -> Value:
    """The places of a picture as tokens."""
    length = math.prod(v.shape[2:])
    flat = b.reshape(v.name, 0, v.shape[1], -1)
    return b.keep(b.op("Transpose", flat, perm=[0, 2, 1]), (v.shape[0], length, v.shape[1]))


def picture_to_vector(b: Builder, v: Value) -> Value:
    """A picture or signal pooled, or laid flat where its size is known."""
    size = math.prod(v.shape[1:])
    if size <= 512 and b.free != "all" and b.chance(0.5):
        made = b.op("Flatten", v.name, axis=1) if b.chance(0.5) else b.reshape(v.name, 0, -1)
        return b.keep(made, (v.shape[0], size))
    axes = list(range(2, len(v.shape)))
    kind = b.pick(["GlobalAveragePool", "GlobalMaxPool", "ReduceMean"])
    if kind == "ReduceMean":
        return b.keep(b.axes(kind, v.name, axes, 18, keepdims=0), v.shape[:2])
    pooled = b.op(kind, v.name)
    made = b.op("Flatten", pooled, axis=1) if b.chance(0.5) else b.axes("Squeeze", pooled, axes, 13)
    return b.keep(made, v.shape[:2])


def signal_to_tokens(b: Builder, v: Value) -> Value:
    """The steps of a signal as tokens."""
    return b.keep(b.op("Transpose", v.name, perm=[0, 2, 1]), (v.shape[0], v.shape[2], v.shape[1]))


def tokens_to_vector(b: Builder, v: Value) -> Value:
    """One token, or the mean of all, or the largest of each channel."""
    kind = b.pick(["Gather", "Slice", "ReduceMean", "ReduceMax"])
    shape = (v.shape[0], v.shape[2])
    if kind == "Gather":
        return b.keep(b.op("Gather", v.name, b.const(0, np.int64), axis=1), shape)
    if kind == "Slice":
        one = b.op("Slice", v.name, b.ints(0), b.ints(1), b.ints(1))
        return b.keep(b.axes("Squeeze", one, [1], 13), shape)
    return b.keep(b.axes(kind, v.name, [1], 18, keepdims=0), shape)


def vector_to_tokens(b: Builder, v: Value) -> Value:
    """A vector as one token, or as several short ones."""
    size = v.shape[1]
    parts = b.pick(_divisors(size))
    if parts == 1:
        return b.keep(b.axes("Unsqueeze", v.name, [1], 13), (v.shape[0], 1, size))
    return b.keep(b.reshape(v.name, 0, parts, size // parts), (v.shape[0], parts, size // parts))


_ANY = (activation, activation, affine, two_readers)
BLOCKS: dict[str, tuple[Block, ...]] = {
    "image": (
        *_ANY, conv, conv_block, conv_block, same_conv, conv_residual, conv_residual, squeeze_excite, pool, resize,
        conv_transpose, batch_norm, branches, split_channels, shuffle, pad_or_slice, depth_space, channels_last,
    ),
    "signal": (
        *_ANY, conv, conv_block, conv_block, same_conv, conv_residual, squeeze_excite, pool, resize, conv_transpose,
        batch_norm, branches, split_channels, shuffle, pad_or_slice,
    ),
    "tokens": (
        *_ANY, layer_norm, linear, linear, feed_forward, attention, attention, recurrence, over_time, similarity,
        class_token, halves, experts,
    ),
    "vector": (*_ANY, gemm, gemm, linear, gemm_residual, unit_length, split_vector, halves),
}  # fmt: skip
BRIDGES: dict[str, dict[str, Block]] = {
    "image": {"tokens": picture_to_tokens, "vector": picture_to_vector},
    "signal": {"tokens": signal_to_tokens, "vector": picture_to_vector},
    "tokens": {"signal": signal_to_tokens, "vector": tokens_to_vector},
    "vector": {"tokens": vector_to_tokens},
}


def _picture(b: Builder, name: str) -> Value:
    channels, height, width = int(b.pick([1, 3, 3, 4])), int(b.pick([6, 8, 11, 16])), int(b.pick([6, 8, 13, 16]))
    samples = b.rng.standard_normal((SAMPLES, channels, height, width)).astype(np.float32)
    b.feed(name, samples, ("N", channels, f"{name}_height", f"{name}_width"))
    return b.keep(name, (b.batch, channels, height, width))


def _signal(b: Builder, name: str) -> Value:
    channels, length = int(b.pick([1, 2, 5])), int(b.pick([8, 17, 32]))
    b.feed(
        name, b.rng.standard_normal((SAMPLES, channels, length)).astype(np.float32), ("N", channels, f"{name}_length")
    )
    return b.keep(name, (b.batch, channels, length))


def _tokens(b: Builder, name: str) -> Value:
    """Token numbers through an embedding, perhaps tied with a head, or vectors; perhaps a mask."""
    length, size = int(b.pick([1, 5, 8, 13])), int(b.pick([4, 8, 13, 16]))
    if b.chance(0.5):
        rows = int(b.pick([7, 30, 64]))
        ids = b.rng.integers(0, rows, (SAMPLES, length)).astype(b.pick([np.int64, np.int64, np.int32]))
        b.feed(name, ids, ("N", f"{name}_T"))
        value = b.keep(b.op("Gather", b.weight(rows, size, fan=1), name), (b.batch, length, size))
    else:
        b.feed(name, b.rng.standard_normal((SAMPLES, length, size)).astype(np.float32), ("N", f"{name}_T", size))
        value = b.keep(name, (b.batch, length, size))
    if b.mask is None and b.chance(0.4):
        kept = (np.arange(length) < b.rng.integers(1, length + 1, (SAMPLES, 1))).astype(b.pick([np.int64, np.float32]))
        b.feed("mask", kept, ("N", f"{name}_T"))
        wide = b.axes("Unsqueeze", b.op("Cast", "mask", to=TensorProto.FLOAT), [1, 2], 13)
        b.mask = b.op("Mul", b.op("Sub", b.const(1.0), wide), b.const(b.pick([-10.0, -10000.0])))
    return value


def _vector(b: Builder, name: str) -> Value:
    size = int(b.pick([3, 8, 17, 40]))
    b.feed(name, b.rng.standard_normal((SAMPLES, size)).astype(np.float32), ("N", size))
    return b.keep(name, (b.batch, size))


_SOURCES = {"image": _picture, "signal": _signal, "tokens": _tokens, "vector": _vector}
_KINDS = ("image", "image", "image", "tokens", "tokens", "signal", "vector")


def _grown(b: Builder, value: Value, kind: str, blocks: int) -> tuple[Value, str]:
    """The value behind so many blocks, and its kind."""
    for _ in range(blocks):
        if b.chance(0.15):
            other = str(b.pick(sorted(BRIDGES[kind])))
            kind, value = other, BRIDGES[kind][other](b, value)
        if math.prod(value.shape) > _LARGEST:
            break
        value = b.pick(b.blocks[kind])(b, value)
    return value, kind


def _as_vector(b: Builder, value: Value, kind: str) -> Value:
    return value if kind == "vector" else BRIDGES[kind]["vector"](b, value)


def _head(b: Builder, value: Value, kind: str) -> Value:
    """What often ends a network: pooled and classified, or one more layer of its kind."""
    if b.chance(0.5):
        flat = _as_vector(b, value, kind)
        return gemm(b, flat) if b.chance(0.5) else linear(b, flat)
    made = conv(b, value) if kind in ("image", "signal") else linear(b, value)
    return activation(b, made) if b.chance(0.3) else made


def _graph(b: Builder) -> list[Value]:
    """Add inputs and blocks; return the outputs."""
    kind = str(b.pick(_KINDS))
    value, kind = _grown(b, _SOURCES[kind](b, "x"), kind, int(b.rng.integers(1, 8)))
    if b.chance(0.15):
        # a second input, perhaps with the weights of the first
        other = str(b.pick(_KINDS))
        second, other = _grown(b, _SOURCES[other](b, "second"), other, int(b.rng.integers(1, 4)))
        pair = [_as_vector(b, value, kind), _as_vector(b, second, other)]
        size = sum(one.shape[1] for one in pair)
        joined = b.op("Concat", *[one.name for one in pair], axis=1)
        value, kind = b.keep(joined, (pair[0].shape[0], size)), "vector"
    outputs = [_head(b, value, kind)]
    if b.chance(0.2):
        outputs.append(_head(b, value, kind))
    if b.chance(0.2):
        fed = {v.name for v in b.inputs}
        outputs += [b.pick([v for v in b.values if v.name not in fed])]
    return list({v.name: v for v in outputs}.values())


def _model(b: Builder, outputs: list[Value]) -> onnx.ModelProto:
    results = [
        helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.shape)
        if b.free == "nothing"
        else helper.make_tensor_value_info(v.name, TensorProto.FLOAT, [None] * len(v.shape))
        for v in outputs
    ]
    read = {name for node in b.nodes for name in node.input}
    initializers = [numpy_helper.from_array(array, name) for name, array in b.constants.items() if name in read]
    graph = helper.make_graph(b.nodes, "random", b.inputs, results + b.others, initializers)
    ir_version = 8 if b.opset < 19 else 9 if b.opset < 21 else 10
    if b.opset < 9 and b.chance(0.5):
        # then initializers are inputs too
        ir_version = 3
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers)
    domains = sorted({"", *(node.domain for node in b.nodes)})
    imports = [helper.make_opsetid(domain, b.opset if domain == "" else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def run_float(model: onnx.ModelProto, data: dict[str, Array], *, optimize: bool = True) -> dict[str, Array]:
    """Run all samples through onnxruntime alone, in batches of the model's size, and return each output in one array.

    Outputs whose first axis does not count samples are laid end to end along it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0].shape[0]
    size = first if isinstance(first, int) else 1
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(data.values())))
    runs = [
        session.run(None, {name: array[start : start + size] for name, array in data.items()})
        for start in range(0, count, size)
    ]
    return {name: np.concatenate([np.atleast_1d(run[i]) for run in runs]) for i, name in enumerate(names)}


def random_case(
    seed: int, blocks: Mapping[str, tuple[Block, ...]] = BLOCKS, opsets: range = range(11, 22)
) -> RandomCase:
    """Grow the graph of a seed. What is not finite, or is nearly constant, is drawn again.

    So is, before opset 11, what that opset does not have.
    """
    for attempt in range(_ATTEMPTS):
        b = Builder(np.random.default_rng([seed, attempt]), blocks, opsets)
        model = _model(b, _graph(b))
        try:
            onnx.checker.check_model(model, full_check=True)
            found = run_float(model, b.data)
        except Exception:
            if b.opset < 11:
                continue
            raise
        if all(np.isfinite(a).all() and _varies(a) for a in found.values()):
            return RandomCase(seed, model, b.data)
    raise ValueError(f"seed {seed}: no graph that varies in {_ATTEMPTS} attempts")


def _varies(array: Array) -> bool:
    """Whether it holds more than a constant, and no numbers out of all proportion."""
    return bool(array.std() > 1e-3 and np.abs(array).max() < _LARGE)

"""Blocks that few networks have, for `tests.support.random_models`: control flow, spectra, masks, groups, tables.

Each reads a value and gives one, as the common blocks do.
"""

import math
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.random_models import (
    BLOCKS,
    Block,
    Builder,
    RandomCase,
    Value,
    activation,
    affine,
    conv,
    conv_block,
    gemm,
    layer_norm,
    linear,
    random_case,
    same_conv,
)

# any shape


def _layer_of(v: Value, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """An operator that keeps the shape of a value, and its weight."""
    if len(v.shape) == 4:
        channels = v.shape[1]
        return "Conv", rng.standard_normal((channels, channels, 1, 1)) / math.sqrt(channels)
    return "MatMul", rng.standard_normal((v.shape[-1], v.shape[-1])) / math.sqrt(v.shape[-1])


def branch(b: Builder, v: Value) -> Value:
    """An If, with a layer in each branch; its condition is a constant, comes from a shape, or from the data."""
    graphs = {}
    for name in ("then_branch", "else_branch"):
        kind, weight = _layer_of(v, b.rng)
        n = len(b.nodes)
        made = f"{name}_{n}"
        held = numpy_helper.from_array(weight.astype(np.float32), f"{made}_w")
        nodes = [
            helper.make_node(kind, [v.name, held.name], [f"{made}_h"], name=f"{made}_layer"),
            helper.make_node(b.pick(["Relu", "Tanh"]), [f"{made}_h"], [made], name=f"{made}_act"),
        ]
        outputs = [helper.make_tensor_value_info(made, TensorProto.FLOAT, [None] * len(v.shape))]
        graphs[name] = helper.make_graph(nodes, made, [], outputs, [held])
    kind = b.pick(["constant", "constant", "shape", "data"])
    if kind == "constant":
        condition = b.const(b.chance(0.5), np.bool_)
    elif kind == "shape":
        rank = b.op("Gather", b.op("Shape", b.op("Shape", v.name)), b.const(0, np.int64))
        condition = b.op("Equal", rank, b.const(len(v.shape), np.int64))
    else:
        total = b.op("ReduceMean", v.name, keepdims=0)
        condition = b.op("Greater", total, b.const(-1000.0))
    return b.keep(b.op("If", condition, **graphs), v.shape)


def loop(b: Builder, v: Value) -> Value:
    """A Loop of two steps, with a layer in its body."""
    kind, weight = _layer_of(v, b.rng)
    n = len(b.nodes)
    names = [f"{part}_{n}" for part in ("step", "go", "state", "still", "next")]
    held = numpy_helper.from_array(weight.astype(np.float32), f"loop_w{n}")
    nodes = [
        helper.make_node("Identity", [names[1]], [names[3]]),
        helper.make_node(kind, [names[2], held.name], [f"loop_h{n}"], name=f"loop_layer{n}"),
        helper.make_node("Tanh", [f"loop_h{n}"], [names[4]]),
    ]
    inputs = [
        helper.make_tensor_value_info(names[0], TensorProto.INT64, []),
        helper.make_tensor_value_info(names[1], TensorProto.BOOL, []),
        helper.make_tensor_value_info(names[2], TensorProto.FLOAT, [None] * len(v.shape)),
    ]
    outputs = [
        helper.make_tensor_value_info(names[3], TensorProto.BOOL, []),
        helper.make_tensor_value_info(names[4], TensorProto.FLOAT, [None] * len(v.shape)),
    ]
    body = helper.make_graph(nodes, f"body_{n}", inputs, outputs, [held])
    made = b.op("Loop", b.const(2, np.int64), b.const(True, np.bool_), v.name, body=body)
    return b.keep(made, v.shape)


def chosen(b: Builder, v: Value) -> Value:
    """A Where: by the sign of a value, or by a constant mask."""
    other = activation(b, v).name if b.chance(0.5) else b.const(b.pick([0.0, -1.0]))
    if b.chance(0.5):
        mask = b.op("Greater", v.name, b.const(0.0))
    else:
        mask = b.const(b.rng.random(v.shape[-1]) < 0.7, np.bool_)
        if b.free == "all" and len(v.shape) == 4:
            mask = b.const(np.array([True]), np.bool_)
    return b.keep(b.op("Where", mask, v.name, other), v.shape)


def bounded(b: Builder, v: Value) -> Value:
    """Min and Max with constants, or Clip with bounds that Constant nodes give."""
    low, high = b.pick([(-1.0, 1.0), (0.0, 6.0), (-3.0, 3.0)])
    made = b.op("Min", b.op("Max", v.name, b.const(low)), b.const(high))
    return b.keep(made, v.shape)


def cast_around(b: Builder, v: Value) -> Value:
    """Casts to another type and back, Identity, Dropout."""
    kind = b.pick(["half", "double", "same", "Identity", "Dropout"])
    if kind in ("Identity", "Dropout"):
        return b.keep(b.op(kind, v.name), v.shape)
    to = {"half": TensorProto.FLOAT16, "double": TensorProto.DOUBLE, "same": TensorProto.FLOAT}[kind]
    return b.keep(b.op("Cast", b.op("Cast", v.name, to=to), to=TensorProto.FLOAT), v.shape)


def scattered(b: Builder, v: Value) -> Value:
    """ScatterElements or ScatterND into a value, at constant places of the first sample."""
    size = v.shape[-1]
    if size < 2:
        return activation(b, v)
    if b.chance(0.5):
        index = [*[0] * (len(v.shape) - 1), int(b.rng.integers(size))]
        made = b.op("ScatterND", v.name, b.const([index], np.int64), b.const([0.5]))
    else:
        places = np.full((1,) * len(v.shape), int(b.rng.integers(size)))
        made = b.op(
            "ScatterElements",
            v.name,
            b.const(places, np.int64),
            b.const(np.full(places.shape, 0.5)),
            axis=len(v.shape) - 1,
        )
    return b.keep(made, v.shape)


def summed_up(b: Builder, v: Value) -> Value:
    """CumSum over the last axis, in its options."""
    made = b.op(
        "CumSum", v.name, b.const(len(v.shape) - 1, np.int64), reverse=int(b.chance(0.3)), exclusive=int(b.chance(0.3))
    )
    return b.keep(b.op("Mul", made, b.const(1 / math.sqrt(v.shape[-1]))), v.shape)


def beside_a_reduction(b: Builder, v: Value) -> Value:
    """What a reduction over the last axis tells, subtracted, multiplied, or divided by."""
    kind = b.pick(
        ["ReduceMax", "ReduceMean", "ReduceLogSumExp", "ReduceSumSquare", "ReduceL1", "ReduceSum", "ReduceMin"]
    )
    axis = len(v.shape) - 1
    if kind == "ReduceSum":
        told = b.axes("ReduceSum", v.name, [axis], 13, keepdims=1)
    else:
        told = b.axes(kind, v.name, [axis], 18, keepdims=1)
    if kind in ("ReduceSumSquare", "ReduceL1"):
        return b.keep(b.op("Div", v.name, b.op("Add", told, b.const(0.5))), v.shape)
    return b.keep(b.op(b.pick(["Sub", "Add"]), v.name, told), v.shape)


def normalised_by(b: Builder, v: Value) -> Value:
    """Softmax, LogSoftmax or LpNormalization over the last axis."""
    kind = b.pick(["Softmax", "LogSoftmax", "LpNormalization"])
    attributes = {"p": 2} if kind == "LpNormalization" else {}
    made = b.op(kind, v.name, axis=len(v.shape) - 1, **attributes)
    return b.keep(b.op("Mul", made, b.const(3.0)), v.shape)


def rms_norm(b: Builder, v: Value) -> Value:
    """A normalisation by the root mean square: the operators, or the operator."""
    scale = b.vector(v.shape[-1], spread=0.2, around=1.0)
    if b.opset >= 23 and b.chance(0.6):
        return b.keep(b.op("RMSNormalization", v.name, scale, axis=-1, epsilon=1e-3), v.shape)
    square = b.op("Pow", v.name, b.const(2.0)) if b.chance(0.5) else b.op("Mul", v.name, v.name)
    mean = b.axes("ReduceMean", square, [len(v.shape) - 1], 18, keepdims=1)
    root = b.op("Sqrt", b.op("Add", mean, b.const(1e-3)))
    unit = b.op("Div", v.name, root) if b.chance(0.5) else b.op("Mul", v.name, b.op("Div", b.const(1.0), root))
    return b.keep(b.op("Mul", scale, unit), v.shape)


def moved(b: Builder, v: Value) -> Value:
    """The last axis turned round, taken in parts, or gathered by constants."""
    size, axis = v.shape[-1], len(v.shape) - 1
    kind = b.pick(["back", "gather", "tile", "compress", "expand"])
    if kind == "gather" or b.opset < 11:
        places = b.const(b.rng.permutation(size), np.int64)
        return b.keep(b.op("Gather", v.name, places, axis=axis), v.shape)
    if kind == "back":
        made = b.op("Slice", v.name, b.ints(-1), b.ints(-(2**31)), b.ints(axis), b.ints(-1))
        return b.keep(made, v.shape)
    if kind == "tile" and size <= 8:
        made = b.op("Tile", v.name, b.ints(*[1] * axis, 2))
        return b.keep(made, (*v.shape[:-1], 2 * size))
    if kind == "compress" and size > 1 and b.free != "all":
        made = b.op("Compress", v.name, b.const(np.arange(size) != 1, np.bool_), axis=axis)
        return b.keep(made, (*v.shape[:-1], size - 1))
    largest = b.axes("ReduceMax", v.name, [axis], 18, keepdims=1)
    return b.keep(b.op("Expand", largest, b.op("Shape", v.name)), v.shape)


def several(b: Builder, v: Value) -> Value:
    """Sum, Mean, Max or Min of three, one of them a constant."""
    number = b.const(b.rng.uniform(-0.5, 0.5, (1,)))
    made = b.op(b.pick(["Sum", "Mean", "Max", "Min"]), v.name, activation(b, v).name, number)
    return b.keep(made, v.shape)


def rare_function(b: Builder, v: Value) -> Value:
    """A function of an element, or over an axis, that few networks have."""
    kind = b.pick(
        ["ThresholdedRelu", "Shrink", "MeanVarianceNormalization", "Atan", "Asinh", "Sqrt", "Reciprocal", "Pow"]
    )
    if kind == "ThresholdedRelu" and b.opset >= 10:
        made = b.op(kind, v.name, alpha=0.5)
    elif kind == "Shrink" and b.opset >= 9:
        made = b.op(kind, v.name, lambd=0.3, bias=0.3)
    elif kind == "MeanVarianceNormalization" and b.opset >= 9 and v.shape[-1] > 3:
        made = b.op(kind, v.name, axes=[len(v.shape) - 1])
    elif kind in ("Sqrt", "Reciprocal", "Pow"):
        positive = b.op("Add", b.op("Abs", v.name), b.const(0.5))
        made = b.op(kind, positive, *([b.const(b.pick([0.5, 1.5, -1.0]))] if kind == "Pow" else []))
    else:
        made = b.op(b.pick(["Atan", "Sin"]), v.name)
    return b.keep(made, v.shape)


def in_half(b: Builder, v: Value) -> Value:
    """A layer and an activation in float16, between casts."""
    kind, weight = _layer_of(v, b.rng)
    half = b.op("Cast", v.name, to=TensorProto.FLOAT16)
    made = b.op("Relu", b.op(kind, half, b.const(weight, np.float16)))
    return b.keep(b.op("Cast", made, to=TensorProto.FLOAT), v.shape)


def scan(b: Builder, v: Value) -> Value:
    """A Scan over the first axis, with a layer in its body."""
    if len(v.shape) != 3:
        return several(b, v)
    size, n = v.shape[2], len(b.nodes)
    weight = (b.rng.standard_normal((size, size)) / math.sqrt(size)).astype(np.float32)
    held = numpy_helper.from_array(weight, f"scan_w{n}")
    nodes = [
        helper.make_node("MatMul", [f"scan_x{n}", held.name], [f"scan_h{n}"], name=f"scan_layer{n}"),
        helper.make_node("Relu", [f"scan_h{n}"], [f"scan_y{n}"]),
    ]
    values = [helper.make_tensor_value_info(f"scan_{part}{n}", TensorProto.FLOAT, [None, size]) for part in "xy"]
    body = helper.make_graph(nodes, f"scan_{n}", values[:1], values[1:], [held])
    return b.keep(b.op("Scan", v.name, body=body, num_scan_inputs=1), v.shape)


# pictures and signals


def group_norm(b: Builder, v: Value) -> Value:
    """GroupNormalization, or Reshape, InstanceNormalization and back; LRN rarely."""
    size, spatial = v.shape[1], v.shape[2:]
    if len(spatial) == 2 and b.chance(0.15):
        return b.keep(b.op("LRN", v.name, size=3), v.shape)
    groups = b.pick([n for n in (1, 2, 4, size) if size % n == 0])
    if size // groups * math.prod(spatial) < 4:
        return affine(b, v)
    scale, shift = b.vector(size, spread=0.2, around=1.0), b.vector(size)
    if b.opset >= 21 and b.chance(0.5):
        return b.keep(b.op("GroupNormalization", v.name, scale, shift, num_groups=groups), v.shape)
    if b.free == "all":
        return b.keep(b.op("InstanceNormalization", v.name, scale, shift), v.shape)
    flat = b.reshape(v.name, 0, groups, -1)
    unit = b.op("InstanceNormalization", flat, b.const(np.ones(groups)), b.const(np.zeros(groups)))
    back = b.reshape(unit, -1, size, *spatial)
    ones = (size, *[1] * len(spatial))
    scaled = b.op("Mul", back, b.const(b.rng.uniform(0.5, 1.5, ones)))
    return b.keep(b.op("Add", scaled, b.const(0.3 * b.rng.standard_normal(ones))), v.shape)


def padded_conv(b: Builder, v: Value) -> Value:
    """A Pad of the picture in one of its modes, and a Conv that takes the room; or a Conv with auto_pad."""
    size, spatial = v.shape[1], v.shape[2:]
    out = int(b.pick([3, 4, 8, 16]))
    kernel = [3] * len(spatial)
    weight = b.weight(out, size, *kernel, fan=size * math.prod(kernel))
    if b.chance(0.4):
        made = b.op(
            "Conv", v.name, weight, b.vector(out), auto_pad=b.pick(["SAME_UPPER", "SAME_LOWER"]), kernel_shape=kernel
        )
        return b.keep(made, (v.shape[0], out, *spatial))
    if min(spatial) < 2:
        return conv_block(b, v)
    pads = [0, 0, *[1] * len(spatial)] * 2
    mode = b.pick(["reflect", "edge", "constant"])
    extra = [b.const(b.pick([0.0, 0.0, -1.0]))] if mode == "constant" and b.opset >= 11 else []
    padded = b.op("Pad", v.name, b.ints(*pads), *extra, mode=mode)
    return b.keep(b.op("Conv", padded, weight, b.vector(out), kernel_shape=kernel), (v.shape[0], out, *spatial))


def computed_weight(b: Builder, v: Value) -> Value:
    """A layer whose weight constants make: scaled, cast from halves, turned, or through Identity."""
    size = v.shape[1] if len(v.shape) == 4 else v.shape[-1]
    out = int(b.pick([3, 4, 8]))
    pictures = len(v.shape) == 4
    shape = (out, size, 1, 1) if pictures else (size, out)
    array = b.rng.standard_normal(shape) / math.sqrt(size)
    kind = b.pick(["scaled", "half", "turned", "identity", "reshaped"])
    if kind == "scaled":
        weight = b.op("Mul", b.const(array), b.const(b.rng.uniform(0.5, 1.5, (out, 1, 1, 1) if pictures else (out,))))
    elif kind == "half":
        weight = b.op("Cast", b.const(array, np.float16), to=TensorProto.FLOAT)
    elif kind == "turned":
        perm = [1, 0, 2, 3] if pictures else [1, 0]
        weight = b.op("Transpose", b.const(array.transpose(perm)), perm=perm)
    elif kind == "identity":
        weight = b.op("Identity", b.const(array))
    else:
        weight = b.reshape(b.const(array.reshape(-1)), *shape)
    if pictures:
        return b.keep(b.op("Conv", v.name, weight, b.vector(out)), (v.shape[0], out, *v.shape[2:]))
    return b.keep(b.op("Add", b.op("MatMul", v.name, weight), b.vector(out)), (*v.shape[:-1], out))


def focus(b: Builder, v: Value) -> Value:
    """Every second place, four times, side by side, as YOLOv5 begins; and a Conv."""
    height, width = v.shape[2:]
    if height % 2 or width % 2 or b.free == "all" or b.opset < 10:
        return conv_block(b, v)
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        part = b.op("Slice", v.name, b.ints(row), b.ints(2**31), b.ints(2), b.ints(2))
        parts.append(b.op("Slice", part, b.ints(column), b.ints(2**31), b.ints(3), b.ints(2)))
    joined = b.op("Concat", *parts, axis=1)
    return same_conv(b, b.keep(joined, (v.shape[0], 4 * v.shape[1], height // 2, width // 2)))


def pixel_shuffle(b: Builder, v: Value) -> Value:
    """A Conv to four times the channels, and these as places, by Reshape and Transpose."""
    if math.prod(v.shape[2:]) > 256 or b.free == "all":
        return conv_block(b, v)
    size = int(b.pick([1, 2, 3]))
    made = conv(b, v, out=4 * size, same=True)
    height, width = made.shape[2:]
    apart = b.reshape(made.name, -1, size, 2, 2, height, width)
    turned = b.op("Transpose", apart, perm=[0, 1, 4, 2, 5, 3])
    return b.keep(b.reshape(turned, -1, size, 2 * height, 2 * width), (v.shape[0], size, 2 * height, 2 * width))


def sampled(b: Builder, v: Value) -> Value:
    """GridSample on a constant grid."""
    if b.opset < 16 or b.free != "nothing":
        return conv_block(b, v)
    height, width = v.shape[2:]
    grid = b.rng.uniform(-0.9, 0.9, (v.shape[0], height, width, 2))
    mode = b.pick(["bilinear", "nearest"] if b.opset < 20 else ["linear", "nearest"])
    return b.keep(b.op("GridSample", v.name, b.const(grid), mode=mode), v.shape)


def to_size_of(b: Builder, v: Value) -> Value:
    """A coarser picture brought to the size of the finer one by what Shape tells, and both in a Concat."""
    spatial = v.shape[2:]
    if min(spatial) < 2 or b.opset < 11:
        return conv_block(b, v)
    pooled = b.op("MaxPool", v.name, kernel_shape=[2] * len(spatial), strides=[2] * len(spatial))
    coarse = same_conv(b, b.keep(pooled, (*v.shape[:2], *[n // 2 for n in spatial])))
    lead = b.op("Slice", b.op("Shape", coarse.name), b.ints(0), b.ints(2), b.ints(0))
    sizes = b.op("Concat", lead, b.op("Slice", b.op("Shape", v.name), b.ints(2), b.ints(9), b.ints(0)), axis=0)
    empty = ["", ""] if b.opset >= 13 else [b.const([]), b.const([])]
    mode = b.pick(["nearest", "linear"])
    fine = b.op("Resize", coarse.name, *empty, sizes, mode=mode, coordinate_transformation_mode="asymmetric")
    return b.keep(b.op("Concat", v.name, fine, axis=1), (v.shape[0], 2 * v.shape[1], *spatial))


def places_weighed(b: Builder, v: Value) -> Value:
    """Places weighed by a Conv over the mean and the largest of the channels."""
    mean = b.axes("ReduceMean", v.name, [1], 18, keepdims=1)
    largest = b.axes("ReduceMax", v.name, [1], 18, keepdims=1)
    joined = b.op("Concat", mean, largest, axis=1)
    kernel = [3] * len(v.shape[2:])
    gate = b.op(
        "Conv", joined, b.weight(1, 2, *kernel, fan=2 * math.prod(kernel)), b.vector(1), pads=[1] * 2 * len(kernel)
    )
    return b.keep(b.op("Mul", v.name, b.op("Sigmoid", gate)), v.shape)


def last_chain(b: Builder, v: Value) -> Value:
    """Channels last for several operators in a row: layers, sums and products of channels, a Concat, and back."""
    if len(v.shape) != 4:
        return conv_block(b, v)
    shape = (v.shape[0], *v.shape[2:], v.shape[1])
    made = b.keep(b.op("Transpose", v.name, perm=[0, 2, 3, 1]), shape)
    for _ in range(int(b.rng.integers(1, 4))):
        kind = b.pick(["linear", "channels", "act", "concat", "conv"])
        if kind == "linear":
            made = linear(b, made)
        elif kind == "channels":
            scaled = b.op("Mul", made.name, b.const(b.rng.uniform(0.5, 1.5, made.shape[-1])))
            made = b.keep(b.op("Add", scaled, b.vector(made.shape[-1])), made.shape)
        elif kind == "act":
            made = b.keep(b.op(b.pick(["Relu", "Sigmoid", "Tanh"]), made.name), made.shape)
        elif kind == "concat" and made.shape[-1] <= 16:
            other = b.op("Relu", made.name)
            made = b.keep(b.op("Concat", made.name, other, axis=3), (*made.shape[:3], 2 * made.shape[3]))
        else:
            inner = b.op("Transpose", made.name, perm=[0, 3, 1, 2])
            kept = conv(b, b.keep(inner, (made.shape[0], made.shape[3], *made.shape[1:3])), same=True)
            made = b.keep(
                b.op("Transpose", kept.name, perm=[0, 2, 3, 1]), (kept.shape[0], *kept.shape[2:], kept.shape[1])
            )
    return b.keep(b.op("Transpose", made.name, perm=[0, 3, 1, 2]), (made.shape[0], made.shape[3], *made.shape[1:3]))


def other_pools(b: Builder, v: Value) -> Value:
    """LpPool, pools with auto_pad or dilations, and the global ones, taken from the value."""
    kind = b.pick(["LpPool", "same", "global"])
    ones = [2] * len(v.shape[2:])
    if kind == "global":
        pooled = b.op(
            b.pick(["GlobalMaxPool", "GlobalAveragePool", *(["GlobalLpPool"] if b.opset < 22 else [])]), v.name
        )
        return b.keep(b.op("Sub", v.name, pooled), v.shape)
    if min(v.shape[2:]) < 2:
        return affine(b, v)
    if kind == "same":
        made = b.op(b.pick(["MaxPool", "AveragePool"]), v.name, kernel_shape=ones, auto_pad="SAME_UPPER")
        return b.keep(made, v.shape)
    return b.keep(b.op("LpPool", v.name, kernel_shape=ones), (*v.shape[:2], *[n - 1 for n in v.shape[2:]]))


def transposed_with_options(b: Builder, v: Value) -> Value:
    """ConvTranspose with output_padding, dilations or auto_pad, as decoders have."""
    spatial = v.shape[2:]
    if max(spatial) > 16:
        return conv_block(b, v)
    out = int(b.pick([1, 3, 4]))
    weight = b.weight(v.shape[1], out, *[3] * len(spatial), fan=v.shape[1] * 2, share=False)
    attributes: dict[str, Any] = {"strides": [2] * len(spatial), "pads": [1] * 2 * len(spatial)}
    attributes["output_padding"] = [1] * len(spatial)
    made = b.op("ConvTranspose", v.name, weight, b.vector(out), **attributes)
    return b.keep(made, (v.shape[0], out, *[2 * n for n in spatial]))


def volume(b: Builder, v: Value) -> Value:
    """A convolution of three dimensions over a picture with one more axis."""
    channels, height, width = v.shape[1:]
    wide = b.axes("Unsqueeze", v.name, [2], 13)
    out = int(b.pick([2, 4]))
    made = b.op("Conv", wide, b.weight(out, channels, 1, 3, 3, fan=9 * channels), pads=[0, 1, 1, 0, 1, 1])
    return b.keep(b.axes("Squeeze", b.op("Relu", made), [2], 13), (v.shape[0], out, height, width))


def spectrum(b: Builder, v: Value) -> Value:
    """Magnitudes of a short Fourier transform, by convolutions whose kernels are computed from Range, Cos and Sin."""
    if v.shape[2] < 8 or b.opset < 11:
        return conv_block(b, v)
    bins = 5
    steps = b.op("Range", b.const(0.0), b.const(8.0), b.const(1.0))
    waves = b.op("Range", b.const(0.0), b.const(float(bins)), b.const(1.0))
    angles = b.op("Mul", b.axes("Unsqueeze", waves, [1], 13), b.axes("Unsqueeze", steps, [0], 13))
    angles = b.op("Mul", angles, b.const(2 * math.pi / 8))
    one = b.op("Slice", v.name, b.ints(0), b.ints(1), b.ints(1))
    parts = []
    for kind in ("Cos", "Sin"):
        kernel = b.axes("Unsqueeze", b.op(kind, angles), [1], 13)
        parts.append(b.op("Conv", one, kernel, strides=[2], kernel_shape=[8]))
    power = b.op("Add", *[b.op("Pow", part, b.const(2.0)) for part in parts])
    shape = (v.shape[0], bins, (v.shape[2] - 8) // 2 + 1)
    if b.chance(0.5):
        return b.keep(b.op("Sqrt", b.op("Add", power, b.const(1e-3))), shape)
    return b.keep(b.op("Log", b.op("Add", power, b.const(0.1))), shape)


def transform(b: Builder, v: Value) -> Value:
    """The DFT of the last axis, real parts or power."""
    if b.opset < 17 or b.opset >= 20:
        return conv_block(b, v)
    wide = b.op("DFT", b.axes("Unsqueeze", v.name, [3], 13), axis=2, onesided=0)
    real = b.axes("Squeeze", b.op("Slice", wide, b.ints(0), b.ints(1), b.ints(3)), [3], 13)
    return b.keep(b.op("Mul", real, b.const(1 / math.sqrt(v.shape[2]))), v.shape)


# tokens


def masked_attention(b: Builder, v: Value) -> Value:
    """Attention that sees what came before: -inf by Where, or added; the mask is a constant, or made from a shape."""
    batch, length, size = v.shape
    query, key, value = (linear(b, v, out=8).name for _ in range(3))
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 2, 1]))
    scores = b.op("Mul", scores, b.const(1 / math.sqrt(8)))
    least = b.pick([-np.inf, -np.inf, float(np.finfo(np.float32).min), -1e4])
    fixed = np.tril(np.ones((length, length), bool))
    kind = b.pick(["where", "added", "shape"])
    if kind == "shape" and b.opset >= 14:
        count = b.op("Gather", b.op("Shape", v.name), b.ints(1))
        ones = b.op(
            "ConstantOfShape", b.op("Concat", count, count, axis=0), value=helper.make_tensor("", 1, [1], [1.0])
        )
        mask = b.op("Cast", b.op("Trilu", ones, upper=0), to=TensorProto.BOOL)
        scores = b.op("Where", mask, scores, b.const(least))
    elif b.free == "all" or kind == "where":
        mask = b.const(fixed, np.bool_)
        if b.free == "all":
            mask = b.op("Greater", scores, b.const(-1.0))
        scores = b.op("Where", mask, scores, b.const(least))
    else:
        scores = b.op("Add", scores, b.const(np.where(fixed, 0.0, least)))
    weights = b.op("Softmax", scores, axis=2)
    if least == -np.inf and b.chance(0.5):
        # rows with nothing to see are zero, as PyTorch exports
        weights = b.op("Where", b.op("IsNaN", weights), b.const(0.0), weights)
    made = linear(b, b.keep(b.op("MatMul", weights, value), (batch, length, 8)), out=size)
    return b.keep(b.op("Add", v.name, made.name), v.shape)


def linear_attention(b: Builder, v: Value) -> Value:
    """Attention without a softmax: positive queries and keys, and the product of keys and values first."""
    batch, length, size = v.shape
    query, key = (b.op("Add", b.op("Elu", linear(b, v, out=4).name), b.const(1.0)) for _ in range(2))
    held = b.op("MatMul", b.op("Transpose", key, perm=[0, 2, 1]), linear(b, v, out=6).name)
    total = b.axes("ReduceSum", key, [1], 13, keepdims=1)
    weight = b.op("MatMul", query, b.op("Transpose", total, perm=[0, 2, 1]))
    made = b.op("Div", b.op("MatMul", query, held), b.op("Add", weight, b.const(1e-3)))
    return linear(b, b.keep(made, (batch, length, 6)), out=size)


def einsum(b: Builder, v: Value) -> Value:
    """Einsum of computed values, or with a weight by heads."""
    batch, length, size = v.shape
    if b.opset < 12:
        return linear(b, v)
    if b.chance(0.5):
        heads, each = 2, 3
        made = b.op("Einsum", v.name, b.weight(size, heads, each, fan=size), equation="btc,chd->bhtd")
        scores = b.op("Einsum", made, made, equation="bhqd,bhkd->bhqk")
        weights = b.op("Softmax", b.op("Mul", scores, b.const(1 / math.sqrt(each))), axis=3)
        mixed = b.op("Einsum", weights, made, equation="bhqk,bhkd->bqhd")
        return b.keep(b.reshape(mixed, 0, 0, heads * each), (batch, length, heads * each))
    other = linear(b, v, out=size)
    made = b.op("Einsum", v.name, other.name, equation="bic,bjc->bij")
    scores = b.op("Softmax", b.op("Mul", made, b.const(1 / size)), axis=2)
    return b.keep(b.op("Einsum", scores, v.name, equation="bij,bjc->bic"), v.shape)


def recurrence_with_states(b: Builder, v: Value) -> Value:
    """LSTM or GRU with what they may also read: lengths, first states, peepholes; or its last state as a token."""
    batch, length, size = v.shape
    kind, gates = b.pick([("LSTM", 4), ("GRU", 3)])
    hidden, ways = int(b.pick([3, 4, 8])), int(b.pick([1, 2]))
    weights = [b.weight(ways, gates * hidden, n, fan=n, share=False) for n in (size, hidden)]
    bias = b.const(0.3 * b.rng.standard_normal((ways, 2 * gates * hidden)))
    inputs = [b.op("Transpose", v.name, perm=[1, 0, 2]), *weights, bias]
    fixed = b.free == "nothing"
    first = b.const(0.3 * b.rng.standard_normal((ways, batch, hidden))) if fixed else ""
    lengths = b.const(b.rng.integers(1, length + 1, batch), np.int32) if fixed and b.chance(0.5) else ""
    inputs += [lengths, first, *([first] if kind == "LSTM" else [])]
    if kind == "LSTM" and b.chance(0.3):
        inputs.append(b.const(0.1 * b.rng.standard_normal((ways, 3 * hidden))))
    while not inputs[-1]:
        inputs.pop()
    direction = "bidirectional" if ways == 2 else b.pick(["forward", "reverse"])
    steps, last = b.op_many(kind, *inputs, outputs=2, hidden_size=hidden, direction=direction)
    if b.chance(0.3):
        return b.keep(b.op("Transpose", last, perm=[1, 0, 2]), (batch, ways, hidden))
    made = b.reshape(b.op("Transpose", steps, perm=[2, 0, 1, 3]), 0, 0, ways * hidden)
    return b.keep(made, (batch, length, ways * hidden))


def rotary(b: Builder, v: Value) -> Value:
    """Rotary positions from tables of sines, or computed from a Range; or sines added."""
    _batch, _length, size = v.shape
    if b.opset < 11:
        return layer_norm(b, v)
    count = b.op("Squeeze", b.op("Slice", b.op("Shape", v.name), b.ints(1), b.ints(2), b.ints(0)))
    places = b.op("Cast", b.op("Range", b.const(0, np.int64), count, b.const(1, np.int64)), to=TensorProto.FLOAT)
    angles = b.op("Mul", b.axes("Unsqueeze", places, [1], 13), b.const(1.0 / 10 ** (np.arange(size) / size)))
    sine, cosine = b.op("Sin", angles), b.op("Cos", angles)
    if size % 2 or b.chance(0.5):
        return b.keep(b.op("Add", v.name, sine), v.shape)
    low, high = b.split(v.name, [size // 2] * 2, 2)
    turned = b.op("Concat", b.op("Neg", high), low, axis=2)
    return b.keep(b.op("Add", b.op("Mul", v.name, cosine), b.op("Mul", turned, sine)), v.shape)


def routed(b: Builder, v: Value) -> Value:
    """Two experts, weighed by a router's softmax."""
    size = v.shape[2]
    gates = b.op("Softmax", linear(b, v, out=2).name, axis=2)
    parts = b.split(gates, [1, 1], 2)
    made = [b.op("Mul", linear(b, activation(b, linear(b, v)), out=size).name, part) for part in parts]
    return b.keep(b.op("Add", *made), v.shape)


def largest_tokens(b: Builder, v: Value) -> Value:
    """The largest numbers of each channel, by TopK, whose places may be an output of the model."""
    length = v.shape[1]
    if b.opset < 11 or b.free == "all":
        return layer_norm(b, v)
    count = min(2, length)
    values, places = b.op_many("TopK", v.name, b.ints(count), outputs=2, axis=1)
    if b.chance(0.5):
        b.hand_out(places, TensorProto.INT64, 3)
    return b.keep(values, (v.shape[0], count, v.shape[2]))


def tied_head(b: Builder, v: Value) -> Value:
    """A product with the table that tokens were looked up in, turned, and back."""
    tables = [name for name, array in b.constants.items() if array.ndim == 2 and array.shape[1] == v.shape[-1]]
    used = [name for name in tables if any(n.op_type == "Gather" and n.input[0] == name for n in b.nodes)]
    if used:
        table = str(b.pick(used))
    else:
        table = b.const(b.rng.standard_normal((12, v.shape[-1])))
        ids = b.const(b.rng.integers(0, 12, v.shape[1]), np.int64)
        v = b.keep(b.op("Add", v.name, b.op("Gather", table, ids)), v.shape) if b.free != "all" else v
    if table not in b.constants:
        return linear(b, v)
    head = b.op("MatMul", v.name, b.op("Transpose", table, perm=[1, 0]))
    return linear(b, b.keep(head, (*v.shape[:-1], b.constants[table].shape[0])), out=8)


def microsoft(b: Builder, v: Value) -> Value:
    """Operators that onnxruntime's optimiser writes into a model."""
    size = v.shape[-1]
    kind = b.pick(["Gelu", "FastGelu", "QuickGelu", "SkipLayerNormalization", "BiasGelu", "FusedMatMul"])
    if kind in ("Gelu", "QuickGelu"):
        made = b.op(kind, v.name, domain="com.microsoft")
    elif kind in ("FastGelu", "BiasGelu"):
        made = b.op(kind, v.name, b.vector(size), domain="com.microsoft")
    elif kind == "SkipLayerNormalization":
        scale = b.vector(size, spread=0.2, around=1.0)
        made = b.op(kind, v.name, linear(b, v, out=size).name, scale, b.vector(size), domain="com.microsoft")
    else:
        made = b.op(kind, v.name, b.weight(size, size, fan=size), domain="com.microsoft", alpha=1.5)
    return b.keep(made, v.shape)


def generated_weight(b: Builder, v: Value) -> Value:
    """A product with a weight that a layer makes of the mean of the tokens."""
    batch, _, size = v.shape
    mean = b.axes("ReduceMean", v.name, [1], 18, keepdims=0)
    made = b.op("MatMul", mean, b.weight(size, size * 4, fan=size * size, share=False))
    weight = b.reshape(made, -1, size, 4)
    return b.keep(b.op("MatMul", v.name, weight), (batch, v.shape[1], 4))


def few_keys(b: Builder, v: Value) -> Value:
    """Attention of four heads, whose keys and values are those of one, by Expand."""
    batch, length, size = v.shape
    if b.free == "all":
        return linear(b, v)
    query = b.op("Transpose", b.reshape(linear(b, v, out=16).name, 0, 0, 4, 4), perm=[0, 2, 1, 3])
    parts = [b.axes("Unsqueeze", linear(b, v, out=4).name, [1], 13) for _ in range(2)]
    lead = b.op("Slice", b.op("Shape", v.name), b.ints(0), b.ints(1), b.ints(0))
    shape = b.op("Concat", lead, b.ints(4, length, 4), axis=0)
    key, value = (b.op("Expand", part, shape) for part in parts)
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = b.op("MatMul", b.op("Softmax", b.op("Mul", scores, b.const(0.5)), axis=3), value)
    merged = b.reshape(b.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, 16)
    return linear(b, b.keep(merged, (batch, length, 16)), out=size)


def attention_operator(b: Builder, v: Value) -> Value:
    """Attention as one operator, which opset 23 has; or onnxruntime's own for several heads."""
    query, key, value = (linear(b, v, out=8).name for _ in range(3))
    if b.opset >= 23 and b.chance(0.5):
        made = b.op("Attention", query, key, value, q_num_heads=2, kv_num_heads=2, is_causal=int(b.chance(0.5)))
    else:
        made = b.op("MultiHeadAttention", query, key, value, domain="com.microsoft", num_heads=2)
    return linear(b, b.keep(made, (*v.shape[:2], 8)), out=v.shape[2])


# vectors


def crossed(b: Builder, v: Value) -> Value:
    """A layer of a cross network: the first value times a weighed sum, a bias and the value."""
    size = v.shape[1]
    total = b.op("MatMul", v.name, b.weight(size, 1, fan=size))
    made = b.op("Add", b.op("Mul", v.name, total), b.vector(size))
    return b.keep(b.op("Add", made, v.name), v.shape)


def factorised(b: Builder, v: Value) -> Value:
    """A factorisation machine: the square of sums less the sum of squares."""
    size = v.shape[1]
    array = b.rng.standard_normal((size, 4)) / math.sqrt(size)
    one = b.op("Pow", b.op("MatMul", v.name, b.const(array)), b.const(2.0))
    two = b.op("MatMul", b.op("Pow", v.name, b.const(2.0)), b.const(array**2))
    return b.keep(b.op("Mul", b.op("Sub", one, two), b.const(0.5)), (v.shape[0], 4))


def constant_left(b: Builder, v: Value) -> Value:
    """A product with the weight on the left: of the turned vectors, by MatMul or Gemm."""
    size, out = v.shape[1], int(b.pick([3, 8]))
    if b.chance(0.5):
        turned = b.op(
            "MatMul",
            b.const(b.rng.standard_normal((out, size)) / math.sqrt(size)),
            b.op("Transpose", v.name, perm=[1, 0]),
        )
    else:
        turned = b.op("Gemm", b.const(b.rng.standard_normal((out, size)) / math.sqrt(size)), v.name, transB=1)
    return b.keep(b.op("Transpose", turned, perm=[1, 0]), (v.shape[0], out))


def named_classes(b: Builder, v: Value) -> Value:
    """ArgMax or a comparison, as one more output of the model."""
    if b.chance(0.5):
        keeps = int(b.chance(0.5))
        b.hand_out(b.op("ArgMax", v.name, axis=1, keepdims=keeps), TensorProto.INT64, 1 + keeps)
    else:
        b.hand_out(b.op("Greater", v.name, b.const(0.0)), TensorProto.BOOL, 2)
    return gemm(b, v)


_ANY: tuple[Block, ...] = (
    branch, loop, chosen, bounded, cast_around, scattered, summed_up, beside_a_reduction, normalised_by, rms_norm,
    computed_weight, moved, several, rare_function, in_half, scan,
)  # fmt: skip
KINDS: dict[str, tuple[Block, ...]] = {
    "image": (
        *_ANY, group_norm, group_norm, padded_conv, padded_conv, focus, pixel_shuffle, sampled, to_size_of,
        places_weighed, last_chain, last_chain, other_pools, transposed_with_options, volume,
    ),
    "signal": (
        *_ANY, group_norm, padded_conv, to_size_of, places_weighed, other_pools, transposed_with_options, spectrum,
        spectrum, transform,
    ),
    "tokens": (
        *_ANY, masked_attention, masked_attention, linear_attention, einsum, einsum, recurrence_with_states,
        recurrence_with_states, rotary, routed, largest_tokens, tied_head, tied_head, microsoft,
        generated_weight, few_keys, attention_operator,
    ),
    "vector": (*_ANY, crossed, factorised, constant_left, named_classes),
}  # fmt: skip
"""By the kind of value that they read."""


def unusual_case(seed: int) -> RandomCase:
    """Grow a graph in which every second block is one of these, of opsets 7 to 23."""
    blocks = {kind: (*KINDS[kind], *common[: len(KINDS[kind])]) for kind, common in BLOCKS.items()}
    return random_case(seed, blocks, range(7, 24))

"""The time that an operator takes in integers and in float, by its shape: sums of terms whose factors were measured.

A row of `qtool.targets.times` holds the nanoseconds of each unit that the terms here count: a call, an output pixel, a
product of the padded matrices. `python -m bench.kernel_speed` measures kernels between their like and writes the rows.
The units follow from how the kernels work: onnxruntime's float convolutions run in blocks of 16 channels (NCHWc), the
integer ones channels last, on rows that are copied out of the image first (`core/mlas/lib/snchwc.cpp`, `qdwconv.cpp`,
`core/util/math_cpu.cc`: Im2col).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.graph import edit
from qtool.graph.edit import Node
from qtool.graph.layers import Layer
from qtool.targets.times import TIMES

Shape = Sequence[int]
Terms = Mapping[str, float]
Times = Mapping[str, Terms]
"""Row -> unit -> nanoseconds; a row is a form and a kind, as "integer depthwise"."""
_BLOCK = 16
_NEAR, _NEAR_SUMS = 2**18, 2**17
"""The numbers of 4 bytes that a cache holds: of a float output; of int32 sums, beside what they are made of."""
_UNBLOCKED = 2.0
"""How many times as long as an image a signal takes in float: 2.1 to 2.5, measured on two networks."""
_SURE = 0.97
"""What is joined takes less than this share of what it took: the table is right to some per cent."""
_INPUTS, _OUTPUTS, _LEAST = 4, 4, 16
"""Input and output channels are multiples of these, and outputs so many at least, where images are read as they are."""
_WIDER = 0.9
"""A kernel with more channels than are wanted takes less than this share of the time of one with these alone."""
BYTE_NS = 1.0
"""The nanoseconds that a weight in 8 bits, a byte of the file, is worth."""
COPIED, SLICED = "copied", "Slice"
"""The kind of integer convolutions that copy rows out of the image, and of what drops channels behind a wider one."""
BLOCKED = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip", "Concat")
"""The operators that onnxruntime runs in blocks of channels in float (`core/optimizer/nchwc_transformer.cc`)."""


@dataclass(frozen=True, slots=True)
class Wider:
    """A convolution with more output channels than it has.

    channels: how many. integer: its units then. dropped: those of what drops the channels behind it. more: how many
    numbers its weight has more.
    """

    channels: int
    integer: Terms
    dropped: Terms
    more: int


@dataclass(frozen=True, slots=True)
class Units:
    """The units that a node takes: its kind, and how many of each in integers and in float.

    copied: those in integers of a convolution that onnxruntime does not run on the image as it is; None of others.
    wider: with how many channels it would run so; None where with none, or where it does so by itself.
    """

    kind: str
    integer: Terms
    floating: Terms
    copied: Terms | None = None
    wider: Wider | None = None


def terms_of(node: Node, shapes: Mapping[str, Shape]) -> Units | None:
    """Return the units of a node between others of its form; None where a shape or the operator is not known.

    `shapes`: of all computed tensors, by name.
    """
    output = shapes.get(str(node.outputs[0].name))
    first = shapes.get(str(node.inputs[0].name)) if node.inputs and node.inputs[0] is not None else None
    if output is None or first is None or 0 in (*output, *first):
        return None
    layer = Layer.of(node)
    if layer is None:
        return _other(node, first, output, shapes)
    weight = edit.constant_or_none(layer.weight)
    if weight is None:
        return None
    if node.op_type == "Conv" and weight.ndim in (3, 4):
        return _any_convolution(node, weight.shape, first, output, layer.groups)
    if layer.is_product and weight.ndim == 2:
        return _product(math.prod(output[:-1]), *weight.shape)
    return None


def _strided(node: Node) -> bool:
    return any(step != 1 for step in edit.attribute(node, "strides", None) or ())


def _any_convolution(node: Node, weight: Shape, image: Shape, output: Shape, groups: int) -> Units:
    """A signal is an image of one row, and float does not go through it in blocks."""
    inside = _inside(node, weight[2:], image[2:], output[2:])
    if len(weight) == 4:
        return _convolution(weight, output, groups, inside, strided=_strided(node))
    kernel, row = ((*shape[:2], 1, shape[2]) for shape in (weight, output))
    units = _convolution(kernel, row, groups, inside, strided=_strided(node))
    return replace(units, floating={name: _UNBLOCKED * count for name, count in units.floating.items()})


def _inside(node: Node, kernel: Shape, image: Shape, output: Shape) -> float:
    """The share of the taps that lie inside of the image, 0 to 1: float kernels leave the border of zeros out."""
    rank, result = len(kernel), 1.0
    steps, gaps = (edit.attribute(node, name, None) or [1] * rank for name in ("strides", "dilations"))
    for axis, (taps, length, made) in enumerate(zip(kernel, image, output, strict=True)):
        reach = (made - 1) * steps[axis] + (taps - 1) * gaps[axis] + 1
        # where the border is, is the same but for one pixel
        first = max(reach - length, 0) // 2
        places = ([o * steps[axis] + t * gaps[axis] - first for t in range(taps)] for o in range(made))
        result *= sum(0 <= place < length for row in places for place in row) / (taps * made)
    return result


def _convolution(weight: Shape, output: Shape, groups: int, inside: float, *, strided: bool) -> Units:
    channels, own, taps = weight[0], weight[1], math.prod(weight[2:])
    pixels = output[0] * math.prod(output[2:])
    blocks = _up(channels) // _BLOCK
    if own == 1 and groups == channels and (groups > 1 or taps > 1):
        return Units(
            "depthwise",
            {
                "call": 1,
                "pixel": pixels,
                "tap": pixels * taps,
                "block": pixels * taps * (channels // _BLOCK),
                "rest": pixels * taps * (channels % _BLOCK),
                "uneven": pixels * taps * channels * (channels % _BLOCK != 0),
                "sum": pixels * channels,
            },
            {
                "call": 1,
                "block": pixels * blocks,
                "tap": pixels * taps * inside * blocks,
                "far": _far(pixels * _up(channels)),
            },
        )
    part = channels // groups
    integer = {
        "call": 1,
        "pixel": pixels * groups,
        "product": pixels * groups * _up(own * taps, 4) * _up(part),
        "sum": pixels * _up(part) * groups,
        "ragged": pixels * groups * (part % _BLOCK != 0),
        "far": max(pixels * groups * _up(part) - _NEAR_SUMS, 0),
    }
    floating = {
        "call": 1,
        "pixel": pixels * groups,
        "product": pixels * groups * own * taps * inside * _up(part),
        "sum": pixels * groups * _up(part),
        "far": _far(pixels * groups * _up(part)),
    }
    if groups > 1:
        return Units("grouped", integer, {**floating, "copy": pixels * groups * own * taps})
    whole = taps == 1 and not strided
    # rows are copied out of the image: short ones cost a call each, whatever they hold
    rows, length = pixels * weight[2], weight[3] * own
    copy = {"row": 0, "copy": 0} if whole else {"row": rows, "copy": rows * length}
    kind = "pointwise" if whole else "full" if length >= _BLOCK else "narrow"
    found = Units(kind, integer if whole else {**integer, **copy}, floating)
    if _direct(channels, own):
        return found
    copied = {
        "call": 1,
        "pixel": pixels,
        "read": pixels * own * taps,
        "product": pixels * _up(own * taps, 4) * _up(channels),
        "sum": pixels * channels,
        **copy,
    }
    if not may_be_wider(weight):
        return replace(found, copied=copied)
    wide = _wide(channels)
    wider = _convolution((wide, *weight[1:]), (output[0], wide, *output[2:]), groups, inside, strided=strided)
    dropped = {"call": 1, "pixel": pixels, "element": pixels * channels}
    more = (wide - channels) * own * taps
    return replace(found, copied=copied, wider=Wider(wide, wider.integer, dropped, more))


def may_be_wider(weight: Shape) -> bool:
    """Return whether a convolution with such a weight would be run on the image as it is, had it more channels."""
    return len(weight) == 4 and not _direct(weight[0], weight[1]) and _direct(_wide(weight[0]), weight[1])


def _wide(channels: int) -> int:
    """The number of channels that come next with which it may be."""
    return max(_up(channels, _OUTPUTS), _LEAST)


def _direct(channels: int, own: int) -> bool:
    """Whether the image is read as it is, by a kernel whose weights have zero points of 0.

    Source: `core/mlas/lib/convsym.cpp`, MlasConvSymPackWSize, as of x86 with AVX512.
    """
    return channels >= _LEAST and channels % _OUTPUTS == 0 and own % _INPUTS == 0


def _product(rows: int, inner: int, columns: int) -> Units:
    integer = {
        "call": 1,
        "read": rows * inner,
        "product": rows * _up(inner, 4) * _up(columns),
        "sum": rows * _up(columns),
    }
    floating = {"call": 1, "read": rows * inner, "product": rows * inner * _up(columns), "sum": rows * _up(columns)}
    return Units("product", integer, floating)


def _other(node: Node, image: Shape, output: Shape, shapes: Mapping[str, Shape]) -> Units:
    """By its elements; where an operand is spread over an image, integers are read a pixel at a time."""
    operands = [shapes.get(str(v.name)) for v in node.inputs if v is not None and not v.is_initializer()]
    elements = max(math.prod(shape) for shape in (image, output))
    spread = len(operands) > 1 and any(s is not None and math.prod(s) < elements for s in operands)
    kind = f"{node.op_type} spread" if spread and node.op_type in ("Add", "Mul") else node.op_type
    if kind == SLICED:
        elements = math.prod(output)
    per_pixel = (spread or kind == SLICED) and len(output) == 4
    pixels = elements // output[1] if per_pixel else 0
    units = {"call": 1, "element": elements}
    return Units(kind, {**units, "pixel": pixels}, units)


def attention_terms(lengths: Sequence[int], mask: str) -> tuple[Terms, Terms]:
    """Return the units of an attention in float as products apart, and as one kernel.

    lengths: N samples, H heads, S queries, T keys, D channels of these, V channels of values. mask: "none"; "keys":
    it is the same for all queries, and becomes a channel of the keys; "whole": of each query.
    """
    samples, heads, queries, keys, channels, width = lengths
    scores = samples * heads * queries * keys
    read = samples * heads * (queries * channels + keys * (channels + width))
    apart = {
        "call": 1,
        "product": scores * (channels + width),
        "score": scores,
        "far": max(scores - _NEAR, 0),
        "mask": scores * (mask != "none"),
        "read": read,
    }
    joined = {
        "call": 1,
        "product": scores * (channels + width),
        "score": scores,
        "keys": read * (mask == "keys"),
        "whole": scores * (mask == "whole"),
        "far": max(scores - _NEAR, 0) * (mask == "whole"),
        "read": read,
    }
    return apart, joined


@dataclass(frozen=True, slots=True)
class Costs:
    """The times of one target's kernels, in nanoseconds."""

    times: Times

    def integer(self, terms: Units) -> float | None:
        """Return the time of a node in integers between integer ones; None where its kind was not measured."""
        wider = self._wider(terms)
        return self._own(terms) if wider is None else wider

    def channels(self, terms: Units) -> int | None:
        """Return how many channels a convolution is to compute in integers, where more than it has are faster."""
        return None if terms.wider is None or self._wider(terms) is None else terms.wider.channels

    def _own(self, terms: Units) -> float | None:
        """The time in integers with the channels that it has."""
        copied = None if terms.copied is None else self._sum(f"integer {COPIED}", terms.copied)
        return self._sum(f"integer {terms.kind}", terms.integer) if copied is None else copied

    def _wider(self, terms: Units) -> float | None:
        """The time in integers with more channels, where that is less."""
        if terms.wider is None or f"integer {COPIED}" not in self.times:
            return None
        own, behind = self._own(terms), self._sum(f"integer {SLICED}", terms.wider.dropped)
        wide = self._sum(f"integer {terms.kind}", terms.wider.integer)
        if own is None or behind is None or wide is None:
            return None
        return wide + behind if wide + behind + BYTE_NS * terms.wider.more < _WIDER * own else None

    def floating(self, terms: Units) -> float | None:
        """Return the time of a node in float between blocks of channels; None where its kind was not measured."""
        return self._sum(f"float {terms.kind}", terms.floating)

    def joins(self, lengths: Sequence[int], mask: str) -> bool:
        """Return whether one kernel is faster than products apart; `attention_terms` says what is what."""
        apart, joined = attention_terms(lengths, mask)
        times = self._sum("float attention", apart), self._sum("float joined attention", joined)
        return times[0] is not None and times[1] is not None and times[1] < _SURE * times[0]

    def quantized(self, shape: Shape) -> float:
        """Return the time from a float tensor to the integers that a kernel reads: QuantizeLinear, and Transpose."""
        return self._moved(shape, "QuantizeLinear", "Transpose")

    def dequantized(self, shape: Shape) -> float:
        """Return the time from integers to the float tensor that a kernel reads: DequantizeLinear, and Transpose."""
        return self._moved(shape, "DequantizeLinear", "Transpose")

    def unblocked(self, shape: Shape) -> float:
        """Return the time from blocks of channels to a tensor as it is."""
        return self._moved(shape, "ReorderOutput")

    def blocked(self, shape: Shape) -> float:
        """Return the time from a tensor as it is to blocks of channels."""
        return self._moved(shape, "ReorderInput")

    def _moved(self, shape: Shape, *kinds: str) -> float:
        image = len(shape) == 4 and math.prod(shape[2:]) > 1
        units = {"call": 1, "element": math.prod(shape)}
        wanted = kinds if image else [kind for kind in kinds if kind.endswith("Linear")]
        return sum(self._sum(f"move {kind}", units) or 0.0 for kind in wanted)

    def _sum(self, row: str, units: Terms) -> float | None:
        known = self.times.get(row)
        return None if known is None else sum(known.get(unit, 0.0) * count for unit, count in units.items())


MEASURED = next(iter(TIMES))
"""The target whose times stand for those of others where only a guess is needed."""


def costs_of(target: str) -> Costs | None:
    """Return what was measured for a target, by its name; None where nothing was."""
    known = TIMES.get(target)
    return None if known is None else Costs(known)


def _far(numbers: int) -> int:
    return max(numbers - _NEAR, 0)


def _up(number: int, step: int = _BLOCK) -> int:
    return -(-number // step) * step

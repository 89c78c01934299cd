"""The table of rules: what costs speed, accuracy or trust in a quantised model, and what to do about it.

A rule is a row of `RULES`; docs/inspect.md explains each. Some find what they are about themselves, the others are the
causes of float islands, which `qtool.inspection.causes` tells apart.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qtool.core.records.inspection import REQUANTISE, Finding
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Node
from qtool.inspection import grids
from qtool.inspection.causes import bias_off, why_float, wrong_axis
from qtool.inspection.executed import Executed, is_integer, is_seam
from qtool.inspection.islands import Island
from qtool.inspection.makers import Maker
from qtool.inspection.opened import Opened
from qtool.inspection.planned import PlannedLayer

_NARROW = 64
"""Weights of 7 bits lie between -64 and 64."""
_SLOWER, _EXCESS = 1.2, 0.1
"""A node is slower in integers from this factor on; it is said where these cost such a share of the time."""
_SPREAD = 16.0
"""Where the largest channel of a weight is so many times the smallest, one scale for all costs accuracy."""


@dataclass(frozen=True)
class Look:
    """Everything that the rules look at.

    kernels: layer -> number of the node that it became. islands: the float ones. differs: layer or tensor -> in words,
    by how much onnxruntime's optimised graph computes something else than the file says. vnni: whether this processor
    multiplies 8 bits without saturation. float_ms: number of a node -> what the same takes in the float model. fails: what onnxruntime says where it
    loads the model, and cannot run it.
    """

    opened: Opened
    planned: Sequence[PlannedLayer]
    executed: Executed
    kernels: Mapping[str, int]
    islands: Sequence[Island]
    maker: Maker | None
    form: str
    vnni: bool
    float_ms: Mapping[int, float] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    fails: str = ""

    def kernel(self, layer: PlannedLayer) -> str:
        """Return the operator that a layer became; "" where it is gone."""
        number = self.kernels.get(layer.name)
        return "" if number is None else self.executed.nodes[number].op_type

    def runs_integer(self, layer: PlannedLayer) -> bool:
        """Return whether a layer runs in integers."""
        number = self.kernels.get(layer.name)
        return number is not None and is_integer(self.executed.nodes[number])

    def numbers(self, layers: Iterable[PlannedLayer]) -> list[int]:
        """Return the numbers of the nodes that layers became."""
        return [self.kernels[layer.name] for layer in layers if layer.name in self.kernels]


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule finds: where, in two sentences what and why, and the numbers of the nodes that run because of it.

    ms: what it costs, where that is not all the time of these nodes.
    """

    where: tuple[str, ...]
    what: str
    cause: str
    numbers: tuple[int, ...] = ()
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table.

    remedy: what helps whoever the maker is. find: what looks for it; None for a cause of islands.
    """

    name: str
    remedy: str
    find: Callable[[Look], Iterator[Found]] | None = None


def find_all(look: Look) -> tuple[Finding, ...]:
    """Return all findings, the dearest first: by time where it was measured, else in the order of the table."""
    found: list[Finding] = []
    for rule in RULES.values():
        for one in _grouped(look, rule.name) if rule.find is None else rule.find(look):
            ms = one.ms if one.ms is not None or not one.numbers else look.executed.time(one.numbers)
            total = look.executed.total
            found.append(
                Finding(
                    rule=rule.name,
                    where=one.where,
                    what=one.what,
                    cause=one.cause,
                    remedy=remedy_of(rule.name, look.maker),
                    ms=ms,
                    ms_share=ms / total if ms is not None and total else None,
                )
            )
    return tuple(sorted(found, key=lambda one: -(one.ms_share or 0.0)))


def remedy_of(rule: str, maker: Maker | None) -> str:
    """Return what to do about what a rule finds: an option of the maker where one is known, and what always works."""
    own = "" if maker is None else maker.options.get(rule, "")
    general = RULES[rule].remedy
    if own and maker is not None:
        other = f"; or {REQUANTISE}" if REQUANTISE in general else ""
        return f"{maker.name}: {own}{other}"
    return general


_NAME = re.compile(r"'[^']*'")


def _grouped(look: Look, rule: str) -> Iterator[Found]:
    """The islands of one cause together, those of one sentence in one finding."""
    groups: dict[tuple[str, str], list[Island]] = {}
    for island in look.islands:
        if island.cause.rule == rule:
            where = "tail" if island.ends else "head" if island.begins else "inner"
            groups.setdefault((_NAME.sub("", _without_numbers(island.cause.text)), where), []).append(island)
    for (_, where), found in groups.items():
        numbers = [number for island in found for number in (*island.nodes, *island.seams)]
        places = tuple(dict.fromkeys(place for island in found for place in island.places))
        ops = Counter(look.executed.nodes[n].op_type for island in found for n in island.nodes)
        kinds = ", ".join(op for op, _ in ops.most_common(4))
        at = {"tail": " at the end of the network", "head": " at its beginning", "inner": ""}[where]
        yield Found(
            places, f"{amount(len(found), 'float island')}{at}: {kinds}", _sentence(found[0].cause.text), tuple(numbers)
        )


def _without_numbers(text: str) -> str:
    return re.sub(r"-?\d[\d.e+-]*", "#", text)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fails(look: Look) -> Iterator[Found]:
    if look.fails:
        yield Found((), "onnxruntime loads the model, and fails when it runs", _sentence(look.fails))


def _nothing(look: Look) -> Iterator[Found]:
    if look.planned and not any(look.runs_integer(layer) for layer in look.planned):
        asked = sum(layer.planned for layer in look.planned)
        why = Counter(why_float(layer).text for layer in look.planned).most_common(1)[0][0]
        names = tuple(layer.name for layer in look.planned)
        yield Found(
            names, f"none of the {amount(asked, 'layer')} that the file quantises runs in integers", _sentence(why)
        )


def _requantised(look: Look) -> Iterator[Found]:
    layers = [
        layer
        for layer in look.planned
        if layer.w is None
        and layer.written is None
        and look.runs_integer(layer)
        and look.kernel(layer) != layer.node.op_type
    ]
    if layers:
        yield Found(
            tuple(layer.name for layer in layers),
            f"{amount(len(layers), 'layer')} that the file leaves in float run in integers",
            "Between a DequantizeLinear and a QuantizeLinear onnxruntime quantises the float weights of a Conv or Gemm "
            "itself, one scale for the whole tensor (WeightBiasQuantization)",
            tuple(look.numbers(layers)),
        )


def _wrong(look: Look) -> Iterator[Found]:
    for place, words in look.differs.items():
        layer = next((one for one in look.planned if one.name == place), None)
        reasons = [] if layer is None else [wrong_axis(layer), bias_off(layer)]
        why = next((reason for reason in reasons if reason), None)
        yield Found(
            (place,),
            f"onnxruntime computes something else than the file says ({words})",
            _sentence(why) if why else "Its integer kernel reads the Q/DQ otherwise than ONNX defines them",
        )


def _conv_integer(look: Look) -> Iterator[Found]:
    yield from _with_kernel(
        look,
        "ConvInteger",
        "ConvInteger has no fast kernel, and its input is quantised anew in each run",
    )


def _with_kernel(look: Look, kernel: str, why: str) -> Iterator[Found]:
    layers = [layer for layer in look.planned if look.kernel(layer) == kernel]
    if layers:
        words = f"{amount(len(layers), 'layer')} run as {kernel}"
        yield Found(tuple(layer.name for layer in layers), words, why, tuple(look.numbers(layers)))


def _signed_kernel(look: Look) -> Iterator[Found]:
    layers = [
        layer
        for layer in look.planned
        if (number := look.kernels.get(layer.name)) is not None
        and look.executed.nodes[number].op_type in ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger")
        and look.executed.nodes[number].reads[:1] == ("int8",)
    ]
    if layers:
        yield Found(
            tuple(layer.name for layer in layers),
            f"{amount(len(layers), 'layer')} run with int8 activations",
            "On x86 the fast kernels read uint8 activations and int8 weights; with int8 activations they are slower, "
            "for convolutions several times",
            tuple(look.numbers(layers)),
        )


def _slow_pool(look: Look) -> Iterator[Found]:
    numbers = [
        n for n, node in enumerate(look.executed.nodes) if node.op_type == "MaxPool" and is_integer(node)
    ]  # fmt: skip
    if numbers:
        yield Found(
            tuple(look.executed.nodes[n].name for n in numbers),
            f"{amount(len(numbers), 'MaxPool')} on 8-bit data, channels first",
            "MaxPool has a fast kernel for 8 bits only channels last, behind a convolution that is integer itself; "
            "channels first it takes several times what float does",
            tuple(numbers),
        )


def _slower(look: Look) -> Iterator[Found]:
    """Nodes in integers that the float model does faster, of which no other rule knows why: they cost the excess."""
    known = {
        n
        for find in (_slow_pool, _signed_kernel, _conv_integer, _one_channel)
        for one in find(look)
        for n in one.numbers
    }
    numbers = [
        n
        for n, ms in look.float_ms.items()
        if look.executed.ms
        and is_integer(look.executed.nodes[n])
        and look.executed.ms[n] > _SLOWER * ms
        and n not in known
    ]
    total = look.executed.total or 0.0
    excess = sum(look.executed.ms[n] - look.float_ms[n] for n in numbers)
    if numbers and excess > _EXCESS * total:
        worst = sorted(numbers, key=lambda n: look.float_ms[n] - look.executed.ms[n])
        ops = Counter(look.executed.nodes[n].op_type for n in worst)
        kinds = ", ".join(op for op, _ in ops.most_common(4))
        yield Found(
            tuple(look.executed.nodes[n].name for n in worst),
            f"{amount(len(numbers), 'node')} slower in integers than in float: {kinds}",
            "Their integer kernels are slower here than float's, for these sizes and types",
            tuple(numbers),
            excess,
        )


def _one_channel(look: Look) -> Iterator[Found]:
    layers = []
    for layer in look.planned:
        shape = None if layer.w is None else edit.static_shape(layer.w.stored)
        grouped = int(edit.attribute(layer.node, "group", 1)) > 1
        if (
            look.kernel(layer) == "QLinearConv"
            and shape is not None
            and len(shape) > 2
            and shape[1] == 1
            and not grouped
        ):
            layers.append(layer)
    if layers:
        yield Found(
            tuple(layer.name for layer in layers),
            f"{amount(len(layers), 'convolution')} in integers with a single input channel",
            "QLinearConv with one input channel takes several times what the float Conv does",
            tuple(look.numbers(layers)),
        )


def _dropped(look: Look) -> Iterator[Found]:
    """Q/DQ of the file behind each other, with nothing in between."""
    pairs = [str(node.name) for node in look.opened.nodes if grids.is_dequantize(node) and _only_quantized(node)]
    if pairs:
        yield Found(
            tuple(pairs),
            f"{amount(len(pairs), 'DequantizeLinear')} read by QuantizeLinear alone",
            "onnxruntime drops such pairs, or pays for them; between different grids they round twice",
        )


def _only_quantized(node: Node) -> bool:
    readers = edit.consumers(node.outputs[0])
    return bool(readers) and all(map(grids.is_quantize, readers)) and not node.outputs[0].is_graph_output()


def _seams(look: Look) -> Iterator[Found]:
    beside = {number for island in look.islands for number in island.seams}
    numbers = [n for n, node in enumerate(look.executed.nodes) if is_seam(node) and n not in beside]
    ends = [n for n in numbers if _at_end(look, n)]
    inner = [n for n in numbers if n not in ends and look.executed.nodes[n].op_type != "DynamicQuantizeLinear"]
    if inner:
        yield Found(
            tuple(look.executed.nodes[n].name or look.executed.nodes[n].label for n in inner),
            f"{amount(len(inner), 'Q/DQ node')} run between integer kernels",
            "Two grids meet there, or a node reads its numbers as float",
            tuple(inner),
        )


def _at_end(look: Look, number: int) -> bool:
    node = look.executed.nodes[number]
    ends = {port.name for port in (*look.opened.inputs, *look.opened.outputs)}
    return bool(ends.intersection((*node.inputs, *node.outputs)))


def _reduce_range(look: Look) -> Iterator[Found]:
    stored = [
        (layer, array)
        for layer in look.planned
        if layer.w is not None and layer.w.grid.dtype == "int8" and layer.w.grid.scale
        for array in (edit.constant_or_none(layer.w.stored),)
        if array is not None and array.dtype == np.int8
    ]
    narrow = [layer for layer, array in stored if array.size and np.abs(array.astype(np.int16)).max() <= _NARROW]
    if look.vnni and narrow and len(narrow) == len(stored):
        yield Found(
            tuple(layer.name for layer in narrow),
            f"the weights of {amount(len(narrow), 'layer')} use 7 of 8 bits",
            "A reduced range keeps processors without VNNI from saturating; this one has VNNI, and loses 6 dB of the "
            "weights for nothing",
        )
    wide = [
        layer for layer, _ in stored if layer not in narrow and layer.x is not None and layer.x.grid.dtype == "uint8"
    ]
    if not look.vnni and wide:
        yield Found(
            tuple(layer.name for layer in wide),
            f"{amount(len(wide), 'layer')} with 8-bit weights on a processor that may saturate",
            "Without VNNI pairs of products of uint8 and int8 are added in 16 bits",
        )


def _per_tensor(look: Look) -> Iterator[Found]:
    layers = []
    for layer in look.planned:
        array = None if layer.w is None else edit.constant_or_none(layer.w.stored)
        known = None if layer.w is None else layer.w.grid
        if array is None or known is None or len(known.scale) != 1 or array.ndim < 2 or array.dtype.kind not in "iu":
            continue
        row = layer.written
        axis = row.axis if row is not None and row.axis is not None else _output_axis(layer)
        flat = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.int32) - known.zero_point[0])
        largest = flat.max(1)
        largest = largest[largest > 0]
        if largest.size > 1 and largest.max() > _SPREAD * np.percentile(largest, 10):
            layers.append(layer)
    if layers:
        yield Found(
            tuple(layer.name for layer in layers),
            f"{amount(len(layers), 'layer')} whose weights have one scale for channels of very different size",
            f"A tenth of their channels is {_SPREAD:g} times smaller than the largest, and left with a few steps",
        )


def _output_axis(layer: PlannedLayer) -> int:
    from qtool.graph.layers import Layer

    known = Layer.of(layer.node)
    return 0 if known is None else known.output_axis


def _old_opset(look: Look) -> Iterator[Found]:
    version = look.opened.opset.get("ai.onnx", 0)
    pools = [
        str(node.name)
        for node in look.opened.nodes
        if edit.is_main_op(node, "MaxPool") and grids.direct_grid(node.inputs[0]) is not None
    ]
    if version < 12 and pools:
        yield Found(
            tuple(pools), f"opset {version}: {amount(len(pools), 'MaxPool')} cannot run on 8 bits",
            "MaxPool takes 8-bit data since opset 12",
        )  # fmt: skip


def _fake_weights(look: Look) -> Iterator[Found]:
    layers = [
        layer
        for layer in look.planned
        if layer.w is not None and layer.w.stored is not None and grids.is_quantize(layer.w.stored.producer())
        and grids.is_constant(layer.w.stored)
    ]  # fmt: skip
    if layers:
        yield Found(
            tuple(layer.name for layer in layers),
            f"the weights of {amount(len(layers), 'layer')} are stored in float, with a QuantizeLinear behind them",
            "The file is four times as large as it need be, and onnxruntime rounds them whenever it loads the model",
        )


_BY_QTOOL = f"{REQUANTISE}, which puts Q/DQ where onnxruntime's integer kernels want them"
_ROWS = (
    Rule("wrong-result", f"do not ship it; {REQUANTISE}, which proves what the kernels compute", _wrong),
    Rule("does-not-run", _BY_QTOOL, _fails),
    Rule("no-integers", _BY_QTOOL, _nothing),
    Rule("requantised", f"{REQUANTISE} and leave the layer out there: it is hidden from onnxruntime", _requantised),
    Rule("missing-output-q", _BY_QTOOL),
    Rule("missing-input-q", _BY_QTOOL),
    Rule("also-read", _BY_QTOOL),
    Rule("relu-zero-point", f"uint8 activations with zero point 0 behind a Relu: {REQUANTISE}"),
    Rule("signed-activations", f"uint8 activations: {REQUANTISE}"),
    Rule("signed-kernel", f"uint8 activations: {REQUANTISE}", _signed_kernel),
    Rule("unequal-ranges", f"one range for what is only moved: {REQUANTISE}"),
    Rule("mixed-types", f"one 8-bit type throughout: {REQUANTISE}"),
    Rule("wide-type", f"8 bits: {REQUANTISE}; 16 and 4 bits and float8 are for other devices"),
    Rule("vector-scale", f"one scale for each activation: {REQUANTISE}"),
    Rule("no-zero-point", f"write the zero point, 0 as it may be; or {REQUANTISE}"),
    Rule("wrong-axis", f"scales of weights along the output channels: {REQUANTISE}"),
    Rule("bias-scale", f"a bias scale that is the input's times the weight's: {REQUANTISE}"),
    Rule("batch-norm", f"fold batch normalisations before quantising; or {REQUANTISE}, which does"),
    Rule("no-kernel", f"leave it without Q/DQ; or {REQUANTISE}, which puts none there, and rewrites what it can"),
    Rule("layout", _BY_QTOOL),
    Rule("not-quantised", _BY_QTOOL),
    Rule("float-weight", _BY_QTOOL),
    Rule("float-constant", _BY_QTOOL),
    Rule("float-tail", _BY_QTOOL),
    Rule("dynamic", f"calibrated ranges, where its operators have kernels for them: {REQUANTISE}"),
    Rule("weights-only", f"it saves memory, not time; for speed {REQUANTISE}"),
    Rule("conv-integer", f"calibrated ranges instead of dynamic ones: {REQUANTISE}", _conv_integer),
    Rule("slow-pool", f"leave MaxPool without Q/DQ where its neighbours are float; or {REQUANTISE}", _slow_pool),
    Rule("slower-in-integers", f"{REQUANTISE} for latency: it leaves in float what integers are slower at", _slower),
    Rule("one-channel", f"leave that layer in float; or {REQUANTISE}, which measures it", _one_channel),
    Rule("old-opset", f"export with opset 13 or later; or {REQUANTISE}, which raises it", _old_opset),
    Rule("unexplained", f"{REQUANTISE}, which looks at what onnxruntime makes of it, and plans again"),
    Rule("seams", _BY_QTOOL, _seams),
    Rule("dropped-pairs", _BY_QTOOL, _dropped),
    Rule("reduced-range", f"{REQUANTISE} for its target: all 8 bits where that has VNNI", _reduce_range),
    Rule("per-tensor", f"a scale for each output channel: {REQUANTISE}", _per_tensor),
    Rule("float-weights-stored", f"store the integers: {REQUANTISE}", _fake_weights),
)  # fmt: skip
RULES = {rule.name: rule for rule in _ROWS}

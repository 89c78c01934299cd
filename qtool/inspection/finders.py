"""The rules that find by themselves what they are about, one function each; `findings.py` has the table of them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from qtool.anatomy import grids
from qtool.anatomy.executed import is_integer, is_seam
from qtool.anatomy.planned import PlannedLayer
from qtool.core.text import amount, sentence
from qtool.graph import edit
from qtool.graph.edit import Node, Value
from qtool.graph.layers import Layer
from qtool.inspection.causes import bias_off, scale_off, why_float, wrong_axis
from qtool.inspection.look import Found, Look

_FAIR, _WORST = 15.0, 4
"""The SQNR of an output in dB below which accuracy is lost; so many tensors are named."""
_NARROW = 64
"""Weights of 7 bits lie between -64 and 64."""
_SLOWER, _EXCESS = 1.2, 0.1
"""A node is slower in integers from this factor on; it is said where these cost such a share of the time."""
_SPREAD = 16.0
"""Where the largest channel of a weight is so many times the smallest, one scale for all costs accuracy."""


def fails(look: Look) -> Iterator[Found]:
    """Find a model that onnxruntime loads, and cannot run."""
    if look.fails:
        yield Found((), "onnxruntime loads the model, and fails when it runs", sentence(look.fails))


def accuracy(look: Look) -> Iterator[Found]:
    """Find outputs that lie far from float's, and what loses most by itself."""
    db = look.output_db
    if db is None or db >= _FAIR or look.trained:
        return
    alone = {name: one for name, one in look.errors.alone.items() if one is not None and name not in look.outputs}
    worst = sorted(alone, key=lambda name: alone[name])[:_WORST]
    # options of makers name nodes, those of the float model, and layers rather than the Relu behind
    planned = [one for one in look.planned if one.written is None]
    layers = {str(node.name): one.name for one in planned for node in (*one.absorbed, one.node)}
    nodes = {
        row.tensor: next((layers[name] for name in row.nodes if name in layers), row.nodes[-1])
        for row in look.errors.rows
        if row.nodes
    }
    told = ", ".join(f"{nodes.get(name, name)} {alone[name]:.1f} dB" for name in worst)
    yield Found(
        tuple(nodes.get(name, name) for name in worst),
        f"the output lies {db:.1f} dB from float's; below {_FAIR:g} it costs accuracy",
        f"What loses most by itself: {told}" if told else "No layer alone is known to lose as much",
    )


def trained(look: Look) -> Iterator[Found]:
    """Find a model that was trained behind the float one, of which SQNR says little."""
    if look.trained:
        yield Found(
            look.trained,
            f"the weights of {amount(len(look.trained), 'layer')} are others than float's, whatever their rounding",
            "It was trained on, or corrected: SQNR says how far it moved from that float model, and not what it lost",
        )


def bad_scale(look: Look) -> Iterator[Found]:
    """Find activations whose scale is 0, negative or not finite."""
    grids_of = {
        str(node.outputs[0].name): grids.grid_of(node)
        for node in look.opened.nodes
        if grids.is_quantize(node) and not grids.is_constant(node.inputs[0])
    }
    for layer in look.planned:
        for end, placed in (("input", layer.x), ("output", layer.y)):
            if placed is not None and not (grids.is_quantize(placed.node) or grids.is_dequantize(placed.node)):
                grids_of[f"{end} of {layer.name}"] = placed.grid
    wrong = {name: scale for name, grid in grids_of.items() if (scale := scale_off(grid)) is not None}
    if wrong:
        numbers = [n for island in look.islands if island.cause.rule == "bad-scale" for n in island.nodes]
        yield Found(
            tuple(wrong),
            f"{amount(len(wrong), 'tensor')} quantised with a scale that is {', '.join(sorted(set(wrong.values())))}",
            "A scale is a positive number; with another all that the tensor holds is lost",
            tuple(numbers),
        )


def nothing(look: Look) -> Iterator[Found]:
    """Find a model of which nothing runs in integers."""
    asked = sum(layer.planned for layer in look.planned)
    if asked and not any(look.runs_integer(layer) for layer in look.planned):
        why = Counter(why_float(layer).text for layer in look.planned).most_common(1)[0][0]
        names = tuple(layer.name for layer in look.planned)
        which = "the one layer" if asked == 1 else f"none of the {asked} layers"
        words = f"{which} that the file quantises runs in {'float' if asked == 1 else 'integers'}"
        yield Found(names, words, sentence(why))


def requantised(look: Look) -> Iterator[Found]:
    """Find layers that onnxruntime quantises though the file leaves them in float."""
    layers = [
        layer
        for layer in look.planned
        if layer.w is None
        and layer.written is None
        and look.runs_integer(layer)
        and look.kernel(layer) != layer.node.op_type
    ]
    yield from _of(
        look,
        layers,
        f"{_count(layers)} that the file leaves in float run in integers",
        "Between a DequantizeLinear and a QuantizeLinear onnxruntime quantises the float weights of a Conv or Gemm "
        "itself, one scale for the whole tensor (WeightBiasQuantization)",
    )


def _of(look: Look, layers: Sequence[PlannedLayer], what: str, why: str, *, costs_time: bool = True) -> Iterator[Found]:
    """The find about some layers; none where there is none. costs_time: whether their time is its price."""
    if layers:
        numbers = tuple(look.numbers(layers)) if costs_time else ()
        yield Found(tuple(layer.name for layer in layers), what, why, numbers)


def _count(layers: Sequence[PlannedLayer]) -> str:
    return amount(len(layers), "layer")


def wrong(look: Look) -> Iterator[Found]:
    """Find layers that onnxruntime computes otherwise than the file says."""
    for place, words in look.differs.items():
        layer = next((one for one in look.planned if one.name == place), None)
        reasons = [] if layer is None else [wrong_axis(layer), bias_off(layer)]
        why = next((reason for reason in reasons if reason), None)
        yield Found(
            (place,),
            f"onnxruntime computes something else than the file says ({words})",
            sentence(why) if why else "Its integer kernel reads the Q/DQ otherwise than ONNX defines them",
        )


def conv_integer(look: Look) -> Iterator[Found]:
    """Find layers that run as ConvInteger."""
    layers = [layer for layer in look.planned if look.kernel(layer) == "ConvInteger"]
    yield from _of(
        look,
        layers,
        f"{_count(layers)} run as ConvInteger",
        "ConvInteger has no fast kernel, and its input is quantised anew in each run",
    )


_READING = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger")


def signed_kernel(look: Look) -> Iterator[Found]:
    """Find integer layers that read int8 activations."""
    layers = [
        layer
        for layer in look.planned
        if (number := look.kernels.get(layer.name)) is not None
        and look.executed.nodes[number].op_type in _READING
        and look.executed.nodes[number].reads[:1] == ("int8",)
    ]
    yield from _of(
        look,
        layers,
        f"{_count(layers)} run with int8 activations",
        "On x86 the fast kernels read uint8 activations and int8 weights; with int8 activations they are slower, "
        "for convolutions several times",
    )


def slow_pool(look: Look) -> Iterator[Found]:
    """Find MaxPools on 8-bit data that are channels first."""
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


def slower(look: Look) -> Iterator[Found]:
    """Find nodes in integers that float does faster, of which no other rule knows why: they cost the excess."""
    known = {
        n for find in (slow_pool, signed_kernel, conv_integer, one_channel) for one in find(look) for n in one.numbers
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


def one_channel(look: Look) -> Iterator[Found]:
    """Find integer convolutions with a single input channel."""
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
    yield from _of(
        look,
        layers,
        f"{amount(len(layers), 'convolution')} in integers with a single input channel",
        "QLinearConv with one input channel takes several times what the float Conv does",
    )


def dropped(look: Look) -> Iterator[Found]:
    """Find Q/DQ behind each other, with nothing in between."""
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


def seams(look: Look) -> Iterator[Found]:
    """Find Q/DQ that run between integer kernels."""
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
    """Whether it reads an input, or makes an output, of the model or of the body that holds it."""
    node = look.executed.nodes[number]
    made = look.executed.maker(node.inputs[0]) is not None
    return not made or not any(map(look.executed.readers, node.outputs))


def reduced_range(look: Look) -> Iterator[Found]:
    """Find weights that use too few bits for this processor, or too many."""
    stored = [
        (layer, array)
        for layer in look.planned
        if layer.w is not None and layer.w.grid.dtype == "int8" and layer.w.grid.scale
        for array in (edit.constant_or_none(layer.w.stored),)
        if array is not None and array.dtype == np.int8
    ]
    narrow = [layer for layer, array in stored if array.size and np.abs(array.astype(np.int16)).max() <= _NARROW]
    if look.vnni and len(narrow) == len(stored):
        yield from _of(
            look,
            narrow,
            f"the weights of {_count(narrow)} use 7 of 8 bits",
            "A reduced range keeps processors without VNNI from saturating; this one has VNNI, and loses 6 dB of the "
            "weights for nothing",
            costs_time=False,
        )
    wide = [
        layer for layer, _ in stored if layer not in narrow and layer.x is not None and layer.x.grid.dtype == "uint8"
    ]
    if not look.vnni:
        yield from _of(
            look,
            wide,
            f"{_count(wide)} with 8-bit weights on a processor that may saturate",
            "Without VNNI pairs of products of uint8 and int8 are added in 16 bits",
            costs_time=False,
        )


def per_tensor(look: Look) -> Iterator[Found]:
    """Find weights whose channels differ much, and share one scale."""
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
    yield from _of(
        look,
        layers,
        f"{_count(layers)} whose weights have one scale for channels of very different size",
        f"A tenth of their channels is {_SPREAD:g} times smaller than the largest, and left with a few steps",
        costs_time=False,
    )


def _output_axis(layer: PlannedLayer) -> int:
    known = Layer.of(layer.node)
    return 0 if known is None else known.output_axis


def old_opset(look: Look) -> Iterator[Found]:
    """Find MaxPools that cannot run on 8 bits in this opset."""
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


def fake_weights(look: Look) -> Iterator[Found]:
    """Find weights that are stored in float, with a Q behind them."""
    layers = [layer for layer in look.planned if layer.w is not None and _is_rounded_at_load(layer.w.stored)]
    yield from _of(
        look,
        layers,
        f"the weights of {_count(layers)} are stored in float, with a QuantizeLinear behind them",
        "The file is four times as large as it need be, and onnxruntime rounds them whenever it loads the model",
        costs_time=False,
    )


def _is_rounded_at_load(stored: Value | None) -> bool:
    """Whether 8-bit weights are made of float ones, a Clip to fewer bits in between or not (QCDQ)."""
    node = None if stored is None else stored.producer()
    if node is not None and edit.is_main_op(node, "Clip"):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return grids.is_quantize(node) and grids.is_constant(stored)

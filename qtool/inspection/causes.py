"""Why a node runs in float, or otherwise than the file says: the conditions of onnxruntime's selectors, one by one.

Source: onnxruntime `core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc`, and what its optimised graphs
were seen to hold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qtool.anatomy import grids
from qtool.anatomy.executed import EIGHT_BITS
from qtool.anatomy.integers import NBITS
from qtool.anatomy.opened import element_type
from qtool.anatomy.planned import PlannedLayer
from qtool.core.records.inspection import Grid
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.edit import Node, Value
from qtool.graph.layers import Layer
from qtool.targets.kernels import IN_BLOCKS
from qtool.targets.rules import OpRule
from qtool.targets.tables import TARGETS

_RULES = TARGETS["x86"].rules
_KINDS = ("Conv", "Gemm", "MatMul")
"""The layers that have a kernel with calibrated ranges."""
_SCALARS = ("Add", "Mul")
"""Those that are not taken with scales of shape [1], as others are."""
_SCALE_NEAR = 0.01
_LOWEST = {"uint8": 0, "int8": -128}


@dataclass(frozen=True, slots=True)
class Cause:
    """The rule of `qtool.inspection.findings` that explains it, and a sentence with the particulars."""

    rule: str
    text: str


_Check = Callable[[PlannedLayer], Cause | None]


def why_float(layer: PlannedLayer) -> Cause:
    """Return why a layer runs in float."""
    for check in _PLANNED if layer.planned else _UNPLANNED:
        found = check(layer)
        if found is not None:
            return found
    return Cause("unexplained", f"{layer.node.op_type} has Q/DQ as onnxruntime wants them, and yet it runs in float")


def why_float_node(node: Node) -> Cause:
    """Return why a node that is no layer runs in float between Q/DQ."""
    op = node.op_type
    rule = _RULES.get(op) if node.domain in ("", "ai.onnx") else None
    ahead = grids.grid_ahead(node.outputs[0])
    if op in ("Relu", "Clip") and ahead is not None:
        found = _bound(node, ahead.grid)
        if found is not None:
            return found
    if rule is None or rule.kind == "bridge":
        return Cause("no-kernel", f"{op} has no integer kernel")
    return _why_between(node, rule)


def _why_between(node: Node, rule: OpRule) -> Cause:
    """Of an operator that has an integer kernel."""
    op = node.op_type
    data = [node.inputs[i] for i in rule.inputs or range(len(node.inputs)) if i < len(node.inputs)]
    behind = [grids.direct_grid(v) for v in data if v is not None and not v.is_initializer()]
    made = [grids.grid_ahead(v) for v in node.outputs]
    if any(found is None for found in behind):
        return Cause("missing-input-q", f"an input of {op} is not quantised")
    if any(found is None for found in made):
        return Cause("missing-output-q", f"the output of {op} is not quantised{_readers(node.outputs[0])}")
    there = [found.grid for found in (*behind, *made) if found is not None]
    placed = [found for found in (*behind, *made) if found is not None]
    if op in _SCALARS and any(edit.static_shape(found.node.inputs[1]) == (1,) for found in placed):
        return Cause("scale-shape", f"{op} has scales of shape [1]; its integer kernel takes scalars, of shape []")
    stored = any(v is not None and v.is_initializer() for v in data) and rule.kind == "elementwise"
    return _why_on_grids(op, there, moves=rule.kind == "passthrough", stored=stored)


def _why_on_grids(op: str, there: list[Grid], *, moves: bool, stored: bool) -> Cause:
    """Of an operator with Q/DQ on all sides. stored: whether it reads a float constant as well."""
    wide = next((grid.dtype or "an unknown type" for grid in there if grid.dtype not in EIGHT_BITS), None)
    if wide is not None:
        return Cause("wide-type", f"{op} reads or makes {wide}; the CPU's integer kernels take int8 and uint8")
    if len({grid.dtype for grid in there}) > 1:
        return Cause("mixed-types", f"{op} reads and makes different types ({_types(there)})")
    if moves and not all(grids.same_grid(there[0], other) for other in there[1:]):
        return Cause("unequal-ranges", f"{op} only moves numbers, but its input and output have different scales")
    if stored:
        return Cause("float-constant", f"{op} reads a constant that is not quantised")
    if "int8" in {grid.dtype for grid in there}:
        return _SIGNED
    return Cause("unexplained", f"{op} has Q/DQ on all sides, and yet it runs in float")


def _moved(layer: PlannedLayer) -> Cause | None:
    if layer.x is None or not layer.x.moved:
        return None
    data = layer.node.inputs[0]
    maker = None if data is None else data.producer()
    op = "" if maker is None else maker.op_type
    return Cause("missing-input-q", f"{op} stands between its input's DequantizeLinear and it, without Q/DQ of its own")


def _no_kernel(layer: PlannedLayer) -> Cause | None:
    if layer.node.op_type in _KINDS:
        return None
    return Cause("no-kernel", f"{layer.node.op_type} has no integer kernel for calibrated ranges")


def _float_only(layer: PlannedLayer) -> Cause | None:
    if layer.node.op_type in _KINDS or layer.w is not None:
        return None
    return Cause(
        "float-only", f"{layer.node.op_type} has no integer kernel for calibrated ranges, and nobody asks for it"
    )


def _wide(layer: PlannedLayer) -> Cause | None:
    for what, placed in (("input", layer.x), ("weight", layer.w), ("output", layer.y)):
        if placed is not None and placed.grid.dtype not in EIGHT_BITS:
            dtype = placed.grid.dtype or "an unknown type"
            return Cause("wide-type", f"its {what} is {dtype}; the CPU's integer kernels take int8 and uint8")
    return None


def _half(layer: PlannedLayer) -> Cause | None:
    for what, placed in (("input", layer.x), ("weight", layer.w), ("output", layer.y)):
        dtype = "" if placed is None or len(placed.node.inputs) < 2 else element_type(placed.node.inputs[1])
        if dtype in ("float16", "bfloat16"):
            return Cause("half-scales", f"the scale of its {what} is {dtype}; the integer kernels take float32 scales")
    return None


def _vector(layer: PlannedLayer) -> Cause | None:
    for what, placed in (("input", layer.x), ("output", layer.y)):
        if placed is not None and len(placed.grid.scale) > 1:
            return Cause(
                "vector-scale", f"its {what} has {len(placed.grid.scale)} scales; the kernels take one for a tensor"
            )
    return None


def _no_zero_point(layer: PlannedLayer) -> Cause | None:
    for what, placed in (("input", layer.x), ("output", layer.y)):
        if placed is not None and (len(placed.node.inputs) < 3 or placed.node.inputs[2] is None):
            return Cause("no-zero-point", f"the Q/DQ of its {what} have no zero point input")
    return None


def _axis(layer: PlannedLayer) -> Cause | None:
    wrong = wrong_axis(layer)
    return None if wrong is None else Cause("wrong-axis", wrong)


def wrong_axis(layer: PlannedLayer) -> str | None:
    """Return what is wrong with the axis of a weight's scales, in words; None where nothing is."""
    known = Layer.of(layer.node)
    if layer.w is None or layer.w.grid.axis is None or layer.w.moved or known is None or known.weight is None:
        return None
    rank = edit.rank(layer.w.stored)
    if rank is None:
        return None
    axis, wanted = layer.w.grid.axis % rank, known.output_axis
    if known.is_product and rank > 2:
        wanted = rank - 1
    if axis == wanted:
        return None
    return f"the scales of its weight lie along axis {axis}; those of the output channels would be axis {wanted}"


def _output_missing(layer: PlannedLayer) -> Cause | None:
    node = layer.node
    if layer.y is not None or (node.op_type != "Conv" and not _float_bias(layer)):
        return None
    output = node.outputs[0]
    if grids.behind_norm(node) is not None:
        return Cause("batch-norm", "a BatchNormalization stands between it and the QuantizeLinear")
    if output.is_graph_output() and not edit.consumers(output):
        return Cause("float-tail", "it makes an output of the model, with no QuantizeLinear behind it")
    return Cause("missing-output-q", f"its output is not quantised{_readers(output)}")


def _float_bias(layer: PlannedLayer) -> bool:
    known = Layer.of(layer.node)
    bias = None if known is None else known.bias
    if layer.node.op_type == "MatMul":
        reader = edit.single_consumer(layer.node.outputs[0])
        if reader is None or not edit.is_main_op(reader, "Add"):
            return False
        bias = next((v for v in reader.inputs if v is not layer.node.outputs[0]), None)
    return bias is not None and grids.direct_grid(bias) is None


def _readers(value: Value) -> str:
    readers = [node for node in edit.consumers(value) if not grids.is_quantize(node)]
    if value.is_graph_output():
        return ": it is an output of the model"
    if not readers:
        return ""
    named = ", ".join(dict.fromkeys(node.op_type for node in readers))
    return f" before {named} reads it"


def _also_read(layer: PlannedLayer) -> Cause | None:
    if layer.y is None or layer.node.op_type == "MatMul":
        return None
    chain = [layer.node, *layer.absorbed]
    for node in chain:
        output = node.outputs[0]
        others = [reader for reader in edit.consumers(output) if not grids.is_quantize(reader) and reader not in chain]
        if output.is_graph_output() or others:
            who = "is an output of the model" if output.is_graph_output() else f"is read by {others[0].op_type}"
            return Cause("also-read", f"its output is quantised, and {who} in float as well")
    return None


def _relu(layer: PlannedLayer) -> Cause | None:
    if layer.y is None or not layer.absorbed:
        return None
    return _bound(layer.absorbed[0], layer.y.grid)


def _bound(node: Node, grid: Grid) -> Cause | None:
    """Why a Relu or Clip is no part of the rounding to a grid; None where it is."""
    if not grid.zero_point or len(grid.scale) != 1:
        return None
    low, high = _bounds(grid)
    bottom, top = _clip(node)
    if low >= bottom - 1e-6 and high <= top * (1 + 1e-6):
        return None
    end, at = (bottom, low) if low < bottom - 1e-6 else (top, high)
    return Cause(
        "relu-zero-point",
        f"{node.op_type} ends at {end:g}, and the grid behind it at {at:.3g} ({grid.dtype}, zero point "
        f"{grid.zero_point[0]}), so it is no part of the rounding",
    )


def _bounds(grid: Grid) -> tuple[float, float]:
    lowest = _LOWEST.get(grid.dtype, 0)
    scale, zero = float(grid.scale[0]), grid.zero_point[0]
    return (lowest - zero) * scale, (lowest + 255 - zero) * scale


def _clip(node: Node) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, float("inf")
    ends = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = node.inputs[index] if len(node.inputs) > index else None
        constant = edit.constant_or_none(value)
        ends.append(float(edit.attribute(node, name, default)) if constant is None else float(constant.reshape(-1)[0]))
    return ends[0], ends[1]


def _types_differ(layer: PlannedLayer) -> Cause | None:
    if layer.x is None or layer.w is None:
        return None
    if layer.y is not None and layer.x.grid.dtype != layer.y.grid.dtype:
        types = f"{layer.x.grid.dtype} in, {layer.y.grid.dtype} out"
        return Cause("mixed-types", f"it reads and makes different types ({types})")
    if (layer.x.grid.dtype, layer.w.grid.dtype) == ("int8", "uint8"):
        return Cause("mixed-types", "its input is int8 and its weight uint8, for which there is no kernel")
    return None


_SIGNED = Cause(
    "signed-activations",
    "its activations are int8; on x86 onnxruntime turns those into uint8 that one node alone reads, so that it reads "
    "one type and makes another",
)


def _signed(layer: PlannedLayer) -> Cause | None:
    return _SIGNED if layer.x is not None and layer.x.grid.dtype == "int8" else None


def _bias(layer: PlannedLayer) -> Cause | None:
    wrong = bias_off(layer)
    return None if wrong is None else Cause("bias-scale", wrong)


def bias_off(layer: PlannedLayer) -> str | None:
    """Return what is wrong with the scale of an integer bias, in words; None where nothing is, or it is float."""
    known = Layer.of(layer.node)
    placed = None if known is None else grids.direct_grid(known.bias)
    if placed is None or layer.x is None or layer.w is None or not layer.x.grid.scale or not layer.w.grid.scale:
        return None
    wanted = np.asarray(layer.x.grid.scale[0], float) * np.asarray(layer.w.grid.scale, float)
    found = np.asarray(placed.grid.scale, float)
    if placed.grid.dtype != "int32":
        return f"its bias is {placed.grid.dtype}; the kernels take int32"
    if found.size not in (1, wanted.size) and wanted.size != 1:
        return f"its bias has {amount(found.size, 'scale')}, its weight {wanted.size}"
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.nanmax(np.abs(found / wanted - 1.0))
    if not factor > _SCALE_NEAR:
        return None
    return f"the scale of its bias is off that of input times weight by up to {100 * factor:.3g} %"


def _only_weights(layer: PlannedLayer) -> Cause | None:
    if not layer.weights_only:
        return None
    if layer.node.op_type == NBITS:
        return _in_float(layer.node)
    graph = layer.node.graph
    if graph is None or not any(grids.is_quantize(node) and not grids.is_constant(node.inputs[0]) for node in graph):
        dtype = layer.w.grid.dtype if layer.w is not None else ""
        return Cause(
            "weights-only", f"only its weight is quantised ({dtype or 'of an unknown type'}), and not its input"
        )
    data = layer.node.inputs[0]
    maker = None if data is None else data.producer()
    source = "its input" if maker is None else f"its input, which {maker.op_type} makes,"
    return Cause("missing-input-q", f"{source} is not quantised")


def _in_float(node: Node) -> Cause:
    bits, block, level = (int(edit.attribute(node, name, 0)) for name in ("bits", "block_size", "accuracy_level"))
    if level != IN_BLOCKS:
        return Cause(
            "accuracy-level", f"its weights have {bits} bits, and with accuracy_level {level} it computes in float"
        )
    return Cause("weights-only", f"onnxruntime has no integer kernel for weights of {bits} bits in blocks of {block}")


def _float_weight(layer: PlannedLayer) -> Cause | None:
    if layer.x is None or layer.w is not None:
        return None
    return Cause("float-weight", "its input is quantised, and not its weight")


def _unquantized(_: PlannedLayer) -> Cause:
    return Cause("not-quantised", "the file has no Q/DQ for it")


def _types(there: list[Grid]) -> str:
    return ", ".join(dict.fromkeys(grid.dtype for grid in there))


def scale_off(grid: Grid) -> str | None:
    """Return a scale of activations that is none, in words; None where all are positive and finite."""
    wrong = [scale for scale in grid.scale if not 0.0 < scale < float("inf")]
    return f"{wrong[0]:g}" if wrong else None


def _bad_scale(layer: PlannedLayer) -> Cause | None:
    for what, placed in (("input", layer.x), ("output", layer.y)):
        wrong = None if placed is None else scale_off(placed.grid)
        if wrong is not None:
            return Cause("bad-scale", f"the scale of its {what} is {wrong}")
    return None


_PLANNED: tuple[_Check, ...] = (
    _bad_scale,
    _no_kernel,
    _wide,
    _half,
    _vector,
    _no_zero_point,
    _axis,
    _output_missing,
    _also_read,
    _types_differ,
    _relu,
    _bias,
    _signed,
    _moved,
)
_UNPLANNED: tuple[_Check, ...] = (_only_weights, _float_only, _no_kernel, _float_weight, _unquantized)

"""The grid of a tensor: scale and zero point, whatever form of Q/DQ or integer operator gives them."""

from dataclasses import dataclass

import numpy as np

from qtool.anatomy.opened import element_type, multiplied
from qtool.core.records.inspection import Grid
from qtool.graph import edit
from qtool.graph.edit import Node, Value

QUANTIZE = ("QuantizeLinear",)
DEQUANTIZE = ("DequantizeLinear",)
_OWN = ("", "ai.onnx", "com.microsoft")
# what moves weights about between their DQ and the layer
_MOVES = ("Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, slots=True)
class Placed:
    """A grid, and the node that has it: a DequantizeLinear, a QuantizeLinear or an integer operator.

    moved: whether something stands between the DequantizeLinear and the reader, so that the axis is not the reader's.
    stored: the 8-bit tensor; None where there is none.
    """

    grid: Grid
    node: Node
    stored: Value | None = None
    moved: bool = False


def is_quantize(node: Node | None) -> bool:
    """Return whether a node is a QuantizeLinear of ONNX or onnxruntime."""
    return node is not None and node.op_type in QUANTIZE and node.domain in _OWN


def is_dequantize(node: Node | None) -> bool:
    """Return whether a node is a DequantizeLinear of ONNX or onnxruntime."""
    return node is not None and node.op_type in DEQUANTIZE and node.domain in _OWN


def grid_of(node: Node) -> Grid:
    """Return the grid of a QuantizeLinear or DequantizeLinear; without numbers where they are computed."""
    scale, zero = _input(node, 1), _input(node, 2)
    stored = node.inputs[0] if is_dequantize(node) else node.outputs[0]
    named = edit.attribute(node, "output_dtype", None) if is_quantize(node) else None
    dtype = element_type(zero) or element_type(stored) or ("uint8" if named in (None, 0) else "")
    axis = int(edit.attribute(node, "axis", 1))
    block = int(edit.attribute(node, "block_size", 0)) or None
    return make_grid(dtype, scale, zero, axis, block)


def make_grid(dtype: str, scale: Value | None, zero: Value | None, axis: int | None, block: int | None = None) -> Grid:
    """Return a grid of constants; without numbers where these are computed."""
    scales = edit.constant_or_none(scale)
    if scales is None:
        return Grid(dtype, (), ())
    zeros = edit.constant_or_none(zero)
    flat = scales.astype(np.float64).reshape(-1)
    points = np.zeros(1) if zeros is None else zeros.astype(np.int64).reshape(-1)
    per_channel = scales.size > 1
    return Grid(
        dtype=dtype,
        scale=tuple(float(s) for s in flat),
        zero_point=tuple(int(z) for z in (points if points.size == flat.size else np.resize(points, flat.size))),
        axis=axis if per_channel else None,
        block=block if per_channel else None,
    )


def grid_behind(value: Value | None) -> Placed | None:
    """Return the grid that a value was given by the DequantizeLinear that makes it, moves of a constant in between."""
    return _behind(value, _MOVES)


# what onnxruntime carries a DequantizeLinear forward through (qdq_propagation.cc)
_CARRIED = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Flatten")


def carried_grid(value: Value | None) -> Placed | None:
    """Return the grid of a value that a DequantizeLinear makes, what only moves its numbers in between."""
    return _behind(value, _CARRIED)


def _behind(value: Value | None, between: tuple[str, ...]) -> Placed | None:
    """The grid of the DequantizeLinear that a value comes from, with nothing but these operators in between."""
    moved = False
    while value is not None:
        node = value.producer()
        if is_dequantize(node):
            assert node is not None
            return Placed(grid_of(node), node, node.inputs[0], moved)
        written = _multiplied(node)
        if written is not None:
            return Placed(written.grid, written.node, written.stored, moved)
        if node is None or not edit.is_main_op(node, *between):
            return None
        value, moved = node.inputs[0], True
    return None


def _multiplied(node: Node | None) -> Placed | None:
    """The grid of constants that a Cast and a Mul make float, as a DequantizeLinear without zero point would."""
    found = multiplied(node)
    if node is None or found is None:
        return None
    stored, scale = found
    shape = edit.constant(scale).shape
    wide = [place for place, size in enumerate(shape, (edit.rank(stored) or 0) - len(shape)) if size > 1]
    return Placed(make_grid(element_type(stored), scale, None, wide[0] if len(wide) == 1 else None), node, stored)


def direct_grid(value: Value | None) -> Placed | None:
    """Return the grid of a value that a DequantizeLinear makes itself."""
    node = None if value is None else value.producer()
    if node is None or not is_dequantize(node):
        return None
    return Placed(grid_of(node), node, node.inputs[0])


def grid_ahead(value: Value | None) -> Placed | None:
    """Return the grid that a value is given by a QuantizeLinear that reads it."""
    for node in [] if value is None else edit.consumers(value):
        if is_quantize(node):
            return Placed(grid_of(node), node, node.outputs[0])
    return None


def behind_norm(node: Node) -> Value | None:
    """Return the output of the batch normalisation of a layer, constants multiplied or added in between; None if none.

    Quantisers that train write Conv, Div, BatchNormalization, of which others make one Conv.
    """
    value = node.outputs[0]
    for _ in range(4):
        reader = edit.single_consumer(value)
        if reader is None or not edit.is_main_op(reader, "BatchNormalization", "Div", "Mul", "Add"):
            return None
        if reader.op_type != "BatchNormalization" and not all(is_constant(v) for v in reader.inputs if v is not value):
            return None
        value = reader.outputs[0]
        if reader.op_type == "BatchNormalization":
            return value
    return None


def same_grid(one: Grid | None, other: Grid | None) -> bool:
    """Return whether two grids are the same numbers."""
    if one is None or other is None:
        return False
    return (one.dtype, one.scale, one.zero_point) == (other.dtype, other.scale, other.zero_point)


def is_constant(value: Value | None) -> bool:
    """Return whether a value is computed from constants alone."""
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen or one.is_initializer():
            continue
        seen.add(one)
        node = one.producer()
        if node is None or not node.inputs or edit.has_subgraph(node):
            return False
        waiting += node.inputs
    return True


def _input(node: Node, index: int) -> Value | None:
    return node.inputs[index] if len(node.inputs) > index else None

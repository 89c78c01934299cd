"""Returns what the bytes of a written model are: its constants, by what reads them, and the rest."""

import math
from collections.abc import Iterator

import onnx

from qtool.core.records.results import FilePart
from qtool.core.text import amount
from qtool.graph.products import is_product
from qtool.graph.serialized import Serialized

_INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
_FOUR_BITS = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
_SMALL = 256
"""Constants of fewer bytes count among the nodes that read them."""
_PRODUCT = "product"
_BLOCKS = "blocks"
_READ_IN_BLOCKS = {"MatMulNBits": (1, 2, 3), "GatherBlockQuantized": (0, 2, 3)}
"""Which inputs are integers, scales and zero points of blocks."""
_INTEGER_PRODUCTS = {"DynamicQuantizeLSTM", "MatMulInteger"}


def contents(model: Serialized) -> tuple[FilePart, ...]:
    """Return the parts of a written model, the largest first; they add up to its size."""
    graph = onnx.load_from_string(model.graph).graph
    readers = _readers(graph)
    sizes: dict[str, dict[str, int]] = {}
    for tensor in graph.initializer:
        outside = model.tensors.get(tensor.name)
        size = tensor.ByteSize() if outside is None else outside.nbytes
        kind = _kind(tensor, readers.get(tensor.name, set()))
        if size >= _SMALL and kind is not None:
            sizes.setdefault(kind, {})[tensor.name] = size
    padding = {
        tensor: size for tensor, size in _padding(graph).items() if size and tensor in sizes.get(FilePart.IN_BLOCKS, {})
    }
    if padding:
        sizes[FilePart.PADDING] = padding
        for tensor, size in padding.items():
            sizes[FilePart.IN_BLOCKS][tensor] -= size
    inside = {name: size for node in graph.node for name, size in _in_bodies(node)}
    if inside:
        sizes["constants inside of If, Loop and Scan"] = inside
    parts = [
        FilePart(what, sum(found.values()), max(found, key=lambda name: found[name])) for what, found in sizes.items()
    ]
    rest = model.size - sum(part.size for part in parts)
    nodes = amount(len(graph.node), "node with its name and scales", "nodes with their names and scales")
    parts.append(FilePart(nodes, rest, ""))
    return tuple(sorted(parts, key=lambda part: -part.size))


def _readers(graph: onnx.GraphProto) -> dict[str, set[str]]:
    """The operators that read each value; those that read what is made of constants alone read these.

    What multiplies and accumulates counts as one operator, and so does the table of a Gather.
    """
    known = {tensor.name for tensor in graph.initializer}
    made = []
    for node in graph.node:
        if node.input and known.issuperset(name for name in node.input if name) and node.op_type != "DequantizeLinear":
            known.update(node.output)
            made.append(node)
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        if not node.output or node.output[0] not in known:
            for index, name in enumerate(node.input):
                table = node.op_type == "Gather" and index == 0
                product = is_product(node.domain, node.op_type)
                blocks = index in _READ_IN_BLOCKS.get(node.op_type, ())
                reader = _BLOCKS if blocks else "table" if table else _PRODUCT if product else node.op_type
                readers.setdefault(name, set()).add(reader)
    for node in reversed(made):
        found = set().union(*(readers.get(name, set()) for name in node.output))
        for name in node.input:
            readers.setdefault(name, set()).update(found)
    return readers


def _padding(graph: onnx.GraphProto) -> dict[str, int]:
    """The bytes of each weight of a MatMulNBits that only fill its last blocks up, by its name."""
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    result = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits" and node.input[1] in shapes:
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            needed = sizes["N"] * -(-sizes["K"] * sizes.get("bits", 4) // 8)
            result[node.input[1]] = math.prod(shapes[node.input[1]]) - needed
    return result


def _kind(tensor: onnx.TensorProto, readers: set[str]) -> str | None:
    """None for scales and integer biases."""
    if _BLOCKS in readers or (tensor.data_type in _FOUR_BITS and "DequantizeLinear" in readers):
        return FilePart.IN_BLOCKS
    if tensor.data_type in _INTEGERS and readers & {"DequantizeLinear", "table", _PRODUCT, *_INTEGER_PRODUCTS}:
        return FilePart.IN_8_BITS
    if readers <= {"QuantizeLinear", "DequantizeLinear"}:
        return None
    if _PRODUCT in readers:
        return "weights of layers in float"
    return "tables in float" if "table" in readers else "constants that are no weights of layers"


def _in_bodies(node: onnx.NodeProto) -> Iterator[tuple[str, int]]:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            for tensor in body.initializer:
                if tensor.ByteSize() >= _SMALL:
                    yield tensor.name, tensor.ByteSize()
            for inner in body.node:
                yield from _in_bodies(inner)
        if attribute.HasField("t") and node.op_type == "Constant" and attribute.t.ByteSize() >= _SMALL:
            yield node.output[0], attribute.t.ByteSize()

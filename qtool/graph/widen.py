"""float16 models as float32: statistics and kernels are float32's, and onnxruntime's CPU has few float16 kernels."""

import numpy as np
import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.graph import edit
from qtool.graph.edit import Graph, Model, Node, Value

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
# INT attributes that name an element type, in the operators of ONNX and of onnxruntime
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type")
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_LARGE = 1024
"""Bytes of a constant that is worth two nodes."""


def name_of_type(model: Model, kind: str) -> str | None:
    """Return the name of one value of the element type `kind` ("bfloat16", ...), or None where there is none."""
    wanted = ir.DataType[kind.upper()]
    return next((str(v.name) for graph in model.graphs() for v in _values(graph) if v.dtype == wanted), None)


def float16_to_float32(model: Model) -> int:
    """Turn all that is float16, also in the bodies of If, Loop and Scan, into float32; in place.

    Types must be inferred. Inputs and outputs of the model keep their type: a Cast stands behind and before them, and
    around BitCast, which means the bits. What the casts between both types leave are Identity nodes. The result is
    more exact than the model, and what overflowed to Inf in float16 no longer does. Constants remember that they were
    float16 (`edit.was_half`), large ones also what they were (`edit.remember`).

    Returns:
        How many values were changed.

    Raises:
        ModelError: an output is a sequence or an optional of float16.
    """
    for value in model.graph.outputs:
        if value.dtype == _HALF and not isinstance(value.type, ir.TensorType):
            raise ModelError(f"output {value.name!r} is {value.type}, which cannot be cast; make it a tensor")
    inputs = [v for v in model.graph.inputs if v.dtype == _HALF]
    outputs = [v for v in model.graph.outputs if v.dtype == _HALF and v not in inputs]
    bits = [n for n in model.graph.all_nodes() if edit.is_main_op(n, "BitCast")]
    kept = [*inputs, *(n.outputs[0] for n in bits if n.outputs[0].dtype == _HALF)]
    demands = [n for n in bits if n.inputs[0] is not None and n.inputs[0].dtype == _HALF]
    changed = sum(_widen(value) for graph in model.graphs() for value in _values(graph) if value not in kept)
    for node in model.graph.all_nodes():
        if node not in bits:
            _widen_attributes(node)
    names = edit.Names(model.graph)
    for value in kept:
        _cast_behind(model.graph, value, names)
    for node in demands:
        source = node.inputs[0]
        assert source is not None and node.graph is not None
        cast = _cast(source, _HALF, names.fresh(f"{source.name}_float16"), names)
        node.graph.insert_before(node, cast)
        node.replace_input_with(0, cast.outputs[0])
    for value in outputs:
        _cast_output(model.graph, value, names)
    for node in list(model.graph.all_nodes()):
        _drop_cast(node)
    return changed


def _values(graph: Graph) -> list[Value]:
    return [*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)]


def _widen(value: Value) -> bool:
    if value.dtype != _HALF:
        return False
    assert value.type is not None
    value.type = _wide(value.type)
    half = value.const_value
    if half is not None and half.dtype == _HALF:
        value.const_value = _wide_tensor(half)
        edit.remember_half(value)
        if half.nbytes >= _LARGE:
            edit.remember(value, _made_of(str(value.name), half))
    return True


def _made_of(name: str, half: ir.TensorProtocol) -> Graph:
    """What makes a constant in float32 of it, so that a file need not hold twice the bytes."""
    kind = ir.TensorType(_HALF)
    stored = Value(name=f"{name}_float16", shape=ir.Shape(half.shape.numpy()), type=kind, const_value=half)
    wide = f"{name}_float32"
    node = edit.new_node("Cast", [stored], wide, name=f"{wide}_node", attributes={"to": int(_FLOAT)})
    return Graph([], node.outputs, nodes=[node], initializers=[stored])


def _wide(kind: ir.TypeProtocol) -> ir.TypeProtocol:
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        return type(kind)(_wide(kind.elem_type), denotation=kind.denotation)
    if isinstance(kind, ir.TensorType | ir.SparseTensorType) and kind.dtype == _HALF:
        return type(kind)(_FLOAT, denotation=kind.denotation)
    return kind


def _wide_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _widen_attributes(node: Node) -> None:
    for name, found in list(node.attributes.items()):
        if found.type == ir.AttributeType.TENSOR and found.value.dtype == _HALF:
            node.attributes[name] = ir.AttrTensor(name, _wide_tensor(found.value))
        elif found.type == ir.AttributeType.TYPE_PROTO:
            wide = ir.TypeAndShape(_wide(found.value.type), found.value.shape)
            node.attributes[name] = ir.Attr(name, ir.AttributeType.TYPE_PROTO, wide)
        elif name in _TYPE_ATTRIBUTES and node.domain in _DOMAINS and found.value == _HALF:
            edit.set_attribute(node, name, int(_FLOAT))


def _cast(source: Value, to: ir.DataType, output: str, names: edit.Names) -> Node:
    node = edit.new_node("Cast", [source], output, name=names.fresh(f"{output}_cast"), attributes={"to": int(to)})
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(to), source.shape
    return node


def _cast_behind(graph: Graph, value: Value, names: edit.Names) -> None:
    """Let all readers of a float16 value read it in float32."""
    uses = list(value.uses())
    cast = _cast(value, _FLOAT, names.fresh(f"{value.name}_float32"), names)
    maker = value.producer()
    if maker is None or maker.graph is None:
        graph.insert_before(graph[0], cast)
    else:
        maker.graph.insert_after(maker, cast)
    for node, index in uses:
        node.replace_input_with(index, cast.outputs[0])


def _cast_output(graph: Graph, value: Value, names: edit.Names) -> None:
    """Let a float16 value, with the name of the float32 one, be the output."""
    name = str(value.name)
    value.name = names.fresh(f"{name}_float32")
    cast = _cast(value, _HALF, name, names)
    graph.append(cast)
    graph.outputs[list(graph.outputs).index(value)] = cast.outputs[0]


def _drop_cast(node: Node) -> None:
    """A Cast from float32 to float32 is an Identity."""
    if not edit.is_main_op(node, "Cast", "CastLike") or node.inputs[0] is None or node.inputs[0].dtype != _FLOAT:
        return
    like = node.inputs[1].dtype if node.op_type == "CastLike" and node.inputs[1] is not None else None
    if like == _FLOAT or edit.attribute(node, "to") == _FLOAT:
        node.op_type = "Identity"
        node.attributes.clear()
        node.resize_inputs(1)

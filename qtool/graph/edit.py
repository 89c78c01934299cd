"""Questions to a graph and safe edits of it, over onnx-ir. The other packages see its classes through here alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import Graph, Model, Node, Shape, Value

from qtool.core.errors import ModelError, arg
from qtool.core.tensorspec import InputSpec
from qtool.graph.names import Names
from qtool.graph.origins import take_origins
from qtool.graph.protos import is_map
from qtool.graph.subgraphs import detach_subgraphs, has_subgraph, subgraphs

__all__ = [
    "Graph",
    "Model",
    "Names",
    "Node",
    "Shape",
    "Value",
    "activations",
    "add_initializer",
    "add_integers",
    "attribute",
    "attribute_values",
    "axis_lengths",
    "clone",
    "constant",
    "constant_or_none",
    "consumers",
    "copy_node",
    "detach_subgraphs",
    "has_subgraph", "input_specs",
    "is_float32",
    "is_main_op",
    "is_tensor",
    "keeps_shape",
    "known_constant",
    "main_output",
    "make_identity",
    "named_values",
    "new_node",
    "origin_of",
    "output_specs",
    "rank",
    "remember",
    "remember_half",
    "remove_node",
    "replace_node",
    "replace_uses",
    "set_attribute",
    "set_constant",
    "set_input",
    "single_consumer",
    "static_dim",
    "static_shape",
    "subgraphs",
    "take_origins",
    "was_half",
    "weight_like",
]  # fmt: skip

Array = np.ndarray
# of constants that may be shapes, and of lengths that may be an input's
_SHORT, _LONG = 16, 2**14
_ORIGIN, _HALF, _READ = "qtool.origin", "qtool.half", "qtool.read"


def clone(model: Model) -> Model:
    """Return an independent copy of a model, which shares its (immutable) tensors."""
    return model.clone()


def is_main_op(node: Node, *types: str) -> bool:
    """Return whether a node is one of the operators `types` of the standard ONNX domain."""
    return node.domain in ("", "ai.onnx") and node.op_type in types


def main_output(node: Node) -> Value:
    """Return the first output that has a name: a recurrent layer of which only the last state is read leaves Y out."""
    return next((value for value in node.outputs if value.name), node.outputs[0])


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute (strings decoded), or `default` where it has none."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def attribute_values(node: Node) -> dict[str, object]:
    """Return a node's attributes by name, as values that are equal where their content is.

    Tensors are their type, shape and bytes; graphs are left out.
    """
    return {
        name: _comparable(found)
        for name, found in node.attributes.items()
        if found.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    }


def _comparable(found: ir.Attr) -> object:
    if found.type == ir.AttributeType.TENSOR:
        tensor = found.value
        content = tuple(tensor.string_data()) if tensor.dtype == ir.DataType.STRING else tensor.tobytes()
        return tensor.dtype, tuple(tensor.shape), content
    # NaN is not equal to itself, its text is
    return str(found.value) if found.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS) else found.value


def set_attribute(node: Node, name: str, value: Any) -> None:
    """Set or replace an attribute."""
    node.attributes[name] = ir.convenience.convert_attribute(name, value)


def set_input(node: Node, index: int, value: Value) -> None:
    """Let the node read `value` at `index`, behind its last input too."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def constant(value: Value | None) -> Array:
    """Return the content of an initializer.

    Raises:
        ValueError: the value is not constant.
    """
    found = constant_or_none(value)
    if found is None:
        raise ValueError(f"{value.name if value else None!r} is not constant")
    return found


def constant_or_none(value: Value | None) -> Array | None:
    """Return the content of an initializer; None for a value that is absent, computed or fed."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def known_constant(value: Value | None) -> Array | None:
    """Return the content of an initializer, or of what a Constant makes; None for a value that is computed or fed."""
    node = None if value is None else value.producer()
    if node is None or not is_main_op(node, "Constant"):
        return constant_or_none(value)
    found = next(iter(node.attributes.values()))
    return found.value.numpy() if found.type == ir.AttributeType.TENSOR else np.asarray(found.value)


def weight_like(value: Value | None) -> bool:
    """Return whether a value is a float32 initializer."""
    return value is not None and value.is_initializer() and is_float32(value)


def is_float32(value: Value) -> bool:
    """Return whether a value is known to be float32."""
    return value.dtype == ir.DataType.FLOAT


def is_tensor(value: Value) -> bool:
    """Return whether a value is a tensor as far as is known, and no sequence, optional or map."""
    return isinstance(value.type, ir.TensorType) or (value.type is None and not is_map(value))


def activations(node: Node) -> list[tuple[int, Value]]:
    """Return (input index, value) for the inputs of a node that are neither absent nor initializers."""
    return [(i, v) for i, v in enumerate(node.inputs) if v is not None and not v.is_initializer()]


def input_specs(model: Model) -> list[InputSpec]:
    """Return name, type and shape of a model's inputs, in order.

    Raises:
        ModelError: an input is no tensor.
    """
    for value in model.graph.inputs:
        if not _is_tensor_type(value):
            kind = value.type or "a map"
            raise ModelError(
                f"input {value.name!r} is {kind}, and only tensors can be fed; make it a tensor, or quantise without "
                f"data: {arg('form', 'dynamic')}"
            )
    return [InputSpec(str(v.name), _numpy_type(v), _spec_shape(v)) for v in model.graph.inputs]


def _is_tensor_type(value: Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype != ir.DataType.UNDEFINED


def axis_lengths(model: Model) -> list[int]:
    """Return the lengths that constants of a model have or name, the shortest first: what a free axis may have to fit.

    Those of the axes of constants, and the numbers that are constant shapes.
    """
    found: set[int] = set()
    for value in model.graph.initializers.values():
        shape = static_shape(value) or ()
        found.update(shape)
        if value.dtype == ir.DataType.INT64 and len(shape) == 1 and shape[0] < _SHORT:
            found.update(int(n) for n in constant(value))
    return sorted(n for n in found if 1 < n < _LONG)


def output_specs(model: Model) -> list[InputSpec]:
    """Return name, type and shape of a model's outputs, in order.

    What is no tensor, or of a type that nobody says, counts as strings.
    """
    return [
        InputSpec(str(v.name), _numpy_type(v), _spec_shape(v))
        if isinstance(v.type, ir.TensorType)
        else InputSpec(str(v.name), np.dtype(np.object_), None)
        for v in model.graph.outputs
    ]


def _numpy_type(value: Value) -> np.dtype:
    if value.dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING):
        return np.dtype(np.object_)
    assert value.dtype is not None
    return np.dtype(value.dtype.numpy())


def _spec_shape(value: Value) -> tuple[int | str | None, ...] | None:
    if value.shape is None:
        return None
    # exporters write -1 for a length that is not known
    return tuple(d.value if not isinstance(d, int) else None if d < 0 else d for d in value.shape)


def named_values(graph: Graph) -> dict[str, Value]:
    """Return what a graph is fed with or computes, by name; constants, and graphs inside of nodes, are left out."""
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    return {name: value for name, value in values.items() if not value.is_initializer()}


def consumers(value: Value) -> list[Node]:
    """Return the nodes that read a value, each once, in the order in which they began to."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def single_consumer(value: Value | None) -> Node | None:
    """Return the node that reads a value; None where it has several uses or none, or is a graph output.

    None also where the reader stands in a graph inside of a node: what is moved there and what is moved out runs more
    or less often.
    """
    uses = [] if value is None or value.is_graph_output() else list(value.uses())
    return uses[0][0] if value is not None and len(uses) == 1 and uses[0][0].graph is value.graph else None


def rank(value: Value | None) -> int | None:
    """Return the number of dimensions of a value, or None where that is not known."""
    return None if value is None or value.shape is None else value.shape.rank()


def keeps_shape(array: Array, value: Value) -> bool:
    """Return whether an operation of a value and a constant is known to have the shape of the value.

    Source: ONNX, "Broadcasting in ONNX".
    """
    if array.ndim == 0:
        return True
    n = rank(value)
    if n is None or array.ndim > n:
        return False
    dims = (static_dim(value, n - array.ndim + i) for i in range(array.ndim))
    return all(size in (1, dim) for size, dim in zip(array.shape, dims, strict=True))


def static_dim(value: Value | None, axis: int) -> int | None:
    """Return the size of a value along an axis, or None where it is not a known number."""
    if value is None or value.shape is None or axis >= value.shape.rank():
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def static_shape(value: Value | None) -> tuple[int, ...] | None:
    """Return the shape of a value where all of it is known numbers, or None."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    known = tuple(d for d in dims if isinstance(d, int) and d >= 0)
    return known if len(known) == len(dims) else None


def add_initializer(graph: Graph, name: str, array: Array) -> Value:
    """Add a constant to a graph as a new initializer, and return its value; the name must be free."""
    # `ir.tensor` asks first whether an array is a tensor already, which takes six times as long as all the rest
    tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def add_integers(graph: Graph, name: str, array: Array, bits: int) -> Value:
    """Add signed integers of 4 or 8 bits as a new initializer, and return its value; the name must be free."""
    kind = ir.DataType.INT4 if bits == 4 else ir.DataType.INT8
    return add_initializer(graph, name, array.astype(kind.numpy()))


def set_constant(value: Value, array: Array) -> None:
    """Give an initializer another content, of the same shape; what is known of the former one is forgotten."""
    value.const_value = ir.tensor(np.asarray(array, order="C"), name=value.name)
    for known in (_ORIGIN, _HALF):
        value.meta.pop(known, None)


def remember(constant: Value, origin: Graph | None) -> None:
    """Let a constant remember the graph that makes it, as its only output; copies of the model do so too."""
    if origin is not None:
        constant.meta[_ORIGIN] = origin


def origin_of(constant: Value) -> Graph | None:
    """Return the graph that makes a constant, where it remembers one."""
    found: Graph | None = constant.meta.get(_ORIGIN)
    return found


def mark_read(constant: Value) -> None:
    """Let a constant know that it stays in the file as it is, since something reads it so; copies know it too."""
    constant.meta[_READ] = True


def is_read(constant: Value) -> bool:
    """Return whether a constant is known to stay in the file as it is."""
    return _READ in constant.meta


def remember_half(constant: Value) -> None:
    """Let a constant remember that the model holds it in float16; copies of the model do so too."""
    constant.meta[_HALF] = True


def was_half(constant: Value) -> bool:
    """Return whether a constant is in float16 in the model as it came, which may have rounded it."""
    return _HALF in constant.meta


def new_node(
    op_type: str,
    inputs: Sequence[Value | None],
    output: str | Sequence[str],
    *,
    name: str,
    attributes: dict[str, Any] | None = None,
    domain: str = "",
) -> Node:
    """Make a node with the outputs `output`, to be inserted with `graph.insert_before/after` or `append`.

    Attributes that are numbers are rounded to float32, as in a file.
    """
    names = [output] if isinstance(output, str) else list(output)
    stored = {key: float(np.float32(v)) if isinstance(v, float) else v for key, v in (attributes or {}).items()}
    node = ir.node(op_type, inputs, attributes=stored, name=name, num_outputs=len(names), domain=domain)
    for value, value_name in zip(node.outputs, names, strict=True):
        value.name = value_name
    return node


def new_value(name: str, like: Value, shape: Sequence[int | None]) -> Value:
    """Make a value that a body is fed with, of the type of another; None is an axis of unknown length."""
    return ir.Value(name=name, type=like.type, shape=ir.Shape(shape))


def new_body(inputs: Sequence[Value], outputs: Sequence[Value], nodes: Sequence[Node], name: str) -> Graph:
    """Make a graph of nodes that stand in none yet, to be an attribute of a node."""
    return ir.Graph(inputs, outputs, nodes=nodes, name=name)


def import_domain(model: Model, domain: str, version: int) -> None:
    """Let the model use the operators of a domain, in this version where it names none yet."""
    model.graph.opset_imports.setdefault(domain, version)


def copy_node(
    node: Node, inputs: Sequence[Value | None], output: str, *, name: str, op_type: str | None = None
) -> Node:
    """Make a node with the attributes of `node`, other inputs and one output, to be inserted.

    `op_type`: the operator, None for that of `node`.
    """
    copy = ir.Node(
        node.domain, op_type or node.op_type, inputs, list(node.attributes.values()), num_outputs=1, name=name
    )
    copy.outputs[0].name = output
    return copy


def replace_uses(old: Value, new: Value, *, only: Iterable[Node] | None = None) -> None:
    """Let the readers of `old` (those in `only`, if given) read `new`; graph outputs keep their name and place."""
    wanted = None if only is None else set(only)
    for node, index in list(old.uses()):
        if wanted is None or node in wanted:
            node.replace_input_with(index, new)
    if wanted is None and old.is_graph_output():
        graph = old.graph
        assert graph is not None
        graph.outputs[list(graph.outputs).index(old)] = new
        name = old.name
        old.name = f"{name}_replaced"
        new.name = name


def replace_node(old: Node, new: Node) -> None:
    """Let the outputs of `new`, a node of the graph, take the places, names and types of those of `old`, which goes."""
    for before, after in zip(old.outputs, new.outputs, strict=True):
        after.type, after.shape = before.type, before.shape
        name, is_output = before.name, before.is_graph_output()
        replace_uses(before, after)
        if not is_output:
            before.name, after.name = f"{name}_replaced", name
    take_origins(new, old)
    remove_node(old)


def make_identity(node: Node, source: Value) -> None:
    """Turn a node into an Identity of `source`; outputs behind its first must not be read."""
    node.op_type, node.domain = "Identity", ""
    node.attributes.clear()
    node.resize_outputs(1)
    node.resize_inputs(1)
    node.replace_input_with(0, source)


def remove_node(node: Node) -> None:
    """Take a node out whose outputs nobody reads any more."""
    graph = node.graph
    assert graph is not None
    graph.remove(node, safe=True)
    detach_subgraphs(node)

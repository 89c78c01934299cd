"""Types and shapes of what a model computes: found by inference, never taken from what the file says of them.

onnxruntime runs a model whose stored shapes are wrong, with a warning (`Graph::Resolve`, and `VerifyOutputSizes` in
`core/framework/execution_frame.cc`); exporters and tools that edit models leave such shapes behind.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir

from qtool.core.tensorspec import InputSpec
from qtool.graph import contrib
from qtool.graph.protos import from_proto, to_proto
from qtool.graph.subgraphs import subgraphs

# initializers above this need not be there to infer shapes
_SMALL_BYTES = 1000


def forget(model: ir.Model) -> dict[str, ir.Shape]:
    """Remove the shapes of all that is computed, and return those that the model declares for its outputs, by name.

    In place; outputs of the bodies of Loop and Scan are among them. Initializers have the shapes of their content then.
    """
    declared = {str(v.name): v.shape for v in _declaring(model) if v.shape is not None}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.shape = ir.Shape(list(value.const_value.shape.numpy()))
    for node in model.graph.all_nodes():
        for graph in subgraphs(node):
            # onnxruntime allocates the count and the condition of a Loop by what its body says of them
            for value in graph.inputs[2:] if node.op_type == "Loop" else graph.inputs:
                value.shape = None
        for value in node.outputs:
            value.shape = None
    return declared


def declare(model: ir.Model, declared: Mapping[str, ir.Shape]) -> None:
    """Let outputs have the dimensions that the model declares of them where inference found none; in place.

    `declared`: by name, as `forget` returns it.
    """
    for value in _declaring(model):
        said = declared.get(str(value.name))
        if said is None or value.producer() is None:
            continue
        if value.shape is None:
            value.shape = said
        elif value.shape.rank() == said.rank():
            value.shape = ir.Shape([_known(*dims) for dims in zip(value.shape, said, strict=True)])


def _declaring(model: ir.Model) -> list[ir.Value]:
    """The outputs whose shapes the file decides.

    onnxruntime allocates those of Scan by what its body says, and those of a Loop without any iteration.
    """
    nodes = [node for node in model.graph.all_nodes() if node.op_type in ("Loop", "Scan")]
    return [*model.graph.outputs, *(value for node in nodes for graph in subgraphs(node) for value in graph.outputs)]


def _known(found: int | ir.SymbolicDim, said: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    return found if isinstance(found, int) or (isinstance(said, ir.SymbolicDim) and said.value is None) else said


def infer(model: ir.Model) -> None:
    """Fill in types and shapes where ONNX's inference finds them; a failure leaves what was known.

    Names must be unique. onnx-ir's own pass takes the elements' type of sequences and optionals for their own.
    """
    inferred = _inferred(_light(model))
    if inferred is None:
        return
    known = {o.name: o for node in inferred.graph.all_nodes() for o in node.outputs}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            found = known.get(value.name) if value.name else None
            if found is not None:
                value.type = value.type if found.type is None else found.type
                value.shape = value.shape if found.shape is None else found.shape


def drop_inferable(model: ir.Model) -> None:
    """Remove types and shapes of what the main graph computes where inference finds them again, in place.

    Outputs of the model keep theirs. onnxruntime infers at least as much when it loads the model: `Graph::Resolve`
    calls the same functions of ONNX's operators.
    """
    light = _light(model)
    forget(light)
    for node in light.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = None
    try:
        inferred = from_proto(onnx.shape_inference.infer_shapes(to_proto(light)))
    except Exception:
        return
    known = {o.name: o for node in inferred.graph for o in node.outputs}
    told = {dim.value for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    for node in model.graph:
        for value in node.outputs:
            found = known.get(value.name)
            if found is not None and not value.is_graph_output() and _says(found, value, told):
                value.type = value.shape = None


def _says(found: ir.Value, value: ir.Value, told: Collection[str | None]) -> bool:
    """Whether all that is known of `value` is known of `found`; names of lengths say nothing but those of inputs.

    Others are made up by inference, which numbers them otherwise each time.
    """
    if value.type is not None and found.type != value.type:
        return False
    if value.shape is None:
        return True
    if found.shape is None or found.shape.rank() != value.shape.rank():
        return False
    dims = zip(value.shape, found.shape, strict=True)
    return all(a == b or (not isinstance(a, int) and (a.value is None or a.value not in told)) for a, b in dims)


def most_numbers(model: ir.Model, fed: Mapping[str, Sequence[int]]) -> int:
    """Return how many numbers the largest tensor holds that is computed from inputs of these shapes, by name.

    Only tensors whose shape inference knows count; 0 where there is none.
    """
    computed = {str(output.name) for node in model.graph for output in node.outputs}
    return max((math.prod(shape) for name, shape in known_shapes(model, fed).items() if name in computed), default=0)


def known_shapes(model: ir.Model, fed: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors, by name, where inputs have these shapes: of all whose shape inference knows."""
    light = _light(model)
    forget(light)
    for value in light.graph.inputs:
        if str(value.name) in fed:
            value.shape = ir.Shape(list(fed[str(value.name)]))
    inferred = _inferred(light)
    if inferred is None:
        return {}
    values = [*inferred.graph.inputs, *(output for node in inferred.graph for output in node.outputs)]
    return {
        str(value.name): tuple(value.shape.numpy())
        for value in values
        if value.shape is not None and value.shape.is_static()
    }


def _light(model: ir.Model) -> ir.Model:
    """A copy, of whose large initializers only types and shapes are left."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _SMALL_BYTES:
            del light.graph.initializers[name]
            light.graph.inputs.append(value)
    return light


def _inferred(light: ir.Model) -> ir.Model | None:
    contrib.define(light)
    try:
        return from_proto(onnx.shape_inference.infer_shapes(to_proto(light), data_prop=True))
    except Exception:
        return None


def unknown(model: ir.Model) -> list[str]:
    """Return the names of the main graph's values without type or shape, where ONNX has no schema for some operator."""
    if all(onnx.defs.has(node.op_type, node.domain) for node in model.graph.all_nodes()):
        return []
    return [str(o.name) for n in model.graph for o in n.outputs if o.name and (o.shape is None or o.dtype is None)]


def tell(model: ir.Model, specs: Iterable[InputSpec]) -> None:
    """Let values of the main graph have the types and shapes that somebody found, by name, where they have none yet.

    A shape without dimensions tells nothing: onnxruntime gives it of a scalar and of a tensor of unknown rank.
    """
    values = {o.name: o for node in model.graph for o in node.outputs}
    for spec in specs:
        value = values[spec.name]
        if value.type is None and spec.dtype.kind != "O":
            value.type = ir.TensorType(ir.DataType.from_numpy(spec.dtype))
        if value.shape is None and spec.shape:
            value.shape = ir.Shape(list(spec.shape))

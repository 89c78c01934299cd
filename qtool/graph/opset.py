"""Opset and the passes that onnx and onnx-ir already have."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from qtool.core.concurrency import without_prints
from qtool.core.errors import ModelError
from qtool.graph import external, old_operators
from qtool.graph.names import make_unique
from qtool.graph.protos import from_proto, keep_types, to_proto
from qtool.graph.subgraphs import remove_unused

MINIMUM = 13
"""Per-axis QuantizeLinear exists since opset 13."""
_IR_VERSION = 8
_NUMBERS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard domain that a model imports, 0 for none."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def raise_opset(model: ir.Model, name: str, least: int = MINIMUM) -> ir.Model:
    """Return the model at opset `least` if its own is lower, converted by ONNX's version converter; else the model.

    `name`: what to call the model in messages.

    Raises:
        ModelError: it cannot be converted to what computes the same, or a function in it cannot be inlined.
    """
    version = opset_of(model)
    if version == 0 or version >= least:
        return model
    if model.functions:
        # ONNX's converter loses the nodes that call them
        model = model.clone()
        _inline(model, name)
    light = model.clone()
    make_unique(light)
    old_operators.hide(light, version, name)
    large = _take_out_large(light)
    try:
        with without_prints():
            converted = onnx.version_converter.convert_version(to_proto(light), least)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name}: opset {version} cannot be raised to {least} ({reason}); "
            f"export the model with opset {least} or later"
        ) from error
    result = from_proto(converted)
    keep_types(model, result)
    _put_back(result, model, large)
    old_operators.bring_back(result)
    result.ir_version = max(result.ir_version or 0, _IR_VERSION)
    return result


def _take_out_large(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """In place: large initializers become inputs, so that the model is small."""
    large: dict[str, ir.TensorProtocol] = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes >= external.LARGE:
            large[name] = value.const_value
            del model.graph.initializers[name]
            if value not in model.graph.inputs:
                model.graph.inputs.append(value)
    return large


def _put_back(model: ir.Model, before: ir.Model, large: Mapping[str, ir.TensorProtocol]) -> None:
    """In place: as initializers, in the order that they had before; they stay inputs if they were."""
    kept = {value.name for value in before.graph.inputs}
    values = {value.name: value for value in model.graph.inputs}
    for name, tensor in large.items():
        values[name].const_value = tensor
        model.graph.register_initializer(values[name])
        if name not in kept:
            model.graph.inputs.remove(values[name])
    initializers = model.graph.initializers
    for name in dict.fromkeys([*before.graph.initializers, *initializers]):
        if name in initializers:
            initializers.add(initializers.pop(name))


def tidy(model: ir.Model, name: str) -> None:
    """Remove identities and dead nodes, inline functions, make constants initializers and sort the nodes; in place.

    Names become unique in the whole model. `name`: what to call the model in messages.

    Raises:
        ModelError: a function cannot be inlined.
    """
    if model.functions:
        _inline(model, name)
    _remove_identities(model)
    kept = [value for value in model.graph.inputs if not value.is_initializer()]
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    _plain_constants(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    remove_unused(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.TopologicalSortPass()(model)
    make_unique(model)
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)


def _plain_constants(model: ir.Model) -> None:
    """In place: Constant nodes that hold numbers in another attribute than `value` hold a tensor in that one."""
    for node in model.graph.all_nodes():
        found = next(iter(node.attributes.values()), None) if node.op_type == "Constant" else None
        if found is not None and found.name in _NUMBERS:
            array = np.array(found.value, _NUMBERS[found.name])
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _inline(model: ir.Model, name: str) -> None:
    """In place. A function may import an older opset than the model, if its operators are the same in both.

    Source: ONNX, checker.cc, `check_opset_compatibility`, which a model has passed when it is loaded.

    Raises:
        ModelError: a function is called with a graph as attribute, or with too many or too few inputs.
    """
    for function in model.functions.values():
        for domain in function.opset_imports.keys() & model.opset_imports.keys():
            function.opset_imports[domain] = model.opset_imports[domain]
    try:
        common.InlinePass()(model)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise ModelError(
            f"{name}: a function cannot be inlined ({reason}); export the model without functions"
        ) from error
    for node in model.graph.all_nodes():
        _check_inputs(node, opset_of(model), name)


def _check_inputs(node: ir.Node, version: int, name: str) -> None:
    """Refuse a node that lacks an input, since the call of the function that it was in left one out."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return
    needed = onnx.defs.get_schema(node.op_type, version).min_input
    if len([value for value in node.inputs[:needed] if value is not None]) < needed:
        raise ModelError(
            f"{name}: node {node.name!r} ({node.op_type}) lacks an input, since a function is called with too few; "
            "export the model without functions"
        )


def _remove_identities(model: ir.Model) -> None:
    """In place. Declines where the output of a graph would lose its name, or come from outside of that graph.

    onnx-ir's own pass declines for graph inputs and initializers alone.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 1:
            continue
        source, result, graph = node.inputs[0], node.outputs[0], node.graph
        if source is None or graph is None:
            continue
        is_output = result.is_graph_output()
        maker = source.producer()
        if is_output and (maker is None or maker.graph is not graph or source.is_graph_output()):
            continue
        if source.type is None:
            source.type = result.type
        if source.shape is None or (is_output and result.shape is not None):
            source.shape = result.shape
        ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if is_output:
            source.name = result.name
            source.meta.update(result.meta)

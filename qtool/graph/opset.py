"""Opset, shapes and the passes that onnx and onnx-ir already have."""

import contextlib
import logging

import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from qtool.core.errors import ModelError
from qtool.graph.model_io import to_bytes

MINIMUM = 13
"""Per-axis QuantizeLinear exists since opset 13."""
_IR_VERSION = 8
_SEQUENCES = {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence"}
# since this opset Resize counts from the middle of a sample unless told otherwise
_CENTRED_RESIZE = 11


def opset_of(model: ir.Model) -> int:
    """The version of the standard domain that the model imports (0: none)."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def raise_opset(model: ir.Model, name: str) -> ir.Model:
    """The model at opset 13 if it is lower, converted by ONNX's own version converter; else the model itself.

    Raises:
        ModelError: the converter cannot.
    """
    version = opset_of(model)
    if version == 0 or version >= MINIMUM:
        return model
    proto = onnx.load_from_string(to_bytes(model))
    try:
        with contextlib.redirect_stdout(None):
            converted = onnx.version_converter.convert_version(proto, MINIMUM)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name}: opset {version} cannot be raised to {MINIMUM} ({reason}); "
            f"export the model with opset {MINIMUM} or later"
        ) from error
    result = ir.from_proto(converted)
    result.ir_version = max(result.ir_version or 0, _IR_VERSION)
    if version < _CENTRED_RESIZE:
        _keep_asymmetric(result)
    return result


def _keep_asymmetric(model: ir.Model) -> None:
    """Say what Upsample, and Resize before opset 11, meant: the converter leaves it to the newer default."""
    for node in model.graph.all_nodes():
        if node.op_type == "Resize" and "coordinate_transformation_mode" not in node.attributes:
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                node.attributes[name] = ir.AttrString(name, value)


def tidy(model: ir.Model) -> None:
    """In place: functions inlined, constants made initializers, identities and dead nodes removed, nodes sorted."""
    passes: list[ir.passes.InPlacePass] = [
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    ]
    if model.functions:
        model = common.InlinePass()(model).model
    _remove_identities(model)
    for one in passes:
        one(model)
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)


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


def infer_shapes(model: ir.Model) -> None:
    """In place: types and shapes where ONNX's inference finds them; a failure leaves what was known."""
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        logger.setLevel(level)
    for node in model.graph.all_nodes():
        for value in node.outputs if node.op_type in _SEQUENCES else ():
            # onnx-ir takes their elements' type for their own
            value.type, value.shape = None, None

"""Operators of onnxruntime's own domain that preparation writes, and what they compute in operators of ONNX.

A model that is written carries these bodies as functions of the same name: onnxruntime takes its kernel and leaves them
unread, and whatever does not know the domain computes the body. Source: onnxruntime docs/ContribOperators.md; ONNX,
"Functions".
"""

import math
from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx import helper

from qtool.graph import opset

DOMAIN = "com.microsoft"
_Step = tuple[str, Sequence[str], str]
# the steps from X to Y; a number is a constant
_BODIES: dict[str, tuple[_Step, ...]] = {
    "Gelu": (
        ("Div", ("X", str(math.sqrt(2.0))), "scaled"),
        ("Erf", ("scaled",), "erf"),
        ("Add", ("erf", "1.0"), "shifted"),
        ("Mul", ("X", "shifted"), "product"),
        ("Mul", ("product", "0.5"), "Y"),
    ),
    "FastGelu": (
        ("Mul", ("X", "X"), "square"),
        ("Mul", ("square", "0.044715"), "small"),
        ("Add", ("small", "1.0"), "grown"),
        ("Mul", ("X", "grown"), "cubic"),
        ("Mul", ("cubic", str(math.sqrt(2.0 / math.pi))), "scaled"),
        ("Tanh", ("scaled",), "tanh"),
        ("Add", ("tanh", "1.0"), "shifted"),
        ("Mul", ("X", "shifted"), "product"),
        ("Mul", ("product", "0.5"), "Y"),
    ),
}


def define(model: ir.Model) -> None:
    """Give a model the bodies of those that its main graph uses and that it does not define itself, in place."""
    # functions and model have to import the same version: ONNX's checker refuses others where an operator has changed
    version = opset.opset_of(model) or opset.MINIMUM
    for op_type, steps in _BODIES.items():
        used = [node for node in model.graph if node.domain == DOMAIN and node.op_type == op_type]
        if used and all(len(node.inputs) == 1 for node in used) and used[0].op_identifier() not in model.functions:
            model.functions[used[0].op_identifier()] = ir.serde.deserialize_function(_function(op_type, steps, version))


def _function(op_type: str, steps: Sequence[_Step], version: int) -> onnx.FunctionProto:
    nodes: list[onnx.NodeProto] = []
    for op, inputs, output in steps:
        for number in inputs:
            if number[0].isdigit() and not any(number in node.output for node in nodes):
                nodes.append(helper.make_node("Constant", [], [number], value_float=float(number)))
        nodes.append(helper.make_node(op, list(inputs), [output]))
    return helper.make_function(DOMAIN, op_type, ["X"], ["Y"], nodes, [helper.make_opsetid("", version)])

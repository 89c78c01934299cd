"""Operators whose meaning in old opsets ONNX's version converter does not keep, or that it does not know.

They are hidden from it in a domain of their own, and come back as what computes the same in opset 13. Source: the
changelog of ONNX's operators; onnxruntime `core/providers/cpu/tensor/upsamplebase.h` (`NearestMode::SIMPLE`) and what
its kernels were seen to compute.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from qtool.core.errors import ModelError
from qtool.graph import edit
from qtool.graph.origins import stand_for

_HIDDEN = "qtool.old"
# a Scan of opset 8 runs over a batch of sequences
_SCAN_OVER_ONE = 9
# since this one Upsample has said its factors as it does in all later ones
_UPSAMPLE = 7
# operators of ONNX 1.0 that onnxruntime still runs below opset 10, and their attributes
_EXPERIMENTAL = {
    "Affine": ("alpha", "beta"),
    "ImageScaler": ("scale", "bias"),
    "ParametricSoftplus": ("alpha", "beta"),
    "ScaledTanh": ("alpha", "beta"),
}


def hide(model: ir.Model, version: int, name: str) -> None:
    """Put the nodes that the converter would change, or stop at, in a hidden domain; in place.

    `version`: the opset of the model. `name`: what to call the model in messages.

    Raises:
        ModelError: a node has no counterpart in newer opsets.
    """
    for node in model.graph.all_nodes():
        if not edit.is_main_op(node, node.op_type):
            continue
        unknown = not (onnx.defs.has(node.op_type) or _has_numbers(node))
        if unknown or (node.op_type == "Scan" and version < _SCAN_OVER_ONE):
            raise ModelError(
                f"{name}: node {node.name!r} is a {node.op_type} of opset {version}, which no later opset can compute; "
                "export the model with opset 13 or later"
            )
        if _is_special(node, version):
            node.domain = _HIDDEN
    model.graph.opset_imports[_HIDDEN] = version


def _is_special(node: ir.Node, version: int) -> bool:
    if node.op_type == "Upsample":
        return version >= _UPSAMPLE
    if node.op_type == "Resize":
        return version == 10
    if node.op_type == "Dropout":
        return version < 12 and any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    return node.op_type == "Hardmax" or node.op_type in _EXPERIMENTAL


def _has_numbers(node: ir.Node) -> bool:
    """Whether it is an experimental operator that is rewritten, and says its factors."""
    return all(edit.attribute(node, n) is not None for n in _EXPERIMENTAL.get(node.op_type, ("?",)))


def bring_back(model: ir.Model) -> None:
    """Put in the place of each hidden node what computes the same in opset 13; in place."""
    version = model.graph.opset_imports.pop(_HIDDEN, 0)
    names = edit.Names(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.domain != _HIDDEN:
            continue
        node.domain = ""
        _REWRITES[node.op_type](_Place(node, names, version))


class _Place:
    """Where new nodes go: in front of an old one."""

    def __init__(self, node: ir.Node, names: edit.Names, version: int) -> None:
        self.node, self.names, self.version = node, names, version

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        """Insert a node, and return its output."""
        node, graph = self.node, self.node.graph
        assert graph is not None
        name = self.names.fresh(f"{node.name or node.op_type}_{op_type.lower()}")
        new = edit.new_node(op_type, inputs, self.names.fresh(f"{name}_out"), name=name, attributes=attributes)
        stand_for(new, node)
        graph.insert_before(node, new)
        return new.outputs[0]

    def constant(self, array: edit.Array) -> ir.Value:
        """Insert a constant."""
        return self.add("Constant", value=ir.tensor(array))

    def number(self, attribute: str) -> ir.Value:
        """Insert the float32 numbers of an attribute of the old node as a constant."""
        return self.constant(np.array(edit.attribute(self.node, attribute), np.float32))

    def replace(self, *values: ir.Value) -> None:
        """Let values take the places and names of the old node's outputs, and take it out."""
        for old, new in zip(self.node.outputs, values, strict=True):
            new.type, new.shape = old.type, old.shape
            name = old.name
            edit.replace_uses(old, new)
            if new.name != name:
                old.name, new.name = f"{name}_replaced", name
        edit.remove_node(self.node)


def _hardmax(place: _Place) -> None:
    """Over all axes from `axis` on, as if they were one; since opset 13 over one."""
    x = place.node.inputs[0]
    rows = place.add("Flatten", x, axis=edit.attribute(place.node, "axis", 1))
    place.replace(place.add("Reshape", place.add("Hardmax", rows, axis=1), place.add("Shape", x)))


def _resize(place: _Place) -> None:
    """From the corner. The nearest element is the one below where it grows, and the one above where it shrinks."""
    x, scales = place.node.inputs[:2]
    mode = edit.attribute(place.node, "mode", "nearest")
    corner = {"coordinate_transformation_mode": "asymmetric", "mode": mode}
    if mode != "nearest":
        place.replace(place.add("Resize", x, None, scales, **corner))
        return
    factors = edit.constant_or_none(scales)
    for way, only in (("floor", np.greater_equal), ("ceil", np.less_equal)):
        if factors is not None and bool(only(factors, 1.0).all()):
            place.replace(place.add("Resize", x, None, scales, nearest_mode=way, **corner))
            return
    one = place.constant(np.ones(1, np.float32))
    grown = place.add("Resize", x, None, place.add("Max", scales, one), nearest_mode="floor", **corner)
    place.replace(place.add("Resize", grown, None, place.add("Min", scales, one), nearest_mode="ceil", **corner))


def _upsample(place: _Place) -> None:
    """From the corner, to the element below, which is not what Resize does unless it is told."""
    x, *scales = place.node.inputs
    mode = edit.attribute(place.node, "mode", "nearest")
    given = scales[0] if scales else place.number("scales")
    nearest = {"nearest_mode": "floor"} if mode == "nearest" else {}
    corner = {"coordinate_transformation_mode": "asymmetric", "mode": mode}
    place.replace(place.add("Resize", x, None, given, **corner, **nearest))


def _dropout(place: _Place) -> None:
    """The mask of what is kept was all False where nothing is dropped, and since opset 12 is all True."""
    x = place.node.inputs[0]
    assert x is not None
    kind = np.bool_ if place.version >= 10 or x.dtype is None else x.dtype.numpy()
    mask = place.add("ConstantOfShape", place.add("Shape", x), value=ir.tensor(np.zeros(1, kind)))
    place.replace(place.add("Identity", x), mask)


def _affine(place: _Place) -> None:
    scaled = place.add("Mul", place.node.inputs[0], place.number("alpha"))
    place.replace(place.add("Add", scaled, place.number("beta")))


def _image_scaler(place: _Place) -> None:
    bias = place.constant(np.array(edit.attribute(place.node, "bias"), np.float32).reshape(-1, 1, 1))
    place.replace(place.add("Add", place.add("Mul", place.node.inputs[0], place.number("scale")), bias))


def _scaled(function: str) -> Callable[[_Place], None]:
    """alpha * function(beta * x)."""

    def rewrite(place: _Place) -> None:
        inner = place.add("Mul", place.node.inputs[0], place.number("beta"))
        place.replace(place.add("Mul", place.add(function, inner), place.number("alpha")))

    return rewrite


_REWRITES: dict[str, Callable[[_Place], None]] = {
    "Affine": _affine,
    "Dropout": _dropout,
    "Hardmax": _hardmax,
    "ImageScaler": _image_scaler,
    "ParametricSoftplus": _scaled("Softplus"),
    "Resize": _resize,
    "ScaledTanh": _scaled("Tanh"),
    "Upsample": _upsample,
}

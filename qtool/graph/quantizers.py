"""The recognition of models that say themselves where they are quantised."""

import re
from collections.abc import Iterator
from pathlib import Path

import onnx

from qtool.graph.model_files import operators

_QUANTIZED = re.compile(r"QLinear|Q[A-Z][a-z]|DynamicQuantize|(Conv|MatMul)Integer|MatMulNBits|MatMulBnb4|Quantize")
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_OF_QONNX = frozenset({"Quant", "BipolarQuant", "IntQuant", "FloatQuant"})
"""Those of QONNX and FINN, which onnxruntime does not run."""


def is_quantized(path: str | Path) -> bool:
    """Return whether a model file holds an operator that quantises, or that computes with integers in the place of one.

    Source: ONNX and onnxruntime contrib_ops, whose names say it: QLinearConv, MatMulIntegerToFloat, QGemm, QAttention.
    """
    return any(is_quantizing(op) for op in operators(path))


def is_quantizing(op: str) -> bool:
    """Return whether an operator quantises, or computes with integers in the place of one of real numbers."""
    return op in _QUANTIZERS or op in _OF_QONNX or _QUANTIZED.match(op) is not None


def has_quantizers(model: str | Path | bytes) -> bool:
    """Return whether a model file, or a serialised model, holds a QuantizeLinear or DequantizeLinear anywhere.

    Raises:
        google.protobuf.message.DecodeError: it is no model.
    """
    proto = (
        onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model), load_external_data=False)
    )
    nodes = (*proto.graph.node, *(node for function in proto.functions for node in function.node))
    return any(op_type in _QUANTIZERS for op_type in _operators(nodes))


def _operators(nodes: tuple[onnx.NodeProto, ...]) -> Iterator[str]:
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _operators(tuple(body.node))

"""The recognition of models that say themselves where they are quantised."""

from collections.abc import Iterator
from pathlib import Path

import onnx

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


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

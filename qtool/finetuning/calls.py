"""A node as the function of its operator sees it: attributes, opset, and which inputs and outputs there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qtool.graph import edit
from qtool.graph.edit import Node

TYPES = {
    "FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BOOL": torch.bool,
    "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64,
}  # fmt: skip
"""The types that torch computes with as ONNX does, by their names in ONNX."""
NUMBERS = {
    1: "FLOAT",
    2: "UINT8",
    3: "INT8",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    10: "FLOAT16",
    11: "DOUBLE",
}
"""The names of these types by the numbers that attributes hold. Source: ONNX, TensorProto.DataType."""


@dataclass(frozen=True, slots=True)
class Call:
    """Everything that a node says beside its inputs.

    attributes: by name; tensors as arrays. opset: the version of the node's domain. inputs: for each whether it is
    there. outputs: for each whether anybody reads it.
    """

    attributes: Mapping[str, Any]
    opset: int
    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]

    @classmethod
    def of(cls, node: Node, opset: int) -> "Call":
        """Return what a node of a graph says."""
        attributes = {name: _plain(edit.attribute(node, name)) for name in node.attributes}
        inputs = tuple(value is not None for value in node.inputs)
        outputs = tuple(bool(value.uses()) or value.is_graph_output() for value in node.outputs)
        return cls(attributes, opset, inputs, outputs)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or `default` where there is none."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Return whether there is an input at this index."""
        return index < len(self.inputs) and self.inputs[index]

    @property
    def most_outputs(self) -> int:
        """The number of outputs, up to the last that is read."""
        return max((i + 1 for i, read in enumerate(self.outputs) if read), default=1)


def _plain(value: Any) -> Any:
    """Tensors as arrays; graphs as they are."""
    return value.numpy() if hasattr(value, "numpy") and hasattr(value, "tobytes") else value


def tensor_of(array: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """Return a copy of an array as a tensor."""
    return torch.from_numpy(np.array(array, order="C")).to(device)


def numbers(tensor: Tensor) -> list[int]:
    """Return the integers of a shape, of axes, or of another list that is a tensor; one number as a list too."""
    return [int(n) for n in tensor.reshape(-1).tolist()]


def listed(call: Call, name: str, tensor: Tensor | None) -> list[int] | None:
    """Return integers that are an input in newer opsets and an attribute in older ones; None where neither is."""
    if tensor is not None:
        return numbers(tensor)
    found: Sequence[int] | None = call.get(name)
    return None if found is None else [int(n) for n in found]

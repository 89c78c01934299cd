"""A model as it was read, of any maker: the tidied graph, its signature, and what its constants are."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.core.records.inspection import Port
from qtool.graph import edit, model_io, opset, shapes
from qtool.graph.edit import Model, Node, Value
from qtool.graph.model_files import model_size
from qtool.graph.quantizers import is_quantizing
from qtool.graph.serialized import Serialized


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is inspected.

    path: of its file. digest: SHA-256 of it with its external data. size: in bytes. model: the same function with
    unique names, functions inlined, constants made initializers and identities removed; else as the file has it.
    as_read: the opsets, inputs and outputs of the file. serialized: `model` as onnxruntime takes it.
    """

    path: Path
    digest: str
    size: int
    model: Model
    opset: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    producer: str
    metadata: dict[str, str]
    serialized: Serialized

    @property
    def nodes(self) -> Iterator[Node]:
        """All nodes, those in the bodies of If, Loop and Scan too."""
        return iter(self.model.graph.all_nodes())

    @property
    def is_quantized(self) -> bool:
        """Whether a node quantises, or computes with integers in place of real numbers, or a weight is stored so."""
        return any(is_quantizing(node.op_type) or multiplied(node) is not None for node in self.nodes)


def open_model(path: str | Path) -> Opened:
    """Read a model for inspection.

    Raises:
        ModelError: it cannot be read, or is no valid model.
    """
    loaded = model_io.load(path)
    model = loaded.model
    tidied = edit.clone(model)
    shapes.forget(tidied)
    opset.tidy(tidied, str(path))
    shapes.infer(tidied)
    return Opened(
        path=loaded.path,
        digest=loaded.digest,
        size=model_size(loaded.path),
        model=tidied,
        opset={domain or "ai.onnx": version for domain, version in sorted(model.opset_imports.items())},
        inputs=tuple(_port(v) for v in model.graph.inputs if not v.is_initializer()),
        outputs=tuple(_port(v) for v in model.graph.outputs),
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        metadata={str(key): str(text) for key, text in model.metadata_props.items()},
        serialized=model_io.serialize(tidied),
    )


_EIGHT_BITS = ("int8", "uint8")


def multiplied(node: Node | None) -> tuple[Value, Value] | None:
    """Return the 8-bit weight and the scale of which a Mul behind a Cast makes float; None where it is none such."""
    if node is None or not edit.is_main_op(node, "Mul"):
        return None
    for cast, scale in (node.inputs, node.inputs[::-1]):
        maker = None if cast is None else cast.producer()
        stored = maker.inputs[0] if maker is not None and edit.is_main_op(maker, "Cast") else None
        if stored is None or scale is None or edit.constant_or_none(scale) is None or not stored.is_initializer():
            continue
        if element_type(stored) in _EIGHT_BITS and (edit.rank(stored) or 0) > 1:
            return stored, scale
    return None


def element_type(value: Value | None) -> str:
    """Return the element type of a value as ONNX calls it, in small letters: float, int8; "" where unknown."""
    if value is None or value.dtype is None:
        return ""
    return str(value.dtype.name).lower()


def parameters(model: Model) -> dict[str, int]:
    """Return how many numbers the constants of a model hold, by element type, the most first."""
    count: Counter[str] = Counter()
    for graph in model.graphs():
        for value in graph.initializers.values():
            shape = edit.static_shape(value)
            if shape is not None:
                number = 1
                for size in shape:
                    number *= size
                count[element_type(value)] += number
    return dict(count.most_common())


def _port(value: Value) -> Port:
    shape: tuple[Any, ...] | None = None
    if value.shape is not None:
        shape = tuple(d if isinstance(d, int) else str(d.value or "?") for d in value.shape)
    return Port(str(value.name), element_type(value) or str(value.type or "unknown"), shape)

"""Reads the graph that onnxruntime says it will execute."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from qtool.graph.serialized import Serialized, encode

_ESCAPED = re.compile(r'["\\\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the optimised graph.

    name: that of the node of the model which it stands for; onnxruntime's own where it stands for none. label: its own
    in the optimised graph, by which the profiler calls it. inside: the label of the If, Loop or Scan whose body holds
    it. reads, makes: the element types of its inputs and outputs, "" where unknown. attributes: those that are whole
    numbers.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str = ""
    inside: str = ""
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    attributes: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class OwnNames:
    """Names of nodes that show what onnxruntime adds to them.

    A fused, moved or copied node is called as the one that it stands for, with `_nchwc`, `_token_4` or the like behind
    it or `fused` in front, which a name that a user gave may hold too. So each gets a mark that is nowhere else in the
    model, and its number. What JSON escapes is left out: the profiler of onnxruntime 1.24 does not.

    model: the same with these names; nodes in the bodies of If, Loop and Scan have them too. names: those before.
    """

    model: bytes | Serialized
    mark: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, model: bytes | Serialized) -> "OwnNames":
        """Return the model, which is not changed, with new names of nodes."""
        data = model if isinstance(model, bytes) else model.graph
        mark = f"|{hashlib.blake2b(data, digest_size=8).hexdigest()}|"
        proto = onnx.load_from_string(data)
        names = []
        for number, node in enumerate(_all_nodes(proto.graph)):
            names.append(node.name)
            node.name = f"{_ESCAPED.sub('_', node.name)}{mark}{number}|"
        renamed = encode(proto)
        return cls(renamed if isinstance(model, bytes) else replace(model, graph=renamed), mark, tuple(names))

    def before(self, name: str) -> str:
        """Return the name, before the renaming, of the node that a node of the optimised graph stands for.

        Names that are onnxruntime's own stay.
        """
        _, mark, behind = name.rpartition(self.mark)
        return self.names[int(behind.partition("|")[0])] if mark else name


def executed_nodes(path: str | Path, own: OwnNames) -> list[ExecutedNode]:
    """Read the nodes of a saved optimised model, in order; behind an If, Loop or Scan those of its bodies."""
    return list(_executed(onnx.load(str(path), load_external_data=False).graph, own, "", {}))


def _executed(graph: onnx.GraphProto, own: OwnNames, inside: str, around: Mapping[str, str]) -> Iterator[ExecutedNode]:
    types = {**around, **{tensor.name: _element(tensor.data_type) for tensor in graph.initializer}}
    for info in (*graph.input, *graph.value_info, *graph.output):
        types[info.name] = _element(info.type.tensor_type.elem_type)
    for node in graph.node:
        reads, makes = (tuple(types.get(name, "") for name in names) for names in (node.input, node.output))
        yield ExecutedNode(
            own.before(node.name), node.op_type, node.domain, tuple(node.input), tuple(node.output), node.name, inside,
            reads, makes, {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT},
        )  # fmt: skip
        for body in _bodies(node):
            yield from _executed(body, own, node.name, types)


def _element(number: int) -> str:
    """As onnx-ir calls it: float, int8; "" of what is no tensor."""
    return onnx.TensorProto.DataType.Name(number).lower() if number else ""


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _all_nodes(body)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)


_BLOCK = 16
"""The largest block of channels of any processor; fewer channels are padded to it, and padding must not be counted."""


def has_convolutions(model: Serialized) -> bool:
    """Return whether a model has a Conv; without one, no tensor is ever blocked."""
    return any(node.op_type == "Conv" for node in onnx.load_from_string(model.graph).graph.node)


def without_reorders(path: Path, outputs: Sequence[str]) -> tuple[Serialized, dict[str, str]]:
    """Load a saved optimised model so that graph outputs of a ReorderOutput are the blocked tensors themselves.

    Only `outputs` are touched, and of these only those without padded channels. Returns the serialised model, whose
    weights stay where they are, and for each output that was replaced the name of the one that stands for it.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        channels = next((a.i for a in node.attribute if a.name == "channels"), 0)
        blocked = node.op_type == "ReorderOutput" and node.output[0] in outputs and channels % _BLOCK == 0 < channels
        if blocked and node.input[0] not in renamed.values():
            renamed[node.output[0]] = node.input[0]
        if not blocked or node.output[0] not in renamed or node.output[0] in read:
            kept.append(node)
    if renamed:
        del graph.node[:]
        graph.node.extend(kept)
        for output in graph.output:
            if output.name in renamed:
                output.name = renamed[output.name]
                output.type.tensor_type.ClearField("shape")
    return Serialized(encode(model), {}, path.parent), renamed

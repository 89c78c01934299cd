"""The hiding of nodes that must stay float from onnxruntime, which makes integers of what stands between Q/DQ.

A layer reads through a *twin*: a second DQ whose scale is a vector of equal numbers. `WeightBiasQuantization`, which
rounds the float weights of a Conv, ConvTranspose or Gemm behind a DQ with a scalar, leaves it alone, and so does the
selector for a MatMul of two activations. Along channels it costs what a scalar one does; a bias behind a DQ would cost
a Conv its blocked layout (docs/lab-notebook.md). Unary and pooling selectors do take a vector, and then the model does
not load. So everything else, and a layer of whose input no dimension but the last is known, reads through a *barrier*:
a Max of one tensor, behind a DQ with a scalar, which copies it and which no selector knows. It stands only where a
selector would match, which wants a DQ on every input and a Q behind, and behind the smallest of the inputs; and where
it lets several float nodes share a DQ.

onnxruntime also moves a DQ forward and a Q backward through pass-throughs: one in front of such a node has the barrier
in front of itself, and behind one that must stay float another barrier stands in front of the Q; behind a pooling the Q
has a vector instead, with which it is not moved, where a dimension is known. So has one whose
result a graph inside of another node reads: moving a DQ to there, onnxruntime asks that node for an input that it does
not have, and the process ends.

Source: onnxruntime `core/optimizer/qdq_transformer/`: `weight_bias_quantization.cc`, `qdq_propagation.cc`,
`selectors_actions/qdq_selector_action_transformer.cc`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from qtool.core.records.placement import Reader
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import is_linear
from qtool.pipeline.planning.selection import Selection
from qtool.targets.kernels import UNPLANNED_OPERATORS

# what onnxruntime moves a DQ through (`CanNodePropagate`)
_PROPAGATED = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class HiddenReaders:
    """The (node, input index) that read a value through a twin, those that read it through a barrier, and more.

    barred: the values whose Q must not be moved to where they come from.
    """

    twins: dict[Value, list[Reader]] = field(default_factory=dict)
    barred_readers: dict[Value, list[Reader]] = field(default_factory=dict)
    barred: set[Value] = field(default_factory=set)

    def of(self, value: Value) -> dict[str, Any]:
        """Return the fields of the value's `Site` that say it."""
        twins, barred = self.twins.get(value, []), self.barred_readers.get(value, [])
        fields = {**twin_fields(value, twins, barred), "barred": value in self.barred}
        # no integer node makes it, so that nobody reads a twin of it
        axis = _twin_axis(value) if fields["barred"] and _is_pooled(value) else None
        return fields if axis is None else {**fields, **_vector(value, axis)}


def twin_fields(value: Value, twins: Collection[Reader], barred: Collection[Reader]) -> dict[str, Any]:
    """Return the fields that say who reads a value through a twin and through a barrier.

    Those that want a twin have a barrier where no dimension of the value is known.
    """
    axis = _twin_axis(value) if twins else None
    if axis is None:
        twins, barred = (), {*twins, *barred}
    return {
        "float_readers": tuple(sorted(twins)),
        **_vector(value, axis),
        "barred_readers": tuple(sorted(barred)),
    }


def _vector(value: Value, axis: int | None) -> dict[str, Any]:
    return {"twin_axis": axis, "twin_size": None if axis is None else edit.static_dim(value, axis)}


def hidden_readers(model: Model, selection: Selection, quantized: Collection[Value]) -> HiddenReaders:
    """Find who must read the quantised values hidden from onnxruntime, and return them."""
    result = HiddenReaders()
    if not selection.target.on_cpu:
        return result
    finder = _Finder(selection, quantized)
    for node in model.graph:
        # what no integer node makes is read as it is
        read = [(i, v) for i, v in edit.activations(node) if v in quantized and selection.produces(v)]
        means = finder.means(node) if read else None
        if means == "twin":
            for index, value in read:
                result.twins.setdefault(value, []).append((str(node.name), index))
        elif means == "barrier":
            # the selectors want a DQ on every input: one less is enough
            index, value = min(read, key=lambda item: _size(item[1]))
            result.barred_readers.setdefault(value, []).append((str(node.name), index))
        elif node in selection.kept and not is_linear(node):
            for index, value in read:
                if finder.is_shared(value):
                    result.barred_readers.setdefault(value, []).append((str(node.name), index))
    result.barred.update(value for value in quantized if _passed_on_in_float(value, selection))
    return result


@dataclass(frozen=True, slots=True)
class _Finder:
    """Says how nodes are hidden. quantized: the values with a Q behind them."""

    selection: Selection
    quantized: Collection[Value]

    def means(self, node: Node) -> Literal["twin", "barrier"] | None:
        """How the node is hidden; None where onnxruntime leaves it as it is planned."""
        selection = self.selection
        if node in selection.integer or node in selection.dynamic:
            return None
        readers = [reader for output in node.outputs for reader in edit.consumers(output)]
        if edit.is_main_op(node, *_PROPAGATED) and any(reader.graph is not node.graph for reader in readers):
            return "barrier"
        rule = selection.rule(node)
        if is_linear(node):
            return "twin"
        kept = node in selection.kept
        if rule is None:
            hidden = kept and edit.is_main_op(node, *UNPLANNED_OPERATORS)
        elif rule.kind == "elementwise":
            # the selectors do not look at what the row's condition does, but want a DQ on every input and a Q behind
            declined = rule.check is not None and rule.check(node) is not None
            hidden = (kept or declined) and all(map(self._has_dq, node.inputs)) and any(map(self._has_q, node.outputs))
        else:
            hidden = rule.kind == "passthrough" and (
                kept or any(reader.graph is node.graph and self.means(reader) for reader in readers)
            )
        return "barrier" if hidden else None

    def is_shared(self, value: Value) -> bool:
        """Whether several nodes read it in float: behind one barrier they fuse, as Sigmoid and Mul to QuickGelu.

        onnxruntime gives each of them a DQ of its own otherwise (`EnsureUniqueDQForNodeUnit`).
        """
        return sum(node in self.selection.kept for node in edit.consumers(value)) > 1

    def _has_dq(self, value: Value | None) -> bool:
        """Whether a DQ stands in front of its readers, or is moved there; a constant of a float node has none."""
        while value is not None and not (value in self.quantized and self.selection.produces(value)):
            node = value.producer()
            moves = node is not None and node not in self.selection.integer and edit.is_main_op(node, *_PROPAGATED)
            value = node.inputs[0] if node is not None and moves else None
        return value is not None

    def _has_q(self, value: Value) -> bool:
        """Whether a Q stands behind it, or is moved there."""
        if value in self.quantized:
            return True
        return any(
            edit.is_main_op(reader, *_PROPAGATED, "Relu", "Clip") and any(map(self._has_q, reader.outputs))
            for reader in edit.consumers(value)
        )


def _size(value: Value) -> float:
    """How many numbers it holds for each sample; infinite where that is not known."""
    known = edit.rank(value)
    sizes = [edit.static_dim(value, axis) for axis in range(1, known or 0)]
    return math.inf if known is None or None in sizes else math.prod(size for size in sizes if size is not None)


def _passed_on_in_float(value: Value, selection: Selection) -> bool:
    """Whether a pass-through that must stay float makes it: no Q may move up to where that one would be integer."""
    node = value.producer()
    while node is not None and node not in selection.integer and (rule := selection.rule(node)) is not None:
        if rule.kind == "passthrough" and node in selection.kept:
            return True
        if rule.kind != "passthrough" and not edit.is_main_op(node, "Relu", "Clip"):
            return False
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return False


def _is_pooled(value: Value) -> bool:
    """Whether a pooling makes it.

    Past others onnxruntime may move a Transpose, behind which the vector lies along the last axis: each number is then
    quantised by a call of its own.
    """
    node = value.producer()
    return node is not None and edit.is_main_op(node, "MaxPool")


def _twin_axis(value: Value) -> int | None:
    """The axis of the vector: the channels, or another one of which the size is known.

    None along the last axis: there a vector costs more than a barrier.
    """
    rank = edit.rank(value) or 0
    for axis in sorted(range(rank - 1), key=lambda axis: axis != 1):
        size = edit.static_dim(value, axis)
        if size is not None and size > 1:
            return axis
    return None

"""The choice of nodes that become integer: forward from weighted layers, then only what an integer layer reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qtool.core.records.options import Form, Scheme
from qtool.core.records.placement import NEEDS_RANGES
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.targets.conditions import large, table
from qtool.targets.rules import OpRule, Target

NO_KERNEL = "it has no integer kernel for calibrated ranges"
"""Why a layer stays float, or has weights that are stored alone, in the static form."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The value that is quantised behind a node: its output, or that of the Relu or Clip that the grid absorbs."""

    value: Value
    bounds: tuple[float, float] | None


@dataclass(slots=True)
class Selection:
    """The nodes chosen to be integer, those kept float on request, and why others are float.

    dynamic: nodes that quantise their input anew in each run. stored: nodes that compute in float behind integer
    weights. kept: nodes that the caller wants in float.
    """

    target: Target
    weighted: dict[Node, OpRule] = field(default_factory=dict)
    integer: dict[Node, OpRule] = field(default_factory=dict)
    dynamic: dict[Node, OpRule] = field(default_factory=dict)
    stored: dict[Node, OpRule] = field(default_factory=dict)
    kept: frozenset[Node] = frozenset()
    declined: dict[Node, str] = field(default_factory=dict)
    available: set[Value] = field(default_factory=set)
    absorbed: set[Node] = field(default_factory=set)

    def rule(self, node: Node) -> OpRule | None:
        """Return what the target does with the operator of a node; None where it knows no such operator."""
        return self.target.rule(node)

    def reasons(self) -> list[tuple[str, str]]:
        """Return (operator, reason) for the weighted nodes that are float."""
        return [(n.op_type, why) for n, why in self.declined.items() if self.target.rules[n.op_type].kind == "weighted"]

    def tails(self, node: Node, rule: OpRule) -> list[Tail]:
        """Return what is quantised behind each output of a node that is used."""
        used = [o for o in node.outputs if o.uses() or o.is_graph_output()]
        if rule.kind in ("passthrough", "bridge") or not self.target.absorbs_clip:
            return [Tail(o, None) for o in used]
        return [self._tail(o) for o in used]

    def _tail(self, value: Value) -> Tail:
        follower = edit.single_consumer(value)
        bounds = None if follower is None or follower.graph is not value.graph else clip_bounds(follower)
        if follower is None or bounds is None or not bounds[0] <= 0.0 <= bounds[1]:
            return Tail(value, None)
        return Tail(follower.outputs[0], bounds)

    def produces(self, value: Value) -> bool:
        """Return whether an integer node writes a value that is quantised, or the Relu or Clip that it absorbs."""
        node = value.producer()
        if node in self.absorbed and node is not None and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node in self.integer and self.target.outputs

    def activation_inputs(self, node: Node, rule: OpRule) -> list[tuple[int, Value]]:
        """Return (index, value) for the computed inputs of a node that its rule reads as activations."""
        return [(i, v) for i, v in edit.activations(node) if rule.inputs is None or i in rule.inputs]


def is_layer(node: Node, target: Target) -> bool:
    """Return whether the target has a rule for a node that makes it a layer with weights."""
    rule = target.rule(node)
    return rule is not None and rule.kind == "weighted"


def static_scheme(model: Model, target: Target, scheme: Scheme) -> Scheme:
    """Return the scheme with layers dynamic that have a dynamic kernel on the target and no static one, as LSTM."""
    rules = {op for op, rule in target.rules.items() if rule.dynamic and not rule.static}
    return replace(scheme, dynamic=tuple(str(node.name) for node in model.graph.all_nodes() if node.op_type in rules))


def clip_bounds(node: Node) -> tuple[float, float] | None:
    """Return the bounds of a Relu, or of a Clip with constant bounds; None for any other node."""
    if edit.is_main_op(node, "Relu"):
        return 0.0, float("inf")
    if not edit.is_main_op(node, "Clip"):
        return None
    bounds = [-float("inf"), float("inf")]
    for i in (1, 2):
        value = node.inputs[i] if len(node.inputs) > i else None
        if value is None:
            continue
        array = edit.constant_or_none(value)
        if array is None or array.size != 1:
            return None
        bounds[i - 1] = float(array.reshape(())[()])
    return bounds[0], bounds[1]


def select(model: Model, target: Target, scheme: Scheme, kept: Mapping[Node, str]) -> Selection:
    """Choose the nodes of the main graph that become integer, and return them with the reasons why others stay float.

    `kept`: nodes that are to stay float, and why.
    """
    selection = Selection(target, kept=frozenset(kept))
    nodes = list(model.graph)
    for node in nodes:
        rule = selection.rule(node)
        if rule is not None:
            _forward(selection, node, rule, kept.get(node), scheme)
    _leave_read_tables(selection)
    for node in reversed(nodes):
        _pull_to_input(selection, node)
    _prune(selection, nodes)
    for node, rule in selection.integer.items():
        selection.absorbed.update(
            producer
            for tail in selection.tails(node, rule)
            if (producer := tail.value.producer()) is not None and producer is not node
        )
    return selection


def _leave_read_tables(selection: Selection) -> None:
    """Tables whose numbers a layer in float reads too stay float: in 8 bits they would be in the file besides."""
    chosen = {*selection.stored, *selection.dynamic, *selection.weighted}
    for node, rule in list(selection.stored.items()):
        table_of = node.inputs[0] if rule.kind != "weighted" else None
        if table_of is not None and any(reader not in chosen for reader in edit.consumers(table_of)):
            del selection.stored[node]
            selection.declined[node] = "its table is used for something else"


def _forward(selection: Selection, node: Node, rule: OpRule, excluded: str | None, scheme: Scheme) -> None:
    """Mark the node integer where its inputs allow it, and its outputs as available to the next ones."""
    if node in selection.absorbed:
        return
    inputs = selection.activation_inputs(node, rule)
    reason = _declined(node, rule, inputs)
    if rule.stored and (rule.kind != "weighted" or reason is None):
        kept = _kept_from_static(rule, scheme.form_of(node.name or ""), node)
        if excluded is None and kept in ("dynamic", "stored"):
            (selection.dynamic if kept == "dynamic" else selection.stored)[node] = rule
            return
        reason = reason or kept
    _mark(selection, node, rule, inputs, excluded, reason)


def _mark(
    selection: Selection,
    node: Node,
    rule: OpRule,
    inputs: list[tuple[int, Value]],
    excluded: str | None,
    reason: str | None,
) -> None:
    """The same for calibrated ranges. `excluded`: why the caller wants it in float; `reason`: why it is float anyhow.

    What is left in float makes its outputs available where it would have made them so as an integer node. Leaving nodes
    in float can therefore not make another one integer, and needs no statistics that the whole graph does not need.
    """
    ready = bool(inputs) and all(v in selection.available for _, v in inputs)
    if excluded is not None and rule.kind != "bridge":
        selection.declined[node] = excluded
        if reason is not None or not (ready or rule.kind == "weighted"):
            return
    elif rule.kind == "weighted" and reason is None:
        selection.weighted[node] = rule
        selection.integer[node] = rule
    elif rule.kind in ("elementwise", "passthrough") and reason is None and selection.target.outputs:
        if not (ready or (node.op_type == "Concat" and any(v in selection.available for _, v in inputs))):
            return
        selection.integer[node] = rule
    elif rule.kind == "elementwise" and reason is None and rule.fused_branch is not None:
        selection.integer[node] = rule
        return
    elif reason is not None and rule.kind != "bridge":
        selection.declined[node] = reason
        return
    elif not ready:
        return
    for tail in selection.tails(node, rule):
        selection.available.add(tail.value)
        producer = tail.value.producer()
        if producer is not None and producer is not node:
            selection.absorbed.add(producer)


def _kept_from_static(rule: OpRule, form: Form, node: Node) -> str | None:
    """`dynamic`, `stored`, or why the node stays float; None: calibrated ranges decide, or it is none of this."""
    if rule.kind != "weighted":
        return "stored" if table(node) is None else None
    if form == "static" and rule.folded and large(node):
        return "stored"
    if form == "static":
        return None if rule.static else NO_KERNEL
    if form == "dynamic" and rule.dynamic:
        layer = Layer.of(node)
        return "its input is transposed" if layer is not None and layer.transposes_input else "dynamic"
    if form == "dynamic" and rule.static:
        return NEEDS_RANGES
    return "stored"


def _declined(node: Node, rule: OpRule, inputs: list[tuple[int, Value]]) -> str | None:
    if any(v.dtype is not None and not edit.is_float32(v) for _, v in inputs):
        return "its input is not float32"
    if not inputs:
        return "it has no computed input"
    if rule.kind == "elementwise" and rule.inputs is None:
        for value in node.inputs:
            constant = edit.constant_or_none(value)
            if constant is not None and (constant.dtype != np.float32 or not np.isfinite(constant).all()):
                return "a constant operand is not finite float32"
    return rule.check(node) if rule.check is not None else None


def _pull_to_input(selection: Selection, node: Node) -> None:
    """A pass-through in front of integer layers moves 8-bit data: quantise before it, not behind it."""
    rule = selection.rule(node)
    if rule is None or rule.kind != "passthrough" or node in selection.integer or node in selection.declined:
        return
    inputs = selection.activation_inputs(node, rule)
    outputs = [o for o in node.outputs if o.uses() or o.is_graph_output()]
    if not selection.target.outputs or len(inputs) != 1 or any(o.is_graph_output() for o in outputs):
        return
    if not edit.is_float32(inputs[0][1]) or _declined(node, rule, inputs) is not None:
        return
    if outputs and all(_reads_integer(selection, reader, index, o) for o in outputs for reader, index in o.uses()):
        selection.integer[node] = rule
        selection.available.update(outputs)


def _reads_integer(selection: Selection, node: Node, index: int, value: Value) -> bool:
    rule = selection.integer.get(node)
    return rule is not None and (index, value) in selection.activation_inputs(node, rule)


def _prune(selection: Selection, nodes: list[Node]) -> None:
    """Keep a node without weights integer only where an integer layer reads what it makes, directly or not."""
    if not selection.target.outputs:
        return
    useful: set[Node] = set()
    for node in reversed(nodes):
        rule = selection.integer.get(node) or selection.target.rule(node)
        if node in selection.weighted:
            useful.add(node)
        elif rule is not None and (node in selection.integer or rule.kind == "bridge"):
            values = [tail.value for tail in selection.tails(node, rule)]
            if any(reader in useful for value in values for reader in edit.consumers(value)):
                useful.add(node)
    for node in [n for n in selection.integer if n not in useful]:
        del selection.integer[node]
        selection.declined[node] = "no integer layer reads what it makes"

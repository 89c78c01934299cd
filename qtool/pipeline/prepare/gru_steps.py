"""A GRU of many units becomes a product with its whole input, and a Scan whose body is one step, all in plain layers.

onnxruntime has no integer GRU, but the products of the steps have integer kernels as all others do, of which bodies are
made too. A step of a dozen nodes costs more than the kernel's own loop; `python -m bench.gru_steps` shows from how many
units on that is won back. Source: ONNX, GRU: the gates of its weights are z, r, h.

    z = Sigmoid(x Wz + h Rz), r = Sigmoid(x Wr + h Rr), c = Tanh(x Wc + (r h) Rc), h' = c + z (h - c)

and c = Tanh(x Wc + r (h Rc)) with `linear_before_reset`. Declines below `LEAST` units, for weights that are computed,
for lengths of sequences, a clip, other activations than these, and where the batch comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Graph, Model, Node, Value

LEAST = 384
"""Units of the smallest GRU that is worth it: `python -m bench.gru_steps`."""
_ACTIVATIONS = ("Sigmoid", "Tanh")
_FORWARD, _REVERSE, _BOTH = "forward", "reverse", "bidirectional"


@dataclass(frozen=True, slots=True)
class _Weights:
    """Of one direction, I inputs, H units: those of the input [I, 3H] and its bias [3H], and of the state [H, 3H].

    bias: of the product with the state, [3H]; what may be added before is in that of the input.
    """

    input: Array
    input_bias: Array
    state: Array
    bias: Array

    @classmethod
    def of(cls, weight: Array, recurrence: Array, bias: Array, *, reset_after: bool) -> "_Weights":
        """From those of a GRU: [3H, I], [3H, H], [6H]."""
        first, second = np.split(bias, 2)
        # what stands beside the reset gate cannot be added before it
        alone = np.zeros_like(second)
        if reset_after:
            alone[2 * len(alone) // 3 :] = second[2 * len(second) // 3 :]
        return cls(
            np.ascontiguousarray(weight.T), first + (second - alone), np.ascontiguousarray(recurrence.T), alone
        )  # fmt: skip


def apply(model: Model) -> int:
    """Rewrite each GRU that is worth it as steps, in place; return how many were rewritten."""
    count = 0
    for node in list(model.graph):
        if edit.is_main_op(node, "GRU") and _fits(node):
            _rewrite(model, node)
            count += 1
    return count


def _fits(node: Node) -> bool:
    inputs = [*node.inputs, *[None] * 6][:6]
    x, weight, recurrence, bias, lengths, _ = inputs
    if x is None or not all(edit.weight_like(v) for v in (weight, recurrence)):
        return False
    if (bias is not None and not edit.weight_like(bias)) or (lengths is not None and lengths.name):
        return False
    directions, gates, units = edit.constant(recurrence).shape
    told = edit.attribute(node, "activations", None) or _ACTIVATIONS * directions
    plain = [str(name).lower() for name in told] == [name.lower() for name in _ACTIVATIONS * directions]
    usual = not any(edit.attribute(node, name, None) for name in ("clip", "layout", "activation_alpha"))
    direction = edit.attribute(node, "direction", _FORWARD)
    return plain and usual and gates == 3 * units and units >= LEAST and (directions == 2) == (direction == _BOTH)


def _rewrite(model: Model, node: Node) -> None:
    x, weight, recurrence = (node.inputs[i] for i in range(3))
    bias, begin = (node.inputs[i] if len(node.inputs) > i else None for i in (3, 5))
    kernels, steps = edit.constant(weight), edit.constant(recurrence)
    biases = np.zeros((len(steps), 6 * steps.shape[2]), np.float32) if bias is None else edit.constant(bias)
    after = bool(edit.attribute(node, "linear_before_reset", 0))
    made = _Steps(model, node)
    assert x is not None
    ends: list[Value] = []
    rows: list[Value] = []
    for which in range(len(steps)):
        weights = _Weights.of(kernels[which], steps[which], biases[which], reset_after=after)
        backward = edit.attribute(node, "direction", _FORWARD) == _REVERSE or which == 1
        state = made.start(x, steps.shape[2]) if begin is None else made.taken(begin, which)
        end, row = made.scan(x, state, weights, reset_after=after, backward=backward)
        ends.append(made.node("Unsqueeze", [end, made.numbers("axis", [0])]))
        rows.append(made.node("Unsqueeze", [row, made.numbers("axis", [1])]))
    made.replace([rows, ends], axes=(1, 0))


class _Steps:
    """Makes nodes in front of a GRU, under names that tell whose they are."""

    def __init__(self, model: Model, node: Node) -> None:
        fed = node.inputs[0]
        assert fed is not None
        self._fed = fed
        self._model, self._old, self._names = model, node, edit.Names(model.graph)
        self._base = node.name or str(node.outputs[0].name)
        self._inner: list[Node] | None = None

    def node(self, op: str, inputs: Sequence[Value | None], called: str | None = None, **attributes: Any) -> Value:
        return self.nodes(op, inputs, 1, called, **attributes)[0]

    def nodes(
        self, op: str, inputs: Sequence[Value | None], outputs: int, called: str | None = None, **attributes: Any
    ) -> tuple[Value, ...]:
        """Put a node into the graph, or into the body that is being made; return its outputs."""
        base = self._names.fresh(f"{self._base}_{called or op.lower()}")
        names = [self._names.fresh(f"{base}_out") for _ in range(outputs)]
        new = edit.new_node(op, inputs, names, name=base, attributes=attributes)
        for output in new.outputs:
            output.type = None if op in ("Shape", "Slice", "Concat") else self._fed.type
        edit.take_origins(new, self._old)
        if self._inner is None:
            self._model.graph.insert_before(self._old, new)
        else:
            self._inner.append(new)
        return tuple(new.outputs)

    def constant(self, called: str, array: Array) -> Value:
        return edit.add_initializer(self._model.graph, self._names.fresh(f"{self._base}_{called}"), array)

    def numbers(self, called: str, numbers: Sequence[int]) -> Value:
        return self.constant(called, np.array(numbers, np.int64))

    def start(self, x: Value, units: int) -> Value:
        """Zeros [N, units]."""
        bounds = [self.numbers("bound", [n]) for n in (1, 2)]
        batch = self.node("Slice", [self.node("Shape", [x]), *bounds])
        shape = self.node("Concat", [batch, self.numbers("units", [units])], axis=0)
        return self.node("ConstantOfShape", [shape])

    def taken(self, states: Value, which: int) -> Value:
        """The state of a direction, [N, H] of [D, N, H]."""
        return self.node("Gather", [states, self.constant("direction", np.array(which, np.int64))], axis=0)

    def scan(
        self, x: Value, state: Value, weights: _Weights, *, reset_after: bool, backward: bool
    ) -> tuple[Value, Value]:
        """The last state [N, H], and all of them [T, N, H]."""
        product = self.node("MatMul", [x, self.constant("input_weight", weights.input)], "input")
        fed = self.node("Add", [product, self.constant("input_bias", weights.input_bias)])
        units = len(weights.state)
        body = self._step(weights, units, reset_after=reset_after)
        direction = [int(backward)]
        end, rows = self.nodes(
            "Scan", [state, fed], 2, "steps", body=body, num_scan_inputs=1, scan_input_directions=direction,
            scan_output_directions=direction,
        )  # fmt: skip
        return end, rows

    def _step(self, weights: _Weights, units: int, *, reset_after: bool) -> Graph:
        """The body: of h [N, H] and x W [N, 3H], the next h, twice."""
        h, x = (
            edit.new_value(self._names.fresh(f"{self._base}_{name}"), self._fed, [None, width])
            for name, width in (("state", units), ("fed", 3 * units))
        )
        gates, halves = self.numbers("gates", [2 * units, units]), self.numbers("halves", [units, units])
        # z and r apart from c, where c is of another state
        own = [weights.state] if reset_after else np.split(weights.state, [2 * units], axis=1)
        recurrence = [self.constant("state_weight", np.ascontiguousarray(array)) for array in own]
        bias = [self.constant("state_bias", weights.bias)] if weights.bias.any() else []
        self._inner = []
        to_gates, to_state = self.nodes("Split", [x, gates], 2, axis=1)
        both = self.node("Gemm", [h, recurrence[0], *bias], "recurrence")
        ahead = None
        if reset_after:
            both, ahead = self.nodes("Split", [both, gates], 2, axis=1)
        z, r = self.nodes("Split", [self.node("Sigmoid", [self.node("Add", [both, to_gates])]), halves], 2, axis=1)
        if ahead is None:
            kept = self.node("Gemm", [self.node("Mul", [r, h]), recurrence[1]], "recurrence")
        else:
            kept = self.node("Mul", [r, ahead])
        candidate = self.node("Tanh", [self.node("Add", [to_state, kept])])
        moved = self.node("Mul", [z, self.node("Sub", [h, candidate])])
        following = self.node("Add", [candidate, moved])
        following.shape = h.shape
        again = self.node("Identity", [following])
        again.shape = h.shape
        inner, self._inner = self._inner, None
        return edit.new_body([h, x], [following, again], inner, f"{self._base}_step")

    def replace(self, parts: Sequence[Sequence[Value]], axes: Sequence[int]) -> None:
        """Let what was made for each output, joined along its axis, stand for it; the GRU goes."""
        for old, made, axis in zip(self._old.outputs, parts, axes, strict=False):
            whole = made[0] if len(made) == 1 else self.node("Concat", made, axis=axis)
            whole.type, whole.shape = old.type, old.shape
            name, is_output = old.name, old.is_graph_output()
            edit.replace_uses(old, whole)
            if not is_output:
                old.name, whole.name = f"{name}_replaced", name
        edit.remove_node(self._old)

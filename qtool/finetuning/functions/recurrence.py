"""LSTM, GRU and RNN, step by step, so that gradients go through time. Source: the operators' pages of ONNX.

T steps, N samples, D directions, H the size of the state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qtool.finetuning.calls import Call

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
}
_Activations = Sequence[Callable[[Tensor], Tensor]]


def runs(call: Call) -> str | None:
    """Return why a recurrent node has no function; None where it has."""
    for name in call.get("activations") or ():
        if name.lower() not in _FUNCTIONS:
            return f"has the activation {name}"
    if "clip" in call.attributes:
        return "clips what its activations read"
    return "has its samples in front of its steps (layout 1)" if call.get("layout", 0) else None


@dataclass(frozen=True, slots=True)
class _Direction:
    """What one direction computes with: weights without the axis of directions.

    part: of the inputs [T, N, gates * H]. index: [T, N], the step that is taken at each; None: forwards, all of them.
    inside: [T, N, 1], whether a sample has that step; None: every one.
    """

    part: Tensor
    recurrent: Tensor
    bias: Tensor
    activations: _Activations
    index: Tensor | None
    inside: Tensor | None


_Step = Callable[[int, _Direction, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Of a direction with its number, the inputs of a step and the states: the next states, the first the output."""


def lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """Return all outputs [T, D, N, H], the last outputs and the last cells."""
    bias, lengths, hidden, cell, peephole = [*others, *[None] * 5][:5]
    coupled = bool(call.get("input_forget", 0))

    def step(d: int, of: _Direction, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = states
        f, g, out = of.activations
        i, o, forget, new = (x + h @ of.recurrent.T + of.bias).chunk(4, -1)
        pi, po, pf = (0.0, 0.0, 0.0) if peephole is None else peephole[d].chunk(3)
        i = f(i + pi * c)
        forget = 1.0 - i if coupled else f(forget + pf * c)
        c = forget * c + i * g(new)
        return f(o + po * c) * out(c), c

    return _run(call, ("Sigmoid", "Tanh", "Tanh"), step, (x, w, r, bias), lengths, (hidden, cell))


def gru(call: Call, x: Tensor, w: Tensor, r: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """Return all outputs [T, D, N, H] and the last outputs."""
    bias, lengths, hidden = [*others, *[None] * 3][:3]
    late = bool(call.get("linear_before_reset", 0))

    def step(_d: int, of: _Direction, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,), (f, g) = states, of.activations
        size = h.shape[-1]
        gates = x[..., : 2 * size] + h @ of.recurrent[: 2 * size].T + of.bias[: 2 * size]
        update, reset = f(gates).chunk(2, -1)
        matrix, own = of.recurrent[2 * size :].T, of.bias[2 * size :]
        fresh = g(x[..., 2 * size :] + (reset * (h @ matrix + own) if late else (reset * h) @ matrix + own))
        return ((1.0 - update) * fresh + update * h,)

    return _run(call, ("Sigmoid", "Tanh"), step, (x, w, r, bias), lengths, (hidden,))


def rnn(call: Call, x: Tensor, w: Tensor, r: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """Return all outputs [T, D, N, H] and the last outputs."""
    bias, lengths, hidden = [*others, *[None] * 3][:3]

    def step(_d: int, of: _Direction, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (of.activations[0](x + states[0] @ of.recurrent.T + of.bias),)

    return _run(call, ("Tanh",), step, (x, w, r, bias), lengths, (hidden,))


def _run(
    call: Call,
    usual: Sequence[str],
    step: _Step,
    weights: tuple[Tensor, Tensor, Tensor, Tensor | None],
    lengths: Tensor | None,
    starts: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    x, w, r, bias = weights
    backwards = {"forward": [False], "reverse": [True]}.get(call.get("direction", "forward"), [False, True])
    names = list(call.get("activations") or [*usual] * len(backwards))
    found, last = [], []
    for d, backward in enumerate(backwards):
        own = [_FUNCTIONS[name.lower()] for name in names[d * len(usual) : (d + 1) * len(usual)]]
        both = r.new_zeros(2 * r.shape[1]) if bias is None else bias[d]
        before, behind = both.chunk(2)
        index, inside = _order(x, lengths, backward=backward)
        direction = _Direction(x @ w[d].T + before, r[d], behind, own, index, inside)
        zeros = x.new_zeros(x.shape[1], r.shape[2])
        outputs, states = _through(d, direction, step, tuple(zeros if s is None else s[d] for s in starts))
        found.append(outputs)
        last.append(states)
    return (torch.stack(found, 1), *(torch.stack([states[i] for states in last]) for i in range(len(starts))))


def _through(d: int, of: _Direction, step: _Step, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All steps: the outputs [T, N, H] in the order of the inputs, and the last states."""
    inputs = of.part if of.index is None else of.part.gather(0, of.index.unsqueeze(-1).expand_as(of.part))
    outputs = []
    for t in range(inputs.shape[0]):
        made = step(d, of, inputs[t], states)
        if of.inside is not None:
            kept = zip(made, states, strict=True)
            outputs.append(torch.where(of.inside[t], made[0], 0.0))
            states = tuple(torch.where(of.inside[t], new, old) for new, old in kept)
        else:
            outputs.append(made[0])
            states = made
    joined = torch.stack(outputs)
    return joined if of.index is None else joined.gather(0, of.index.unsqueeze(-1).expand_as(joined)), states


def _order(x: Tensor, lengths: Tensor | None, *, backward: bool) -> tuple[Tensor | None, Tensor | None]:
    """Which step is taken when, and which samples have it; an order backwards leads there and back."""
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    if lengths is None:
        return (steps.flip(0).expand(-1, x.shape[1]), None) if backward else (None, None)
    inside = steps < lengths.unsqueeze(0)
    return (torch.where(inside, lengths - 1 - steps, steps) if backward else None), inside.unsqueeze(-1)

"""Activation functions that exporters write in many nodes become the few that onnxruntime runs fastest.

A run of elementwise operators with one source and numbers beside it is a function of one variable, which is recognised
by what it computes and not by how it is written:

- GELU, by Erf or its approximation by Tanh: one Gelu (of onnxruntime's domain below opset 20), which stands between
  integer layers as one float node. onnxruntime fuses such chains itself, but not between Q/DQ, which it copies for
  each reader.
- x * sigmoid(x): Sigmoid and Mul, which both have integer kernels.
- x * clip(x / 6 + 1 / 2, 0, 1): HardSigmoid and Mul.
- clip(x / 6 + 1 / 2, 0, 1), or with 5 in the place of 6: HardSigmoid.

A number that is float16 in the model is taken for the one of these functions that it is the rounding of.

Times are in docs/lab-notebook.md. Declines where an inner value is read elsewhere, what stands beside x is no number or
has more dimensions than x, x is not float32, or the numbers are others by more than float32's rounding.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np

from qtool.graph import contrib, edit, opset
from qtool.graph.edit import Array, Model, Node, Value

# where functions are held against each other; an irregular step, so that no period fits, and so far out that a bound
# which no number of a network reaches is still seen
_FAR = [60.0, 1e3, 1e6, 1e30]
_POINTS = np.concatenate([np.linspace(-9.03, 8.97, 83), np.linspace(-1.9, 2.1, 29), _FAR, np.negative(_FAR)])
_TOLERANCE = 2e-6
_MOST_NODES = 14
_GELU_SINCE = 20
_OWN_GELU = {"none": "Gelu", "tanh": "FastGelu"}

# numbers of these functions that float16 rounds, in every way to write them, and what it makes of each
_ROOT, _SCALE, _CUBIC = math.sqrt(2.0), math.sqrt(2.0 / math.pi), 0.044715
_INEXACT = (
    _ROOT, 1.0 / _ROOT, _SCALE, 2.0 * _SCALE, _CUBIC, _SCALE * _CUBIC, 2.0 * _SCALE * _CUBIC, 1.0 / 6.0, 0.2,
)  # fmt: skip
_MEANT = {float(np.float16(sign * number)): sign * number for number in _INEXACT for sign in (1.0, -1.0)}

_erf: Callable[[Array], Array] = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _folded(two: Callable[[Any, Any], Any], *numbers: Any) -> Any:
    """What ONNX computes of any number of inputs, from the function of two."""
    return reduce(two, numbers)


def _clip(x: Array, low: float | None = None, high: float | None = None) -> Array:
    return np.asarray(np.clip(x, -np.inf if low is None else low, np.inf if high is None else high))


def _hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _hard_swish(x: Array) -> Array:
    return np.asarray(x * _hard_sigmoid(x, 1.0 / 6.0))


def _tanh_gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1.0 + np.tanh(_SCALE * (x + _CUBIC * x**3))))


_COMPUTED: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Neg": np.negative,
    "Min": partial(_folded, np.minimum), "Max": partial(_folded, np.maximum), "Clip": _clip,
    "Relu": lambda x: np.maximum(x, 0.0), "Exp": np.exp,
    "Erf": _erf, "Tanh": np.tanh, "Sigmoid": _sigmoid, "Reciprocal": np.reciprocal,
    "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish,
}  # fmt: skip


# where a run must hold one of these, it is worth while to compute it
_TELLING = ("Erf", "Tanh", "Exp", "Clip", "Min", "Max", "Relu", "HardSigmoid", "HardSwish")


@dataclass(frozen=True, slots=True)
class _Run:
    """The nodes between a source and a value, in graph order; all but the last are read by nothing else."""

    source: Value
    nodes: tuple[Node, ...]

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(node.op_type for node in self.nodes)

    def at(self, points: Array) -> Array:
        """What it computes there."""
        known: dict[Value | None, Any] = {self.source: points, None: None}
        for node in self.nodes:
            arguments = [known[v] if v in known else _number(v) for v in node.inputs]
            known[node.outputs[0]] = _COMPUTED[node.op_type](*arguments, **edit.attribute_values(node))
        result: Array = known[self.nodes[-1].outputs[0]]
        return result


@dataclass(frozen=True, slots=True)
class _Function:
    """An activation function, and the operator that it becomes; gated: the operator makes what x is multiplied by."""

    compute: Callable[[Array], Array]
    operator: str
    attributes: Mapping[str, object] = field(default_factory=dict)
    gated: bool = False

    @property
    def form(self) -> tuple[str, ...]:
        return (self.operator, "Mul") if self.gated else (self.operator,)


# an attribute is float32: a longer number would not survive serialisation
_SIXTH, _FIFTH = (float(np.float32(1.0 / n)) for n in (6.0, 5.0))
_FUNCTIONS = (
    _Function(lambda x: x * (1.0 + _erf(x / _ROOT)) / 2.0, "Gelu", {"approximate": "none"}),
    _Function(_tanh_gelu, "Gelu", {"approximate": "tanh"}),
    _Function(lambda x: x * _sigmoid(x), "Sigmoid", gated=True),
    _Function(_hard_swish, "HardSigmoid", {"alpha": _SIXTH, "beta": 0.5}, gated=True),
    _Function(lambda x: _hard_sigmoid(x, 1.0 / 6.0), "HardSigmoid", {"alpha": _SIXTH, "beta": 0.5}),
    _Function(_hard_sigmoid, "HardSigmoid", {"alpha": _FIFTH, "beta": 0.5}),
)


def apply(model: Model) -> int:
    """Rewrite each activation function that is recognised, in place; return how many were rewritten."""
    order = {node: float(i) for i, node in enumerate(model.graph)}
    names = edit.Names(model.graph)
    count = 0
    for last in list(model.graph):
        if last.graph is None or not edit.is_main_op(last, *_COMPUTED):
            continue
        for run in _runs_to(last, order):
            found = _recognized(run)
            if found is not None:
                order |= dict.fromkeys(_replace(model, run, found, names), order[last])
                count += 1
                break
    return count


def _runs_to(last: Node, order: dict[Node, float]) -> Iterator[_Run]:
    """The runs that end with a node, the shortest first."""
    nodes = [last]
    waiting = {v for _, v in edit.activations(last)}
    while len(nodes) <= _MOST_NODES and waiting:
        if len(waiting) == 1:
            yield _Run(next(iter(waiting)), tuple(reversed(nodes)))
        value = max(waiting, key=lambda value: _place(value.producer(), order))
        maker = value.producer()
        inside = maker is not None and maker.graph is last.graph and edit.is_main_op(maker, *_COMPUTED)
        if maker is None or not inside or value.is_graph_output() or not set(edit.consumers(value)) <= set(nodes):
            return
        nodes.append(maker)
        waiting = (waiting - {value}) | {v for _, v in edit.activations(maker)}


def _place(node: Node | None, order: Mapping[Node, float]) -> float:
    return -1.0 if node is None else order.get(node, -1.0)


def _recognized(run: _Run) -> _Function | None:
    if not edit.is_float32(run.source) or not any(op in _TELLING for op in run.operators):
        return None
    numbers = [v for node in run.nodes for v in node.inputs if v is not None and edit.constant_or_none(v) is not None]
    inputs = sum(v is not None for node in run.nodes for v in node.inputs)
    computed = sum(len(edit.activations(node)) for node in run.nodes)
    if len(numbers) + computed != inputs or not all(_stands_beside(v, run.source) for v in numbers):
        return None
    try:
        with np.errstate(all="ignore"):
            values = run.at(_POINTS)
    except TypeError:
        # an attribute that is not known here
        return None
    for function in _FUNCTIONS:
        if run.operators != function.form and np.allclose(values, function.compute(_POINTS), _TOLERANCE, _TOLERANCE):
            return function
    return None


def _stands_beside(number: Value, source: Value) -> bool:
    array = edit.constant(number)
    return array.size == 1 and array.dtype.kind in "fiu" and edit.keeps_shape(array, source)


def _number(value: Value | None) -> float:
    number = float(edit.constant(value).reshape(())[()])
    return _MEANT.get(number, number) if value is not None and edit.was_half(value) else number


def _replace(model: Model, run: _Run, function: _Function, names: edit.Names) -> list[Node]:
    last = run.nodes[-1]
    old = last.outputs[0]
    nodes = _written(model, run.source, function, last, names)
    for node in nodes:
        node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
        edit.take_origins(node, *run.nodes)
    model.graph.insert_before(last, nodes)
    edit.replace_uses(old, nodes[-1].outputs[0])
    for node in reversed(run.nodes):
        edit.remove_node(node)
    return nodes


def _written(model: Model, x: Value, function: _Function, last: Node, names: edit.Names) -> list[Node]:
    def made(operator: str, inputs: list[Value], attributes: Mapping[str, object], domain: str = "") -> Node:
        output, name = (names.fresh(f"{base}_{operator.lower()}") for base in (last.outputs[0].name, last.name))
        return edit.new_node(operator, inputs, output, name=name, attributes=dict(attributes), domain=domain)

    if function.operator == "Gelu" and opset.opset_of(model) < _GELU_SINCE:
        edit.import_domain(model, contrib.DOMAIN, 1)
        return [made(_OWN_GELU[str(function.attributes["approximate"])], [x], {}, contrib.DOMAIN)]
    first = made(function.operator, [x], function.attributes)
    return [first, made("Mul", [x, first.outputs[0]], {})] if function.gated else [first]

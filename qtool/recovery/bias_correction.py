"""Bias correction: rounding the weights shifts the mean of each output channel; the bias takes the shift back.

Source: Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias Correction", section 4.2, in its
empirical form: the shift is E[f(x, w_rounded - w)] over samples, computed by the layer f itself on the float network's
inputs, so that padding, strides and groups are exact. The grid of the activations plays no part in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.affine import dequantize
from qtool.core.plan import BiasShift, Plan, WeightPlan
from qtool.core.weights import quantize_weight
from qtool.graph import compose, edit
from qtool.graph.edit import Array, Model
from qtool.runtime.session import Session

_AT_ONCE = 2**28
"""Bytes of weights."""


def correct_biases(prepared: Model, plan: Plan, examples: Sequence[Mapping[str, np.ndarray]]) -> Plan:
    """The plan with a shift for the bias of every quantised layer that has one, from examples (batches of inputs)."""
    shifts: dict[str, tuple[float, ...]] = {}
    for weights in _groups(prepared, plan):
        shifts |= _shifts(prepared, _rounding(prepared, weights), examples)
    order = [str(node.name) for node in prepared.graph if node.name in shifts]
    return replace(plan, shifts=tuple(BiasShift((name, 2), shifts[name]) for name in order)) if shifts else plan


def _groups(prepared: Model, plan: Plan) -> list[list[WeightPlan]]:
    """The weights, as many together as may be in memory a second time."""
    groups: list[list[WeightPlan]] = []
    room = 0
    for weight in plan.weights:
        size = edit.constant(prepared.graph.initializers[weight.tensor]).nbytes
        if size > room:
            groups.append([])
            room = max(_AT_ONCE, size)
        groups[-1].append(weight)
        room -= size
    return groups


def _shifts(
    prepared: Model, changes: Mapping[str, Array], examples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, tuple[float, ...]]:
    """Layer -> shift, for layers to whose weights rounding adds `changes`."""
    if not changes:
        return {}
    session, outputs = _shifting_session(prepared, changes)
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for example in examples:
        for name, shifted in zip(outputs, session.run_list(example, list(outputs.values())), strict=True):
            axis = _channel_axis(shifted)
            others = tuple(i for i in range(shifted.ndim) if i != axis)
            sums[name] = sums.get(name, 0.0) + shifted.sum(axis=others, dtype=np.float64)
            counts[name] = counts.get(name, 0) + shifted.size // max(shifted.shape[axis], 1)
    return {name: _mean(sums[name], counts[name]) for name in outputs}


def _mean(total: Array, count: int) -> tuple[float, ...]:
    """What takes the mean away again, in float32."""
    return tuple(float(x) for x in (-total / max(count, 1)).astype(np.float32))


def _rounding(prepared: Model, weights: Sequence[WeightPlan]) -> dict[str, Array]:
    """Layer with a bias -> what rounding adds to its weight (float32, the weight's shape)."""
    nodes = {node.name: node for node in prepared.graph}
    result = {}
    for weight in weights:
        exact = edit.constant(prepared.graph.initializers[weight.tensor])
        rounded = dequantize(quantize_weight(exact, weight.params), weight.params)
        for name, index in weight.readers:
            node = nodes[name]
            if index == 1 and len(node.inputs) > 2 and node.inputs[2] is not None:
                result[name] = (rounded - exact).astype(np.float32)
    return result


def _shifting_session(prepared: Model, changes: Mapping[str, Array]) -> tuple[Session, dict[str, str]]:
    """The float network with a second copy of each layer that has the rounding as its weight, and no bias."""
    model = edit.clone(prepared)
    names = edit.Names(model.graph)
    outputs: dict[str, str] = {}
    for node in list(model.graph):
        if node.name is not None and node.name in changes:
            weight = edit.add_initializer(model.graph, names.fresh(f"{node.name}_rounding"), changes[node.name])
            shift, name = names.fresh(f"{node.name}_shift"), names.fresh(f"{node.name}_shift_node")
            copy = edit.copy_node(node, [node.inputs[0], weight], shift, name=name)
            model.graph.insert_after(node, copy)
            outputs[node.name] = str(copy.outputs[0].name)
    shifting = compose.with_outputs(model, list(outputs.values()), in_place=True)
    return Session(shifting, name="the prepared model"), outputs


def _channel_axis(array: Array) -> int:
    """Of Conv and Gemm outputs: 1."""
    return min(1, array.ndim - 1)

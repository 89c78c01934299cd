"""What a plan's eight bits should cost, by the textbook's model: each rounding adds uniform noise of a step's width.

Source: Widrow and Kollar, Quantization Noise (2008), chapter 1. The noise is put into the float graph itself, and
onnxruntime runs that; nothing of qtool's arithmetic is used but the places that the plan names.
"""

import copy
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qtool.core.records.plan import ConstantPlan, Plan, WeightPlan
from tests.support.random_models import Array, run_float

_LEVELS = 255


def predicted_db(prepared: onnx.ModelProto, plan: Plan, data: dict[str, Array], draw: int = 0) -> float:
    """Return the SQNR in dB that the plan should leave of the worst output, with grids from the least to the largest.

    `prepared`: the float graph that the plan is for. `draw`: of the noise, by number. Whole numbers and what is fed
    back into a recurrence are taken as if they were exact. NaN where onnxruntime cannot draw the noise: it has
    RandomUniformLike up to opset 21 only. NaN too where the plan quantises in the body of an If, Loop or Scan.
    """
    here = {node.name for node in prepared.graph.node}
    rows = (*plan.weights, *plan.dynamic, *plan.stored)
    if not {*plan.integer, *(node for row in rows for node, _ in row.readers)} <= here:
        return float("nan")
    if any(node.op_type == "RMSNormalization" for node in prepared.graph.node):
        return float("nan")
    exact = run_float(prepared, data)
    noisy = run_float(_noisy(prepared, plan, data, draw), data)
    return min(sqnr_db(array, noisy[name]) for name, array in exact.items() if array.dtype == np.float32)


def sqnr_db(exact: Array, other: Array) -> float:
    """Return 10 log10(sum(exact^2) / sum((exact - other)^2)); infinite where they are equal."""
    a, b = exact.astype(np.float64), other.astype(np.float64)
    noise = float(((a - b) ** 2).sum())
    return float("inf") if noise == 0.0 else float(10 * np.log10(max((a**2).sum(), 1e-300) / noise))


def _noisy(prepared: onnx.ModelProto, plan: Plan, data: dict[str, Array], draw: int) -> onnx.ModelProto:
    model = copy.deepcopy(prepared)
    for domain in model.opset_import:
        if domain.domain in ("", "ai.onnx"):
            # later ones only add types to what they share
            domain.version = min(domain.version, 21)
    _round_weights(model, (*plan.constants, *plan.weights, *plan.dynamic, *plan.stored))
    nodes = {node.name: node for node in model.graph.node}
    made = {row.tensor for row in plan.activations if row.produced}
    read: dict[str, list[tuple[str, int]]] = {}
    for row in plan.activations:
        if not row.produced:
            read.setdefault(row.tensor, []).extend(row.readers)
    # MatMulNBits, which weights that are only stored in 8 bits may run as, rounds its input too
    for weight in (*plan.dynamic, *plan.stored):
        for node, index in weight.readers:
            if index > 0 and nodes[node].op_type not in ("Gather", "Conv", "ConvTranspose"):
                read.setdefault(nodes[node].input[0], []).append((node, 0))
    steps = _steps(prepared, {*made, *read}, data)
    for tensor, readers in read.items():
        if tensor in made or tensor not in steps:
            continue
        for node, index in readers:
            nodes[node].input[index] = f"{tensor}__noisy"
        _add_noise(model, tensor, f"{tensor}__noisy", steps[tensor], draw)
    producers = {output: node for node in model.graph.node for output in node.output}
    for tensor in sorted(made & set(steps)):
        node = producers[tensor]
        node.output[list(node.output).index(tensor)] = f"{tensor}__exact"
        _add_noise(model, f"{tensor}__exact", tensor, steps[tensor], draw)
    _sort(model)
    return model


def _round_weights(model: onnx.ModelProto, rows: Iterable[WeightPlan | ConstantPlan]) -> None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for row in rows:
        exact = numpy_helper.to_array(tensors[row.tensor])
        scale = np.asarray(row.params.scale, np.float64)
        if scale.size > 1:
            assert row.params.axis is not None
            shape = [1] * exact.ndim
            shape[row.params.axis] = -1
            scale = scale.reshape(shape)
        rounded = (np.rint(exact / scale) * scale).astype(exact.dtype)
        tensors[row.tensor].CopyFrom(numpy_helper.from_array(rounded, row.tensor))


def _steps(prepared: onnx.ModelProto, tensors: set[str], data: dict[str, Array]) -> dict[str, float]:
    """The width of a step of each tensor's grid: from its least to its largest number, with zero."""
    model = copy.deepcopy(prepared)
    present = {output.name for output in model.graph.output} | {value.name for value in model.graph.input}
    constant = {tensor.name for tensor in model.graph.initializer}
    extra = sorted(tensors - present - constant)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in extra)
    found = {**run_float(model, data), **data}
    return {
        name: (max(float(found[name].max()), 0.0) - min(float(found[name].min()), 0.0)) / _LEVELS
        for name in sorted(tensors - constant)
        if name in found and found[name].size and found[name].dtype == np.float32
    }


def _add_noise(model: onnx.ModelProto, tensor: str, result: str, step: float, draw: int) -> None:
    seed = float(1 + len(model.graph.node) + 10000 * draw)
    noise = helper.make_node(
        "RandomUniformLike", [tensor], [f"{result}__noise"], low=-step / 2, high=step / 2, seed=seed, dtype=1
    )
    model.graph.node.extend([noise, helper.make_node("Add", [tensor, f"{result}__noise"], [result])])


def _sort(model: onnx.ModelProto) -> None:
    """Nodes in an order in which each stands behind what it reads."""
    known = {"", *(v.name for v in model.graph.input), *(t.name for t in model.graph.initializer)}
    waiting, order = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        assert ready, "the graph has a cycle"
        known |= {output for node in ready for output in node.output}
        order += [copy.deepcopy(node) for node in ready]
        waiting = [node for node in waiting if not any(node is one for one in ready)]
    del model.graph.node[:]
    model.graph.node.extend(order)

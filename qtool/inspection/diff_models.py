"""Differences of two models: what becomes of each layer, on which grids, with which weights; and what they compute."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from qtool.anatomy import grids
from qtool.anatomy.executed import Executed, is_integer, layer_kernels
from qtool.anatomy.opened import Opened
from qtool.anatomy.planned import PlannedLayer, planned_layers
from qtool.core.errors import QtoolError
from qtool.core.numerics.affine import QParams
from qtool.core.numerics.sqnr import SignalToNoise, measured_outputs
from qtool.core.records.difference import Difference, LayerDifference, RangeDifference, WeightDifference
from qtool.core.records.inspection import Grid
from qtool.core.text import amount
from qtool.feeds import Data, ReadOptions
from qtool.graph import edit
from qtool.graph.edit import Value
from qtool.graph.layers import Layer
from qtool.inspection.diff_plans import integers_apart, range_difference, scales_apart
from qtool.inspection.inputs import Examples, examples_of, fed_to, loaded
from qtool.inspection.speed import speed_of
from qtool.runtime.census import take_census
from qtool.runtime.session import Session

_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Side:
    """One of two models: its layers by name, what each is in words, and the kernels that run."""

    opened: Opened
    layers: Mapping[str, PlannedLayer]
    words: Mapping[str, str]
    kernels: Counter[str]

    @classmethod
    def of(cls, opened: Opened) -> "_Side":
        loaded(opened)
        executed = Executed.of(take_census(opened.serialized, name=str(opened.path))[1].nodes)
        layers = planned_layers(opened.model)
        kernels = layer_kernels(executed, layers)
        words = {layer.name: _in_words(layer, executed, kernels.get(layer.name)) for layer in layers}
        counts = Counter(node.op_type for node in executed.nodes)
        return cls(opened, {layer.name: layer for layer in layers}, words, counts)


def diff_models(
    a: Opened, b: Opened, data: Data | None = None, *, latency: bool = False, **reading: Unpack[ReadOptions]
) -> Difference:
    """Return what model `b` has otherwise than `a`; with data or `latency` what it computes, and how fast, too.

    Raises:
        ModelError: onnxruntime does not load a model.
        DataError, UsageError: the data cannot be fed to them.
    """
    one, other = _Side.of(a), _Side.of(b)
    twins = _twins(one.layers, other.layers)
    layers = _layers(one, other, twins)
    ranges = _ranges(one, other)
    pairs = [(name, one.layers[name], other.layers[twin]) for name, twin in twins.items()]
    weights = [row for pair in pairs if (row := _weight(*pair)) is not None]
    facts = _facts(a, b)
    kernels = {
        kernel: (one.kernels[kernel], other.kernels[kernel])
        for kernel in sorted({*one.kernels, *other.kernels})
        if one.kernels[kernel] != other.kernels[kernel]
    }
    measured = _measured(a, b, data, latency=latency, **reading) if data is not None or latency else {}
    outputs = measured.get("outputs")
    unlike = outputs is not None and any(db is None or db != float("inf") for db in outputs.values())
    return Difference(
        compared="models",
        a=str(a.path),
        b=str(b.path),
        same=not (layers or ranges or weights or kernels or facts or unlike),
        facts=tuple(facts),
        layers=tuple(layers),
        ranges=tuple(sorted(ranges, key=lambda row: -(float("inf") if row.steps is None else row.steps))),
        weights=tuple(sorted(weights, key=lambda row: -(row.changed or 0.0))),
        kernels=kernels,
        alike=len(one.layers) - sum(row.a != "" for row in layers),
        **measured,
    )


def _in_words(layer: PlannedLayer, executed: Executed, number: int | None) -> str:
    if number is None:
        return "gone"
    kernel = executed.nodes[number]
    if is_integer(kernel):
        return kernel.op_type
    return f"{kernel.op_type} in float" + (", though planned in integers" if layer.planned else "")


def _twins(ones: Mapping[str, PlannedLayer], others: Mapping[str, PlannedLayer]) -> dict[str, str]:
    """Layer of the one -> layer of the other: by name, else by the name of the output."""
    outputs = {str(edit.main_output(layer.node).name): name for name, layer in others.items()}
    result = {}
    for name, layer in ones.items():
        twin = name if name in others else outputs.get(str(edit.main_output(layer.node).name))
        if twin is not None:
            result[name] = twin
    return result


def _layers(one: _Side, other: _Side, twins: Mapping[str, str]) -> list[LayerDifference]:
    rows = []
    for name, layer in one.layers.items():
        twin = twins.get(name)
        left, right = one.words[name], "" if twin is None else other.words[twin]
        if left != right:
            rows.append(LayerDifference(name, layer.node.op_type, left, right))
    met = set(twins.values())
    new = [(name, layer) for name, layer in other.layers.items() if name not in met]
    return rows + [LayerDifference(name, layer.node.op_type, "", other.words[name]) for name, layer in new]


def _ranges(one: _Side, other: _Side) -> list[RangeDifference]:
    left, right = _grids(one), _grids(other)
    rows = []
    for tensor in dict.fromkeys([*left, *right]):
        pair = [_params(side.get(tensor)) for side in (left, right)]
        row = range_difference(tensor, pair[0], pair[1])
        if row is not None:
            rows.append(row)
    return rows


def _grids(side: _Side) -> dict[str, Grid]:
    """Tensor -> its grid: of what a QuantizeLinear reads, and of what integer operators make."""
    found: dict[str, Grid] = {}
    for node in side.opened.nodes:
        if grids.is_quantize(node) and node.inputs[0] is not None and not grids.is_constant(node.inputs[0]):
            found.setdefault(str(node.inputs[0].name), grids.grid_of(node))
    for layer in side.layers.values():
        if layer.written is not None and layer.y is not None:
            found.setdefault(str(edit.main_output(layer.node).name), layer.y.grid)
    return {tensor: grid for tensor, grid in found.items() if grid.scale}


def _params(grid: Grid | None) -> QParams | None:
    if grid is None or grid.dtype not in ("uint8", "int8"):
        return None
    return QParams(grid.scale, grid.zero_point, grid.dtype, grid.axis)  # type: ignore[arg-type]


def _weight(name: str, one: PlannedLayer, other: PlannedLayer) -> WeightDifference | None:
    if one.w is None and other.w is None:
        return _float_weight(name, one, other)
    if one.w is None or other.w is None:
        return None
    left, right = _steps(one.w), _steps(other.w)
    if one.w.grid.dtype != other.w.grid.dtype and not (one.w.grid.zero_point and other.w.grid.zero_point):
        # without both zero points integers of two types are not of one line
        left = right = None
    scales = scales_apart(one.w.grid.scale, other.w.grid.scale)
    changed = most = None
    if left is not None and right is not None and left.shape == right.shape:
        changed, most = integers_apart(left, right)
    if (changed == 0.0 or (left is None and right is None)) and grids.same_grid(one.w.grid, other.w.grid):
        return None
    return WeightDifference(name, changed, most, scales)


def _float_weight(name: str, one: PlannedLayer, other: PlannedLayer) -> WeightDifference | None:
    arrays = [edit.constant_or_none(layer.weight) if (layer := Layer.of(p.node)) else None for p in (one, other)]
    left, right = arrays
    if left is None or right is None:
        return None
    if left.shape != right.shape:
        return WeightDifference(name, None, None, None)
    changed = float((left != right).mean()) if left.size else 0.0
    return WeightDifference(name, changed, None, None) if changed else None


def _steps(weight: grids.Placed) -> np.ndarray | None:
    """The integers of a weight, in steps from where its 0 is: uint8 about 128 is int8 about 0."""
    stored, zeros = _content(weight.stored), weight.grid.zero_point
    if stored is None or len(set(zeros)) > 1:
        return stored
    return stored.astype(np.int32) - (zeros[0] if zeros else 0)


def _content(value: Value | None) -> np.ndarray | None:
    found = edit.constant_or_none(value)
    return found if found is not None and found.dtype in (np.int8, np.uint8) else None


def _facts(a: Opened, b: Opened) -> list[str]:
    facts = []
    for what, one, other in (
        ("inputs", [port.name for port in a.inputs], [port.name for port in b.inputs]),
        ("outputs", [port.name for port in a.outputs], [port.name for port in b.outputs]),
    ):
        if one != other:
            facts.append(f"{what}: {', '.join(one)} and {', '.join(other)}")
    if a.opset.get("ai.onnx") != b.opset.get("ai.onnx"):
        facts.append(f"opset: {a.opset.get('ai.onnx')} and {b.opset.get('ai.onnx')}")
    if a.is_quantized != b.is_quantized:
        facts.append(f"one is a float model: {(b if a.is_quantized else a).path}")
    return facts + _constants(a, b)


def _constants(a: Opened, b: Opened) -> list[str]:
    """Constants of other numbers that are no weights or grids, of which is told by layer."""
    ones, others = a.model.graph.initializers, b.model.graph.initializers
    found = []
    for name in ones:
        left, right = ones[name], others.get(name)
        if right is None or _placed(left) or left.const_value is None or right.const_value is None:
            continue
        if left.dtype != right.dtype or left.const_value.tobytes() != right.const_value.tobytes():
            found.append(name)
    if not found:
        return []
    return [f"{amount(len(found), 'other constant')} with other numbers ({', '.join(found[:_NAMED])})"]


def _placed(value: Value) -> bool:
    """Whether it is in 8 bits, or the scale or zero point of a grid."""
    on_grid = any(index > 0 and (grids.is_quantize(n) or grids.is_dequantize(n)) for n, index in value.uses())
    return on_grid or _content(value) is not None


def _measured(
    a: Opened, b: Opened, data: Data | None, *, latency: bool, **reading: Unpack[ReadOptions]
) -> dict[str, Any]:
    """What both compute on the same inputs, and how fast, as fields of `Difference`."""
    sessions = [Session(one.path) for one in (a, b)]
    examples = examples_of(a.model, sessions[0], data, **reading)
    if not examples.batches:
        return {"not_measured": (f"outputs and times: {QtoolError(examples.absent)}",)}
    speed = speed_of(sessions[1], sessions[0], examples.batches) if latency else None
    return {"inputs_from": examples.said, "outputs": _outputs(sessions, examples), "speed": speed}


def _outputs(sessions: Sequence[Session], examples: Examples) -> dict[str, float | None]:
    """Output -> the SQNR of the second model's against the first's; those of its own names alone."""
    noise: dict[str, SignalToNoise] = {}
    for example in examples.batches:
        one, other = (session.run(dict(fed_to(session, example))) for session in sessions)
        for name in measured_outputs(one):
            if name in other:
                noise.setdefault(name, SignalToNoise()).add(one[name], other[name])
    return {name: found.db for name, found in noise.items()}

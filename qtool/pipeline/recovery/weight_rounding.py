"""Weights rounded to what their layers compute: other scales and integers in a plan, found on examples.

The arithmetic is in `qtool.core.numerics.rounding`. The second moments of a layer's inputs are summed up on three of
four examples, at up to so many positions of each; on the fourth a channel must cost less than its nearest integers do,
or it keeps these. Inputs are those of the float graph: docs/lab-notebook.md says what quantised ones gave.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.rounding import LEAST_SHARE, Moments, WeightGrids, costs, fitted, nearest, scales_tried
from qtool.core.numerics.weights import WeightMemo, bias_floor, bias_scale, saturating_channels
from qtool.core.records.plan import Plan, WeightPlan
from qtool.graph import compose, edit
from qtool.graph.edit import Array, Graph, Model, Node
from qtool.graph.layers import Layer
from qtool.pipeline.recovery.input_means import geometry
from qtool.runtime.session import Session
from qtool.targets.conditions import is_tied

Examples = Sequence[Mapping[str, Array]]
_LONGEST = 4096
"""Products in a sum: H has so many rows and columns at most."""
_POSITIONS = 128
_AT_ONCE = 2**28
"""Bytes of moments that are in memory at once."""
_SEVEN_BITS = 64
_CONFIRMS = 4
"""Every so many-th example confirms, and the others fit."""
_LEAST = 2


@dataclass(frozen=True, slots=True)
class _Task:
    """A row of the plan, its layer, what this reads, and the least scales ([M]) that hold the bias in 32 bits."""

    row: WeightPlan
    layer: Layer
    input: str
    floor: Array

    @property
    def weight(self) -> Array:
        return edit.constant(self.layer.weight)

    @property
    def size(self) -> tuple[int, int]:
        """G and K."""
        return self.layer.groups, self.layer.sum_length(self.weight.shape)

    def rows(self, array: Array) -> Array:
        """An array of the weight's shape as [G, M / G, K]."""
        if self.layer.is_product:
            return self.layer.matrix(array).T[None]
        view = self.layer.output_channels(array)
        return view.reshape(*view.shape[:2], -1)

    def whole(self, rows: Array) -> Array:
        """The array whose `rows` these are."""
        return self.layer.matrix(rows[0].T) if self.layer.is_product else rows.reshape(self.weight.shape)


Known = dict[tuple[WeightPlan, bytes, bool], WeightPlan]
"""What rows of a graph's plans became, by the row, the floor of its scales, and whether biases take up means."""


def refine_weights(
    model: Model,
    plan: Plan,
    examples: Examples,
    *,
    corrects: bool,
    saturates: bool,
    known: Known | None = None,
    memo: WeightMemo | None = None,
) -> Plan:
    """Return the plan with other scales and integers for the weights of static layers whose outputs they bring nearer.

    Args:
        model: the prepared graph.
        examples: batches of inputs, two or more; nothing is changed with fewer.
        corrects: whether biases will take back the shift of the mean.
        saturates: as of `Target`.
        known: what was found for this graph before; is added to.
        memo: the integers of this graph's weights that are known; is added to.
    """
    known, memo = {} if known is None else known, memo or WeightMemo()
    if len(examples) < _LEAST:
        return plan
    tasks = {_key(task, corrects): task for task in _tasks(model, plan)}
    for part in _parts([task for key, task in tasks.items() if key not in known]):
        found = _moments(model, [task.layer for task in part], examples)
        for task, (fit, confirming) in zip(part, found, strict=True):
            about = corrects and task.layer.bias is not None
            h = fit.mean(centred=about), confirming.mean(centred=about)
            known[_key(task, corrects)] = _refined(task, *h, memo, saturates=saturates)
    rows = {task.row: known[key] for key, task in tasks.items()}
    weights = tuple(rows.get(row, row) for row in plan.weights)
    _, steps = _named(model, plan)
    scales = {
        str(task.layer.node.name): bias_scale(steps[task.input], rows[task.row].params) for task in tasks.values()
    }
    biases = tuple(replace(bias, scale=scales.get(bias.reader[0], bias.scale)) for bias in plan.biases)
    return replace(plan, weights=weights, biases=biases)


def refining_work(model: Model, plan: Plan, examples: int) -> int:
    """Return about how many multiply-accumulates `refine_weights` takes on so many examples."""
    total = 0
    for task in _tasks(model, plan):
        groups, length = task.size
        roundings = 1 if task.row.params.axis is None else 1 + scales_tried(length)
        total += groups * length**2 * (examples * _POSITIONS + length // 3) + 4 * roundings * task.weight.size * length
    return total


def left_alone(model: Model, plan: Plan, examples: int) -> dict[str, str]:
    """Return the weights of static layers that `refine_weights` left as they are, by tensor, and why.

    `examples`: how many there were.
    """
    why = "no other integers are better on the examples" if examples >= _LEAST else "it takes two examples that choose"
    nodes, steps = _named(model, plan)
    layers = {row.tensor: _layer_of(row, nodes, steps) for row in plan.weights if row.integers is None}
    return {tensor: found if isinstance(found, str) else why for tensor, found in layers.items()}


def _layer_of(row: WeightPlan, nodes: Mapping[str, Node], steps: Mapping[str, float]) -> Layer | str:
    """The one layer whose outputs the weight makes, or why it is left alone."""
    layer = Layer.of(nodes[row.readers[0][0]]) if row.readers[0][0] in nodes else None
    if layer is None or layer.weight is None or len(row.readers) > 1 or len(layer.weight.uses()) > 1:
        inside = row.readers[0][0] not in nodes
        return "it stands in the body of an If, Loop or Scan" if inside else "several nodes read it"
    tied = is_tied(layer, nodes.values())
    if tied or layer.weight.is_graph_output():
        return "a table holds the same numbers" if tied else "it is an output too"
    origin = edit.origin_of(layer.weight)
    if origin is not None and _bytes(origin) < edit.constant(layer.weight).size:
        return "the model computes it from less"
    if layer.transposes_input or layer.operator.kind not in ("convolution", "matrix product"):
        return f"not a sum that is known of its layer, {layer.node.op_type}"
    length = layer.sum_length(edit.constant(layer.weight).shape)
    if length > _LONGEST:
        return f"{length} products a sum, more than {_LONGEST}"
    value = layer.node.inputs[0]
    return layer if value is not None and value.name in steps else "its input has no grid"


def _bytes(origin: Graph) -> int:
    return sum(v.const_value.nbytes for v in origin.initializers.values() if v.const_value is not None)


def _tasks(model: Model, plan: Plan) -> Iterator[_Task]:
    nodes, steps = _named(model, plan)
    for row in plan.weights:
        layer = _layer_of(row, nodes, steps)
        if row.integers is not None or isinstance(layer, str):
            continue
        weight, tensor = edit.constant(layer.weight), str(layer.node.inputs[0].name)  # type: ignore[union-attr]
        channels = layer.output_size(weight.shape)
        floor = np.zeros(channels)
        if layer.bias is not None:
            length = weight.size // channels if row.params.axis is not None else weight.size
            floor = bias_floor(edit.constant(layer.bias), steps[tensor], length)
        if row.params.axis is None:
            floor = np.full(channels, floor.max(initial=0.0))
        # where no scale comes near it, plans with other ranges share what is found
        near = floor > LEAST_SHARE * np.broadcast_to(np.asarray(row.params.scale), floor.shape)
        yield _Task(row, layer, tensor, np.where(near, floor, 0.0))


def _named(model: Model, plan: Plan) -> tuple[dict[str, Node], dict[str, float]]:
    """The nodes, and the steps of the activations that have a grid, by name."""
    steps = {row.tensor: row.params.scale[0] for row in plan.activations}
    return {str(node.name): node for node in model.graph}, steps


def _key(task: _Task, corrects: bool) -> tuple[WeightPlan, bytes, bool]:
    return task.row, task.floor.tobytes(), corrects


def _parts(tasks: Sequence[_Task]) -> Iterator[list[_Task]]:
    """The tasks in parts whose moments are in memory together."""
    part: list[_Task] = []
    taken = 0
    for task in tasks:
        groups, length = task.size
        needed = 2 * 8 * groups * length**2
        if part and taken + needed > _AT_ONCE:
            yield part
            part, taken = [], 0
        part.append(task)
        taken += needed
    if part:
        yield part


def _moments(model: Model, layers: Sequence[Layer], examples: Examples) -> list[tuple[Moments, Moments]]:
    """Of the input of each layer the moments on the examples that fit, and on those that confirm."""
    confirming = [n for n in range(len(examples)) if n % _CONFIRMS == min(_CONFIRMS, len(examples)) - 1]
    read = [str(layer.node.inputs[0].name) for layer in layers]  # type: ignore[union-attr]
    fed = {str(value.name) for value in model.graph.inputs}
    names = list(dict.fromkeys(name for name in read if name not in fed))
    session = Session(compose.with_outputs(model, names), name="the prepared model") if names else None

    def see(example: Mapping[str, Array]) -> list[Array]:
        arrays = {**example, **({} if session is None else session.run(example))}
        return [columns(layer, arrays[name], _POSITIONS) for layer, name in zip(layers, read, strict=True)]

    sums: list[list[Moments | None]] = [[None, None] for _ in layers]
    for n, seen in enumerate(side_by_side(see, examples)):
        which = int(n in confirming)
        for mine, found in zip(sums, map(Moments.of, seen), strict=True):
            before = mine[which]
            mine[which] = found if before is None else before.plus(found)
    return [(fit, confirmed) for fit, confirmed in sums if fit is not None and confirmed is not None]


def second_moments(
    model: Model, layers: Sequence[Layer], examples: Examples
) -> Iterator[tuple[Layer, tuple[Moments, Moments]]]:
    """Yield some matrix products with the moments of their inputs on the examples that fit, and on those that confirm.

    A part of them is in memory at a time. Sums of more products than are looked at are left out, and all where there
    are fewer than two examples.
    """
    part: list[Layer] = []
    taken = 0
    for layer in layers if len(examples) >= _LEAST else ():
        length = layer.sum_length(edit.constant(layer.weight).shape)
        if length > _LONGEST:
            continue
        if part and taken + 2 * 8 * length**2 > _AT_ONCE:
            yield from zip(part, _moments(model, part, examples), strict=True)
            part, taken = [], 0
        part.append(layer)
        taken += 2 * 8 * length**2
    if part:
        yield from zip(part, _moments(model, part, examples), strict=True)


def columns(layer: Layer, x: Array, most: int) -> Array:
    """Return what the weight of a layer is multiplied with at some positions, [G, K, P], in the order of the weight.

    Args:
        layer: a convolution, or a matrix product that sums over the last axis of its input.
        x: its input.
        most: of a batch's sample (of a product: of all samples) so many positions at most, spread over all.
    """
    if layer.is_product:
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: max(-(-len(rows) // most), 1)].T[None]
    kernel = layer.kernel(edit.constant(layer.weight).shape)
    strides = edit.attribute(layer.node, "strides") or [1] * len(kernel)
    dilations = edit.attribute(layer.node, "dilations") or [1] * len(kernel)
    before, sizes = geometry(layer.node, x.shape[2:], kernel, strides, dilations)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    axes = zip(before, sizes, strides, spans, x.shape[2:], strict=True)
    pads = [(pad, max((size - 1) * stride + span - length - pad, 0)) for pad, size, stride, span, length in axes]
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    total = math.prod(sizes)
    step = max(-(-total // most), 1)
    while step > 1 and math.gcd(step, sizes[-1]) > 1:
        # another column in each row
        step += 1
    places = np.unravel_index(np.arange(step // 2, total, step), sizes)
    parts = []
    for offset in np.ndindex(*kernel):
        at = [p * stride + o * d for p, stride, o, d in zip(places, strides, offset, dilations, strict=True)]
        parts.append(padded[(slice(None), slice(None), *at)])
    # [N, C, kernel, P] -> [G, C / G * kernel, N * P]
    length = x.shape[1] // layer.groups * math.prod(kernel)
    found = np.stack(parts, axis=2).reshape(len(x), layer.groups, length, len(places[0]))
    return np.moveaxis(found, 0, 2).reshape(layer.groups, length, len(x) * len(places[0]))


def _grids(task: _Task, memo: WeightMemo, *, saturates: bool) -> WeightGrids:
    """Those of the row: channels that must not saturate keep to 7 bits."""
    integers = task.rows(memo.quantized(task.row.tensor, task.weight, task.row.params))
    largest = np.abs(integers.astype(np.int16)).max(axis=2)
    seven = largest <= (_SEVEN_BITS if saturates else -1)
    scale = np.broadcast_to(np.asarray(task.row.params.scale), largest.size).reshape(largest.shape)
    return WeightGrids(scale, np.where(seven, float(_SEVEN_BITS), 127.0), task.row.params.axis is None)


def _refined(task: _Task, fit: Array, confirming: Array, memo: WeightMemo, *, saturates: bool) -> WeightPlan:
    """The row with other grids and integers in the channels that are better with them, or the row as it is."""
    if not (np.isfinite(fit).all() and np.isfinite(confirming).all()):
        return task.row
    weight, grids = task.rows(task.weight).astype(np.float64), _grids(task, memo, saturates=saturates)
    scale, found = fitted(weight, fit, grids, task.floor.reshape(grids.scale.shape))
    plain = nearest(weight, grids)
    step, before = scale[:, :, None], grids.scale[:, :, None]
    new, old = costs(weight, found * step, confirming), costs(weight, plain * before, confirming)
    better = new < old if not grids.shared else np.full(new.shape, new.sum() < old.sum())
    axis = task.row.params.axis
    if saturates and axis is not None:
        better &= ~saturating_channels(task.whole(found).astype(np.int8), axis).reshape(better.shape)
    if not better.any():
        return task.row
    integers = np.where(better[:, :, None], found, plain)
    scales = np.where(better, scale, grids.scale).reshape(-1)[: len(task.row.params.scale)]
    params = replace(task.row.params, scale=tuple(map(float, scales.astype(np.float32))))
    return replace(task.row, params=params).holding(task.whole(integers).astype(np.int8))

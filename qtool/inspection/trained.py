"""The layers whose weights are others than float's, however these are rounded: the model was trained on."""

from collections.abc import Iterable

import numpy as np

from qtool.anatomy.planned import PlannedLayer
from qtool.graph import edit
from qtool.graph.edit import Array
from qtool.graph.layers import Layer

_STEPS = 1.0
"""Rounding to the nearest leaves .29 steps on average, learned rounding .6."""
_ROUNDS = 8
_MOST = 0.5


def trained_layers(pairs: Iterable[tuple[PlannedLayer, PlannedLayer]]) -> tuple[str, ...]:
    """Return the layers with other weights, by name; none where they are fewer than half of those that can be compared.

    pairs: each a layer of the int8 model, and the same of the float one.
    """
    compared = [(layer.name, off) for layer, floating in pairs if (off := _steps_off(layer, floating)) is not None]
    found = tuple(name for name, off in compared if off > _STEPS)
    return found if len(found) >= _MOST * len(compared) else ()


def _steps_off(layer: PlannedLayer, floating: PlannedLayer) -> float | None:
    """How far the weights are from float's in steps, but for factors of output and input channels; None: not known."""
    known = Layer.of(floating.node)
    if known is None or layer.w is None or layer.w.grid.block or not layer.w.grid.scale:
        return None
    weight, stored = edit.constant_or_none(known.weight), edit.constant_or_none(layer.w.stored)
    if weight is None or stored is None or stored.dtype not in (np.int8, np.uint8) or weight.shape != stored.shape:
        return None
    grid, axis = layer.w.grid, known.output_axis % weight.ndim
    if weight.ndim < 2 or (grid.axis is not None and grid.axis % weight.ndim != axis):
        return None
    along = axis if len(grid.scale) > 1 else 0
    scale, zero = (_along(numbers, along, weight.ndim) for numbers in (grid.scale, grid.zero_point))
    numbers = stored.astype(np.float64) - zero
    # in steps, so that the factor of an output channel takes the scale up
    return _beyond_factors(weight.astype(np.float64) / scale, numbers, (axis, 1 - axis if axis < 2 else 0))


def _along(numbers: Iterable[float], axis: int, rank: int) -> Array:
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(tuple(numbers), np.float64).reshape(shape)


def _beyond_factors(exact: Array, found: Array, axes: tuple[int, int]) -> float:
    """The root of the mean square of what factors along two axes, found in turn, do not explain."""
    fitted = exact
    for _ in range(_ROUNDS):
        for axis in axes:
            others = tuple(a for a in range(exact.ndim) if a != axis)
            power = (fitted * fitted).sum(others, keepdims=True)
            gain = np.divide(
                (fitted * found).sum(others, keepdims=True), power, out=np.ones_like(power), where=power > 0
            )
            fitted = fitted * gain
    return float(np.sqrt(np.square(fitted - found).mean()))

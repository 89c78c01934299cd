"""plan: every scale and zero point, with why. Weights and biases are decided here too."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.numerics.affine import QParams, TensorSpec, activation_qparams, fit_inside
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.weights import (
    WeightMemo,
    bias_floor,
    bias_scale,
    largest_magnitudes,
    quantize_weight,
    saturating_channels,
    seven_bit_steps,
    weight_grid,
)
from qtool.core.records.options import Scheme
from qtool.core.records.placement import BiasSite, Placement, Site, WeightSite
from qtool.core.records.plan import ActivationPlan, BiasPlan, ConstantPlan, Plan, WeightPlan
from qtool.graph import edit
from qtool.graph.edit import Array, Model
from qtool.graph.layers import Layer
from qtool.targets.rules import Target


def make_plan(
    model: Model,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    *,
    digest: str,
    target: Target,
    scheme: Scheme,
    calibrator: Calibrator,
    memo: WeightMemo | None = None,
) -> Plan:
    """Turn ranges (root tensor -> (low, high)) into the plan for a prepared graph, and return it.

    `memo`: what was found out of the weights of this graph before; is added to.

    Raises:
        ModelError: a weight or bias holds NaN or Inf.
    """
    bounds = {site.tensor: site.bounds for site in placement.sites}
    params = {site.tensor: _activation(site, ranges[site.root], bounds.get(site.root)) for site in placement.sites}
    memo = memo or WeightMemo()
    weights = {site: _weight(model, site, placement, params, target.saturates, memo) for site in placement.weights}
    dynamic = tuple(_weight(model, site, placement, params, target.saturates, memo) for site in placement.dynamic)
    stored = [_weight(model, site, placement, params, False, memo) for site in placement.stored]
    return Plan(
        model_digest=digest,
        target=target.name,
        scheme="symmetric" if target.activations[scheme.activations].symmetric else "affine",
        granularity=scheme.granularity,
        calibrator=str(calibrator),
        activations=tuple(
            ActivationPlan(
                site.tensor, params[site.tensor], site.readers, site.float_readers, site.twin_axis, site.twin_size,
                site.produced, _why(site, ranges[site.root], calibrator), site.barred_readers, site.barred,
            )
            for site in placement.sites
        ),
        constants=tuple(
            ConstantPlan(site.tensor, _constant_params(_array(model, site.tensor), site.spec), site.readers)
            for site in placement.constants
        ),
        weights=tuple(weights.values()),
        biases=tuple(_bias(site, params, weights) for site in placement.biases),
        integer=placement.integer,
        layers=placement.layers,
        skipped=placement.skipped,
        dynamic=dynamic,
        stored=tuple(_tied(model, row, (*weights.values(), *dynamic), memo) for row in stored),
    )  # fmt: skip


def _tied(model: Model, row: WeightPlan, products: Iterable[WeightPlan], memo: WeightMemo) -> WeightPlan:
    """A table with the grid of the layer that multiplies with the same rows, so that a file needs them once."""
    nodes = {str(node.name): node for node in model.graph}
    taker = nodes.get(row.readers[0][0])
    table = None if taker is None else Layer.of(taker)
    if table is None or table.operator.kind != "table":
        return row
    for other in products:
        grid = replace(other.params, axis=row.params.axis)
        # other layers of the same size have other scales; grids that are equal need nothing
        if (other.params.axis is None) != (grid.axis is None) or len(grid.scale) != len(row.params.scale):
            continue
        product = Layer.of(nodes[other.readers[0][0]]) if other.readers[0][0] in nodes else None
        if product is None or grid == row.params:
            continue
        known = (row.tensor, other.tensor)
        if known not in memo.tied:
            memo.tied[known] = product.holds_rows(edit.constant(table.weight))
        if memo.tied[known]:
            return replace(row, params=grid, reduced_channels=other.reduced_channels)
    return row


def _activation(site: Site, low_high: tuple[float, float], bounds: tuple[float, float] | None) -> QParams:
    low, high = low_high
    if bounds is not None:
        low, high = max(low, min(bounds[0], 0.0)), min(high, max(bounds[1], 0.0))
    params = activation_qparams(low, high, site.spec)
    return params if bounds is None else fit_inside(params, *bounds)


def _why(site: Site, low_high: tuple[float, float], calibrator: Calibrator) -> str:
    source = str(calibrator) if site.root == site.tensor else f"shared with {site.root}"
    source = f"union of {', '.join(site.union)}" if site.union else source
    absorbed = "" if site.bounds is None else f", absorbs [{site.bounds[0]:g}, {site.bounds[1]:g}]"
    return f"{source}: [{low_high[0]:.6g}, {low_high[1]:.6g}]{absorbed}"


def _array(model: Model, tensor: str) -> Array:
    array = edit.constant(model.graph.initializers[tensor])
    if not np.isfinite(array).all():
        raise ModelError(f"initializer {tensor!r} holds NaN or Inf; repair the model before quantising it")
    return array


def _constant_params(array: Array, spec: TensorSpec) -> QParams:
    return activation_qparams(min(float(array.min()), 0.0), max(float(array.max()), 0.0), spec)


def _weight(
    model: Model,
    site: WeightSite,
    placement: Placement,
    params: Mapping[str, QParams],
    saturates: bool,
    memo: WeightMemo,
) -> WeightPlan:
    known = (site.tensor, site.axis)
    if known not in memo.largest:
        memo.largest[known] = largest_magnitudes(_array(model, site.tensor), site.axis)
    weight, largest = edit.constant(model.graph.initializers[site.tensor]), memo.largest[known]
    readers = set(site.readers)
    channels = weight.shape[site.axis] if site.axis is not None else 1
    accumulated = weight.size // max(channels, 1) if site.axis is not None else weight.size
    floor: Array = np.zeros(channels)
    for bias in (*placement.biases, *placement.float_biases):
        if (bias.reader[0], 1) in readers:
            needed = bias_floor(_array(model, bias.tensor), params[bias.input].scale[0], accumulated)
            floor = np.maximum(floor, needed if site.axis is not None else needed.max(initial=0.0))
    result = weight_grid(largest, site.axis, floor)
    reduced = 0
    if saturates and site.axis is not None:
        grid = (site.tensor, result)
        if grid not in memo.saturating:
            memo.saturating[grid] = saturating_channels(quantize_weight(weight, result), site.axis)
        saturating = memo.saturating[grid]
        reduced = int(saturating.sum())
        result = weight_grid(largest, site.axis, floor, seven_bit_steps(saturating))
    elif saturates:
        result = weight_grid(largest, None, floor, 64.0)
        reduced = 1
    return WeightPlan(site.tensor, result, site.readers, reduced)


def _bias(site: BiasSite, params: Mapping[str, QParams], weights: Mapping[WeightSite, WeightPlan]) -> BiasPlan:
    weight = next(plan.params for plan in weights.values() if (site.reader[0], 1) in plan.readers)
    return BiasPlan(site.tensor, bias_scale(params[site.input].scale[0], weight), site.reader)

"""fit_plan: whether a plan that somebody saved, and may have edited, fits the prepared graph. Pure."""

from collections.abc import Iterator

import numpy as np

from qtool.core.errors import UsageError
from qtool.core.numerics.affine import QParams
from qtool.core.numerics.weights import bias_scale
from qtool.core.records.placement import Reader
from qtool.core.records.plan import ActivationPlan, ConstantPlan, Plan, WeightPlan
from qtool.graph import edit
from qtool.graph.edit import Array, Model, Value


def fit_plan(model: Model, plan: Plan, name: str) -> None:
    """Refuse what `rewrite` could not apply, or what no integer kernel would take.

    Args:
        name: what to call the plan in messages.

    Raises:
        UsageError: it names a tensor, node or input that the graph does not hold; a grid does not fit its tensor; or
            a bias does not have the scale of its input times that of its weight.
    """
    values: dict[str | None, Value] = {v.name: v for v in model.graph.inputs}
    values.update({o.name: o for n in model.graph for o in n.outputs})
    for activation in plan.activations:
        if activation.tensor not in values:
            raise UsageError(f"{name}: tensor {activation.tensor!r} is not in the model; make the plan again")
        if activation.params.axis is not None:
            raise UsageError(f"{name}: tensor {activation.tensor!r} is an activation, whose `axis` must be null")
    for tensor, params in _stored(plan):
        _check_grid(name, tensor, params, _initializer(model, tensor, name))
    inputs = {n.name: len(n.inputs) for n in model.graph}
    for tensor, (node, index) in _all_readers(plan):
        if not 0 <= index < inputs.get(node, 0):
            raise UsageError(f"{name}: {tensor!r} is read by input {index} of node {node!r}, which is not in the model")
    _check_biases(model, plan, name)


def _stored(plan: Plan) -> Iterator[tuple[str, QParams]]:
    yield from ((weight.tensor, weight.params) for weight in plan.weights)
    yield from ((constant.tensor, constant.params) for constant in plan.constants)


def _all_readers(plan: Plan) -> Iterator[tuple[str, Reader]]:
    rows: tuple[ActivationPlan | WeightPlan | ConstantPlan, ...] = (*plan.activations, *plan.weights, *plan.constants)
    for row in rows:
        yield from ((row.tensor, reader) for reader in row.readers)
        if isinstance(row, ActivationPlan):
            yield from ((row.tensor, reader) for reader in row.float_readers)
    yield from ((bias.tensor, bias.reader) for bias in plan.biases)


def _initializer(model: Model, tensor: str, name: str) -> Array:
    found = edit.constant_or_none(model.graph.initializers.get(tensor))
    if found is None:
        raise UsageError(f"{name}: constant {tensor!r} is not in the model; make the plan again")
    return found


def _check_grid(name: str, tensor: str, params: QParams, array: Array) -> None:
    axis = params.axis
    channels = 1 if axis is None else array.shape[axis] if 0 <= axis < array.ndim else None
    if channels != len(params.scale):
        raise UsageError(
            f"{name}: constant {tensor!r} has shape {list(array.shape)}, which {len(params.scale)} scales along axis "
            f"{axis} do not fit; make the plan again"
        )


def _check_biases(model: Model, plan: Plan, name: str) -> None:
    inputs = {reader: row.params for row in plan.activations for reader in row.readers}
    weights = {reader: row.params for row in plan.weights for reader in row.readers}
    for bias in plan.biases:
        node, _ = bias.reader
        x, w = inputs.get((node, 0)), weights.get((node, 1))
        if x is None or w is None:
            raise UsageError(f"{name}: node {node!r} has an integer bias {bias.tensor!r}, but its operands are float")
        size = _initializer(model, bias.tensor, name).size
        wanted = bias_scale(x.scale[0], w)
        if len(bias.scale) not in (1, size) or not np.allclose(bias.scale, wanted, rtol=1e-5, atol=0.0):
            raise UsageError(
                f"{name}: the scale of bias {bias.tensor!r} must be that of its input times that of its weight "
                f"({wanted[0]:.9g}...); change them together"
            )

"""fit_plan: whether a plan that somebody saved, and may have edited, fits the prepared graph. Pure."""

from qtool.core.errors import UsageError
from qtool.core.records.plan import Plan
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.bodies import levels
from qtool.graph.edit import Model, Node
from qtool.graph.layers import Layer
from qtool.pipeline.planning.rows import MisfitError, PlanRows
from qtool.pipeline.planning.selection import is_layer
from qtool.pipeline.planning.wider import widenable
from qtool.targets.rules import Target


def fit_plan(model: Model, plan: Plan, target: Target, name: str) -> None:
    """Refuse what `rewrite` could not apply, or what no integer kernel would take.

    Args:
        model: the prepared graph.
        plan: the plan; its records are known to be well formed.
        target: the plan's.
        name: what to call the plan in messages.

    Raises:
        UsageError: it names a tensor, node or input that the graph does not hold; a grid does not fit its tensor or
            the target; a bias does not have the scale of its input times that of its weight; or rows contradict each
            other. The message names the first such row.
    """
    try:
        _check_nodes(model, plan, target)
        rows = PlanRows(model, target, target.activations[plan.scheme], plan.integer)
        _check_rows(rows, plan)
        planned = {row.tensor for row in plan.activations}
        for layer in plan.integer:
            _check_operands(rows, layer, planned, integer_bias=target.integer_bias)
        _check_wider(model, plan)
    except MisfitError as error:
        raise UsageError(f"{name}: {error}; correct it, or make the plan again") from error


def _check_nodes(model: Model, plan: Plan, target: Target) -> None:
    """The names in `layers`, `inputs`, `skipped` and `integer`."""
    everywhere = {str(n.name): n for n in model.graph.all_nodes()}
    layers = {name for name, node in everywhere.items() if is_layer(node, target)}
    for i, layer in enumerate(plan.layers):
        if layer not in layers:
            raise MisfitError(f"layers[{i}]: {layer!r} is no layer of the model")
        if layer in plan.layers[:i]:
            raise MisfitError(f"layers[{i}]: {layer!r} stands there twice")
    absent = sorted(layers - set(plan.layers))
    if absent:
        raise MisfitError(f"layers: {absent[0]!r} is missing")
    inputs = {str(value.name) for value in model.graph.inputs}
    for name, (low, high) in plan.inputs.items():
        if name not in inputs:
            raise MisfitError(f"inputs: {name!r} is no input of the model")
        if not low <= high:
            raise MisfitError(f"inputs: {name!r} has no values from {low:g} to {high:g}")
    for name in plan.skipped:
        if name not in everywhere:
            raise MisfitError(f"skipped: node {name!r} is not in the model")
    here = {str(n.name): n for level in levels(model) for n in level.graph}
    dynamic = {node for row in plan.dynamic for node, _ in row.readers}
    blocks = {node for row in plan.blocks for node, _ in row.readers}
    for name, kernels in plan.integer.items():
        if name not in here:
            raise MisfitError(f"integer: node {name!r} is not in the model")
        form = "blocks" if name in blocks else "dynamic" if name in dynamic else "kernels"
        _check_kernels(here[name], kernels, target, form)


def _check_kernels(node: Node, kernels: tuple[str, ...], target: Target, form: str) -> None:
    """`form`: the field of the rule that holds those that it may become."""
    rule = target.rule(node)
    if rule is None or rule.kind == "bridge":
        raise MisfitError(f"integer: node {node.name!r} ({node.op_type}) has no integer kernel on target {target.name}")
    known = getattr(rule, form)
    if not set(kernels) <= set(known) or bool(kernels) != bool(known):
        raise MisfitError(
            f"integer: node {node.name!r} ({node.op_type}) runs as {' or '.join(known) or 'itself'} on target "
            f"{target.name}, not as {' or '.join(map(repr, kernels))[:60] or 'nothing'}"
        )


def _check_rows(rows: PlanRows, plan: Plan) -> None:
    for i, activation in enumerate(plan.activations):
        rows.activation(f"activations[{i}]", activation)
    for i, constant in enumerate(plan.constants):
        rows.constant(f"constants[{i}]", constant)
    for field, given in (("weights", plan.weights), ("dynamic", plan.dynamic), ("stored", plan.stored)):
        for i, weight in enumerate(given):
            rows.weight(field, f"{field}[{i}]", weight)
    for i, block in enumerate(plan.blocks):
        rows.block(f"blocks[{i}]", block)
    for i, shift in enumerate(plan.shifts):
        rows.shift(f"shifts[{i}]", shift)
    for i, bias in enumerate(plan.biases):
        rows.bias(f"biases[{i}]", bias)


def _check_wider(model: Model, plan: Plan) -> None:
    found = widenable(model, plan)
    for i, row in enumerate(plan.wider):
        if row.layer not in found:
            raise MisfitError(f"wider[{i}]: {row.layer!r} is no convolution with a weight of its own in `weights`")
        if row.channels <= found[row.layer][1]:
            raise MisfitError(f"wider[{i}]: {row.layer!r} has {amount(found[row.layer][1], 'channel')} already")
        if row.layer in [other.layer for other in plan.wider[:i]]:
            raise MisfitError(f"wider[{i}]: {row.layer!r} stands there twice")


def _check_operands(rows: PlanRows, layer: str, planned: set[str], *, integer_bias: bool) -> None:
    """An integer layer has rows for its weight, bias and input, and where the kernel needs it for its output."""
    node, rule = rows.nodes[layer], rows.rule(layer)
    known = Layer.of(node)
    if rule is None or rule.kind != "weighted" or known is None:
        return
    operator = known.operator
    places = {index: rows.taken.get((layer, index), "").split("[")[0] for index in range(len(node.inputs))}
    if places.get(operator.weights[0]) == "blocks":
        if places[0]:
            raise MisfitError(f"{rows.taken[layer, 0]}: node {layer!r} is in `blocks` and finds the grid of its input")
        return
    if "dynamic" in places.values():
        if any(places.get(index) != "dynamic" for index in operator.weights):
            raise MisfitError(f"dynamic: not all weights of node {layer!r} are there")
        if places[0]:
            raise MisfitError(f"{rows.taken[layer, 0]}: node {layer!r} is in `dynamic` and finds the grid of its input")
        return
    if places.get(operator.weights[0]) != "weights":
        raise MisfitError(f"integer: node {layer!r} has no weight in `weights`, `dynamic` or `blocks`")
    if places[0] != "activations":
        raise MisfitError(f"integer: the input of node {layer!r} has no row in `activations`")
    if integer_bias and known.bias is not None and (layer, operator.bias) not in rows.taken:
        raise MisfitError(f"integer: the bias of node {layer!r} has no row in `biases`")
    if rule.needs_output and not _is_quantized(node, planned):
        raise MisfitError(f"integer: the output of node {layer!r} has no row in `activations`")


def _is_quantized(node: Node, planned: set[str]) -> bool:
    """Whether the node's output, or that of the only node behind it, has a grid."""
    follower = edit.single_consumer(node.outputs[0])
    return node.outputs[0].name in planned or (follower is not None and follower.outputs[0].name in planned)

"""The tensors that are quantised for the chosen nodes, who reads them, and whose range they take."""

from collections.abc import Collection
from dataclasses import replace

from qtool.core.numerics.affine import TensorSpec
from qtool.core.records.options import Scheme
from qtool.core.records.placement import BiasSite, ConstantSite, Placement, Reader, Site, WeightSite
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.pipeline.planning.hiding import hidden_readers
from qtool.pipeline.planning.selection import Selection, clip_bounds, is_layer
from qtool.targets.rules import OpRule, Target


def build(
    model: Model, target: Target, scheme: Scheme, selection: Selection, closed: Collection[str] = ()
) -> Placement:
    """Collect the sites of the chosen nodes, and return them in graph order as a placement.

    `closed`: names of layers whose output is quantised whether or not their kernel needs it.
    """
    spec = target.activations[scheme.activations]
    quantized = _quantized_values(selection, closed)
    roots = _roots(model, selection, quantized)
    hidden = hidden_readers(model, selection, quantized)
    sites = tuple(
        replace(
            _site(value, roots[value], spec, selection, bounds),
            union=_union(value, roots, selection),
            origins=_origins(value, selection),
            **hidden.of(value),
        )
        for value, bounds in quantized.items()
    )
    return Placement(
        sites=_in_graph_order(model, sites),
        constants=_constants(selection, spec),
        weights=_weights(selection.weighted, scheme),
        biases=_biases(selection) if target.integer_bias else (),
        integer={
            _name(n): selection.dynamic[n].dynamic if n in selection.dynamic else selection.integer[n].kernels
            for n in model.graph
            if n in selection.integer or n in selection.dynamic
        },
        layers=tuple(_name(n) for n in model.graph.all_nodes() if is_layer(n, target)),
        skipped={_name(n): why for n, why in selection.declined.items()}
        | {_name(n): "weight-only: its input stays float" for n in selection.stored},
        float_biases=() if target.integer_bias else _biases(selection),
        dynamic=_weights(selection.dynamic, scheme),
        stored=_weights(selection.stored, scheme),
    )


def _name(node: Node) -> str:
    assert node.name
    return node.name


def _inputs(selection: Selection, node: Node, rule: OpRule) -> list[tuple[int, Value]]:
    inputs = selection.activation_inputs(node, rule)
    if rule.fused_branch is None:
        return inputs
    branch = rule.fused_branch(node)
    return [(i, v) for i, v in inputs if i == branch]


def _quantized_values(selection: Selection, closed: Collection[str]) -> dict[Value, tuple[float, float] | None]:
    """What integer nodes read, and what the kernels that need it write; with the bounds that the grid absorbs."""
    bounds: dict[Value, tuple[float, float] | None] = {}
    for node, rule in selection.integer.items():
        for tail in selection.tails(node, rule):
            bounds[tail.value] = tail.bounds
    result: dict[Value, tuple[float, float] | None] = {}
    for node, rule in selection.integer.items():
        for _, value in _inputs(selection, node, rule):
            result[value] = bounds.get(value)
        needed = rule.needs_output or node.name in closed or _clip_in_the_way(node)
        if needed and selection.target.outputs:
            for tail in selection.tails(node, rule):
                result[tail.value] = tail.bounds
    for node, rule in selection.integer.items():
        if rule.kind == "weighted" and selection.target.absorbs_clip and _loses_a_reader(node, result):
            result.setdefault(node.outputs[0], None)
    return result


def _loses_a_reader(node: Node, quantized: Collection[Value]) -> bool:
    """Whether a Relu or Clip in front of a Q reads what others read too.

    onnxruntime takes it away (`ReluQuantFusion`, `ClipQuantFusion`), and the selectors find a Q beside a float reader.
    """
    output = node.outputs[0]
    readers = edit.consumers(output)
    if len(readers) + output.is_graph_output() < 2:
        return False
    return any(clip_bounds(reader) is not None and reader.outputs[0] in quantized for reader in readers)


def _clip_in_the_way(node: Node) -> bool:
    """Whether a Relu or Clip stands between the node and other readers: onnxruntime's selectors want a Q behind it."""
    follower = edit.single_consumer(node.outputs[0])
    if follower is None or not edit.is_main_op(follower, "Relu", "Clip"):
        return False
    return not follower.outputs[0].is_graph_output()


def _roots(
    model: Model, selection: Selection, quantized: dict[Value, tuple[float, float] | None]
) -> dict[Value, Value]:
    """The tensor whose range each takes: that before all integer pass-throughs, in graph order."""
    root = {value: value for value in quantized}
    for node in model.graph:
        rule = selection.integer.get(node)
        source = node.inputs[0] if node.inputs else None
        if rule is not None and rule.kind == "passthrough" and source in root:
            root |= {output: root[source] for output in node.outputs if output in root}
    return root


def _origins(value: Value, selection: Selection) -> tuple[str, ...]:
    """The tensors that it is passed through from, whatever the pass-throughs run as; the nearest first."""
    names = []
    while (node := value.producer()) is not None and (rule := selection.rule(node)) is not None:
        source = node.inputs[0] if rule.kind == "passthrough" else None
        if source is None or source.is_initializer():
            break
        names.append(str(source.name))
        value = source
    return tuple(names)


def _union(value: Value, roots: dict[Value, Value], selection: Selection) -> tuple[str, ...]:
    """The ranges that a concatenation joins: its grid then clips nothing, and equals the widest input's."""
    node = value.producer()
    if node is None or node not in selection.integer or not edit.is_main_op(node, "Concat"):
        return ()
    return tuple(dict.fromkeys(str(roots[v].name) for v in node.inputs if v is not None))


def _site(
    value: Value, root: Value, spec: TensorSpec, selection: Selection, bounds: tuple[float, float] | None
) -> Site:
    readers = tuple(
        (_name(node), index)
        for node, index in value.uses()
        if (rule := selection.integer.get(node)) is not None and (index, value) in _inputs(selection, node, rule)
    )
    return Site(
        tensor=value.name or "",
        root=root.name or "",
        spec=spec,
        bounds=bounds,
        readers=tuple(sorted(readers)),
        float_readers=(),
        twin_axis=None,
        twin_size=None,
        produced=selection.produces(value),
    )


def _in_graph_order(model: Model, sites: tuple[Site, ...]) -> tuple[Site, ...]:
    names = [v.name for v in model.graph.inputs] + [o.name for n in model.graph for o in n.outputs]
    order = {name: i for i, name in enumerate(names)}
    return tuple(sorted(sites, key=lambda site: order[site.tensor]))


def _constants(selection: Selection, spec: TensorSpec) -> tuple[ConstantSite, ...]:
    readers: dict[str, list[Reader]] = {}
    for node, rule in selection.integer.items():
        if rule.kind == "elementwise" and rule.inputs is None:
            for i, value in enumerate(node.inputs):
                if value is not None and value.is_initializer():
                    readers.setdefault(value.name or "", []).append((_name(node), i))
    return tuple(ConstantSite(name, spec, tuple(sorted(found))) for name, found in sorted(readers.items()))


def _weights(nodes: dict[Node, OpRule], scheme: Scheme) -> tuple[WeightSite, ...]:
    """The weights that the nodes read."""
    readers: dict[tuple[str, int | None], list[Reader]] = {}
    for layer in _layers(nodes):
        # the groups of a transposed convolution lie along the other axis: a scale would be of a channel in each of them
        by_channel = scheme.granularity == "per-channel" and (layer.output_axis == 0 or layer.groups == 1)
        axis = layer.output_axis if by_channel else None
        for index, weight in zip(layer.operator.weights, layer.weights, strict=True):
            assert weight is not None and weight.name
            readers.setdefault((weight.name, axis), []).append((_name(layer.node), index))
    return tuple(WeightSite(name, axis, tuple(found)) for (name, axis), found in readers.items())


def _biases(selection: Selection) -> tuple[BiasSite, ...]:
    result = []
    for layer in _layers(selection.weighted):
        x, weight, bias, index = layer.node.inputs[0], layer.weight, layer.bias, layer.operator.bias
        if bias is not None and index is not None:
            assert x is not None and weight is not None
            result.append(BiasSite(bias.name or "", x.name or "", weight.name or "", (_name(layer.node), index)))
    return tuple(result)


def _layers(nodes: dict[Node, OpRule]) -> list[Layer]:
    return [layer for node in nodes if (layer := Layer.of(node)) is not None]

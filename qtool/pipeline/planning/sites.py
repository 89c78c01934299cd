"""The tensors that are quantised for the chosen nodes, who reads them, and whose range they take."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from qtool.core.errors import ModelError
from qtool.core.numerics.affine import TensorSpec
from qtool.core.records.options import Scheme
from qtool.core.records.placement import BiasSite, ConstantSite, Placement, Reader, Site, WeightSite
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.pipeline.planning.selection import Selection, clip_bounds, is_layer
from qtool.targets.rules import OpRule, Target


def build(
    model: Model, target: Target, scheme: Scheme, selection: Selection, closed: Collection[str] = ()
) -> Placement:
    """Collect the sites of the chosen nodes, and return them in graph order as a placement.

    `closed`: names of layers whose output is quantised whether or not their kernel needs it.

    Raises:
        ModelError: an excluded layer cannot be kept float.
    """
    spec = target.activations[scheme.activations]
    quantized = _quantized_values(selection, closed)
    roots = _roots(model, selection, quantized)
    sites = tuple(
        replace(_site(value, roots[value], spec, selection, bounds), union=_union(value, roots, selection))
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
        | {_name(n): "weight-only: it computes in float" for n in selection.stored},
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
    """The tensor whose range each takes: that before all pass-throughs, in graph order.

    One that the user leaves in float passes its numbers through all the same, and statistics are of what it reads.
    """
    root = {value: value for value in quantized}
    before: dict[Value | None, Value] = {}
    for node in model.graph:
        rule, excluded = selection.integer.get(node), selection.excluded.get(node)
        source = node.inputs[0] if node.inputs else None
        if excluded is not None and excluded.kind == "passthrough" and source is not None:
            before.update(dict.fromkeys(node.outputs, root.get(source, before.get(source, source))))
            root |= {output: before[output] for output in node.outputs if output in root}
        elif rule is not None and rule.kind == "passthrough" and source is not None:
            found = root.get(source, before.get(source))
            root |= {output: found for output in node.outputs if output in root and found is not None}
    return root


def _union(value: Value, roots: dict[Value, Value], selection: Selection) -> tuple[str, ...]:
    """The ranges that a concatenation joins: its grid then clips nothing, and equals the widest input's."""
    node = value.producer()
    if node is None or node not in selection.integer or not edit.is_main_op(node, "Concat"):
        return ()
    return tuple(dict.fromkeys(str(roots[v].name) for v in node.inputs if v is not None))


def _site(
    value: Value, root: Value, spec: TensorSpec, selection: Selection, bounds: tuple[float, float] | None
) -> Site:
    producer = _integer_producer(value, selection)
    readers: list[Reader] = []
    float_readers: list[Reader] = []
    for node, index in value.uses():
        rule = selection.integer.get(node)
        # onnxruntime's selectors do not look from a subgraph into the graph around it
        if node.graph is value.graph and _stays_float(node, selection):
            float_readers.append((_name(node), index))
        elif rule is not None and (index, value) in _inputs(selection, node, rule):
            readers.append((_name(node), index))
    produced = producer is not None and selection.target.outputs
    if not selection.target.on_cpu or not produced:
        # they read the float tensor itself
        float_readers = []
    twin = find_twin(value, float_readers)
    return Site(
        tensor=value.name or "",
        root=root.name or "",
        spec=spec,
        bounds=bounds,
        readers=tuple(sorted(readers)),
        float_readers=tuple(sorted(float_readers)),
        twin_axis=None if twin is None else twin[0],
        twin_size=None if twin is None else twin[1],
        produced=produced,
    )


def _stays_float(node: Node, selection: Selection) -> bool:
    """Whether onnxruntime would make a node integer, or round its weights to 8 bits, that was chosen to be float.

    It does so behind a DQ with a scalar scale: `WeightBiasQuantization` (whose ConvTranspose then runs in float over
    rounded weights), and the selectors for a MatMul of two activations. Through a pass-through it propagates the DQ to
    such a layer behind it (`QDQPropagationTransformer`).
    """
    if node in selection.excluded:
        return True
    if node in selection.integer or node in selection.dynamic:
        return False
    rule = selection.target.rules.get(node.op_type)
    if rule is not None and rule.kind == "passthrough":
        return any(_stays_float(reader, selection) for output in node.outputs for reader in edit.consumers(output))
    layer = Layer.of(node)
    return layer is not None and layer.is_linear


def _integer_producer(value: Value, selection: Selection) -> Node | None:
    """The integer node that writes the value, through the Relu or Clip that it absorbs."""
    node = value.producer()
    if node in selection.absorbed and node is not None and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node in selection.integer else None


def find_twin(value: Value, float_readers: Sequence[Reader]) -> tuple[int, int] | None:
    """Find the axis and length of the vector that hides a DQ from onnxruntime's selectors; None without readers.

    Raises:
        ModelError: no dimension of the value is known.
    """
    if not float_readers:
        return None
    for axis in (1, *(a for a in range(edit.rank(value) or 0) if a != 1)):
        size = edit.static_dim(value, axis)
        if size is not None and size > 1:
            return axis, size
    raise ModelError(
        f"node {float_readers[0][0]!r} cannot be kept float: no dimension of its input {value.name!r} is known; "
        "exclude the layers before it as well, or export the model with static shapes"
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
        axis = layer.output_axis if scheme.granularity == "per-channel" else None
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

"""The part of `rewrite` that emits layers which find the grid of their input in each run, and tables of 8-bit rows.

A MatMul becomes DynamicQuantizeLinear, MatMulInteger, Cast and Mul, all of standard ONNX, which onnxruntime fuses to
DynamicQuantizeMatMul, or to MatMulIntegerToFloat where several layers read one input. Source: onnxruntime
`core/optimizer/matmul_integer_to_float.cc` and `dynamic_quantize_matmul_fusion.cc`. An LSTM becomes onnxruntime's own
DynamicQuantizeLSTM. The first node that computes has the name of the layer that the group stands for; onnxruntime gives
it to the fused one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.numerics.affine import QParams
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.placement import Reader
from qtool.core.records.plan import WeightPlan
from qtool.graph import compose, contrib, edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer

_FLOAT = 1
"""TensorProto.FLOAT."""
RECURRENT = ("LSTM", "GRU", "RNN")
"""The operators whose stored weights become float32 when the model is loaded."""


def make_dynamic(model: Model, weights: Sequence[WeightPlan], names: edit.Names, memo: WeightMemo) -> None:
    """Replace the layers that read these weights by dynamic ones, in place.

    Raises:
        ModelError: a weight or a node is not in the graph.
    """
    emitter = _Emitter(model, names, {n.name: n for n in model.graph}, memo)
    layers: dict[str, dict[int, WeightPlan]] = {}
    for weight in weights:
        for name, index in weight.readers:
            layers.setdefault(name, {})[index] = weight
    for name, plans in layers.items():
        emitter.layer(name, plans)


def store_table(model: Model, params: QParams, readers: Sequence[Reader], rows: Array, names: edit.Names) -> None:
    """Replace Gathers from a table [V, C] by Cast(Gather(`rows`, int8)) * Gather(scales), in place.

    There is one scale a row where `params` have an axis, else one for the table.
    """
    nodes = {n.name: n for n in model.graph}
    graph = model.graph
    base = nodes[readers[0][0]].inputs[0]
    assert base is not None
    stored = edit.add_initializer(graph, names.fresh(f"{base.name}_quantized"), rows)
    scale = np.asarray(params.scale, np.float32).reshape((-1, 1) if params.axis == 0 else ())
    factors = edit.add_initializer(graph, names.fresh(f"{base.name}_scale"), scale)
    for name, _ in readers:
        old = nodes[name]
        taken = edit.copy_node(old, [stored, old.inputs[1]], names.fresh(f"{name}_quantized"), name=name)
        cast = _cast(taken.outputs[0], name, names)
        group = [taken, cast]
        factor = factors
        if params.axis == 0:
            picked_name = names.fresh(f"{name}_scales")
            picked = edit.copy_node(old, [factors, old.inputs[1]], picked_name, name=f"{picked_name}_node")
            group.append(picked)
            factor = picked.outputs[0]
        rows_name = names.fresh(f"{name}_rows")
        group.append(edit.new_node("Mul", [cast.outputs[0], factor], rows_name, name=f"{rows_name}_node"))
        _replace(old, group)


def fold_at_load(model: Model, base: str, params: QParams, integers: Array, names: edit.Names) -> Value:
    """Return a weight [D, G, I] called `base` as Cast(`integers`, int8) * scales, which are put into the graph.

    onnxruntime computes that once, when it loads the model; a DequantizeLinear it would run anew each time. Source:
    onnxruntime `core/optimizer/constant_folding.cc`.
    """
    graph = model.graph
    scale = np.asarray(params.scale, np.float32)
    shape = () if params.axis is None else tuple(-1 if i == params.axis else 1 for i in range(integers.ndim))
    stored = edit.add_initializer(graph, names.fresh(f"{base}_quantized"), np.asarray(integers, np.int8))
    factor = edit.add_initializer(graph, names.fresh(f"{base}_scale"), scale.reshape(shape))
    cast = _cast(stored, base, names)
    name = names.fresh(f"{base}_real")
    product = edit.new_node("Mul", [cast.outputs[0], factor], name, name=f"{name}_node")
    for node in (product, cast):
        graph.insert_before(graph[0], node)
    return product.outputs[0]


@dataclass(slots=True)
class _Emitter:
    model: Model
    names: edit.Names
    nodes: dict[str | None, Node]
    memo: WeightMemo
    inputs: dict[Value, Node] = field(default_factory=dict)
    stored: dict[tuple[str, int], tuple[Value, Value, Value]] = field(default_factory=dict)

    def layer(self, name: str, weights: dict[int, WeightPlan]) -> None:
        node = self.nodes.get(name)
        if node is None:
            raise ModelError(f"the plan names node {name!r}, which the model does not hold; make the plan again")
        if node.op_type == "LSTM":
            self._lstm(node, weights[1], weights[2])
        elif (layer := Layer.of(node)) is not None and layer.is_product:
            self._product(layer, weights[layer.operator.weights[0]])
        else:
            raise ModelError(f"the plan makes node {name!r} dynamic, which {node.op_type} cannot be; make it again")

    def _product(self, layer: Layer, weight: WeightPlan) -> None:
        node, source, name = layer.node, layer.node.inputs[0], layer.node.name
        assert source is not None and name is not None
        stored, scale, zero_point = self._weight(layer, weight)
        x = self._quantized(source, node).outputs
        operands = [x[0], stored, x[2], zero_point]
        integer = edit.new_node("MatMulInteger", operands, self.names.fresh(f"{name}_integer"), name=name)
        cast = _cast(integer.outputs[0], name, self.names)
        scales = self._new("Mul", [x[1], scale], f"{name}_scales")
        group = [integer, cast, scales]
        product = [cast.outputs[0], scales.outputs[0]]
        if layer.bias is None:
            group.append(self._new("Mul", product, f"{name}_real"))
        else:
            group.append(self._new("Mul", product, f"{name}_product"))
            group.append(self._new("Add", [group[-1].outputs[0], layer.bias], f"{name}_real"))
        _replace(node, group)

    def _lstm(self, node: Node, weight: WeightPlan, recurrence: WeightPlan) -> None:
        """Source: onnxruntime `contrib_ops/cpu/quantization/dynamic_quantize_lstm.cc`: weights are [D, I, 4H]."""
        w, r = (self._gates(plan, node.inputs[i]) for i, plan in ((1, weight), (2, recurrence)))
        inputs = [node.inputs[0], w[0], r[0], *list(node.inputs)[3:]]
        inputs += [None] * (8 - len(inputs))
        inputs += [w[1], w[2], r[1], r[2]]
        kept = {key: edit.attribute(node, key) for key in node.attributes if key != "layout"}
        outputs = [self.names.fresh(f"{node.name}_real_{i}") for i in range(len(node.outputs))]
        new = edit.new_node(
            "DynamicQuantizeLSTM", inputs, outputs, name=str(node.name), attributes=kept, domain=contrib.DOMAIN
        )
        edit.import_domain(self.model, contrib.DOMAIN, 1)
        _replace(node, [new])

    def _gates(self, weight: WeightPlan, value: Value | None) -> tuple[Value, Value, Value]:
        """[D, I, 4H] int8, its scales [D, 4H] or [D], and as many zero points."""
        exact = edit.constant(value)
        graph, tensor = self.model.graph, weight.tensor
        whole = weight.quantized(exact, self.memo)
        scale = np.asarray(weight.params.scale, np.float32)
        scale = np.tile(scale, (exact.shape[0], 1)) if weight.params.axis is not None else scale.repeat(exact.shape[0])
        arrays: tuple[Array, ...] = (
            np.ascontiguousarray(whole.transpose(0, 2, 1)),
            scale,
            np.zeros(scale.shape, np.int8),
        )
        endings = ("quantized", "scale", "zero_point")
        a, b, c = (
            edit.add_initializer(graph, self.names.fresh(f"{tensor}_{ending}"), array)
            for ending, array in zip(endings, arrays, strict=True)
        )
        return a, b, c

    def _weight(self, layer: Layer, weight: WeightPlan) -> tuple[Value, Value, Value]:
        """[K, N] int8, scale [N] or one, zero points."""
        key = (weight.tensor, layer.output_axis)
        if key not in self.stored:
            graph, tensor = self.model.graph, weight.tensor
            whole = weight.quantized(edit.constant(layer.weight), self.memo)
            scale = np.asarray(weight.params.scale, np.float32)
            scale = scale if weight.params.axis is not None else scale.reshape(())
            stored, factor, zero_point = self.stored[key] = (
                edit.add_initializer(graph, self.names.fresh(f"{tensor}_quantized"), layer.matrix(whole)),
                edit.add_initializer(graph, self.names.fresh(f"{tensor}_scale"), scale),
                edit.add_initializer(graph, self.names.fresh(f"{tensor}_zero_point"), np.zeros(scale.shape, np.int8)),
            )
            exact = graph.initializers[tensor]
            if edit.origin_of(exact) is not None or edit.is_read(exact) or len(exact.uses()) > len(weight.readers):
                axis, turned = layer.output_axis if scale.ndim else None, layer.output_axis == 0
                origin = compose.quantized_origin(exact, factor, zero_point, axis, transposed=turned)
                edit.remember(stored, origin)
        return self.stored[key]

    def _quantized(self, value: Value, before: Node) -> Node:
        """The DynamicQuantizeLinear that all layers which read `value` share."""
        if value not in self.inputs:
            base = value.name
            outputs = [
                self.names.fresh(f"{base}_{what}") for what in ("dynamic", "dynamic_scale", "dynamic_zero_point")
            ]
            node = edit.new_node(
                "DynamicQuantizeLinear", [value], outputs, name=self.names.fresh(f"{base}_dynamic_node")
            )
            before.graph.insert_before(before, node)  # type: ignore[union-attr]
            self.inputs[value] = node
        return self.inputs[value]

    def _new(self, op: str, inputs: list[Value], base: str) -> Node:
        return edit.new_node(op, inputs, self.names.fresh(base), name=self.names.fresh(f"{base}_node"))


def _cast(value: Value, base: str, names: edit.Names) -> Node:
    name = names.fresh(f"{base}_cast")
    return edit.new_node("Cast", [value], name, name=f"{name}_node", attributes={"to": _FLOAT})


def _replace(old: Node, group: Sequence[Node]) -> None:
    """Put the group in the place of `old`; the last node's outputs take the places, and the names, of old's."""
    graph = old.graph
    assert graph is not None
    for node in group:
        graph.insert_before(old, node)
    edit.replace_node(old, group[-1])

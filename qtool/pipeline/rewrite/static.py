"""rewrite: apply a plan to the prepared graph. It holds no policy: what the plan says is done, nothing else."""

from dataclasses import replace

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.numerics.affine import QParams, quantize
from qtool.core.numerics.weights import WeightMemo, quantize_bias
from qtool.core.records.placement import Reader
from qtool.core.records.plan import ActivationPlan, BiasPlan, Plan, WeightPlan
from qtool.graph import compose, edit, opset
from qtool.graph.bodies import alone, bodies, put_back, share_constants, share_dequantized, sink_constants
from qtool.graph.edit import Array, Model, Node, Value
from qtool.pipeline.rewrite.blocks import OPSET, store_blocks
from qtool.pipeline.rewrite.dynamic import RECURRENT, fold_at_load, make_dynamic, store_table
from qtool.pipeline.rewrite.float_forms import write_mish

LONGEST = 80
"""Characters of a name that is made here: some exporters name a tensor by all that it was fused from, hundreds long."""


def rewrite(model: Model, plan: Plan, memo: WeightMemo | None = None) -> Model:
    """Return a copy of the prepared graph with the plan's Q/DQ and bias shifts in it.

    `memo`: the integers of this graph's weights that are known; is added to.

    Raises:
        ModelError: the plan names a tensor or node that the graph does not hold.
    """
    shifted, memo = shift_biases(model, plan), memo or WeightMemo()
    found = list(bodies(shifted.graph))
    if not found:
        return _Rewriter(shifted, plan, memo, edit.Names(shifted.graph, LONGEST)).run()
    before, names = set(shifted.graph.initializers), edit.Names(shifted.graph, LONGEST)
    _mark_float(shifted, plan)
    # inner ones first: what holds a body takes it over as it is then
    for body in reversed(found):
        part = alone(shifted, body)
        if part is not None:
            _Rewriter(part.model, _within(plan, part.model), memo, names).run()
            put_back(shifted, part)
    _Rewriter(shifted, _within(plan, shifted), memo, names).run()
    share_constants(shifted, before)
    share_dequantized(shifted, [reader for row in plan.stored for reader in row.readers])
    sink_constants(shifted)
    return shifted


def _mark_float(model: Model, plan: Plan) -> None:
    """Let each constant know that something reads it as float, in whatever graph: its integers are made of it then."""
    readers: dict[str, set[Reader]] = {}
    for row in (*plan.weights, *plan.dynamic, *plan.stored):
        readers.setdefault(row.tensor, set()).update(row.readers)
    for tensor, found in readers.items():
        value = model.graph.initializers.get(tensor)
        if value is not None and len(value.uses()) > len(found):
            edit.mark_read(value)


def _within(plan: Plan, part: Model) -> Plan:
    return plan.within({str(node.name) for node in part.graph}, set(edit.named_values(part.graph)))


def shift_biases(model: Model, plan: Plan) -> Model:
    """Return a copy of the prepared graph, still float, whose biases have the plan's shifts added.

    Weights whose integers the plan holds, and those in blocks, are what these stand for. Where onnxruntime runs it,
    Mish is written in operators that it computes fast. The opset is one that has what the plan asks for.

    Raises:
        ModelError: the plan names what the graph does not hold, or a bias or weight of another size.
    """
    shifted = edit.clone(model)
    for row in (*plan.weights, *plan.dynamic, *plan.stored):
        given, weight = row.given, shifted.graph.initializers.get(row.tensor)
        if given is None:
            continue
        if weight is None or edit.constant(weight).size != given.size:
            raise ModelError(f"the plan holds weight {row.tensor!r}, which the model does not hold; make it again")
        edit.set_constant(weight, row.real(edit.constant(weight)))
    for block in plan.blocks:
        weight = shifted.graph.initializers.get(block.tensor)
        if weight is None or not block.fits(edit.constant(weight).shape):
            raise ModelError(f"the plan holds blocks of {block.tensor!r}, which the model does not hold; make it again")
        edit.set_constant(weight, block.real(edit.constant(weight)))
    nodes = {node.name: node for node in shifted.graph.all_nodes()}
    names = edit.Names(shifted.graph)
    for shift in plan.shifts:
        name, index = shift.reader
        bias = nodes[name].inputs[index] if name in nodes and index < len(nodes[name].inputs) else None
        exact = edit.constant_or_none(bias)
        if bias is None or exact is None or exact.shape != (len(shift.shift),):
            raise ModelError(f"the plan shifts a bias of node {name!r}, which the model does not hold; make it again")
        value = (exact.astype(np.float64) + np.asarray(shift.shift)).astype(np.float32)
        corrected = edit.add_initializer(shifted.graph, names.fresh(f"{bias.name}_{name}_corrected"), value)
        nodes[name].replace_input_with(index, corrected)
    if any(plan.integer.values()) or plan.stored:
        write_mish(shifted)
    if any(row.written == "qdq" for row in plan.blocks) and opset.opset_of(shifted) < OPSET:
        shifted = opset.raise_opset(shifted, "the prepared model", OPSET)
        opset.tidy(shifted, "the prepared model")
    return shifted


class _Rewriter:
    """Changes the main graph of `model`.

    names: of all that it is a part of. zero_points: those that are stored, by type, shape and content.
    """

    def __init__(self, model: Model, plan: Plan, memo: WeightMemo, names: edit.Names) -> None:
        self.model, self.plan, self.memo, self.names = model, plan, memo, names
        self.graph = model.graph
        self.zero_points: dict[tuple[np.dtype, tuple[int, ...], bytes], Value] = {}
        self._look_up()

    def _look_up(self) -> None:
        self.nodes = {n.name: n for n in self.graph}
        self.values = edit.named_values(self.graph)

    def run(self) -> Model:
        for weight in self.plan.weights:
            self._weight(weight)
        for constant in self.plan.constants:
            integers = quantize(self._initializer(constant.tensor), constant.params)
            self._constant(constant.tensor, constant.params, constant.readers, integers)
        for weight in self.plan.stored:
            self._stored(weight)
        for row in self.plan.blocks:
            store_blocks(self.model, row, self.names)
        # tables have other nodes behind their names now
        self._look_up()
        for bias in self.plan.biases:
            self._bias(bias)
        for activation in self.plan.activations:
            self._activation(activation)
        make_dynamic(self.model, self.plan.dynamic, self.names, self.memo)
        for name in [n for n, v in self.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
            del self.graph.initializers[name]
        self.graph.sort()
        return self.model

    def _node(self, name: str) -> Node:
        node = self.nodes.get(name)
        if node is None:
            raise ModelError(f"the plan names node {name!r}, which the model does not hold; make the plan again")
        return node

    def _read(self, readers: tuple[tuple[str, int], ...], value: Value) -> None:
        for name, index in readers:
            self._node(name).replace_input_with(index, value)

    def _params(self, base: str, params: QParams, size: int | None = None) -> tuple[Value, Value]:
        """Initializers for scale and zero point; `size` repeats a scalar into a vector."""
        scale, zero_point = np.asarray(params.scale, np.float32), np.asarray(params.zero_point, params.dtype)
        if size is not None:
            scale, zero_point = np.repeat(scale, size), np.repeat(zero_point, size)
        elif params.axis is None:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        factor = edit.add_initializer(self.graph, self.names.fresh(f"{base}_scale"), scale)
        # few are different
        known = (zero_point.dtype, zero_point.shape, zero_point.tobytes())
        if known not in self.zero_points:
            name = f"zero_point_{zero_point.dtype}" + (f"_{zero_point}" if zero_point.ndim == 0 else "s")
            self.zero_points[known] = edit.add_initializer(self.graph, self.names.fresh(name), zero_point)
        return factor, self.zero_points[known]

    def _new(self, op: str, inputs: list[Value], base: str, axis: int | None = None) -> Node:
        name = self.names.fresh(base)
        attributes: dict[str, object] = {} if axis is None else {"axis": axis}
        return edit.new_node(op, inputs, name, name=self.names.fresh(f"{base}_node"), attributes=attributes)

    def _weight(self, weight: WeightPlan) -> None:
        self._constant(weight.tensor, weight.params, weight.readers, self._integers(weight))
        for name, _ in weight.readers:
            self._keep_apart(self._node(name))

    def _keep_apart(self, node: Node) -> None:
        """Write the vector that is added to a product of rank 3 and more as a row, which computes the same.

        onnxruntime's `MatMulAddFusion` makes a Gemm of product and vector, with a float bias, but not of a row.
        """
        add = edit.single_consumer(node.outputs[0]) if edit.is_main_op(node, "MatMul") else None
        if add is None or not edit.is_main_op(add, "Add") or (edit.rank(node.inputs[0]) or 0) < 3:
            return
        for index, value in enumerate(add.inputs):
            vector = edit.constant_or_none(value)
            if value is not None and vector is not None and vector.ndim == 1:
                row = edit.add_initializer(self.graph, self.names.fresh(f"{value.name}_row"), vector[None])
                add.replace_input_with(index, row)

    def _integers(self, weight: WeightPlan) -> Array:
        return weight.quantized(self._initializer(weight.tensor), self.memo)

    def _constant(self, tensor: str, params: QParams, readers: tuple[tuple[str, int], ...], integers: Array) -> None:
        stored = edit.add_initializer(self.graph, self.names.fresh(f"{tensor}_quantized"), integers)
        scale, zero_point = self._params(tensor, params)
        exact = self.graph.initializers[tensor]
        if edit.origin_of(exact) is not None or edit.is_read(exact) or len(exact.uses()) > len(readers):
            edit.remember(stored, compose.quantized_origin(exact, scale, zero_point, params.axis))
        node = self._new("DequantizeLinear", [stored, scale, zero_point], f"{tensor}_dequantized", params.axis)
        self.graph.insert_before(self.graph[0], node)
        self._read(readers, node.outputs[0])

    def _stored(self, weight: WeightPlan) -> None:
        tables = tuple(reader for reader in weight.readers if edit.is_main_op(self._node(reader[0]), "Gather"))
        if tables:
            store_table(self.model, weight.params, tables, self._integers(weight), self.names)
            products = tuple(reader for reader in weight.readers if reader not in tables)
            if products:
                self._weight(replace(weight, readers=products))
        elif all(edit.is_main_op(self._node(name), *RECURRENT) for name, _ in weight.readers):
            integers = self._integers(weight)
            real = fold_at_load(self.model, weight.tensor, weight.params, integers, self.names)
            self._read(weight.readers, real)
        else:
            self._weight(weight)

    def _initializer(self, tensor: str) -> Array:
        if tensor not in self.graph.initializers:
            raise ModelError(f"the plan names initializer {tensor!r}, which the model does not hold; make it again")
        return edit.constant(self.graph.initializers[tensor])

    def _bias(self, bias: BiasPlan) -> None:
        scale = np.asarray(bias.scale, np.float32)
        per_channel = scale.size > 1
        base = f"{bias.tensor}_{bias.reader[0]}" if self._shared(bias.tensor) else bias.tensor
        reader, index = bias.reader
        integers = quantize_bias(edit.constant(self._node(reader).inputs[index]), bias.scale)
        stored = edit.add_initializer(self.graph, self.names.fresh(f"{base}_quantized"), integers)
        factor = edit.add_initializer(
            self.graph, self.names.fresh(f"{base}_scale"), scale if per_channel else scale.reshape(())
        )
        node = self._new("DequantizeLinear", [stored, factor], f"{base}_dequantized", 0 if per_channel else None)
        self.graph.insert_before(self.graph[0], node)
        self._read((bias.reader,), node.outputs[0])

    def _shared(self, tensor: str) -> bool:
        return sum(bias.tensor == tensor for bias in self.plan.biases) > 1

    def _activation(self, activation: ActivationPlan) -> None:
        value = self.values.get(activation.tensor)
        if value is None:
            raise ModelError(
                f"the plan names tensor {activation.tensor!r}, which the model does not hold; make it again"
            )
        others = list(value.uses())
        base = activation.tensor
        source, axis = value, activation.twin_axis if activation.barred else None
        if activation.barred and axis is None:
            source = self._barrier(value, f"{base}_passed").outputs[0]
        scale, zero_point = self._params(base, activation.params)
        grid = (scale, zero_point)
        if axis is not None:
            grid = self._params(f"{base}_unmoved", activation.params, activation.twin_size)
        q = self._new("QuantizeLinear", [source, *grid], f"{base}_quantized", axis)
        self._insert_behind(source, q)
        dq = self._new("DequantizeLinear", [q.outputs[0], scale, zero_point], f"{base}_dequantized")
        twins = {*activation.float_readers, *activation.barred_readers}
        if activation.produced:
            for node, index in others:
                if (node.name, index) not in twins:
                    node.replace_input_with(index, dq.outputs[0])
        else:
            self._read(activation.readers, dq.outputs[0])
        if activation.float_readers:
            self._twin(activation, q)
        is_output = activation.produced and value.is_graph_output()
        if dq.outputs[0].uses() or is_output or activation.barred_readers:
            self.graph.insert_after(q, dq)
        if activation.barred_readers:
            passed = self._barrier(dq.outputs[0], f"{base}_barred")
            self._read(activation.barred_readers, passed.outputs[0])
        if is_output:
            self._keep_output_name(value, dq.outputs[0])

    def _barrier(self, value: Value, base: str) -> Node:
        """A Max of one tensor behind it, which computes nothing."""
        node = self._new("Max", [value], base)
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        self._insert_behind(value, node)
        return node

    def _twin(self, activation: ActivationPlan, q: Node) -> None:
        scale, zero_point = self._params(f"{activation.tensor}_float", activation.params, activation.twin_size)
        inputs = [q.outputs[0], scale, zero_point]
        node = self._new("DequantizeLinear", inputs, f"{activation.tensor}_float", activation.twin_axis)
        self.graph.insert_after(q, node)
        self._read(activation.float_readers, node.outputs[0])

    def _insert_behind(self, value: Value, node: Node) -> None:
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)

    def _keep_output_name(self, old: Value, new: Value) -> None:
        name = old.name
        new.type, new.shape = old.type, old.shape
        self.graph.outputs[list(self.graph.outputs).index(old)] = new
        old.name = self.names.fresh(f"{name}_float")
        new.name = name

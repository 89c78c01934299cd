"""The check that each row of a saved plan fits the prepared graph: its tensor, grid, and the inputs it names. Pure."""

from collections.abc import Iterable

import numpy as np

from qtool.core.numerics.affine import MIN_SCALE, QParams, TensorSpec, fit_inside, integer_range
from qtool.core.numerics.weights import bias_scale, largest_magnitudes, quantize_weight, saturating_channels
from qtool.core.records.placement import Reader
from qtool.core.records.plan import ActivationPlan, BiasPlan, BiasShift, BlockPlan, ConstantPlan, WeightPlan
from qtool.core.text import amount
from qtool.graph import edit
from qtool.graph.bodies import levels, values_inside
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer
from qtool.pipeline.planning.blocks import block_reason
from qtool.pipeline.planning.selection import clip_bounds, is_layer
from qtool.targets import conditions
from qtool.targets.rules import OpRule, Target

_INT32_MAX = 2.0**31 - 1


class MisfitError(Exception):
    """An error of a plan that does not fit the graph: where in the plan it stands, and what is wrong."""


class PlanRows:
    """The rows that have been found to fit, and what reads them.

    integer: the nodes that the plan makes integer. taken: input of a node -> the place in the plan that speaks of it.

    All methods raise `MisfitError`; `where` is the place of a row in the plan.
    """

    def __init__(self, model: Model, target: Target, spec: TensorSpec, integer: Iterable[str]) -> None:
        self._model, self._target, self._spec = model, target, spec
        self._values = values_inside(model)
        self._initializers = model.graph.initializers
        self.nodes = {str(n.name): n for level in levels(model) for n in level.graph}
        self.integer = frozenset(integer)
        self.taken: dict[Reader, str] = {}
        self._rows: set[tuple[str, str, int | None]] = set()
        self._grids: dict[Reader, QParams] = {}
        self._shifts: dict[Reader, Array] = {}

    def rule(self, node: str) -> OpRule | None:
        """Return what the target does with the node; None where it knows no such operator."""
        return self._target.rule(self.nodes[node])

    def activation(self, where: str, row: ActivationPlan) -> None:
        """Check a row of `activations`: a computed float32 tensor with a grid of the target's.

        Its readers are inputs of integer nodes, and with a twin of others as well.
        """
        value = self._values.get(row.tensor)
        if value is None:
            raise MisfitError(f"{where}: tensor {row.tensor!r} is not in the model")
        self._once("activations", where, row.tensor)
        if row.params.axis is not None:
            raise MisfitError(f"{where}: tensor {row.tensor!r} is an activation, whose `axis` must be null")
        if not edit.is_float32(value):
            raise MisfitError(f"{where}: tensor {row.tensor!r} is not float32")
        self._grid_of_target(where, row.params)
        bounds = self._absorbed(value)
        if bounds is not None and fit_inside(row.params, *bounds) != row.params:
            raise MisfitError(
                f"{where}: the grid of tensor {row.tensor!r} must lie within [{bounds[0]:g}, {bounds[1]:g}], in whose "
                "place it stands"
            )
        if row.twin_axis is not None:
            self._twin(where, row, value)
        if row.produced and not self._made_by_integer(value):
            raise MisfitError(f"{where}: no integer node makes tensor {row.tensor!r}, so `produced` must be false")
        for node, index in self._reads(where, row.tensor, row.readers):
            rule = self.rule(node)
            if node not in self.integer or rule is None or (rule.inputs is not None and index not in rule.inputs):
                raise MisfitError(
                    f"{where}: input {index} of node {node!r} is read as float, so it cannot be in `readers`"
                )
            self._grids[node, index] = row.params
        for field in ("float_readers", "barred_readers"):
            for node, _ in self._reads(where, row.tensor, getattr(row, field)):
                if node in self.integer:
                    raise MisfitError(f"{where}: node {node!r} is in `integer`, so it cannot be in `{field}`")

    def _absorbed(self, value: Value) -> tuple[float, float] | None:
        """The bounds of the Relu or Clip that makes the value behind an integer node, and that a Q stands for."""
        node = value.producer()
        inner = None if node is None or node.name in self.integer or not node.inputs else node.inputs[0]
        maker = None if inner is None or edit.single_consumer(inner) is not node else inner.producer()
        if node is None or maker is None or maker.name not in self.integer or not self._target.absorbs_clip:
            return None
        rule, bounds = self.rule(str(maker.name)), clip_bounds(node)
        moves = rule is None or rule.kind in ("passthrough", "bridge")
        return None if moves or bounds is None or not bounds[0] <= 0.0 <= bounds[1] else bounds

    def _twin(self, where: str, row: ActivationPlan, value: Value) -> None:
        axis, known = row.twin_axis, edit.rank(value) or 0
        size = edit.static_dim(value, axis) if axis is not None and 0 <= axis < known else None
        if size is None or size < 2 or size != row.twin_size:
            raise MisfitError(
                f"{where}: axis {axis} of tensor {row.tensor!r} has no {row.twin_size} (2 or more) channels"
            )

    def constant(self, where: str, row: ConstantPlan) -> None:
        """Check a row of `constants`: a finite float32 constant that elementwise integer nodes read."""
        array = self._constant(where, row.tensor)
        self._once("constants", where, row.tensor)
        if row.params.axis is not None:
            raise MisfitError(f"{where}: constant {row.tensor!r} has one grid for all, whose `axis` must be null")
        self._grid_of_target(where, row.params)
        low, high = (float(x) for x in (array.min(initial=0.0), array.max(initial=0.0)))
        start, end = row.params.range
        half = row.params.scale[0] / 2
        if low < start - half or high > end + half:
            raise MisfitError(
                f"{where}: the grid of constant {row.tensor!r} does not reach from {low:.6g} to {high:.6g}"
            )
        for node, _ in self._reads(where, row.tensor, row.readers, needed=True):
            rule = self.rule(node)
            if node not in self.integer or rule is None or rule.kind != "elementwise" or rule.inputs is not None:
                raise MisfitError(f"{where}: node {node!r} takes no 8-bit constant")

    def weight(self, field: str, where: str, row: WeightPlan) -> None:
        """Check a row of `weights`, `dynamic` or `stored` (`field`): a weight, its grid along its layers' channels."""
        array = self._constant(where, row.tensor)
        axis, scale = row.params.axis, row.params.scale
        self._once(field, where, row.tensor, axis)
        channels = 1 if axis is None else array.shape[axis] if 0 <= axis < array.ndim else None
        if channels != len(scale):
            raise MisfitError(
                f"{where}: constant {row.tensor!r} has shape {list(array.shape)}, which is not that of "
                f"{amount(len(scale), 'scale')} along axis {axis}"
            )
        if row.params.dtype != "int8" or any(row.params.zero_point):
            raise MisfitError(f"{where}: weights are int8 with zero point 0")
        given = row.given
        if given is not None and given.size != array.size:
            raise MisfitError(f"{where}: integers: {given.size} for constant {row.tensor!r}, which holds {array.size}")
        array = row.real(array)
        largest = largest_magnitudes(array, axis)
        if (largest > np.asarray(scale) * 127.5).any():
            raise MisfitError(f"{where}: constant {row.tensor!r} is larger than 127 steps of its scale")
        for node, index in self._reads(where, row.tensor, row.readers, needed=True):
            reason = self._no_weight(field, self.nodes[node], index)
            if reason is not None:
                raise MisfitError(f"{where}: input {index} of node {node!r} ({self.nodes[node].op_type}) {reason}")
            layer = Layer.of(self.nodes[node])
            if layer is None or axis not in (None, layer.output_axis):
                raise MisfitError(
                    f"{where}: axis {axis} of constant {row.tensor!r} is not that of node {node!r}'s outputs"
                )
            if field != "stored" and self._target.saturates:
                self._seven_bits(where, row, array, layer)
            # kernels that add such steps lose all else; only the scale of a bias may need them
            bias = self._largest_bias(layer) if field == "weights" else 0.0
            if max(scale) > max(1.0, float(largest.max(initial=0.0)), bias):
                raise MisfitError(f"{where}: constant {row.tensor!r} is smaller than a step of its scale")
            if field == "weights":
                self._grids[node, index] = row.params

    def _largest_bias(self, layer: Layer) -> float:
        """Of a layer whose input has a grid, in the steps of that grid; 0 without a bias."""
        x = self._grids.get((str(layer.node.name), 0))
        index = layer.operator.bias
        given = layer.node.inputs[index] if index is not None and index < len(layer.node.inputs) else None
        array = edit.constant_or_none(given)
        return 0.0 if x is None or array is None else float(np.abs(array).max(initial=0.0)) / x.scale[0]

    def _seven_bits(self, where: str, row: WeightPlan, array: Array, layer: Layer) -> None:
        axis = layer.output_axis if row.params.axis is None else row.params.axis
        found = np.flatnonzero(saturating_channels(quantize_weight(array, row.params), axis or 0))
        if found.size:
            raise MisfitError(
                f"{where}: channel {found[0]} of weight {row.tensor!r} can overflow 16 bits on target "
                f"{self._target.name}; double its scale"
            )

    def _no_weight(self, field: str, node: Node, index: int) -> str | None:
        """Why an input cannot be in that field."""
        name = str(node.name)
        rule = self.rule(name)
        if rule is None:
            return f"has no 8-bit weight on target {self._target.name}"
        weighted, layer = is_layer(node, self._target), Layer.of(node)
        condition = rule.check if weighted else conditions.table
        declined = condition(node) if condition else None
        if declined is not None:
            return f"cannot be 8-bit: {declined}"
        inputs = () if layer is None else layer.operator.weights
        possible = {
            "weights": weighted and rule.static and index in inputs[:1],
            "dynamic": bool(rule.dynamic) and index in inputs and layer is not None and not layer.transposes_input,
            "stored": rule.stored and index in inputs,
            "blocks": bool(rule.blocks) and index in inputs[:1],
        }
        if not possible[field]:
            return f"cannot be in `{field}`"
        if (field == "stored") == (name in self.integer):
            return f"is in `{field}`, and its node is {'' if name in self.integer else 'not '}in `integer`"
        return None

    def block(self, where: str, row: BlockPlan) -> None:
        """Check a row of `blocks`: a matrix in blocks along the axis that its layers sum over, or of a table's rows."""
        array = self._constant(where, row.tensor)
        self._once("blocks", where, row.tensor)
        if not row.fits(array.shape):
            raise MisfitError(
                f"{where}: constant {row.tensor!r} has shape {list(array.shape)}, which is not that of its scales and "
                f"integers in blocks of {row.block} along axis {row.axis}"
            )
        readers = []
        for node, index in self._reads(where, row.tensor, row.readers, needed=True):
            reason = self._no_weight("blocks", self.nodes[node], index)
            if reason is not None:
                raise MisfitError(f"{where}: input {index} of node {node!r} ({self.nodes[node].op_type}) {reason}")
            readers.append(self.nodes[node])
        qdq = row.written == "qdq"
        reason = block_reason(self._model, readers, self._target, qdq=qdq, bits=row.bits, is_twin=True)
        layer = Layer.of(readers[0])
        if layer is None or layer.input_axis != row.axis:
            reason = f"its layers do not sum over axis {row.axis}"
        if reason is not None:
            raise MisfitError(f"{where}: constant {row.tensor!r} cannot be in blocks: {reason}")

    def shift(self, where: str, row: BiasShift) -> None:
        """Check a row of `shifts`: a number for each element of the bias of a layer in `weights`."""
        node, index = row.reader
        found = self.nodes.get(node)
        layer = None if found is None or self.rule(node) is None else Layer.of(found)
        if found is None or layer is None or index != layer.operator.bias:
            raise MisfitError(f"{where}: input {index} of node {node!r} is no bias of the model")
        scale = self._scale_of_sums(layer)
        if scale is None:
            raise MisfitError(f"{where}: node {node!r} has a shift of its bias, but its operands are float")
        exact = edit.constant_or_none(found.inputs[index] if index < len(found.inputs) else None)
        if exact is None or exact.shape != (len(row.shift),):
            raise MisfitError(f"{where}: the bias of node {node!r} does not have {amount(len(row.shift), 'element')}")
        if _overflows(exact + np.asarray(row.shift), scale):
            raise MisfitError(f"{where}: 32 bits do not hold the bias of node {node!r} with this shift")
        self._once("shifts", where, node)
        self._shifts[row.reader] = np.asarray(row.shift)

    def bias(self, where: str, row: BiasPlan) -> None:
        """Check a row of `biases`: a bias with the scale of its input times that of its weight.

        32 bits must hold it, with its shift, at that scale.
        """
        node, index = row.reader
        array = self._constant(where, row.tensor)
        self._reads(where, row.tensor, (row.reader,))
        layer = None if self.rule(node) is None else Layer.of(self.nodes[node])
        if layer is None or index != layer.operator.bias or not self._target.integer_bias:
            raise MisfitError(
                f"{where}: input {index} of node {node!r} is no integer bias on target {self._target.name}"
            )
        wanted = self._scale_of_sums(layer)
        if wanted is None:
            raise MisfitError(f"{where}: node {node!r} has an integer bias {row.tensor!r}, but its operands are float")
        given = np.asarray(row.scale)
        fits = given.size in (1, array.size) and wanted.size in (1, array.size)
        if not fits or not np.allclose(given, wanted, rtol=1e-5, atol=0.0):
            raise MisfitError(
                f"{where}: the scale of bias {row.tensor!r} must be that of its input times that of its weight "
                f"({wanted[0]:.9g}...); change them together"
            )
        if _overflows(array + self._shifts.get(row.reader, 0.0), given):
            raise MisfitError(f"{where}: bias {row.tensor!r} does not fit into 32 bits with that scale")

    def _scale_of_sums(self, layer: Layer) -> Array | None:
        """That of the input times that of the weight, one each channel or one for all; None where one is float."""
        node = str(layer.node.name)
        x, weight = self._grids.get((node, 0)), self._grids.get((node, layer.operator.weights[0]))
        if x is None or weight is None:
            return None
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(bias_scale(x.scale[0], weight))

    def _once(self, field: str, where: str, name: str, axis: int | None = None) -> None:
        row = (field, name, axis)
        if row in self._rows:
            raise MisfitError(f"{where}: {name!r} has a row in `{field}` already")
        self._rows.add(row)

    def _reads(self, where: str, tensor: str, readers: Iterable[Reader], *, needed: bool = False) -> tuple[Reader, ...]:
        """The readers, once they are known to read the tensor, and to be in no other row."""
        given = tuple(readers)
        if needed and not given:
            raise MisfitError(f"{where}: nothing reads {tensor!r}; name a reader")
        for node, index in given:
            found = self.nodes.get(node)
            if found is None or not 0 <= index < len(found.inputs):
                raise MisfitError(
                    f"{where}: {tensor!r} is read by input {index} of node {node!r}, which is not in the model"
                )
            value = found.inputs[index]
            if value is None or value.name != tensor:
                raise MisfitError(f"{where}: input {index} of node {node!r} does not read {tensor!r}")
            if (node, index) in self.taken:
                raise MisfitError(f"{where}: input {index} of node {node!r} is in {self.taken[node, index]} too")
            self.taken[node, index] = where
        return given

    def _constant(self, where: str, tensor: str) -> Array:
        value = self._initializers.get(tensor)
        found = edit.constant_or_none(value)
        if found is None:
            raise MisfitError(f"{where}: constant {tensor!r} is not in the model")
        if not edit.weight_like(value) or not np.isfinite(found).all():
            raise MisfitError(f"{where}: constant {tensor!r} is not finite float32")
        return found

    def _grid_of_target(self, where: str, params: QParams) -> None:
        if params.scale[0] < MIN_SCALE or not np.isfinite(params.range).all():
            raise MisfitError(f"{where}: a scale of {params.scale[0]:g} leads out of float32")
        wanted = self._spec.dtype
        if params.dtype != wanted:
            raise MisfitError(f"{where}: activations are {wanted} on target {self._target.name}, not {params.dtype}")
        if self._spec.zero_point_zero and params.zero_point[0] != 0:
            low, high = integer_range(wanted)
            raise MisfitError(f"{where}: the zero point is 0 on target {self._target.name}, of [{low}, {high}]")

    def _made_by_integer(self, value: Value) -> bool:
        """Whether an integer node makes it, or the Relu or Clip behind one."""
        node = value.producer()
        if node is not None and node.name not in self.integer and edit.is_main_op(node, "Relu", "Clip"):
            node = None if node.inputs[0] is None else node.inputs[0].producer()
        return self._target.outputs and node is not None and node.name in self.integer


def _overflows(bias: Array, scale: Array) -> bool:
    return bool((np.abs(bias) > scale * _INT32_MAX).any())

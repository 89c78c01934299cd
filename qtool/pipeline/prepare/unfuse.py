"""Attention and others that onnxruntime's transformer optimiser fused are written apart, so that layers are found.

Attention of com.microsoft holds the weights of queries, keys and values: they become a MatMul of their own, with its
bias, in front of a MultiHeadAttention, which is the rest of the same kernel. EmbedLayerNormalization becomes Gathers,
whose tables may be 8 bits; SkipLayerNormalization a sum and a normalisation, since its kernel is slower than both; and
the bias of BiasGelu and FastGelu joins the layer in front. Source: onnxruntime docs/ContribOperators.md.

Declines for an Attention that turns queries and keys (rotary), shares its buffer with the past or is told its length,
whose weights are computed, or whose mask is not of one number a sample, a key, or a query and key; and where the means
or deviations of a normalisation are read.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qtool.graph import contrib, edit, opset
from qtool.graph.edit import Model, Node, Value

_INT32 = 6
_LAYER_NORM = 17
"""The opset from which LayerNormalization is an operator of ONNX."""
_KEPT = ("num_heads", "scale", "mask_filter_value", "unidirectional")


def apply(model: Model) -> int:
    """Write each of these apart, in place; return how many were."""
    count = 0
    for node in list(model.graph):
        write = _FORMS.get(node.op_type) if node.domain == contrib.DOMAIN else None
        if write is not None and not edit.has_subgraph(node):
            count += write(_Fused(model, node))
    return count


class _Fused:
    """Where a fused node stands: `add` inserts nodes in front of it."""

    def __init__(self, model: Model, node: Node) -> None:
        self.model, self.node, self.graph = model, node, model.graph
        self.names = edit.Names(model.graph)
        self.opset = opset.opset_of(model)

    def given(self, index: int) -> Value | None:
        """An input; None where it is left out."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return value if value is not None and value.name else None

    def is_read(self, index: int) -> bool:
        """Whether an output is."""
        outputs = self.node.outputs
        return index < len(outputs) and bool(outputs[index].uses() or outputs[index].is_graph_output())

    def make(self, op: str, inputs: list[Value | None], *, outputs: int = 1, domain: str = "", **more: Any) -> Node:
        base = f"{self.node.name}_{op.lower()}"
        names = [self.names.fresh(base) for _ in range(outputs)]
        made = edit.new_node(op, inputs, names, name=self.names.fresh(f"{base}_node"), attributes=more, domain=domain)
        self.graph.insert_before(self.node, made)
        return made

    def add(self, op: str, *inputs: Value | None, domain: str = "", **more: Any) -> Value:
        return self.make(op, list(inputs), domain=domain, **more).outputs[0]

    def constant(self, array: object, dtype: type = np.int64) -> Value:
        name = self.names.fresh(f"{self.node.name}_constant")
        return edit.add_initializer(self.graph, name, np.asarray(array, dtype))

    def replace(self, made: Mapping[int, Value]) -> None:
        """Let values take the places of outputs of the fused node, which goes."""
        for index, value in made.items():
            if index >= len(self.node.outputs):
                continue
            old = self.node.outputs[index]
            value.type, value.shape = old.type, old.shape
            name, is_output = old.name, old.is_graph_output()
            edit.replace_uses(old, value)
            if name and not is_output:
                old.name, value.name = f"{name}_fused", name
        first = made[0].producer()
        assert first is not None
        edit.take_origins(first, self.node)
        edit.remove_node(self.node)


def _attention(place: _Fused) -> bool:
    node = place.node
    x, weight, bias, mask, past, added = (place.given(i) for i in range(6))
    odd = any(edit.attribute(node, name, 0) for name in ("do_rotary", "past_present_share_buffer"))
    if x is None or odd or place.given(6) is not None or not edit.weight_like(weight) or edit.rank(weight) != 2:
        return False
    if mask is not None and not _known_mask(mask, x):
        return False
    if bias is not None and not edit.weight_like(bias):
        return False
    columns = edit.constant(weight).shape[1]
    sizes = [int(n) for n in edit.attribute(node, "qkv_hidden_sizes", None) or [columns // 3] * 3]
    if sum(sizes) != columns or (past is not None and len(set(sizes)) != 1):
        return False
    product = place.make("MatMul", [x, weight])
    product.name = node.name
    edit.take_origins(product, node)
    joint = product.outputs[0] if bias is None else place.add("Add", product.outputs[0], bias)
    parts = place.make("Split", [joint, place.constant(sizes)], outputs=3, axis=2)
    if mask is not None and edit.rank(mask) == 1:
        mask = _counted(place, mask, x, past)
    inputs = [*parts.outputs, None, mask, added]
    if past is not None:
        halves = place.make("Split", [past, place.constant([1, 1])], outputs=2, axis=0)
        inputs += [place.add("Squeeze", half, place.constant([0])) for half in halves.outputs]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {name: value for name in _KEPT if (value := edit.attribute(node, name)) is not None}
    present = place.is_read(1)
    number = 3 if present else 1
    heads = place.make("MultiHeadAttention", inputs, outputs=number, domain=contrib.DOMAIN, **attributes)
    made = {0: heads.outputs[0]}
    if present:
        both = [place.add("Unsqueeze", value, place.constant([0])) for value in heads.outputs[1:]]
        made[1] = place.add("Concat", *both, axis=0)
    place.replace(made)
    return True


def _known_mask(mask: Value, x: Value) -> bool:
    """Of keys [N, T], of queries and keys [N, S, T], or how many keys of each sample count [N]."""
    if edit.rank(mask) in (2, 3):
        return True
    same = mask.shape is not None and x.shape is not None and mask.shape[0] == x.shape[0]
    return edit.rank(mask) == 1 and same


def _counted(place: _Fused, lengths: Value, x: Value, past: Value | None) -> Value:
    """The mask [N, T] of lengths [N]."""
    zero, one = place.constant(0), place.constant(1)
    reach = place.add("Gather", place.add("Shape", x), one, axis=0)
    if past is not None:
        reach = place.add("Add", reach, place.add("Gather", place.add("Shape", past), place.constant(3), axis=0))
    positions = place.add("Cast", place.add("Range", zero, reach, one), to=_INT32)
    ends = place.add("Unsqueeze", lengths, place.constant([1]))
    return place.add("Cast", place.add("Less", positions, ends), to=_INT32)


def _normalized(place: _Fused, x: Value, scale: Value, shift: Value | None) -> Value:
    """As one operator, or as exporters write it where the opset has none."""
    epsilon = float(edit.attribute(place.node, "epsilon", 1e-12))
    if place.opset >= _LAYER_NORM:
        return place.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=epsilon)
    centred = place.add("Sub", x, place.add("ReduceMean", x, axes=[-1]))
    square = place.add("Pow", centred, place.constant(2.0, np.float32))
    mean = place.add("Add", place.add("ReduceMean", square, axes=[-1]), place.constant(epsilon, np.float32))
    result = place.add("Mul", place.add("Div", centred, place.add("Sqrt", mean)), scale)
    return result if shift is None else place.add("Add", result, shift)


def _skip(place: _Fused) -> bool:
    x, other, scale, shift, bias = (place.given(i) for i in range(5))
    if x is None or other is None or scale is None or place.is_read(1) or place.is_read(2):
        return False
    if not edit.is_float32(x):
        return False
    before = x if bias is None else place.add("Add", x, bias)
    total = place.add("Sum", before, other)
    made = {0: _normalized(place, total, scale, shift)}
    place.replace(made | ({3: total} if place.is_read(3) else {}))
    return True


def _embedding(place: _Fused) -> bool:
    ids, segments, words, places, kinds, scale, shift, mask, positions = (place.given(i) for i in range(9))
    if ids is None or words is None or places is None or scale is None or not edit.is_float32(words):
        return False
    if edit.attribute(place.node, "mask_index_type", 1) not in (0, 1):
        return False
    total = place.add("Gather", words, ids, axis=0)
    if positions is None:
        length = place.add("Slice", place.add("Shape", ids), place.constant([1]), place.constant([2]))
        rows = place.add("Slice", places, place.constant([0]), length, place.constant([0]))
    else:
        rows = place.add("Gather", places, positions, axis=0)
    total = place.add("Add", total, rows)
    if segments is not None and kinds is not None:
        total = place.add("Add", total, place.add("Gather", kinds, segments, axis=0))
    made = {0: _normalized(place, total, scale, shift)}
    if place.is_read(1):
        if mask is None:
            samples = place.add("Slice", place.add("Shape", ids), place.constant([0]), place.constant([1]))
            made[1] = place.add("Cast", place.add("Expand", place.constant([0]), samples), to=_INT32)
        else:
            counted = place.add("Cast", mask, to=_INT32)
            made[1] = place.add("ReduceSum", counted, place.constant([1]), keepdims=0)
    place.replace(made | ({2: total} if place.is_read(2) else {}))
    return True


def _gelu(place: _Fused) -> bool:
    x, bias = place.given(0), place.given(1)
    if x is None or bias is None:
        return False
    op = "Gelu" if place.node.op_type == "BiasGelu" else place.node.op_type
    place.replace({0: place.add(op, place.add("Add", x, bias), domain=contrib.DOMAIN)})
    return True


_FORMS: dict[str, Callable[[_Fused], bool]] = {
    "Attention": _attention,
    "SkipLayerNormalization": _skip,
    "EmbedLayerNormalization": _embedding,
    "BiasGelu": _gelu,
    "FastGelu": _gelu,
}

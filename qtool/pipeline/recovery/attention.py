"""Attention that exporters write as two products and a Softmax is made one kernel, MultiHeadAttention.

onnxruntime's kernel goes through the scores in tiles that a cache holds, where no mask is given to it; the products
apart write them to memory three times. So a padding mask [N, 1, 1, T] becomes one more channel of the keys, which one
more channel of the queries picks up, and the tiles remain. A mask that differs from query to query is given to the
kernel as it is. It computes the same but for the rounding of float32; whether it is faster is for
`qtool.targets.costs` to say, by lengths. Source: onnxruntime `contrib_ops/cpu/bert/multihead_attention.cc`
(FlashAttention where there is neither mask nor past); Dao et al. 2022, "FlashAttention".

Declines where a value between is read elsewhere or is an output, a Softmax is not over the last axis, heads or their
channels are no known numbers, or a mask has neither form.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qtool.graph import contrib, edit
from qtool.graph.edit import Model, Node, Value
from qtool.targets.costs import Costs

Shape = tuple[int, ...]
_HEADS_BACK = [0, 2, 1, 3]
_KEYS_BACK = [0, 3, 1, 2]
_AXES = (1, 1, 1), (3, 2)
"""Where queries, keys and values have their heads, and queries and keys their channels."""
_FLOOR = -1e30
"""What is masked with less is masked with this, so that nothing overflows."""


@dataclass(frozen=True, slots=True)
class Attention:
    """A found attention.

    queries [N, H, S, D], keys [N, H, D, T], values [N, H, T, V]; scale: of the scores. mask: added to the scores, or
    None. by_key: whether it is the same for all queries and heads. last: the product that ends it.
    """

    queries: Value
    keys: Value
    values: Value
    scale: float
    mask: Value | None
    by_key: bool
    last: Node

    @property
    def name(self) -> str:
        """The name of the product that ends it."""
        return str(self.last.name)

    @property
    def read(self) -> tuple[Value, Value, Value]:
        """The queries, keys and values."""
        return self.queries, self.keys, self.values

    @property
    def kind(self) -> str:
        """The kind of the mask, as `qtool.targets.costs.attention_terms` calls it."""
        return "none" if self.mask is None else "keys" if self.by_key else "whole"


def attentions(model: Model) -> list[Attention]:
    """Return every attention of a graph that can become one kernel, in its order."""
    nodes = (node for node in model.graph if edit.is_main_op(node, "Softmax"))
    return [found for node in nodes if (found := _found(node)) is not None]


def join_attention(model: Model, wanted: Collection[str]) -> Model:
    """Return a copy of a prepared graph in which these attentions, by name, are one kernel each.

    Raises:
        ValueError: the graph holds no such attention.
    """
    result = edit.clone(model)
    by_name = {found.name: found for found in attentions(result)}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise ValueError(f"attention[{missing[0]!r}]: the model holds no such attention")
    if wanted:
        edit.import_domain(result, contrib.DOMAIN, 1)
    before = {node for node in result.graph if not _is_read(node)}
    writer = _Writer(result)
    for name in wanted:
        writer.write(by_name[name])
    result.graph.sort()
    for node in reversed(list(result.graph)):
        if node not in before and not _is_read(node):
            edit.remove_node(node)
    return result


def _is_read(node: Node) -> bool:
    return any(output.uses() or output.is_graph_output() for output in node.outputs)


def _found(softmax: Node) -> Attention | None:
    scores, weights = softmax.inputs[0], softmax.outputs[0]
    last = edit.single_consumer(weights)
    is_last = edit.attribute(softmax, "axis", -1) in (-1, 3) and edit.rank(weights) == 4
    if scores is None or last is None or not is_last or not edit.is_main_op(last, "MatMul"):
        return None
    made, mask = _masked(scores)
    product, scale = _scaled(made)
    if product is None or not edit.is_main_op(product, "MatMul") or last.inputs[0] is not weights:
        return None
    (queries, of_queries), (keys, of_keys) = (_unscaled(value) for value in product.inputs)
    values = last.inputs[1]
    if queries is None or keys is None or values is None or not _fit(queries, keys, values):
        return None
    by_key = mask is not None and _is_one(mask, 1) and _is_one(mask, 2) and _same(mask, 0, keys, 0)
    if mask is not None and not by_key and not _is_whole(mask, edit.static_dim(queries, 1), weights):
        return None
    return Attention(queries, keys, values, scale * of_queries * of_keys, mask, by_key, last)


def _fit(queries: Value, keys: Value, values: Value) -> bool:
    """Whether heads and channels are known numbers, and those that meet are equally many."""
    read = (queries, keys, values)
    if any(edit.rank(v) != 4 or not edit.is_float32(v) or v.is_initializer() for v in read):
        return False
    heads, channels = ({edit.static_dim(v, axis) for v, axis in zip(read, axes, strict=False)} for axes in _AXES)
    return len(heads) == len(channels) == 1 and None not in (*heads, *channels, edit.static_dim(values, 3))


def _masked(scores: Value) -> tuple[Node | None, Value | None]:
    """The node that makes the scores, and what is added to them."""
    node = _own(scores)
    if node is None or not edit.is_main_op(node, "Add"):
        return node, None
    for value, mask in (tuple(node.inputs), tuple(reversed(node.inputs))):
        made = _own(value)
        product, _ = _scaled(made)
        if product is not None and edit.is_main_op(product, "MatMul") and mask is not None and edit.rank(mask) == 4:
            return made, mask
    return None, None


def _own(value: Value | None) -> Node | None:
    """The node that makes a value for one reader alone."""
    made = None if value is None else value.producer()
    return made if made is not None and edit.single_consumer(value) is not None else None


def _scaled(node: Node | None) -> tuple[Node | None, float]:
    """The node in front of factors that are one number each, and their product."""
    factor = 1.0
    while node is not None and edit.is_main_op(node, "Mul", "Div"):
        source, number = _factor(node)
        if source is None:
            break
        node, factor = _own(source), factor * number
    return node, factor


def _unscaled(value: Value | None) -> tuple[Value | None, float]:
    """The same of an operand, which others may read too."""
    factor = 1.0
    while value is not None and (node := value.producer()) is not None and edit.is_main_op(node, "Mul", "Div"):
        source, number = _factor(node)
        if source is None:
            break
        value, factor = source, factor * number
    return value, factor


def _factor(node: Node) -> tuple[Value | None, float]:
    """What a Mul or Div by one number reads, and by what it multiplies; None where it is something else."""
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        constant, source = edit.constant_or_none(node.inputs[index]), node.inputs[1 - index]
        if constant is None or source is None or constant.size != 1 or not edit.keeps_shape(constant, source):
            continue
        number = float(constant.reshape(()))
        if node.op_type == "Div":
            number = 1.0 / number if number else math.inf
        if math.isfinite(number) and number > 0.0:
            return source, number
    return None, 1.0


def _is_one(value: Value, axis: int) -> bool:
    return edit.static_dim(value, axis) == 1


def _same(a: Value, axis: int, b: Value, other: int) -> bool:
    """Whether two axes are known to be equally long: one number, or one name."""
    sizes = [None if v.shape is None else v.shape[i] for v, i in ((a, axis), (b, other))]
    names = [size if isinstance(size, int) else size and size.value for size in sizes]
    return names[0] is not None and names[0] == names[1]


def _is_whole(mask: Value, heads: int | None, weights: Value) -> bool:
    """Whether a mask has a row for each query and a column for each key, as the kernel wants it."""
    if mask.shape is None or weights.shape is None or edit.static_dim(mask, 1) not in (1, heads):
        return False
    same = [_same(mask, axis, weights, axis) and not _is_one(mask, axis) for axis in (2, 3)]
    batches = _is_one(mask, 0) or _same(mask, 0, weights, 0)
    return all(same) and batches and not mask.is_initializer()


class _Writer:
    """Writes kernels into a graph; what several share of one mask is made once.

    columns: (mask, heads, number) -> the channel [N, S, H, 1] that is made of it; 0 stands for that of the keys.
    """

    def __init__(self, model: Model) -> None:
        self.graph = model.graph
        self.names = edit.Names(model.graph)
        self.constants: dict[bytes, Value] = {}
        self.columns: dict[tuple[Value, int | None, float], Value] = {}

    def write(self, found: Attention) -> None:
        last, heads, width = found.last, edit.static_dim(found.queries, 1), edit.static_dim(found.values, 3)
        queries = self._turned(found.queries, _HEADS_BACK, last)
        keys = self._turned(found.keys, _KEYS_BACK, last)
        values = self._turned(found.values, _HEADS_BACK, last)
        mask = found.mask
        if mask is not None and found.by_key:
            of_queries, of_keys = self._columns(found, queries, 1.0 / found.scale)
            queries = self._node("Concat", [queries, of_queries], last, axis=3)
            keys = self._node("Concat", [keys, of_keys], last, axis=3)
            mask = None
        inputs = [self._joined(value, last) for value in (queries, keys, values)]
        inputs += [] if mask is None else [None, None, mask]  # type: ignore[list-item]
        attributes = {"num_heads": heads, "scale": found.scale}
        context = self._node("MultiHeadAttention", inputs, last, contrib.DOMAIN, str(last.name), **attributes)
        shape = self._constant(np.array([0, 0, heads, width]))
        apart = self._node("Reshape", [context, shape], last)
        self._replace(last, apart)

    def _replace(self, last: Node, apart: Value) -> None:
        """Let `apart` [N, S, H, V] take the place of the product [N, H, S, V], or of the Transpose of it."""
        follower = edit.single_consumer(last.outputs[0])
        turned = follower is not None and edit.is_main_op(follower, "Transpose")
        if turned and follower is not None and edit.attribute(follower, "perm") == _HEADS_BACK:
            old, new = follower, apart.producer()
        else:
            old, new = last, self._node("Transpose", [apart], last, perm=_HEADS_BACK).producer()
        assert new is not None
        edit.replace_node(old, new)

    def _turned(self, value: Value, perm: list[int], place: Node) -> Value:
        """A Transpose of a value; of one that is a Transpose itself, the one that both are."""
        node = value.producer()
        if node is not None and edit.is_main_op(node, "Transpose") and node.inputs[0] is not None:
            first = edit.attribute(node, "perm")
            if first is not None:
                value, perm = node.inputs[0], [first[i] for i in perm]
        return value if perm == sorted(perm) else self._node("Transpose", [value], place, perm=perm)

    def _joined(self, value: Value, place: Node) -> Value:
        """[N, S, H, D] as [N, S, H D]."""
        return self._node("Reshape", [value, self._constant(np.array([0, 0, -1]))], place)

    def _columns(self, found: Attention, queries: Value, one: float) -> tuple[Value, Value]:
        """The channel [N, S, H, 1] of queries [N, S, H, D], which is `one`, and the channel [N, T, H, 1] of keys.

        The latter is the mask [N, 1, 1, T].
        """
        mask, heads = found.mask, edit.static_dim(found.queries, 1)
        assert mask is not None
        if (mask, heads, 0.0) not in self.columns:
            place = edit.consumers(mask)[0]
            turned = self._node("Transpose", [mask], place, perm=[0, 3, 1, 2])
            held = self._node("Max", [turned, self._constant(np.array(_FLOOR, np.float32))], place)
            spread = self._constant(np.array([1, 1, heads, 1]))
            self.columns[mask, heads, 0.0] = self._node("Expand", [held, spread], place)
        of_keys = self.columns[mask, heads, 0.0]
        if not _same(mask, 3, found.queries, 2):
            return self._filled(queries, one, found.last), of_keys
        if (mask, heads, one) not in self.columns:
            self.columns[mask, heads, one] = self._filled(of_keys, one, edit.consumers(mask)[0])
        return self.columns[mask, heads, one], of_keys

    def _filled(self, value: Value, number: float, place: Node) -> Value:
        """[N, S, H, 1] of one number, beside a value [N, S, H, D]."""
        sizes = self._node("Shape", [value], place)
        ends = [self._constant(np.array([n])) for n in (0, 3)]
        front = self._node("Slice", [sizes, *ends], place)
        shape = self._node("Concat", [front, self._constant(np.array([1]))], place, axis=0)
        return self._node("Expand", [self._constant(np.array(number, np.float32)), shape], place)

    def _constant(self, array: np.ndarray) -> Value:
        key = str((array.dtype, array.shape)).encode() + array.tobytes()
        if key not in self.constants:
            name = self.names.fresh("attention_constant")
            self.constants[key] = edit.add_initializer(self.graph, name, array)
        return self.constants[key]

    def _node(
        self, op: str, inputs: list[Value], place: Node, domain: str = "", name: str = "", **attributes: object
    ) -> Value:
        base = f"{place.name}_{op.lower()}"
        made = edit.new_node(
            op, inputs, self.names.fresh(base), name=name or self.names.fresh(f"{base}_node"), attributes=attributes,
            domain=domain,
        )  # fmt: skip
        self.graph.insert_before(place, made)
        return made.outputs[0]


def faster_joined(found: Iterable[Attention], shapes: Mapping[str, Shape], costs: Costs) -> tuple[str, ...]:
    """Return the names of the attentions that are faster as one kernel.

    `shapes`: of the tensors that they read, by name; where these are not known, an attention stays as it is.
    """
    return tuple(
        one.name for one in found if (lengths := _lengths(one, shapes)) is not None and costs.joins(lengths, one.kind)
    )


def _lengths(found: Attention, shapes: Mapping[str, Shape]) -> Shape | None:
    """(N, H, S, T, D, V)."""
    queries, keys, values = (shapes.get(str(value.name)) for value in found.read)
    if queries is None or keys is None or values is None:
        return None
    return *queries[:3], keys[3], queries[3], values[3]

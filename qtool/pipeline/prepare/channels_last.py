"""Nodes between Transposes compute in the layout that is around them, and the Transposes go: TensorFlow's exports.

Conv - Transpose - Mul - Add - Relu - Transpose - Conv, with constants [1, 1, 1, C], becomes Conv - Mul - Add - Relu -
Conv, and the layer in front can take up the constants. Which nodes change their layout is a minimum cut: as few
Transposes are left as there can be, and where it is as many, affine nodes, Relu and Clip stand behind their layer and
Pad in front of it. Declines where no Transpose goes and nothing can be folded, for nodes of unknown rank, and for what
cannot be permuted (qtool/graph/permute.py), as a mean over the last axis.
"""

import math
from collections.abc import Hashable, Iterator

from qtool.core.partition import Division
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.layers import Layer
from qtool.graph.permute import Perm, Permutable, inverse, perm_of, permuted

_TRANSPOSE, _FOLDED, _NEVER = 2.0, 1.0, math.inf
_PERMUTED, _KEPT = "permuted", "kept"
_Edge = tuple[Hashable, Hashable, float]
"""What it costs that the first is permuted and the second kept."""
_ROUNDS = 4


def apply(model: Model) -> int:
    """Let nodes compute in the layout that leaves the fewest Transposes, in place; return how many nodes changed.

    Types and shapes must be inferred.
    """
    count = 0
    for _ in range(_ROUNDS):
        before = count
        for perm in sorted({p for node in model.graph if (p := _moves(node)) is not None}):
            region = _Region(model, perm)
            chosen = region.choose()
            if chosen:
                region.permute(chosen)
                _merge_transposes(model)
                count += len(chosen)
        if count == before:
            break
    return count


def _moves(node: Node) -> Perm | None:
    """The permutation of a Transpose of three axes or more; None for what moves nothing."""
    perm = perm_of(node) if edit.is_main_op(node, "Transpose") else None
    return None if perm is None or len(perm) < 3 or perm == tuple(sorted(perm)) else perm


class _Region:
    """The nodes that may compute on tensors permuted by `perm`, and the Transposes around them.

    entering: Transposes whose input is their output permuted. leaving: Transposes by `perm` of what the nodes make.
    """

    def __init__(self, model: Model, perm: Perm) -> None:
        self._graph = model.graph
        self._perm = perm
        self._names = edit.Names(model.graph)
        self._rules: dict[Node, Permutable] = {}
        # what is permuted already -> a value that is equal to it
        self._forms: dict[Value, Value] = {}
        self._grow()
        made = self._made()
        self._leaving = {n.outputs[0] for n in self._transposes(perm) if n.inputs[0] in made}
        self._entering = {n.outputs[0] for n in self._transposes(inverse(perm))} - self._leaving

    def _transposes(self, perm: Perm) -> list[Node]:
        return [node for node in self._graph if _moves(node) == perm]

    def _made(self) -> dict[Value, Node]:
        return {v: n for n, rule in self._rules.items() if rule.outputs for v in n.outputs}

    def _grow(self) -> None:
        """Find the nodes from the Transposes on, through whatever can be permuted."""
        waiting = [node.outputs[0] for node in self._transposes(inverse(self._perm))]
        waiting += [v for node in self._transposes(self._perm) if (v := node.inputs[0]) is not None]
        seen = set(waiting)
        while waiting:
            value = waiting.pop()
            maker = value.producer()
            for node in (*edit.consumers(value), *([] if maker is None else [maker])):
                rule = None if node in self._rules or node.graph is not self._graph else self._rule(node)
                if rule is None or not self._joins(rule, value):
                    continue
                self._rules[node] = rule
                around = [node.inputs[i] for i in rule.ports] + (list(node.outputs) if rule.outputs else [])
                new = [v for v in around if v is not None and v not in seen and edit.constant_or_none(v) is None]
                seen.update(new)
                waiting += new

    def _rule(self, node: Node) -> Permutable | None:
        return None if _moves(node) in (self._perm, inverse(self._perm)) else Permutable.of(node, self._perm)

    def _joins(self, rule: Permutable, value: Value) -> bool:
        reads = any(rule.node.inputs[i] is value for i in rule.ports)
        return reads or (rule.outputs and value in rule.node.outputs)

    def choose(self) -> list[Node]:
        """Return the nodes to permute, in order; none where that gains nothing."""
        if not self._rules:
            return []
        division = Division()
        for start, end, cost in self._edges():
            if start == _PERMUTED:
                division.stand(end, left=cost, right=0.0)
            elif end == _KEPT:
                division.stand(start, left=0.0, right=cost)
            else:
                division.border(end, start, cost)
        _, part = division.cheapest()
        return [node for node in self._graph if node in part]

    def _edges(self) -> Iterator[_Edge]:
        made = self._made()
        values = dict.fromkeys(made)
        for node, rule in self._rules.items():
            values.update(dict.fromkeys(v for i in rule.ports if (v := node.inputs[i]) is not None))
        for value in values:
            if edit.constant_or_none(value) is None:
                yield from self._edges_of(value, made.get(value))
        for node in self._rules:
            if self._folds(node):
                yield _PERMUTED, node, _FOLDED

    def _edges_of(self, value: Value, maker: Node | None) -> Iterator[_Edge]:
        """One Transpose serves all readers that want the other layout than the one in which a value is made."""
        readers = [node for node in edit.consumers(value) if self._permutes(node, value)]
        kept = self._read_as_it_is(value)
        moved = any(node.outputs[0] in self._leaving for node in edit.consumers(value))
        kept_node: Hashable = ("kept", value)
        moved_node: Hashable = ("permuted", value)
        if maker is not None or value in self._entering:
            yield _PERMUTED if maker is None else maker, kept_node, _TRANSPOSE
            yield from ((kept_node, reader, _NEVER) for reader in readers)
            if kept:
                yield kept_node, _KEPT, _NEVER
        if value not in self._entering and (maker is not None or self._permuted_copy(value) is None):
            yield moved_node, _KEPT if maker is None else maker, _TRANSPOSE
            yield from ((reader, moved_node, _NEVER) for reader in readers)
            if moved:
                yield _PERMUTED, moved_node, _NEVER

    def _permutes(self, node: Node, value: Value) -> bool:
        rule = self._rules.get(node)
        return rule is not None and any(node.inputs[i] is value for i in rule.ports)

    def _read_as_it_is(self, value: Value) -> bool:
        if value.is_graph_output():
            return True
        for node, index in value.uses():
            rule = self._rules.get(node)
            if (rule is None or index not in rule.ports) and node.outputs[0] not in self._leaving:
                return True
        return False

    def _permuted_copy(self, value: Value) -> Value | None:
        """What a Transpose makes of a value anyway."""
        return next(
            (n.outputs[0] for n in edit.consumers(value) if n.graph is self._graph and _moves(n) == self._perm), None
        )

    def _folds(self, node: Node) -> bool:
        """Whether a layer could take the node up, were there no Transpose between them."""
        if edit.is_main_op(node, "Pad"):
            leaving = edit.single_consumer(node.outputs[0])
            if leaving is None or _moves(leaving) != self._perm:
                return False
            layer = edit.single_consumer(leaving.outputs[0])
            return layer is not None and edit.is_main_op(layer, "Conv") and layer.inputs[0] is leaving.outputs[0]
        while node in self._rules and _absorbable(node):
            source = next((v for v in node.inputs if v is not None and edit.constant_or_none(v) is None), None)
            before = None if source is None else source.producer()
            if before is None or edit.single_consumer(source) is not node:
                return False
            if source in self._entering:
                return _layer_alone(before.inputs[0], before)
            node = before
        return False

    def permute(self, nodes: list[Node]) -> None:
        """Let the nodes read and make permuted tensors, in place, with Transposes where others need them otherwise."""
        chosen = set(nodes)
        made = {v for node in nodes if self._rules[node].outputs for v in node.outputs}
        for value in made:
            self._give_back(value, chosen)
        for node in nodes:
            rule = self._rules[node]
            for index in rule.ports:
                read = node.inputs[index]
                if read is not None and read not in made:
                    node.replace_input_with(index, self._permuted(read, node))
            rule.edit(self._graph, self._names, node, self._perm)
        for value in made:
            value.shape = self._shape(value)

    def _give_back(self, value: Value, chosen: set[Node]) -> None:
        """What stays as it is reads a value that is made permuted through a Transpose."""
        uses = list(value.uses())
        others = []
        for node, index in uses:
            if node.outputs[0] in self._leaving:
                edit.make_identity(node, value)
            elif node not in chosen or index not in self._rules[node].ports:
                others.append((node, index))
        if not others and not value.is_graph_output():
            return
        maker = value.producer()
        assert maker is not None
        back = self._transpose(value, inverse(self._perm))
        back.outputs[0].type, back.outputs[0].shape = value.type, value.shape
        self._graph.insert_after(maker, back)
        if value.is_graph_output():
            edit.replace_uses(value, back.outputs[0], only=())
            self._graph.outputs[list(self._graph.outputs).index(value)] = back.outputs[0]
            name = value.name
            value.name = self._names.fresh(f"{name}_permuted")
            back.outputs[0].name = name
        for node, index in others:
            node.replace_input_with(index, back.outputs[0])

    def _transpose(self, value: Value, perm: Perm) -> Node:
        name = self._names.fresh(f"{value.name}_transposed")
        return edit.new_node("Transpose", [value], name, name=name, attributes={"perm": list(perm)})

    def _permuted(self, value: Value, reader: Node) -> Value:
        """A value, which no chosen node makes, as the node is to read it."""
        if value not in self._forms:
            self._forms[value] = self._form(value, reader)
        return self._forms[value]

    def _form(self, value: Value, reader: Node) -> Value:
        constant = edit.constant_or_none(value)
        if constant is not None:
            if constant.size == 1:
                return value
            name = self._names.fresh(f"{value.name}_permuted")
            return edit.add_initializer(self._graph, name, permuted(constant, self._perm))
        maker = value.producer()
        if value in self._entering and maker is not None and maker.inputs[0] is not None:
            return maker.inputs[0]
        found = self._permuted_copy(value)
        if found is not None:
            return found
        node = self._transpose(value, self._perm)
        node.outputs[0].type, node.outputs[0].shape = value.type, self._shape(value)
        self._graph.insert_before(reader, node)
        return node.outputs[0]

    def _shape(self, value: Value) -> edit.Shape | None:
        return None if value.shape is None else edit.Shape([value.shape[axis] for axis in self._perm])


def _absorbable(node: Node) -> bool:
    """Whether it is an activation that a grid absorbs, or an operation with a constant that a layer takes up."""
    if edit.is_main_op(node, "Relu", "Clip"):
        return True
    return edit.is_main_op(node, "Add", "Sub", "Mul", "Div") and any(edit.weight_like(v) for v in node.inputs)


def _layer_alone(value: Value | None, reader: Node) -> bool:
    """Whether a layer makes a value, for one reader."""
    maker = None if value is None else value.producer()
    return maker is not None and Layer.of(maker) is not None and edit.single_consumer(value) is reader


def _merge_transposes(model: Model) -> None:
    """A Transpose of what another makes for it alone becomes one of what the other reads, in place."""
    for second in list(model.graph):
        perm = perm_of(second) if edit.is_main_op(second, "Transpose") else None
        source = second.inputs[0] if perm is not None else None
        first = None if source is None else source.producer()
        if first is None or not edit.is_main_op(first, "Transpose") or first.inputs[0] is None:
            continue
        own = perm_of(first)
        together = None if own is None or perm is None else [own[axis] for axis in perm]
        if together is None or (edit.single_consumer(source) is not second and together != sorted(together)):
            continue
        if together == sorted(together):
            edit.make_identity(second, first.inputs[0])
        else:
            second.replace_input_with(0, first.inputs[0])
            edit.set_attribute(second, "perm", together)

"""An Einsum of a tensor and a constant that is one product with a matrix becomes a MatMul: projections by heads.

`btd,dhk->bthk` and `bthk,hkd->btd` are what JAX and Flax export: what is summed stands last in the tensor, and what the
constant adds stands last in the result. A Reshape makes one axis of several in front of the product, and another one
several of one behind it. Declines for other equations, for an ellipsis and for letters that occur twice in a term.
"""

import math

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Node, Value


def apply(model: Model) -> int:
    """Turn each of them into a MatMul, in place; return how many were turned."""
    names = edit.Names(model.graph)
    count = 0
    for node in list(model.graph):
        terms = _terms(node)
        if terms is not None and _turn(model, node, *terms, names):
            count += 1
    return count


def _terms(node: Node) -> tuple[Value, Array, str, str, str] | None:
    """The tensor, the constant, their letters and those of the result."""
    if not edit.is_main_op(node, "Einsum") or len(node.inputs) != 2:
        return None
    equation = str(edit.attribute(node, "equation")).replace(" ", "")
    given, arrow, result = equation.partition("->")
    letters = given.split(",")
    if not arrow or "." in equation or len(letters) != 2 or any(len(set(t)) < len(t) for t in (*letters, result)):
        return None
    first, second = node.inputs
    if edit.weight_like(first) and not edit.weight_like(second):
        first, second, letters = second, first, letters[::-1]
    if first is None or first.is_initializer() or not edit.weight_like(second) or not edit.is_float32(first):
        return None
    return first, edit.constant(second), letters[0], letters[1], result


def _turn(
    model: Model, node: Node, x: Value, constant: Array, read: str, held: str, result: str, names: edit.Names
) -> bool:
    summed = "".join(letter for letter in read if letter in held and letter not in result)
    kept = read[: len(read) - len(summed)]
    added = result[len(kept) :]
    if not (summed and added and kept and read == kept + summed and result == kept + added):
        return False
    if set(held) != set(summed + added) or constant.ndim != len(held) or edit.rank(x) != len(read):
        return False
    sizes = dict(zip(held, constant.shape, strict=True))
    many, more = len(summed) > 1, len(added) > 1
    # a Reshape takes over axes by their place, and infers one
    length, width = (math.prod(sizes[letter] for letter in letters) for letters in (summed, added))
    turned = constant.transpose([held.index(letter) for letter in summed + added]).reshape(length, width)
    graph, base = model.graph, str(node.name)
    weight = edit.add_initializer(graph, names.fresh(f"{base}_matrix"), np.ascontiguousarray(turned))
    made: list[Node] = []
    source = x
    if many:
        made.append(_reshape(model, source, [0] * len(kept) + [length], f"{base}_joined", names))
        source = made[-1].outputs[0]
    made.append(
        edit.new_node("MatMul", [source, weight], names.fresh(f"{base}_product"), name=names.fresh(f"{base}_product"))
    )
    edit.take_origins(made[-1], node)
    if more:
        shape = [0] * len(kept) + [sizes[letter] for letter in added]
        made.append(_reshape(model, made[-1].outputs[0], shape, f"{base}_parted", names))
    for new in made:
        new.outputs[0].type = x.type
    graph.insert_before(node, made)
    edit.replace_node(node, made[-1])
    return True


def _reshape(model: Model, value: Value, shape: list[int], base: str, names: edit.Names) -> Node:
    wanted = edit.add_initializer(model.graph, names.fresh(f"{base}_shape"), np.array(shape, np.int64))
    name = names.fresh(base)
    return edit.new_node("Reshape", [value, wanted], name, name=names.fresh(f"{name}_node"))

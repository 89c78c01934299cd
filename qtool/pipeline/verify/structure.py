"""Structure: take every Q/DQ out of the quantised graph and the prepared graph must come back."""

import numpy as np

from qtool.core.errors import VerificationError
from qtool.graph import edit
from qtool.graph.bodies import alone, bodies, put_back, tell_types
from qtool.graph.edit import Array, Graph, Model, Node, Value
from qtool.pipeline.verify.undo import undo_barriers, undo_blocks, undo_computed, undo_dynamic, undo_folded

Origin = tuple[str, str | int]
# elements of a constant that are looked at at once
_BLOCK = 2**16


def check_structure(prepared: Model, quantized: Model) -> None:
    """Compare node by node: operator, attributes, and where each input comes from; `quantized` is changed for it.

    Raises:
        VerificationError: something else than Q/DQ changed, or a stored constant is more than half a step off.
        ModelError: see `undo_computed`.
    """
    undo_folded(prepared, quantized)
    undo_computed(quantized)
    tell_types(prepared, quantized)
    for body in reversed(list(bodies(quantized.graph))):
        part = alone(quantized, body)
        if part is not None:
            _undo(prepared, part.model)
            put_back(quantized, part)
    _undo(prepared, quantized)
    _same_nodes(prepared.graph, quantized.graph)
    for a, b in zip(prepared.graph.outputs, quantized.graph.outputs, strict=True):
        if a.name != b.name or _source(a) != _source(_stripped(b)):
            raise VerificationError(f"graph output {a.name!r} comes from elsewhere now; please report this model")


def _undo(prepared: Model, quantized: Model) -> None:
    undo_folded(prepared, quantized)
    undo_dynamic(prepared, quantized)
    undo_blocks(prepared, quantized)
    undo_barriers(prepared, quantized)


def _same_nodes(prepared: Graph, quantized: Graph) -> None:
    """The nodes of both, and those of the graphs inside of them, where nothing may differ but what is read."""
    before = {n.name: n for n in prepared}
    after = {n.name: n for n in quantized if n.op_type not in ("QuantizeLinear", "DequantizeLinear")}
    if before.keys() != after.keys():
        odd = sorted(str(n) for n in before.keys() ^ after.keys())[0]
        raise VerificationError(f"node {odd!r} was lost or added by the rewriting; please report this model")
    for name, old in before.items():
        new = after[name]
        if old.op_identifier() != new.op_identifier() or edit.attribute_values(old) != edit.attribute_values(new):
            raise VerificationError(f"node {name!r} was changed by the rewriting; please report this model")
        old_inputs, new_inputs = list(old.inputs), list(new.inputs)
        if len(old_inputs) != len(new_inputs):
            raise VerificationError(f"node {name!r} lost an input in the rewriting; please report this model")
        for i, (a, b) in enumerate(zip(old_inputs, new_inputs, strict=True)):
            _same_source(name or "", i, a, b)
        for inner, same in zip(edit.subgraphs(old), edit.subgraphs(new), strict=True):
            _same_nodes(inner, same)
            if [_source(v) for v in inner.outputs] != [_source(_stripped(v)) for v in same.outputs]:
                raise VerificationError(f"node {name!r} was changed by the rewriting; please report this model")


def _stripped(value: Value) -> Value:
    """The value before DQ(Q(value)), or the integer initializer before DQ.

    A body quantises anew what is read through a DQ around it.
    """
    dq = value.producer()
    if dq is None or dq.op_type != "DequantizeLinear":
        return value
    stored = dq.inputs[0]
    assert stored is not None
    q = stored.producer()
    if q is None:
        return stored
    source = q.inputs[0]
    assert source is not None
    maker = source.producer()
    return source if maker is None or maker.graph is q.graph else _stripped(source)


def _source(value: Value | None) -> Origin | None:
    if value is None:
        return None
    node = value.producer()
    return (value.name or "", "fed") if node is None else (node.name or "", value.index() or 0)


def _same_source(node: str, index: int, old: Value | None, new: Value | None) -> None:
    stripped = None if new is None else _stripped(new)
    exact = edit.constant_or_none(old)
    if exact is not None and stripped is not None and new is not None and stripped is not new:
        _check_constant(node, exact, new)
    elif _source(old) != _source(stripped) and not _is_row_of(stripped, exact):
        raise VerificationError(f"input {index} of node {node!r} comes from elsewhere now; please report this model")


def _is_row_of(new: Value | None, vector: Array | None) -> bool:
    """Whether a constant is a vector of the float graph with a dimension of 1 in front."""
    row = edit.constant_or_none(new)
    return row is not None and vector is not None and row.shape == (1, *vector.shape) and (row[0] == vector).all()


def _check_constant(node: str, exact: np.ndarray, new: Value) -> None:
    """The constant that DQ gives must be within half a step of the float one (1 % more, for float32 itself)."""
    dq = new.producer()
    assert dq is not None
    stored, scale = edit.constant(dq.inputs[0]), edit.constant(dq.inputs[1]).reshape(-1)
    zero = edit.constant_or_none(dq.inputs[2]) if len(dq.inputs) > 2 else None
    size = int(edit.attribute(dq, "block_size", 0))
    if size:
        _check_blocks(node, exact, dq, size)
        return
    axis = int(edit.attribute(dq, "axis", 1)) if scale.size > 1 else None
    zero_point = np.zeros(scale.size, np.float32) if zero is None else zero.reshape(-1).astype(np.float32)
    if stored.shape != exact.shape or not _near(stored, exact, scale, zero_point, axis):
        raise VerificationError(
            f"constant {new.name!r} of node {node!r} is not what the model holds; report this model"
        )


def _check_blocks(node: str, exact: Array, dq: Node, size: int) -> None:
    """Blocks must give just what the plan says that they mean, which is what the float graph holds here."""
    axis = int(edit.attribute(dq, "axis", 1))
    stored, scale, *zero = (edit.constant(value) for value in dq.inputs)
    same = stored.shape == exact.shape and scale.shape[axis] == -(-exact.shape[axis] // size)
    if same:
        steps = stored.astype(np.float32)
        for each, apply in ((zero, np.subtract), ([scale], np.multiply)):
            for array in each:
                whole = np.repeat(array.astype(np.float32), size, axis=axis)
                apply(steps, whole[tuple(slice(n) for n in exact.shape)], out=steps)
        same = bool((np.abs(steps - exact) <= np.abs(exact) * 2e-6).all())
    if not same:
        raise VerificationError(f"the blocks that node {node!r} reads are not what the plan says; report this model")


def _near(stored: Array, exact: Array, scale: Array, zero_point: Array, axis: int | None) -> bool:
    """Looks at parts that stay in a cache."""
    if axis is not None:
        shape = [1] * exact.ndim
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    integers, real = np.atleast_1d(stored), np.atleast_1d(exact)
    rows = max(_BLOCK * len(real) // max(real.size, 1), 1)
    for start in range(0, len(real), rows):
        part = slice(start, start + rows)
        step, zero = (scale[part], zero_point[part]) if axis == 0 else (scale, zero_point)
        got = np.subtract(integers[part], zero, dtype=np.float32) * step
        if not (np.abs(got - real[part]) <= np.abs(real[part]) * 2e-6 + step * 0.505).all():
            return False
    return True

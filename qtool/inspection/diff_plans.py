"""Differences of two plans: the layers that they quantise, and the grids of tensors and weights."""

from collections.abc import Mapping

import numpy as np

from qtool.core.numerics.affine import QParams
from qtool.core.records.difference import Difference, LayerDifference, RangeDifference, WeightDifference
from qtool.core.records.plan import BlockPlan, Plan, WeightPlan

_FACTS = ("target", "scheme", "granularity", "calibrator", "recipe")


def diff_plans(a: Plan, b: Plan, names: tuple[str, str]) -> Difference:
    """Return what plan `b` has otherwise than `a`; `names`: what to call them."""
    facts = [] if a.model_digest == b.model_digest else ["they are of different models"]
    facts += [f"{key}: {getattr(a, key)} and {getattr(b, key)}" for key in _FACTS if getattr(a, key) != getattr(b, key)]
    if a.shifts != b.shifts:
        facts.append(f"biases: {len(a.shifts)} and {len(b.shifts)} take back a shift, or others do")
    nodes = dict.fromkeys([*a.layers, *b.layers, *a.integer, *b.integer])
    forms = [(node, _form(a, node), _form(b, node)) for node in nodes]
    layers = [LayerDifference(node, "", one, other) for node, one, other in forms if one != other]
    ranges = _ranges(a, b)
    weights = _weights(a, b)
    same = not (facts or layers or ranges or weights) and a.biases == b.biases and a.constants == b.constants
    return Difference(
        compared="plans",
        a=names[0],
        b=names[1],
        same=same,
        facts=tuple(facts),
        layers=tuple(layers),
        ranges=tuple(sorted(ranges, key=lambda row: -(float("inf") if row.steps is None else row.steps))),
        weights=tuple(weights),
        alike=len(nodes) - len(layers),
    )


def _form(plan: Plan, node: str) -> str:
    """What a plan makes of a node, in words; what it says nothing of is float."""
    for rows, form in ((plan.dynamic, "dynamic"), (plan.stored, "weights in 8 bits")):
        if any(reader == node for row in rows for reader, _ in row.readers):
            return form
    for row in plan.blocks:
        if any(reader == node for reader, _ in row.readers):
            return f"weights in blocks of {row.block}, {row.bits} bits"
    if node in plan.integer:
        return "integer"
    why = plan.skipped.get(node)
    return f"float ({why})" if why else "float"


def _ranges(a: Plan, b: Plan) -> list[RangeDifference]:
    one = {row.tensor: row.params for row in a.activations}
    other = {row.tensor: row.params for row in b.activations}
    rows = [range_difference(name, one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])]
    return [row for row in rows if row is not None]


def range_difference(tensor: str, one: QParams | None, other: QParams | None) -> RangeDifference | None:
    """Return what two grids of one tensor differ in; None where they are equal. A grid is None where there is none."""
    if one == other:
        return None
    if one is None or other is None:
        which = "B" if one is None else "A"
        ends = [None if params is None or len(params.scale) > 1 else params.range for params in (one, other)]
        return RangeDifference(tensor, ends[0], ends[1], None, what=f"in 8 bits in {which} alone")
    if len(one.scale) > 1 or len(other.scale) > 1:
        return RangeDifference(tensor, None, None, None, what="a scale for each channel")
    left, right = one.range, other.range
    steps = max(abs(left[0] - right[0]), abs(left[1] - right[1])) / max(one.scale[0], other.scale[0])
    what = "" if one.dtype == other.dtype else f"{one.dtype} and {other.dtype}"
    return RangeDifference(tensor, left, right, steps, what=what)


def _weights(a: Plan, b: Plan) -> list[WeightDifference]:
    found = []
    one, other = _by_reader(a), _by_reader(b)
    for layer in one:
        left, right = one[layer], other.get(layer)
        if right is None or (left.params == right.params and left.integers == right.integers):
            continue
        changed = most = None
        x, y = left.given, right.given
        if x is not None and y is not None and x.size == y.size:
            changed, most = integers_apart(x, y)
        found.append(WeightDifference(layer, changed, most, scales_apart(left.params.scale, right.params.scale)))
    return [*found, *_blocks(a, b)]


def _blocks(a: Plan, b: Plan) -> list[WeightDifference]:
    """Of layers whose weights are in blocks of one size and as many bits in both, and are others."""
    one, other = ({node: row for row in plan.blocks for node, _ in row.readers} for plan in (a, b))
    found = []
    for layer, left in one.items():
        right = other.get(layer)
        if right is None or left == right or (left.bits, left.block) != (right.bits, right.block):
            continue
        changed = most = None
        x, y = left.given, right.given
        if x is not None and y is not None and x.size == y.size:
            changed, most = integers_apart(x, y)
        found.append(WeightDifference(layer, changed, most, scales_apart(_scales(left), _scales(right))))
    return found


def _scales(row: BlockPlan) -> tuple[float, ...]:
    """Their sizes, 0 as 1: a block of zeros has none."""
    size = np.abs(row.grids(1).scale.reshape(-1).astype(np.float64))
    return tuple(np.where(size > 0.0, size, 1.0))


def _by_reader(plan: Plan) -> Mapping[str, WeightPlan]:
    rows = (*plan.weights, *plan.dynamic, *plan.stored)
    return {node: row for row in rows for node, _ in row.readers}


def integers_apart(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """Return the share of integers that differ in two arrays of one shape, and by how many they do at most."""
    apart = np.abs(x.astype(np.int32) - y.astype(np.int32))
    return float(np.count_nonzero(apart) / max(apart.size, 1)), int(apart.max(initial=0))


def scales_apart(x: tuple[float, ...], y: tuple[float, ...]) -> float | None:
    """Return the largest ratio of two scales, at least 1; None where there is not one for the other."""
    if len(x) != len(y) or not x:
        return None
    ratios = np.asarray(x) / np.asarray(y)
    return float(np.maximum(ratios, 1.0 / ratios).max())

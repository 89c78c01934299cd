"""The Concats that stay float since what they join differs in range, and is read apart again, or by an output.

On the grid of all of it the parts of a small range are left a few steps: scores of 0 to 1 beside boxes in pixels. A
layer that reads the whole wants one grid, and has it behind the Concat. What is cut out again has its own, and outputs
hold each part as it was made, at the price of a copy in float.
"""

from collections.abc import Iterator, Mapping

from qtool.core.records.placement import Placement
from qtool.core.records.statistics import Statistics
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.graph.heads import nodes_before
from qtool.targets.rules import Target

_TIMES = 8.0
"""A range that so many times as wide costs a part three of its bits."""
APART = "its inputs differ in range, and what reads them apart has a grid for each"
"""Why they stay float."""


def joined_apart(
    model: Model,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    statistics: Statistics,
    target: Target,
) -> dict[str, str]:
    """Return the Concats that are to stay float, with what only moves their numbers on, by name, and why.

    Args:
        model: the prepared graph.
        placement: with these in integers.
        ranges: of its root tensors, by name.
        statistics: of tensors that are cut out of others too, where they were counted.
        target: that of the placement.
    """
    values = edit.named_values(model.graph)
    wide: dict[Value, float] = {}
    for site in placement.sites:
        own = min((_width(ranges[part]) for part in site.union), default=0.0)
        if site.tensor in values and site.tensor == site.root and 0.0 < own * _TIMES <= _width(ranges[site.root]):
            wide[values[site.tensor]] = _width(ranges[site.root])
    if not wide:
        return {}
    leading = nodes_before(model, [node for node in model.graph if node.name in placement.integer])
    result: dict[str, str] = {}
    for value, width in wide.items():
        moves = list(_moves(value, target))
        carried = [value, *(output for node in moves for output in node.outputs)]
        readers = {reader for one in carried for reader in edit.consumers(one)}.difference(moves)
        floats = [reader for reader in readers if reader.name not in placement.integer and reader not in leading]
        counted = [statistics.tensors.get(str(one.name)) for one in carried[1:]]
        cut = any(h is not None and _width((h.minimum, h.maximum)) * _TIMES <= width for h in counted)
        maker = value.producer()
        if maker is not None and (cut or floats or any(one.is_graph_output() for one in carried)):
            result.update((str(node.name), APART) for node in (maker, *moves) if node.name in placement.integer)
    return result


def _width(low_high: tuple[float, float]) -> float:
    low, high = low_high
    return max(high, 0.0) - min(low, 0.0)


def _moves(value: Value, target: Target) -> Iterator[Node]:
    """The nodes that only move the numbers of a value on, in whatever number of steps."""
    waiting, seen = [value], set[Node]()
    while waiting:
        for node, index in waiting.pop().uses():
            rule = target.rule(node)
            if rule is not None and rule.kind == "passthrough" and index == 0 and node not in seen:
                seen.add(node)
                yield node
                waiting += node.outputs

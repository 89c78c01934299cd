"""Regions of a graph by the noise that their integers put into the outputs, found by halving what is loudest.

A region is measured alone: it computes in integers, all else in float, as onnxruntime executes it. Noise of different
origin adds up, so that a half of the graph without noise needs no further look, and a few measurements find the nodes
that most of it comes from, whatever their operator.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qtool.core.numerics.sqnr import noise_share
from qtool.core.records.plan import Plan
from qtool.graph.edit import Model
from qtool.graph.heads import Head, heads_of
from qtool.pipeline.planning.leave import without
from qtool.pipeline.verify.macs import known_total

Measure = Callable[[Sequence[Plan]], Sequence[float | None]]
"""The SQNR of the outputs in dB under each of some plans; None where there is none."""
ALL_HEADS = "all heads"
_HUSHED = 0.02
"""A region whose noise is below this share of what is allowed is not looked into any more."""
_NODE_SHARE = 0.002
"""A node in float among integers converts what it reads and writes: as much as this share of multiply-accumulates."""


@dataclass(frozen=True, slots=True)
class Region:
    """Integer nodes that follow each other in the order of the graph.

    noise: the power that they alone put into the outputs, as a share of the signal's. share: of the
    multiply-accumulates, 0 to 1.
    """

    nodes: tuple[str, ...]
    noise: float
    share: float


def by_worth(regions: Iterable[Region]) -> list[Region]:
    """Return regions in the order in which they are left in float: the most noise for the least work first."""
    return sorted(regions, key=lambda one: -one.noise / (one.share + _NODE_SHARE * len(one.nodes)))


def names_of(regions: Iterable[Region]) -> frozenset[str]:
    """Return the names of the nodes in regions."""
    return frozenset(name for region in regions for name in region.nodes)


def integer_nodes(model: Model, plan: Plan) -> tuple[str, ...]:
    """Return the names of the nodes that a plan does not leave in float throughout, in the order of the graph."""
    chosen = {*plan.integer, *plan.quantized}
    return tuple(str(node.name) for node in model.graph.all_nodes() if node.name in chosen)


def quantized_heads(model: Model, plan: Plan) -> tuple[Head, ...]:
    """Return what a plan quantises of the heads of a prepared graph: of each one, then of all of them.

    Their layers and nodes are those that are not float throughout. Those of one layer are left out, as that layer
    speaks for them, and what is all that the plan quantises.
    """
    integer, layers = set(integer_nodes(model, plan)), set(plan.quantized)

    def restricted(head: Head) -> Head:
        kept = tuple(name for name in head.layers if name in layers)
        return Head(head.name, head.outputs, kept, tuple(name for name in head.nodes if name in integer))

    heads = [restricted(head) for head in heads_of(model)]
    heads = [head for head in heads if head.layers]
    if len(heads) > 1:
        nodes = {name for head in heads for name in head.nodes}
        outputs = dict.fromkeys(name for head in heads for name in head.outputs)
        ordered = tuple(str(node.name) for node in model.graph if node.name in nodes)
        heads.append(Head(ALL_HEADS, tuple(outputs), tuple(n for n in ordered if n in layers), ordered))
    return tuple(head for head in heads if 1 < len(head.layers) < len(layers))


def rank_regions(
    model: Model, plan: Plan, measure: Measure, macs: Mapping[str, int | None], allowed: float, tries: int
) -> tuple[Region, ...]:
    """Return the regions of a plan of a prepared graph, which together are all its integer nodes, the loudest first.

    Args:
        measure: plans of this graph, two at a time.
        macs: multiply-accumulates by node.
        allowed: the noise that all of them may put into the outputs; much quieter regions are not halved.
        tries: how many plans may be measured.

    Raises:
        ModelError, DataError: onnxruntime does not run a part of the plan.
    """
    nodes = integer_nodes(model, plan)
    total = known_total(macs)

    def regions(*parts: tuple[str, ...]) -> list[Region]:
        figures = measure([without(model, plan, set(nodes).difference(part)) for part in parts])
        shares = [known_total({n: macs.get(n) for n in part}) / total if total else 0.0 for part in parts]
        return [Region(*one) for one in zip(parts, map(noise_share, figures), shares, strict=True)]

    found = [Region(nodes, float("inf"), 1.0)]
    for _ in range(tries // 2):
        loudest = max(found, key=lambda one: (len(one.nodes) > 1, one.noise))
        if len(loudest.nodes) < 2 or loudest.noise < _HUSHED * allowed:
            break
        middle = len(loudest.nodes) // 2
        found.remove(loudest)
        found += regions(loudest.nodes[:middle], loudest.nodes[middle:])
    return tuple(sorted(found, key=lambda one: -one.noise))

"""Weights in blocks: which of those that are only stored can be, why the others cannot, and the rows of the plan."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.numerics.blocks import BlockGrids, Seen, confirmed, count, reaching, searched
from qtool.core.records.options import BlockWise
from qtool.core.records.placement import Reader
from qtool.core.records.plan import BlockPlan, Plan, WeightPlan
from qtool.graph import compose, edit
from qtool.graph.edit import Array, Model, Node, Value
from qtool.graph.layers import Layer, is_linear
from qtool.targets.rules import Target

_FOUR = 4
_BYTE = 8
_FINER = 1.5
_STORED = "weight-only, 8 bits by channel: "


@dataclass(frozen=True, slots=True)
class BlockSite:
    """A matrix that can be stored in blocks along `axis`, those that read it, and the kernels that they become.

    twins: the sites of tables that hold the same rows, which take the same grids and integers.
    """

    tensor: str
    axis: int
    readers: tuple[Reader, ...]
    layers: tuple[Layer, ...]
    kernels: Mapping[str, tuple[str, ...]]
    twins: tuple["BlockSite", ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether rows are taken of it, and nothing is multiplied."""
        return not any(layer.is_product for layer in self.layers)

    @property
    def all_readers(self) -> tuple[Reader, ...]:
        """The readers of the site, and those of its twins."""
        return self.readers + tuple(reader for twin in self.twins for reader in twin.readers)

    def with_twins(self, row: BlockPlan) -> tuple[BlockPlan, ...]:
        """Return the row of the site, and those of its twins."""
        twins = (replace(row, tensor=twin.tensor, axis=twin.axis, readers=twin.readers) for twin in self.twins)
        return row, *twins

    def rows(self) -> Array:
        """Return the matrix, float32 [M, K]."""
        matrix = edit.constant(self.layers[0].weight)
        return matrix if self.axis == 1 else matrix.T


def block_sites(
    model: Model, plan: Plan, target: Target, wanted: BlockWise
) -> tuple[tuple[BlockSite, ...], dict[str, str]]:
    """Return what of a plan's `stored` can be in blocks, and of the other nodes that read `stored` why they cannot."""
    nodes = {str(node.name): node for node in model.graph.all_nodes()}
    sites: list[BlockSite] = []
    padded: list[BlockSite] = []
    declined = {}
    rows = [(row, [nodes[name] for name, _ in row.readers]) for row in plan.stored]
    # tables first, in whose bytes a product may find its own
    for row, readers in sorted(rows, key=lambda found: any(map(is_linear, found[1]))):
        site = _site(row, readers, target)
        tables = [other for other in sites if other.is_table and any(_ties(layer, other) for layer in site.layers)]
        why = block_reason(model, readers, target, qdq=wanted.written == "qdq", bits=wanted.width, is_twin=bool(tables))
        if why is None:
            why = _padded(site, wanted)
            (sites if why is None else padded).append(replace(site, twins=tuple(tables)))
        if why is not None:
            declined.update({name: why for name, _ in row.readers})
    order = {row.tensor: number for number, (row, _) in enumerate(rows)}
    # better larger than refused
    return tuple(sorted(_alone(sites or padded), key=lambda site: order[site.tensor])), declined


def _site(row: WeightPlan, readers: Sequence[Node], target: Target) -> BlockSite:
    layers = tuple(layer for node in readers if (layer := Layer.of(node)) is not None)
    kernels = {str(node.name): kernels_of(node, target) for node in readers}
    return BlockSite(row.tensor, layers[0].input_axis, row.readers, layers, kernels)


def _ties(layer: Layer, table: BlockSite) -> bool:
    return layer.is_product and layer.holds_rows(table.rows())


def _alone(sites: Sequence[BlockSite]) -> list[BlockSite]:
    """Those that are no twin of another one, each of which is the twin of one site alone."""
    found: list[BlockSite] = []
    taken: set[str] = set()
    for site in sites:
        twins = tuple(twin for twin in site.twins if twin.tensor not in taken)
        taken.update(twin.tensor for twin in twins)
        found.append(replace(site, twins=twins))
    return [site for site in found if site.tensor not in taken]


def _padded(site: BlockSite, wanted: BlockWise) -> str | None:
    """Why blocks take more bytes than 8 bits by channel, as MatMulNBits stores them: whole ones alone."""
    if wanted.written == "qdq" or site.is_table:
        return None
    length = edit.constant(site.layers[0].weight).shape[site.axis]
    taken = count(length, wanted.block) * wanted.block * wanted.width / _BYTE
    # in 8 bits, scales and a little padding are what finer grids cost
    if taken <= length * (1.0 if wanted.width < _BYTE else _FINER):
        return None
    return f"a sum of {length}, padded to whole blocks of {wanted.block}, takes more bytes; smaller blocks take fewer"


def kernels_of(node: Node, target: Target) -> tuple[str, ...]:
    """Return the kernels that a node becomes where its weight is in blocks; empty: there are none."""
    rule = target.rule(node)
    return () if rule is None else rule.blocks


def block_reason(  # noqa: PLR0911
    model: Model, readers: Sequence[Node], target: Target, *, qdq: bool, bits: int, is_twin: bool = False
) -> str | None:
    """Return why the weight that these nodes read as theirs cannot be in blocks; None where it can.

    Args:
        model: the prepared graph.
        readers: the nodes; each is a layer of the target's whose condition holds.
        target: where it shall run.
        qdq: whether it is to be written as DequantizeLinear.
        bits: of an integer.
        is_twin: whether a table holds the same in blocks, so that this weight takes no bytes of its own.
    """
    if qdq and any(node.graph is not model.graph for node in readers):
        return "it is in a body of If, Loop or Scan"
    layers = [layer for node in readers if (layer := Layer.of(node)) is not None]
    weight = layers[0].weight
    for layer in layers:
        if not kernels_of(layer.node, target):
            return f"no kernel of {layer.node.op_type} reads blocks"
        if layer.transposes_input:
            return "its input is transposed"
    if len({layer.input_axis for layer in layers}) > 1:
        return "its layers sum over different axes of it"
    if weight is None or len(weight.uses()) > len(layers) or weight.is_graph_output():
        return "something else reads its weight"
    if not is_twin and _made_of_less(model, weight, bits):
        return "the model computes its weight from less"
    table = any(not layer.is_product for layer in layers)
    if table and qdq:
        return "onnxruntime takes rows of blocks by an operator of its own alone"
    if qdq and len(layers) > 1:
        return "onnxruntime fuses no DequantizeLinear that several layers read"
    if table and bits == _FOUR and edit.constant(weight).shape[1] % 2:
        return "its rows hold an odd number of elements"
    return None


def _made_of_less(model: Model, weight: Value, bits: int) -> bool:
    """Whether what makes the weight takes fewer bytes than its integers; float16 does not."""
    origin = edit.origin_of(weight)
    if origin is None:
        return False
    nodes, lacking = compose.needed(model, origin)
    return nodes + sum(lacking.values()) < edit.constant(weight).size * bits // _BYTE


def block_row(site: BlockSite, wanted: BlockWise, bits: int, *, symmetric: bool, seen: Seen | None) -> BlockPlan:
    """Return the row of a site.

    Args:
        site: the matrix.
        wanted: blocks and rounding, which must not be `auto`.
        bits: of an integer.
        symmetric: whether zero is the middle of each grid.
        seen: of what it is multiplied with; None: nothing is known of it, and every number counts alike.
    """
    rows, size = np.ascontiguousarray(site.rows()), wanted.block

    def made(grids: BlockGrids) -> BlockPlan:
        return BlockPlan.of(site.tensor, site.axis, site.readers, wanted.written, grids)

    if wanted.rounding == "nearest":
        return made(reaching(rows, bits, size, symmetric=symmetric))
    weights = np.ones(rows.shape[1]) if seen is None else _positive(np.diag(seen.whole))
    grids = searched(rows, bits, size, weights, symmetric=symmetric)
    if wanted.rounding == "scales" or seen is None:
        return made(grids)
    return made(grids).holding(confirmed(rows, seen, grids))


def _positive(diagonal: Array) -> Array:
    """What is 0 on all examples counts a little all the same: other data may have something there."""
    floor = 1e-3 * float(diagonal.mean())
    found: Array = np.maximum(diagonal, floor if floor > 0.0 else 1.0)
    return found


def in_blocks(
    plan: Plan, sites: Collection[BlockSite], rows: Collection[BlockPlan], declined: Mapping[str, str]
) -> Plan:
    """Return a plan with these sites in blocks, by their rows, instead of in `stored`; `declined`: why not others."""
    every = [one for site in sites for one in (site, *site.twins)]
    moved = {(site.tensor, site.readers) for site in every}
    kernels = {name: found for site in every for name, found in site.kernels.items()}
    return replace(
        plan,
        stored=tuple(row for row in plan.stored if (row.tensor, row.readers) not in moved),
        blocks=tuple(rows),
        integer={**plan.integer, **kernels},
        skipped={
            name: f"{_STORED}{declined[name]}" if name in declined else why
            for name, why in plan.skipped.items()
            if name not in kernels
        },
    )

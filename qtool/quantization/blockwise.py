"""The plan with weights in blocks: how they are rounded, and which need 8 bits, as the examples that choose say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qtool.core.errors import NothingToQuantizeError, arg
from qtool.core.numerics.blocks import Seen
from qtool.core.numerics.sqnr import loudness, noise_share
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.options import BlockWise, Rounding
from qtool.core.records.placement import Reader
from qtool.core.records.plan import BlockPlan, Plan
from qtool.core.records.results import Trial
from qtool.core.records.statistics import Statistics
from qtool.graph import edit
from qtool.pipeline.planning.blocks import BlockSite, block_row, block_sites, in_blocks
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.weight_rounding import second_moments
from qtool.quantization.request import Request
from qtool.quantization.scoring import Scorer

_WIDE = 8
_FEW = 4
"""On so many examples each weight is measured alone."""
MARGIN_DB = 1.0
"""Examples that have chosen look better than new data."""

Rows = Mapping[str, BlockPlan]


@dataclass(slots=True)
class BlockSearch:
    """The search for the rows of a graph's weights in blocks.

    base: the plan that only stores weights. sites, declined: see `block_sites`. scorer: measures on the examples that
    choose; None without any. rows: those that were made, by their rounding, and by tensor. orders: of the
    tensors, the noisiest first; empty until they are wanted. chosen, figure: the rounding, and the SQNR in dB with it.
    reached: that of the plan that was made last.
    """

    prepared: Prepared
    statistics: Statistics
    request: Request
    base: Plan
    sites: Sequence[BlockSite]
    declined: Mapping[str, str]
    blocks: BlockWise
    scorer: Scorer | None
    memo: WeightMemo = field(default_factory=WeightMemo)
    rows: dict[Rounding, Rows] = field(default_factory=dict)
    orders: tuple[list[str], ...] = ()
    chosen: Rounding = "scales"
    figure: float | None = None
    reached: float | None = None

    @classmethod
    def begin(cls, prepared: Prepared, statistics: Statistics, request: Request) -> "BlockSearch":
        """Return the search for a graph, of which nothing was measured yet.

        Args:
            prepared: the graph.
            statistics: with the examples that choose; none: nothing is measured.
            request: what is asked for, with `blocks`.

        Raises:
            NothingToQuantizeError: no weight can be in blocks.
        """
        assert request.blocks is not None
        # nothing but blocks is chosen, and what onnxruntime makes of them is proven later
        base = Planner(prepared, statistics, request.target, request.scheme).plan(
            request.calibrators[0], corrected=False
        )
        sites, declined = block_sites(prepared.model, base, request.target, request.blocks)
        if not sites:
            why = "; ".join(sorted({f"{name}: {reason}" for name, reason in declined.items()})[:3])
            raise NothingToQuantizeError(
                f"{prepared.name}: no weight can be in blocks ({why}); give {arg('form', 'weight-only')} alone, which "
                "stores all of them in 8 bits by channel"
            )
        scorer = None
        if statistics.samples and statistics.examples:
            scorer = Scorer(prepared.model, statistics.examples, request.target.session)
        return cls(prepared, statistics, request, base, sites, declined, request.blocks, scorer)

    def _plan(self, rows: Rows) -> Plan:
        found = [row for site in self.sites for row in site.with_twins(rows[site.tensor])]
        return in_blocks(self.base, self.sites, found, self.declined)

    def without(self, layers: Mapping[str, str], plan: Plan) -> tuple["BlockSearch", Plan] | None:
        """Return the search, and its plan `plan`, with the weights of layers (name -> why) by channel instead.

        None where none of these layers has its weight in blocks.
        """
        found = {site.tensor: [why for name, _ in site.all_readers if (why := layers.get(name))] for site in self.sites}
        if not any(found.values()):
            return None
        kept = [site for site in self.sites if not found[site.tensor]]
        more = {name: found[site.tensor][0] for site in self.sites if site not in kept for name, _ in site.all_readers}
        orders = tuple([name for name in order if not found[name]] for order in self.orders)
        search = replace(self, sites=kept, declined={**self.declined, **more}, orders=orders)
        return search, search._plan({row.tensor: row for row in plan.blocks})

    def rounded(self) -> tuple[Plan, tuple[Trial, ...]]:
        """Return the plan by the best of the roundings that are asked for, and all that were measured, best first."""
        asked = self.blocks.rounding
        tries: tuple[Rounding, ...] = (asked,)
        if asked == "auto":
            tries = ("scales",) if self.scorer is None else ("nearest", "scales", "gptq")
        plans = {rounding: self._plan(self._rows(rounding)) for rounding in tries}
        self.chosen = tries[0]
        if self.scorer is None:
            return plans[self.chosen], ()
        figures = self.scorer.compare(list(plans.values()), self.prepared.model, self.memo)
        trials = {}
        for number, (rounding, figure) in enumerate(zip(plans, figures, strict=True), 1):
            trials[rounding] = self._trial(rounding, figure)
            self.request.progress("try", number, len(plans))
        order = sorted(plans, key=lambda rounding: -loudness(trials[rounding].sqnr_db))
        self.chosen = order[0]
        self.figure = self.reached = trials[order[0]].sqnr_db
        return plans[self.chosen], tuple(trials[rounding] for rounding in order) if len(plans) > 1 else ()

    def _trial(self, rounding: Rounding, figure: float | None, wide: int = 0) -> Trial:
        assert self.scorer is not None
        return Trial(
            self.request.calibrators[0], False, figure, form="blocks", samples=self.scorer.samples, rounding=rounding,
            wide=wide,
        )  # fmt: skip

    def _rows(self, rounding: Rounding) -> Rows:
        """The rows by tensor, in the bits that are asked for."""
        if rounding not in self.rows:
            seen = self._seen() if rounding != "nearest" else {}
            wanted = replace(self.blocks, rounding=rounding)
            self.rows[rounding] = {
                site.tensor: self._row(site, wanted, self.blocks.width, seen.get(site.tensor)) for site in self.sites
            }
        return self.rows[rounding]

    def _row(self, site: BlockSite, wanted: BlockWise, bits: int, seen: Seen | None) -> BlockPlan:
        symmetric = self.request.scheme.activations == "symmetric"
        return block_row(site, wanted, bits, symmetric=symmetric, seen=seen)

    def _seen(self) -> dict[str, Seen]:
        """H of what each product's weight is multiplied with, by its tensor, summed over the layers that read it."""
        if self.scorer is None:
            return {}
        products = [site for site in self.sites if not site.is_table]
        names = {id(layer): site.tensor for site in products for layer in site.layers}
        layers = [layer for site in products for layer in site.layers if layer.is_product]
        # what is in a body of If, Loop or Scan is not seen
        layers = [layer for layer in layers if layer.node.graph is self.prepared.model.graph]
        result: dict[str, Seen] = {}
        for layer, moments in second_moments(self.prepared.model, layers, self.statistics.examples):
            fit, confirming = (found.mean(centred=False)[0] for found in moments)
            whole = moments[0].plus(moments[1]).mean(centred=False)[0]
            found, name = Seen(fit, confirming, whole), names[id(layer)]
            if np.isfinite(whole).all():
                result[name] = result[name].plus(found) if name in result else found
        return result

    def widened(self, aim: float) -> tuple[Plan, Trial] | None:
        """Return the plan whose fewest bytes are in 8 bits so that the outputs reach `aim`, in dB, and how it measured.

        Each weight is measured by itself, all others in float: noise of different origin adds up. They are put in order
        by noise, and by noise for the bytes that more bits take; of each order as many as are needed are found by
        bisection, and the fewer bytes are taken. All of them, where that does not reach it; None where none need be,
        or nothing is measured.
        """
        narrow = self._rows(self.chosen)
        if (
            not self.sites
            or self.scorer is None
            or self.blocks.width == _WIDE
            or self.figure is None
            or self.figure >= aim
        ):
            return None
        wanted = replace(self.blocks, rounding="nearest")
        wide = {site.tensor: self._row(site, wanted, _WIDE, None) for site in self.sites}
        self.orders = self.orders or self._by_noise(self._plan(narrow))
        everything = self._plan(wide)
        ceiling = self.scorer.sqnr_db(everything, self.prepared.model, self.memo)
        found = [(self._size(self.orders[0]), everything, ceiling, len(wide))]
        for order in self.orders if loudness(ceiling) >= aim else ():
            least, most = 0, len(order)
            while most - least > 1:
                middle = (least + most) // 2
                plan = self._plan({**narrow, **{name: wide[name] for name in order[:middle]}})
                figure = self.scorer.sqnr_db(plan, self.prepared.model, self.memo)
                if loudness(figure) >= aim:
                    most = middle
                    found.append((self._size(order[:middle]), plan, figure, middle))
                else:
                    least = middle
        _, best, self.reached, count = min(found, key=lambda one: one[0])
        return best, self._trial(self.chosen, self.reached, count)

    def _size(self, tensors: Sequence[str]) -> int:
        """How many numbers these tensors hold."""
        initializers = self.prepared.model.graph.initializers
        return sum(edit.constant(initializers[name]).size for name in tensors)

    def _by_noise(self, whole: Plan) -> tuple[list[str], list[str]]:
        """The tensors, those first that make the most noise for their size, and those that make the most."""
        assert self.scorer is not None
        model = self.prepared.model
        alone = [replace(whole.within(_nodes(site.all_readers), ()), stored=()) for site in self.sites]
        figures = self.scorer.compare(alone, model, self.memo, first=min(_FEW, self.scorer.samples))
        noise: dict[str, float] = {}
        for number, (site, figure) in enumerate(zip(self.sites, figures, strict=True), 1):
            noise[site.tensor] = noise_share(figure) if figure is not None else 0.0
            self.request.progress("rank", number, len(self.sites))
        self.scorer.forget()
        return (
            sorted(noise, key=lambda name: -noise[name] / self._size([name])),
            sorted(noise, key=lambda name: -noise[name]),
        )


def _nodes(readers: Sequence[Reader]) -> set[str]:
    return {name for name, _ in readers}

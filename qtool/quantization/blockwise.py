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
    choose; None without any. rows: those that were made, by their rounding, and by tensor. order: the tensors, the most
    noise for their bytes first; empty until it is wanted. chosen, figure: the rounding, and the SQNR in dB with it.
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
    order: list[str] = field(default_factory=list)
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
        return in_blocks(self.base, self.sites, [rows[site.tensor] for site in self.sites], self.declined)

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
        layers = [layer for site in products for layer in site.layers]
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

        Each weight is measured by itself, all others in float: noise of different origin adds up. Those that make the
        most noise for the bytes that more bits take come first; how many of them is found by bisection. All of them,
        where that does not reach it; None where none need be, or nothing is measured.
        """
        scorer, model, narrow = self.scorer, self.prepared.model, self._rows(self.chosen)
        if scorer is None or self.blocks.width == _WIDE or self.figure is None or self.figure >= aim:
            return None
        wanted = replace(self.blocks, rounding="nearest")
        wide = {site.tensor: self._row(site, wanted, _WIDE, None) for site in self.sites}
        self.order = self.order or self._by_noise(self._plan(narrow))

        def mixed(count: int) -> Plan:
            return self._plan({**narrow, **{name: wide[name] for name in self.order[:count]}})

        least, most, best = 0, len(self.order), mixed(len(self.order))
        figure = scorer.sqnr_db(best, model, self.memo)
        while most - least > 1 and loudness(figure) >= aim:
            middle = (least + most) // 2
            plan = mixed(middle)
            found = scorer.sqnr_db(plan, model, self.memo)
            if loudness(found) >= aim:
                most, best, figure = middle, plan, found
            else:
                least = middle
        self.reached = figure
        return best, self._trial(self.chosen, figure, most)

    def _by_noise(self, whole: Plan) -> list[str]:
        """The tensors, the most noise for its bytes first."""
        assert self.scorer is not None
        model = self.prepared.model
        alone = [whole.within(_nodes(site.readers), ()) for site in self.sites]
        alone = [replace(plan, stored=()) for plan in alone]
        figures = self.scorer.compare(alone, model, self.memo, first=min(_FEW, self.scorer.samples))
        price: dict[str, float] = {}
        for number, (site, figure) in enumerate(zip(self.sites, figures, strict=True), 1):
            size = edit.constant(model.graph.initializers[site.tensor]).size
            price[site.tensor] = noise_share(figure) / size if figure is not None else 0.0
            self.request.progress("rank", number, len(self.sites))
        self.scorer.forget()
        return sorted(price, key=lambda name: -price[name])


def _nodes(readers: Sequence[Reader]) -> set[str]:
    return {name for name, _ in readers}

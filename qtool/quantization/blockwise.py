"""The plan with weights in blocks: how they are rounded, and which need 8 bits, as the examples that choose say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qtool.core.errors import NothingToQuantizeError, arg
from qtool.core.numerics.sqnr import loudness, noise_share
from qtool.core.numerics.weights import WeightMemo
from qtool.core.progress import Progress
from qtool.core.records.options import BlockWise, Rounding
from qtool.core.records.placement import Reader
from qtool.core.records.plan import BlockPlan, Plan
from qtool.core.records.results import Trial
from qtool.core.records.statistics import Statistics
from qtool.graph import edit
from qtool.graph.edit import Array
from qtool.pipeline.planning.blocks import BlockSite, block_row, block_sites, in_blocks
from qtool.pipeline.planning.planner import Planner
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.weight_rounding import second_moments
from qtool.quantization.request import Request
from qtool.quantization.scoring import Scorer
from qtool.quantization.wanted import Wanted

_WIDE = 8
_FEW = 4
"""On so many examples each weight is measured alone."""
_MARGIN_DB = 1.0
"""Examples that have chosen look better than new data."""

Rows = Mapping[str, BlockPlan]


def plan_in_blocks(
    prepared: Prepared, statistics: Statistics, request: Request, wanted: Wanted | None
) -> tuple[Plan, tuple[Trial, ...]]:
    """Return the plan, and what was tried, best first.

    Args:
        prepared: the graph.
        statistics: with the examples that choose; none: nothing is measured.
        request: what is asked for, with `blocks`.
        wanted: the accuracy that more bits are spent for; None: all weights have the bits that are asked for.

    Raises:
        NothingToQuantizeError: no weight can be in blocks.
    """
    search = _Search.begin(prepared, statistics, request)
    rounding, plan, trials = search.rounded()
    if wanted is not None and search.scorer is not None and search.blocks.width < _WIDE:
        plan, trials = search.widened(rounding, trials, wanted.min_sqnr + _MARGIN_DB)
    return plan, trials


@dataclass(slots=True)
class _Search:
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

    @classmethod
    def begin(cls, prepared: Prepared, statistics: Statistics, request: Request) -> "_Search":
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

    @property
    def progress(self) -> Progress:
        return self.request.progress

    def plan(self, rows: Rows) -> Plan:
        return in_blocks(self.base, self.sites, [rows[site.tensor] for site in self.sites], self.declined)

    def rounded(self) -> tuple[Rounding, Plan, tuple[Trial, ...]]:
        """The best of the roundings that are asked for, and all that were measured, the best first."""
        asked = self.blocks.rounding
        measured = self.scorer is not None
        tries: tuple[Rounding, ...] = (asked,)
        if asked == "auto":
            tries = ("nearest", "scales", "gptq") if measured else ("scales",)
        plans = {rounding: self.plan(self._rows(rounding)) for rounding in tries}
        if len(plans) == 1 or self.scorer is None:
            return tries[0], plans[tries[0]], ()
        figures = self.scorer.compare(list(plans.values()), self.prepared.model, self.memo)
        trials = {}
        for number, (rounding, figure) in enumerate(zip(plans, figures, strict=True), 1):
            trials[rounding] = self._trial(rounding, figure)
            self.progress("try", number, len(plans))
        order = sorted(plans, key=lambda rounding: -loudness(trials[rounding].sqnr_db))
        return order[0], plans[order[0]], tuple(trials[rounding] for rounding in order)

    def _trial(self, rounding: Rounding, figure: float | None, wide: int = 0) -> Trial:
        assert self.scorer is not None
        return Trial(
            self.request.calibrators[0], False, figure, form="blocks", samples=self.scorer.samples, rounding=rounding,
            wide=wide,
        )  # fmt: skip

    def _rows(self, rounding: Rounding) -> Rows:
        """The rows by tensor, in the bits that are asked for."""
        if rounding not in self.rows:
            moments = self._moments() if rounding != "nearest" else {}
            wanted = replace(self.blocks, rounding=rounding)
            self.rows[rounding] = {
                site.tensor: self._row(site, wanted, self.blocks.width, moments.get(site.tensor)) for site in self.sites
            }
        return self.rows[rounding]

    def _row(self, site: BlockSite, wanted: BlockWise, bits: int, moments: Array | None) -> BlockPlan:
        symmetric = self.request.scheme.activations == "symmetric"
        return block_row(site, wanted, bits, symmetric=symmetric, moments=moments)

    def _moments(self) -> dict[str, Array]:
        """H of what each product's weight is multiplied with, by its tensor, summed over the layers that read it."""
        if self.scorer is None:
            return {}
        names = {id(layer): site.tensor for site in self.sites if not site.is_table for layer in site.layers}
        layers = [layer for site in self.sites if not site.is_table for layer in site.layers]
        result: dict[str, Array] = {}
        for layer, found in second_moments(self.prepared.model, layers, self.statistics.examples):
            name = names[id(layer)]
            if found is not None and np.isfinite(found).all():
                result[name] = result[name] + found if name in result else found
        return result

    def widened(self, rounding: Rounding, trials: tuple[Trial, ...], aim: float) -> tuple[Plan, tuple[Trial, ...]]:
        """The plan whose fewest bytes are in 8 bits so that the outputs reach `aim`, in dB; with all, if none does.

        Each weight is measured by itself, all others in float: noise of different origin adds up. Those that make the
        most noise for the bytes that more bits take come first; how many of them is found by bisection.
        """
        scorer, narrow = self.scorer, self._rows(rounding)
        assert scorer is not None
        whole = self.plan(narrow)
        figure = trials[0].sqnr_db if trials else scorer.sqnr_db(whole, self.prepared.model, self.memo)
        if figure is None or figure >= aim:
            return whole, trials
        wanted = replace(self.blocks, rounding="nearest" if rounding == "nearest" else "scales")
        wide = {site.tensor: self._row(site, wanted, _WIDE, None) for site in self.sites}
        order = self._by_noise(whole)

        def mixed(count: int) -> Plan:
            return self.plan({**narrow, **{name: wide[name] for name in order[:count]}})

        least, most, best = 0, len(order), mixed(len(order))
        best_figure = scorer.sqnr_db(best, self.prepared.model, self.memo)
        while most - least > 1 and loudness(best_figure) >= aim:
            middle = (least + most) // 2
            plan = mixed(middle)
            found = scorer.sqnr_db(plan, self.prepared.model, self.memo)
            if loudness(found) >= aim:
                most, best, best_figure = middle, plan, found
            else:
                least = middle
        return best, (self._trial(rounding, best_figure, most), *(trials or (self._trial(rounding, figure),)))

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
            self.progress("rank", number, len(self.sites))
        self.scorer.forget()
        return sorted(price, key=lambda name: -price[name])


def _nodes(readers: Sequence[Reader]) -> set[str]:
    return {name for name, _ in readers}

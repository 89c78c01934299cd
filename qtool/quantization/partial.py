"""Partial quantisation: where the outputs are too noisy, the fewest and cheapest nodes that mend it stay in float.

Source: the paper, section 6.2. What a candidate costs is measured as onnxruntime executes it, on the examples that the
statistics keep. How much is measured depends on multiply-accumulates and weights, and never on a clock: the same inputs
and options give the same model on any machine.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qtool.core.concurrency import side_by_side
from qtool.core.errors import DataError, ModelError, VerificationError
from qtool.core.numerics.sqnr import loudness, noise_share
from qtool.core.records.examples import spread
from qtool.core.records.plan import Plan
from qtool.core.records.results import LeftFloat, NoisyRegion
from qtool.graph import edit
from qtool.pipeline.planning.speed import Divider
from qtool.pipeline.verify.macs import count_macs, known_total
from qtool.quantization.candidate import Candidate
from qtool.quantization.foresight import Foresight
from qtool.quantization.ladder import Ladder
from qtool.quantization.ranking import Region, by_worth, integer_nodes, names_of, quantized_heads, rank_regions
from qtool.quantization.request import Request
from qtool.quantization.scoring import Arrays, Scorer
from qtool.quantization.wanted import Wanted

FAR_DB = 2.0
"""What is in float for speed is given up where the outputs are so much better without, and less than wanted with it."""
_MARGIN_DB = 1.0
"""So much more than asked for is aimed at, as examples that have chosen look better than new data."""
WORTH_DB = 1.0
"""What falls short of the target all the same is kept where it gains this much."""
_FLAT_DB = 0.25
"""A node that costs no more than this stays an integer where the target is out of reach."""
_FASTER = 1.1
"""So many times as fast as float by the table, in what there are times of, is fast enough to leave more in float."""
_RANKING_WORK, _CHOOSING_WORK = 12 * 10**11, 16 * 10**11
"""Of all measurements that rank, and of those that choose, in multiply-accumulates of a convolution."""
_PER_NUMBER, _PER_NODE, _PER_WEIGHT = 200, 10**8, 500
"""What computing a number takes besides, and what loading a node and a weight takes, in the same."""
_RANKING, _CHOOSING = range(2, 5), range(8, 33)
"""The least and the most examples that rank, and that choose."""
_TRIES = range(12, 49)
"""The least and the most measurements."""
_NOISIEST = 3
_ENOUGH = 8
"""So many measurements say how much float would be enough."""
_QUICK = 14
"""So many measurements look for what is as good as the best that was found, and quicker."""
_FURTHER = 8
"""So many measurements look for more where what reports falls short."""
_SLIMMED = 8
"""Of so many regions, the slowest, it is tried whether they can be integers."""
_EXPLAINED = 8
"""Of so many regions, the noisiest, it is measured what they gain."""


@dataclass(slots=True)
class PartialSearch:
    """Looks for the fewest and cheapest nodes of a candidate to be left in float.

    exact: the outputs of float on the examples, where they are known. figure: the SQNR in dB of the candidate's outputs
    on those examples that choose. counted: multiply-accumulates, as far as they are limited. spare: by how many dB what
    was found last is better on those examples than was aimed at; negative where that was missed. needed: the share of
    multiply-accumulates that would have to be float, where `found` has missed what is wanted for want of that; None
    where more would not help. widest: what that would be.

    Raises:
        DataError: onnxruntime refuses an example.
    """

    candidate: Candidate
    wanted: Wanted
    exact: Sequence[Arrays] | None
    request: Request
    macs: Mapping[str, int | None] = field(init=False)
    total: int = field(init=False)
    nodes: tuple[str, ...] = field(init=False)
    tries: int = field(init=False)
    figure: float = field(init=False)
    counted: Mapping[str, int | None] = field(init=False)
    known: dict[frozenset[str], float] = field(default_factory=dict)
    ranked: tuple[Region, ...] = ()
    needed: float | None = None
    widest: Sequence[Region] = ()
    spare: float = -math.inf
    _compared: set[frozenset[str]] = field(default_factory=set)
    _foresight: Foresight = field(init=False)
    _scorer: Scorer = field(init=False)

    def __post_init__(self) -> None:
        self.macs = count_macs(self.candidate.graph.model, self._examples)
        self.total = known_total(self.macs)
        self.nodes = integer_nodes(self.candidate.graph.model, self.candidate.plan)
        self.counted = self._counted()
        self._scorer, self.tries = self._measuring(_CHOOSING_WORK, _CHOOSING)
        self._foresight = Foresight(lambda floating: self._figure(self.candidate, floating))
        self.figure = self._measured(frozenset())

    @property
    def _examples(self) -> Sequence[Arrays]:
        return self.candidate.graph.statistics.examples

    def _counted(self) -> Mapping[str, int | None]:
        """The multiply-accumulates of what is slower in float by the target's table; the rest is not limited."""
        divider = None if self.wanted.strict else self._divider()
        alike = frozenset[str]() if divider is None else divider.alike
        return {name: 0 if name in alike else macs for name, macs in self.macs.items()}

    def _divider(self) -> Divider | None:
        graph, planner = self.candidate.graph, self.candidate.planner
        return graph.divider(self.request.target, planner.placement(self.candidate.floating))

    def _measuring(self, work: int, counts: range) -> tuple[Scorer, int]:
        """What measures on so many examples, spread over all of them, and how often it may for so much work."""
        model, statistics = self.candidate.graph.model, self.candidate.graph.statistics
        numbers = sum(histogram.count for histogram in statistics.tensors.values()) // max(statistics.samples, 1)
        weights = sum(math.prod(edit.static_shape(v) or ()) for v in model.graph.initializers.values())
        loading = _PER_NODE * len(self.nodes) + _PER_WEIGHT * weights
        run = max(self.total + _PER_NUMBER * numbers, 1)
        count = (work // _TRIES[-1] - loading) // run
        count = min(max(counts[0], min(counts[-1], count)), len(self._examples))
        picked = spread(count, len(self._examples))
        exact = None if self.exact is None else [self.exact[n] for n in picked]
        scorer = Scorer(model, [self._examples[n] for n in picked], self.request.target.session, exact)
        tries = work // (count * run + loading)
        return scorer, max(_TRIES[0], min(_TRIES[-1], tries))

    def found(self, reported: float) -> tuple[Candidate, tuple[LeftFloat, ...]]:
        """Return the candidate with nodes in float, and what these are; itself, where nothing gains enough.

        reported: the SQNR in dB that reports for the candidate, which examples that choose may be far from.
        """
        return self._found(self.wanted.min_sqnr + _MARGIN_DB + max(0.0, self.figure - reported))

    def further(self, found: Candidate, reported: float) -> tuple[Candidate, tuple[LeftFloat, ...]]:
        """Return what is found with an aim that is higher by what `found`, which was, falls short by where it reports.

        reported: the SQNR in dB that reports for `found`. Nothing is found where the aim was missed before.
        """
        if self.spare < 0.0:
            return found, ()
        self.tries += _FURTHER
        return self._found(self.wanted.min_sqnr + _MARGIN_DB + self._measured(found.floating) - reported)

    def _found(self, aim: float) -> tuple[Candidate, tuple[LeftFloat, ...]]:
        chosen = self._chosen(aim)
        if not chosen:
            return self.candidate, ()
        if len(self.known) + len(self.request.ways(self.candidate.plan)) <= self.tries:
            self._other_ranges(chosen)
        floating = names_of(chosen)
        self.spare = self._measured(floating) - aim
        left = self._explained(chosen)
        return replace(self.candidate, plan=self.candidate.leaving(floating), floating=floating), left

    def noisiest(self, floating: Collection[str]) -> tuple[NoisyRegion, ...]:
        """Return what puts the most noise into the outputs, once it was ranked, beside the nodes `floating`."""
        loud = [one for one in self.ranked if 0.0 < one.noise < math.inf and not set(one.nodes) & set(floating)]
        return tuple(
            NoisyRegion(one.nodes, self._real_share(one.nodes), -10.0 * math.log10(one.noise))
            for one in loud[:_NOISIEST]
        )

    def _chosen(self, aim: float) -> list[Region]:
        """The regions to be left in float; more than is allowed by default where integers are faster all the same."""
        found = self._within(aim)
        if self.wanted.strict or not self.widest:
            return found
        needed, limit = self.needed, self.wanted
        self.wanted = replace(limit, max_float_macs=self._share(names_of(self.widest)))
        self.tries = max(self.tries, len(self.known)) + _QUICK
        more = self._within(aim)
        self.wanted, divider = limit, self._divider()
        if divider is not None and self._meets(more, aim) and divider.speedup(names_of(more)) >= _FASTER:
            self.needed = None
            return more
        self.needed = needed
        return found

    def _within(self, aim: float) -> list[Region]:
        """The regions within what is allowed: none where that gains too little; of a head, where that costs less."""
        self.widest = ()
        heads = self._heads()
        self._foresee(frozenset(head.nodes) for head in heads)
        enough = [head for head in heads if self._meets([head], aim)]
        ladder, found = self._by_noise(aim, heads)
        if enough:
            head = self._pruned([min(enough, key=lambda one: one.share)], aim)
            cost = self._share if ladder is None else ladder.divider.time
            if not found or not self._meets(found, aim) or cost(names_of(head)) < cost(names_of(found)):
                self.needed, self.widest = None, ()
                return head
        return found

    def _heads(self) -> list[Region]:
        """What is in integers of the heads, of each one that may be float and of all of them."""
        nodes = [head.nodes for head in quantized_heads(self.candidate.graph.model, self.candidate.plan)]
        heads = [Region(part, 0.0, self._share(part)) for part in nodes]
        allowed = [head for head in heads if head.share <= self.wanted.max_float_macs]
        self.tries += len(allowed)
        return allowed

    def _by_noise(self, aim: float, heads: Sequence[Region]) -> tuple[Ladder | None, list[Region]]:
        """The regions that make the most noise for their cost, and what of the heads still helps where they miss it."""
        ranked, order = self._order(noise_share(aim))
        ladder = self._ladder(ranked)
        if quick := self._quickest(ladder, ranked, aim):
            return ladder, quick
        if not order:
            self.needed = self._enough(ranked, aim)
            return ladder, []
        if self._meets(order, aim) or (self._other_ranges(order) and self._meets(order, aim)):
            quick = self._quickest(ladder, ranked, aim)
            return ladder, quick or self._pruned(self._fewest(order, noise_share(aim), aim), aim)
        found = self._climbed(order, [*ranked, *heads], aim)
        figure = self._measured(names_of(found))
        if figure < aim:
            self.needed = self._enough(ranked, aim)
        # another calibrator has begun anew
        if figure < max(self.figure, self._measured(frozenset())) + WORTH_DB:
            return ladder, []
        floor = min(figure, aim) if figure >= self.wanted.min_sqnr else figure - _FLAT_DB
        allowed, self.tries = self.tries, len(self.known) + _QUICK
        quick = self._quickest(ladder, ranked, floor)
        self.tries = allowed
        return ladder, quick or self._pruned(found, floor)

    def _ladder(self, ranked: Sequence[Region]) -> Ladder | None:
        """The quickest divisions by the noise that they leave; None where no times were measured."""
        divider = self._divider()
        if divider is None or not divider.nodes.intersection(self.nodes):
            return None
        noise = {name: one.noise / len(one.nodes) for one in ranked if one.noise < math.inf for name in one.nodes}
        total = sum(noise.values()) or 1.0
        work = {name: self._share([name]) for name in divider.nodes}
        return Ladder(divider, {name: part / total for name, part in noise.items()}, work, self.wanted.max_float_macs)

    def _quickest(self, ladder: Ladder | None, ranked: Sequence[Region], aim: float) -> list[Region]:
        """What is to be float so that the aim is met at the least time by the table; nothing where that misses it."""
        if ladder is None or not ladder.top:
            return []
        top = ladder.top
        if self._measured(top) >= aim:
            return self._slimmed(ladder, ladder.lowest(lambda floating: self._measured(floating) >= aim), ranked, aim)
        for region in by_worth(ranked):
            more = top.union(region.nodes)
            if region.noise > 0.0 and self._share(more) <= self.wanted.max_float_macs:
                top = more
        return self._slimmed(ladder, top, ranked, aim) if self._measured(top) >= aim else []

    def _slimmed(
        self, ladder: Ladder, floating: frozenset[str], ranked: Sequence[Region], floor: float
    ) -> list[Region]:
        """The nodes as regions, without those that take time and are not needed, the slowest first."""
        kept = self._regions(floating, ranked)
        time = ladder.divider.time
        taken = time(floating)
        saved = {region: taken - time(floating.difference(region.nodes)) for region in kept}
        slowest = sorted(kept, key=lambda one: -saved[one])[:_SLIMMED]
        for n, region in enumerate(slowest):
            others = [one for one in kept if one is not region]
            self._foresee_without(kept, [one for one in slowest[n:] if saved[one] > 0.0])
            if saved[region] > 0.0 and others and self._meets(others, floor):
                kept = others
        return kept

    def _regions(self, floating: frozenset[str], ranked: Sequence[Region]) -> list[Region]:
        """The nodes, by those that follow each other."""
        noise = {name: one.noise / len(one.nodes) for one in ranked for name in one.nodes}
        runs: list[list[str]] = [[]]
        for name in self.nodes:
            if name in floating:
                runs[-1].append(name)
            elif runs[-1]:
                runs.append([])
        return [Region(tuple(run), sum(noise[n] for n in run), self._share(run)) for run in runs if run]

    def _climbed(self, regions: Sequence[Region], ranked: Sequence[Region], aim: float) -> list[Region]:
        """The regions without those that do nothing, and with others for which that makes room, as far as it helps."""
        kept = list(regions)
        figure = self._measured(names_of(kept))
        free = [region for region in kept if not region.share]
        single = sorted(kept, key=lambda one: (-one.share, one.noise))
        for n, group in enumerate((free, *([one] for one in single))):
            others = [one for one in kept if one not in group]
            self._foresee_without(kept, single[n - 1 :] if n else ())
            found = self._measured(names_of(others)) if others and len(others) < len(kept) else -math.inf
            if found > figure - _FLAT_DB / 2:
                kept, figure = others, max(figure, found)
        for n, region in enumerate(ranked):
            if figure >= aim:
                break
            floating = names_of(kept)
            rest = self._more(region, floating)
            if not rest:
                continue
            self._foresee(floating.union(more) for one in ranked[n:] if (more := self._more(one, floating)))
            found = self._measured(floating.union(rest))
            if found > figure + _FLAT_DB / 2:
                kept, figure = [*kept, Region(rest, region.noise, self._share(rest))], found
        return kept

    def _more(self, region: Region, floating: frozenset[str]) -> tuple[str, ...]:
        """What of the region may be float as well; nothing where that is too much."""
        rest = tuple(name for name in region.nodes if name not in floating)
        return rest if self._share([*floating, *rest]) <= self.wanted.max_float_macs else ()

    def _order(self, allowed: float) -> tuple[tuple[Region, ...], list[Region]]:
        """All regions, and those that may be float together, the most noise for the least work first."""
        ranked = self.ranked = self.ranked or self._ranked(allowed)
        result, share = [], 0.0
        for region in by_worth(ranked):
            if share + region.share <= self.wanted.max_float_macs:
                share += region.share
                result.append(region)
        # something is to be left in integers
        return ranked, result[: len(ranked) - 1]

    def _ranked(self, allowed: float) -> tuple[Region, ...]:
        model, memo = self.candidate.graph.model, self.candidate.graph.memo.weights
        scorer, tries = self._measuring(_RANKING_WORK, _RANKING)
        done = 0

        def measure(plans: Sequence[Plan]) -> list[float | None]:
            nonlocal done
            done += len(plans)
            self.request.progress("rank layers", done, tries)
            return list(scorer.compare(plans, model, memo))

        return rank_regions(model, self.candidate.plan, measure, self.counted, allowed, tries)

    def _enough(self, ranked: Sequence[Region], aim: float) -> float | None:
        """The share of multiply-accumulates with which the aim is met, however large; None where it is not."""
        order = by_worth(ranked)[: len(ranked) - 1]
        begun, allowed = len(self.known), self.tries
        self.tries = begun + _ENOUGH
        found = self._fewest(order, noise_share(aim), aim) if order and self._meets(order, aim) else ()
        self.tries = allowed + len(self.known) - begun
        if sum(region.share for region in found) <= self.wanted.max_float_macs:
            return None
        self.widest = found
        return self._real_share(names_of(found))

    def _fewest(self, order: Sequence[Region], allowed: float, aim: float) -> Sequence[Region]:
        """The fewest of the first regions, which together are enough for the aim, that are: by bisection."""
        few, many = 0, len(order)
        middle = 1 + sum(sum(one.noise for one in order[n:]) > allowed for n in range(1, len(order)))
        while many - few > 1:
            few, many = (few, middle) if self._meets(order[:middle], aim) else (middle, many)
            middle = (few + many) // 2
        return order[:many]

    def _other_ranges(self, order: Sequence[Region]) -> bool:
        """Whether another calibrator is better once their noise hides nothing; the candidate is one by that then."""
        floating, before, own = names_of(order), self.candidate, self.known
        if floating in self._compared:
            return False
        self._compared.add(floating)
        best, found = before, own.get(floating, -math.inf) + _FLAT_DB
        ways = [way for way in self.request.ways(before.plan) if way != before.way or floating not in own]
        others = [before.by(calibrator, corrected=corrected) for calibrator, corrected in ways]
        for other, figure in zip(others, side_by_side(lambda one: self._figure(one, floating), others), strict=True):
            if figure > found:
                best, found, own = other, figure, {floating: figure}
        self.candidate, self.known = best, own
        if best is not before:
            self._foresight.forget()
        return best is not before

    def _pruned(self, regions: Sequence[Region], floor: float) -> list[Region]:
        """What is left where each part is tried in integers again, the largest first, down to single nodes."""
        kept = list(regions)
        costly = [region for region in kept if region.share]
        if costly and len(costly) < len(kept) and self._meets(costly, floor):
            kept = costly
        waiting = sorted(kept, key=lambda region: (-region.share, region.noise))
        while waiting:
            self._foresee_without(kept, waiting)
            region = waiting.pop(0)
            others = [one for one in kept if one is not region]
            if others and self._meets(others, floor):
                kept = others
            elif len(region.nodes) > 1:
                halves = self._halves(region)
                kept = [*others, *halves]
                waiting = [*halves, *waiting]
        return kept

    def _halves(self, region: Region) -> list[Region]:
        middle = len(region.nodes) // 2
        parts = (region.nodes[:middle], region.nodes[middle:])
        return [Region(part, region.noise, self._share(part)) for part in parts]

    def _share(self, nodes: Collection[str]) -> float:
        """What the nodes are of the multiply-accumulates, as far as these are limited."""
        return known_total({n: self.counted.get(n) for n in nodes}) / self.total if self.total else 0.0

    def _real_share(self, nodes: Collection[str]) -> float:
        return known_total({n: self.macs.get(n) for n in nodes}) / self.total if self.total else 0.0

    def _meets(self, regions: Sequence[Region], aim: float) -> bool:
        return self._measured(names_of(regions)) >= aim

    def _measured(self, floating: frozenset[str]) -> float:
        """The SQNR in dB with nodes in float; -inf where such a model does not run, or where enough was measured."""
        if floating not in self.known:
            if len(self.known) >= self.tries:
                return -math.inf
            self.request.progress("leave layers in float", len(self.known), self.tries)
            self.known[floating] = self._foresight.take(floating)
        return self.known[floating]

    def _figure(self, candidate: Candidate, floating: frozenset[str]) -> float:
        """The same of any candidate for the graph, measured."""
        graph = candidate.graph
        try:
            plan = candidate.leaving(floating, settled=False)
            return loudness(self._scorer.sqnr_db(plan, graph.model, graph.memo.weights) if plan.quantized else None)
        except (ModelError, DataError, VerificationError):
            return -math.inf

    def _foresee(self, sets: Iterable[frozenset[str]]) -> None:
        """Have these measured, which are asked for next, or may be."""
        self._foresight.look(sets, self.known, self.tries - len(self.known))

    def _foresee_without(self, kept: Sequence[Region], tried: Iterable[Region]) -> None:
        """The same for what is left without each of some regions."""
        if len(kept) > 1:
            self._foresee(names_of(one for one in kept if one is not region) for region in tried)

    def _explained(self, chosen: Sequence[Region]) -> tuple[LeftFloat, ...]:
        """What each region gains beside the others, in the order of the graph; of the noisiest it is measured."""
        position = {name: i for i, name in enumerate(self.nodes)}
        noisiest = sorted(chosen, key=lambda one: -one.noise)[:_EXPLAINED]
        figure, self.tries = self._measured(names_of(chosen)), self.tries + len(noisiest)
        result = []
        for region in sorted(chosen, key=lambda one: position[one.nodes[0]]):
            others = names_of(one for one in chosen if one is not region)
            self._foresee_without(chosen, [region, *noisiest] if region in noisiest else ())
            known = region in noisiest or others in self.known
            gain = figure - self._measured(others) if known else math.nan
            result.append(
                LeftFloat(region.nodes, self._real_share(region.nodes), gain if math.isfinite(gain) else None)
            )
        return tuple(result)

"""Partial quantisation: the layers that quantising costs most stay in float, as few as do it.

Source: the paper, section 6.2 (partial quantisation).
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from qtool.core.errors import ModelError, VerificationError
from qtool.core.numerics.sqnr import loudness
from qtool.core.progress import Progress
from qtool.core.records.tuning import FLOAT, Step
from qtool.core.text import amount
from qtool.tuning.ranking import Rank
from qtool.tuning.regions import Regions
from qtool.tuning.start import Start
from qtool.tuning.trail import Trail, better

_SHOWN = 3
"""Layers that are named in a line."""
_RETURNED = 16
"""Layers that are tried in integers again at most."""
_MOST = 64
"""Layers that are left in float at most."""
_REGIONS, _REGIONS_S = "regions in float", 60.0
"""The search of `quantize` for regions, and the seconds that must be left for it: it cannot be ended in the middle."""
_PROBES = 6
"""Models that are judged at most to find out how much would have to stay in float."""


@dataclass(slots=True)
class Floating:
    """Leaves layers in float from one start, as few as meet what the trail asks for.

    beside: starts of the same form, of which one may be better once the worst layers are in float.
    others: the best starts of other forms, which may be better with other layers in float. regions: what finds the
    regions to be tried first, None for none.
    needed: the share of multiply-accumulates in float that meets the target on the choosing data, where more than may
    stay in float is needed; None where that is not known.
    """

    trail: Trail
    start: Start
    beside: Sequence[Start]
    rank: Rank
    progress: Progress
    needed: float | None = None
    others: Sequence[Start] = ()
    regions: Regions | None = None
    _names: dict[frozenset[str], str] = field(default_factory=dict)
    _known: dict[frozenset[str], Step | None] = field(default_factory=dict)

    def rounds(self) -> Iterator[None]:
        """Yield where the fewest layers are found that do it, and search again for what is asked for then.

        Ends where what may stay in float does not do it.

        Raises:
            UnrankedError: no layer could be measured by itself.
            OutOfTimeError: the time is up.
        """
        judge = self.start.judge
        for start in (self.start, *self.others):
            if self._regions(start):
                yield
        ranking = self.rank(judge, self.start.plan, self.progress)
        for name, head in ranking.heads.items():
            self._names[frozenset(head)] = name
            if self._fits(head) and self._fewest([layer for layer in ranking.layers if layer in head]):
                yield
        # with all of them in float there would be nothing to write
        ranked = list(ranking.layers)[:-1]
        layers = self._within_limit(ranked)
        while layers and (self._fewest(layers) or (self._changed(layers) and self._fewest(layers))):
            yield
        self._find_needed(ranked)

    def _regions(self, start: Start) -> bool:
        """Try the regions that are to be left in float from a start; returns whether that is enough."""
        trail = self.trail
        if self.regions is None or (trail.budget.seconds is not None and trail.budget.left < _REGIONS_S):
            return False
        try:
            with trail.budget.work(_REGIONS):
                found = self.regions(start, trail.demand_db)
        except (ModelError, VerificationError) as error:
            trail.skip(_REGIONS, error)
            return False
        if found is None:
            return False
        what = f"{start.label}{found.calibrator}, float as by `quantize`: {amount(len(found.floating), 'node')}"
        step = trail.try_all(start.judge, {what: lambda: found.plan}, found.floating)
        return step is not None and trail.enough(step)

    def _changed(self, layers: Sequence[str]) -> bool:
        """Whether another start is better with these layers in float, whose noise hid it; it is the start then."""
        own = self._tried(layers)
        others = {f"{one.name}float: {amount(len(layers), 'layer')}": one for one in self.beside}
        self.beside = ()
        makes = {what: functools.partial(one.plan, layers) for what, one in others.items()}
        best = self.trail.try_all(self.start.judge, makes, layers)
        if best is None or (own is not None and not better(best, own, self.trail.demand_db)):
            return False
        start = others[best.what]
        self.start = replace(start, label=start.name)
        self._known = {frozenset(layers): best}
        return True

    def _within_limit(self, ranked: Sequence[str]) -> list[str]:
        """The layers that may be in float together, the worst first; one that is too large makes way for the next."""
        judge = self.start.judge
        chosen: list[str] = []
        first: tuple[str, float] | None = None
        most, share = judge.aim.max_float_macs, judge.float_share(self.start.plan())
        for layer in ranked:
            if len(chosen) == _MOST:
                break
            if share + judge.share_of(layer) > most:
                first = first or (layer, share + judge.share_of(layer))
                continue
            found = self._share([*chosen, layer])
            if found is None:
                continue
            if found <= most:
                chosen.append(layer)
                share = found
            else:
                first = first or (layer, found)
        if not chosen:
            self.trail.untried[FLOAT] = _no_room(first, most)
        return chosen

    def _fewest(self, layers: Sequence[str]) -> bool:
        """Keep the model with the fewest of these layers in float that does it; returns whether there is one."""
        if not self._does(layers):
            return False
        few, many = 0, len(layers)
        while many - few > 1:
            middle = (few + many) // 2
            if self._does(layers[:middle]):
                many = middle
            else:
                few = middle
        kept = list(layers[:many])
        macs = self.start.judge.macs
        for layer in sorted(kept, key=lambda name: -(macs.get(name) or 0))[:_RETURNED]:
            without = [name for name in kept if name != layer]
            if without and self._does(without):
                kept = without
        return True

    def _find_needed(self, ranked: Sequence[str]) -> None:
        """Find out how much would have to stay in float: such models are judged, and not kept."""
        aim = self.start.judge.aim
        few, many, best = 0, len(ranked), None
        for _ in range(_PROBES):
            middle = len(ranked) if best is None else (few + many) // 2
            step = self._tried(ranked[:middle], keep=False) if few < middle else None
            if step is not None and aim.holds(step) and loudness(step.sqnr_db) >= self.trail.demand_db:
                many, best = middle, step
            elif best is None:
                return
            else:
                few = middle
        if best is not None and best.float_macs > aim.max_float_macs:
            self.needed = best.float_macs

    def _fits(self, layers: Sequence[str]) -> bool:
        """Whether layers may be in float together."""
        share = self._share(layers)
        return share is not None and share <= self.start.judge.aim.max_float_macs

    def _share(self, layers: Sequence[str]) -> float | None:
        """The float share of multiply-accumulates with these layers in float; None where the last one cannot be."""
        self.trail.budget.check()
        try:
            # as the tables say, without a look at what onnxruntime does
            return self.start.judge.float_share(self.start.plan(layers, settled=False))
        except (ModelError, VerificationError) as error:
            self.trail.skip(self._called(layers[-1:]), error)
            return None

    def _does(self, layers: Sequence[str]) -> bool:
        step = self._tried(layers)
        return step is not None and self.trail.enough(step)

    def _tried(self, layers: Sequence[str], *, keep: bool = True) -> Step | None:
        key = frozenset(layers)
        if key not in self._known:
            makes = {self._called(layers): lambda: self.start.plan(layers)}
            self._known[key] = self.trail.try_all(self.start.judge, makes, layers, keep=keep)
        return self._known[key]

    def _called(self, layers: Sequence[str]) -> str:
        """What the step is called that leaves these layers in float: as no other one is."""
        taken = {step.what for step in self.trail.steps} | set(self.trail.untried)
        head = f"{self.start.label}float: {self._names.get(frozenset(layers), '')}"
        if frozenset(layers) in self._names and head not in taken:
            return head
        for shown in range(min(_SHOWN, len(layers)), len(layers) + 1):
            more = f" and {len(layers) - shown} more" if len(layers) > shown else ""
            name = f"{self.start.label}float: {', '.join(layers[:shown])}{more}"
            if name not in taken:
                break
        return name


def _no_room(worst: tuple[str, float] | None, most: float) -> str:
    """Why no layer is left in float. worst: the one that should be, with the share that is float then."""
    if worst is None:
        return "no layer can be, while another is quantised"
    return (
        f"the worst layer, {worst[0]}, holds {100 * worst[1]:.1f} % of the multiply-accumulates, and "
        f"{100 * most:.4g} % may stay in float"
    )

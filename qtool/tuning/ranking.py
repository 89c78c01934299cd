"""Layers in the order of what quantising each one alone costs on the choosing data; heads by that for their work."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from qtool.core.errors import ModelError, VerificationError
from qtool.core.numerics.sqnr import noise_share
from qtool.core.progress import Progress
from qtool.feeds import open_for_model
from qtool.tuning.judge import Judge
from qtool.tuning.sensitivity.analyze import measure_layers
from qtool.tuning.sensitivity.variants import PlanOf


@dataclass(frozen=True, slots=True)
class Ranking:
    """The quantised layers, the most sensitive first, and what is quantised of the heads, by what each is called.

    The head that makes the most noise for its work comes first.
    """

    layers: tuple[str, ...]
    heads: dict[str, tuple[str, ...]]


Rank = Callable[[Judge, PlanOf, Progress], Ranking]


class UnrankedError(Exception):
    """The failure of a ranking: no layer could be measured by itself, so that none can be called the worst."""


def rank_by_sensitivity(judge: Judge, plan_of: PlanOf, progress: Progress) -> Ranking:
    """Return the quantised layers and heads that could be measured, ranked (the paper, section 6.1).

    Raises:
        UnrankedError: none could be.
    """
    feeds = open_for_model(judge.model, judge.choosing, **judge.reading)
    try:
        analysis = measure_layers(
            judge.planner.prepared,
            plan_of,
            judge.planner.target,
            feeds,
            metric=judge.aim.metric,
            decode=judge.aim.decode,
            views=("alone",),
            compute=replace(judge.compute, provider="cpu", progress=progress),
        )
    except (ModelError, VerificationError) as error:
        raise UnrankedError(str(error)) from error
    measured = {layer.name for layer in analysis.layers if layer.alone is not None}
    layers = tuple(name for name in analysis.ranking("alone") if name in measured)
    worth = {
        head.name: noise_share(head.alone.sqnr_db) / max(head.share or 0.0, _LEAST)
        for head in analysis.heads
        if head.alone is not None
    }
    parts = {head.name: head.layers for head in analysis.heads}
    return Ranking(layers, {name: parts[name] for name in sorted(worth, key=lambda one: -worth[one])})


_LEAST = 1e-4
"""A head counts as so large a share of the multiply-accumulates at least."""

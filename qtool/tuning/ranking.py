"""Layers in the order of what quantising each one alone costs on the choosing data."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from qtool.core.errors import ModelError, VerificationError
from qtool.core.progress import Progress
from qtool.feeds import open_for_model
from qtool.tuning.judge import Judge
from qtool.tuning.sensitivity.analyze import measure_layers
from qtool.tuning.sensitivity.variants import PlanOf

Rank = Callable[[Judge, PlanOf, Progress], Sequence[str]]


class UnrankedError(Exception):
    """The failure of a ranking: no layer could be measured by itself, so that none can be called the worst."""


def rank_by_sensitivity(judge: Judge, plan_of: PlanOf, progress: Progress) -> Sequence[str]:
    """Return the quantised layers that could be measured, the most sensitive first (the paper, section 6.1).

    Raises:
        UnrankedError: none could be.
    """
    feeds = open_for_model(judge.model, judge.choosing, state=judge.states)
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
    return [name for name in analysis.ranking("alone") if name in measured]

"""Layers in the order of what quantising each one alone costs on the choosing data."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.progress import Progress
from qtool.core.records.plan import Plan
from qtool.feeds import open_for_model
from qtool.tuning.judge import Judge, Ranges
from qtool.tuning.sensitivity.analyze import measure_layers

Rank = Callable[[Judge, Calibrator, Ranges, bool, Progress], Sequence[str]]


def rank_by_sensitivity(
    judge: Judge, calibrator: Calibrator, ranges: Ranges, corrected: bool, progress: Progress
) -> Sequence[str]:
    """The integer layers, the most sensitive first (the paper, section 6.1)."""

    def plan_of(floating: tuple[str, ...]) -> Plan:
        return judge.plan(calibrator, ranges, floating, corrected=corrected)

    feeds = open_for_model(judge.prepared.model, judge.choosing, state=judge.states)
    analysis = measure_layers(
        judge.prepared,
        plan_of,
        judge.target,
        feeds,
        metric=judge.aim.metric,
        views=("alone",),
        compute=replace(judge.compute, provider="cpu", progress=progress),
    )
    return analysis.ranking("alone")

"""Layers in the order of what quantising each one alone costs on the choosing data."""

from collections.abc import Callable, Sequence

from qtool.core.plan import Plan
from qtool.core.progress import Progress
from qtool.core.ranges import Calibrator
from qtool.feeds import open_feeds
from qtool.feeds.source import Source
from qtool.graph import edit
from qtool.tuning.sensitivity import measure_layers
from qtool.tuning.workshop import Ranges, Workshop

Rank = Callable[[Workshop, Calibrator, Ranges, bool, Progress], Sequence[str]]


def rank_by_sensitivity(
    workshop: Workshop, calibrator: Calibrator, ranges: Ranges, corrected: bool, progress: Progress
) -> Sequence[str]:
    """The integer layers, the most sensitive first (the paper, section 6.1)."""

    def plan_of(floating: tuple[str, ...]) -> Plan:
        return workshop.plan(calibrator, ranges, floating, corrected=corrected)

    feeds = open_feeds(
        workshop.choosing,
        edit.input_specs(workshop.prepared.model),
        outputs=edit.output_specs(workshop.prepared.model),
        state=workshop.states,
    )
    analysis = measure_layers(
        workshop.prepared,
        plan_of,
        workshop.target,
        feeds,
        metric=workshop.aim.metric,
        views=("alone",),
        threads=workshop.threads,
        executor=workshop.executor,
        source=Source.of(workshop.choosing, feeds, None, 1, {"state": workshop.states}),
        progress=progress,
    )
    return analysis.ranking("alone")

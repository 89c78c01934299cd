"""A plan that the later rounds go on from: how it was made, and how it is made again with layers in float."""

from collections.abc import Collection
from dataclasses import dataclass

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.plan import Plan
from qtool.pipeline.planning.planner import Ranges
from qtool.tuning.judge import Judge


@dataclass(frozen=True, slots=True)
class Start:
    """A plan of the first round.

    label: in front of what steps are called. mixed: the ranges; None are the calibrator's own. refined: whether weights
    are rounded to what their layers compute.
    """

    judge: Judge
    label: str
    calibrator: Calibrator
    corrected: bool
    mixed: Ranges | None = None
    refined: bool = False

    @property
    def name(self) -> str:
        """The label of steps that begin with it, by its calibrator."""
        return f"{self.label}{self.calibrator}{self.way}, "

    @property
    def way(self) -> str:
        """The words for what is done to weights and biases, behind the calibrator's name."""
        return ", refined" if self.refined else ", corrected" if self.corrected else ""

    @property
    def ranges(self) -> Ranges:
        """The range of each root tensor."""
        return self.judge.planner.ranges(self.calibrator) if self.mixed is None else self.mixed

    def plan(self, floating: Collection[str] = (), *, settled: bool = True) -> Plan:
        """Return the plan with some layers (names of nodes) in float; see `Planner.plan`, also for the errors."""
        planner = self.judge.planner
        return planner.plan(
            self.calibrator, floating=floating, ranges=self.ranges, corrected=self.corrected, refined=self.refined,
            settled=settled,
        )  # fmt: skip

"""Plans for one prepared graph, all of it or with layers in float: `quantize`, `sensitivity` and `tune` ask here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from qtool.core.errors import NothingToQuantizeError
from qtool.core.numerics.affine import QParams
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.options import Scheme
from qtool.core.records.placement import Placement, Reader
from qtool.core.records.plan import BiasShift, Plan, WeightPlan
from qtool.core.records.statistics import Statistics
from qtool.graph.edit import Array
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.plan import make_plan
from qtool.pipeline.planning.ranges import RangeMemo, choose
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.targets.rules import Target

Ranges = Mapping[str, tuple[float, float]]
"""Root tensor -> (low, high)."""
_Grid = tuple[Reader, str, QParams]


@dataclass(slots=True)
class PlanMemo:
    """The results that the plans for one graph share, each computed once.

    weights: their magnitudes and integers. ranges: by tensor, calibrator and grid. means: of the inputs of layers with
    a bias, as `observe_examples` finds them; None until they are wanted. shifts: of biases, by the grid of the weight.
    """

    weights: WeightMemo = field(default_factory=WeightMemo)
    ranges: RangeMemo = field(default_factory=RangeMemo)
    means: Mapping[str, Array] | None = None
    shifts: dict[_Grid, BiasShift | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Planner:
    """Makes plans for one graph, target and scheme, from statistics.

    Raises (all methods):
        NothingToQuantizeError: no layer has an integer form on the target.
        UsageError, ModelError: see `place`.
        CalibrationError: the statistics lack a tensor.
    """

    prepared: Prepared
    statistics: Statistics
    target: Target
    scheme: Scheme
    memo: PlanMemo = field(default_factory=PlanMemo)

    def placement(self, floating: Collection[str] = ()) -> Placement:
        """Decide where Q/DQ go; `floating` are names of nodes that stay float besides what the scheme excludes."""
        return place(self.prepared.model, self.target, self.scheme, name=self.prepared.name, floating=floating)

    def ranges(self, calibrator: Calibrator) -> Ranges:
        """Return the range of each root tensor where nothing is left in float."""
        return choose(self.placement(), self.statistics, calibrator, self.memo.ranges)

    def plan(
        self,
        calibrator: Calibrator,
        *,
        floating: Collection[str] = (),
        ranges: Ranges | None = None,
        corrected: bool = True,
    ) -> Plan:
        """Return the plan with every layer quantised but those `floating`.

        Args:
            calibrator: chooses ranges.
            floating: names of nodes that stay float besides what the scheme excludes; with all of them the plan is one
                that changes nothing.
            ranges: take these, by root tensor, where they are given.
            corrected: let biases take back the shift that rounding the weights makes.
        """
        try:
            placement = self.placement(floating)
        except NothingToQuantizeError:
            if not floating:
                raise
            return self.plan(calibrator, ranges=ranges, corrected=False).without_all()
        given = dict(ranges or {})
        if any(root not in given for root in placement.calibrated):
            given = {**choose(placement, self.statistics, calibrator, self.memo.ranges), **given}
        plan = make_plan(
            self.prepared.model,
            placement,
            given,
            digest=self.prepared.digest,
            target=self.target,
            scheme=self.scheme,
            calibrator=calibrator,
            memo=self.memo.weights,
        )
        plan = replace(plan, recipe=self.prepared.recipe)
        return replace(plan, shifts=self._shifts(plan)) if corrected else plan

    def _shifts(self, plan: Plan) -> tuple[BiasShift, ...]:
        """They depend on the grids of the weights alone, which plans of one graph mostly share."""
        memo = self.memo
        grids = list(_grids(plan.weights))
        if any(grid not in memo.shifts for grid in grids):
            if memo.means is None:
                memo.means = observe_examples(self.prepared.model, self.statistics.examples).means
            found = correct_biases(self.prepared.model, plan, (), memo.means, memo.weights).shifts
            by_node = {shift.reader[0]: shift for shift in found}
            memo.shifts.update({grid: by_node.get(grid[0][0]) for grid in grids})
        known = {shift.reader[0]: shift for grid in grids if (shift := memo.shifts[grid]) is not None}
        return tuple(known[name] for node in self.prepared.model.graph if (name := str(node.name)) in known)


def _grids(weights: Collection[WeightPlan]) -> list[_Grid]:
    return [(reader, weight.tensor, weight.params) for weight in weights for reader in weight.readers]

"""Plans for one prepared graph, all of it or with layers in float: `quantize`, `sensitivity` and `tune` ask here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from qtool.core.errors import NothingToQuantizeError
from qtool.core.numerics.affine import QParams
from qtool.core.numerics.calibrators import Calibrator, Max
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.options import Scheme
from qtool.core.records.placement import NOTHING_AMENDED, Amendment, Placement, Reader
from qtool.core.records.plan import BiasShift, Plan, WeightPlan
from qtool.core.records.statistics import Statistics
from qtool.graph.bodies import parts, tensors_inside
from qtool.graph.edit import Array, Model
from qtool.graph.layers import Layer, end_of
from qtool.pipeline.planning.apart import joined_apart
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.plan import make_plan
from qtool.pipeline.planning.ranges import RangeMemo, choose
from qtool.pipeline.planning.settle import Look, Settler
from qtool.pipeline.planning.speed import Speed
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.pipeline.recovery.weight_rounding import Known, refine_weights
from qtool.targets.rules import Target

Ranges = Mapping[str, tuple[float, float]]
"""Root tensor -> (low, high)."""
_Grid = tuple[Reader, str, QParams, str | None]


@dataclass(slots=True)
class PlanMemo:
    """The results that the plans for one graph share, each computed once.

    weights: their magnitudes and integers. ranges: by tensor, calibrator and grid. means: of the inputs of layers with
    a bias, as `observe_examples` finds them; None until they are wanted. shifts: of biases, by the grid and integers of
    the weight. refined: as of `refine_weights`.
    amendments: of the placement, by scheme and what is left in float. placements: by scheme, where nothing is left in
    float, with the amendment that was known then. shapes: of tensors, where the first example is
    fed; empty until they are wanted. untaken: as of `untaken_nodes`. shapes_inside: of tensors in the bodies of If,
    Loop and Scan, in the first run of each. Both are None until they are wanted.
    """

    weights: WeightMemo = field(default_factory=WeightMemo)
    ranges: RangeMemo = field(default_factory=RangeMemo)
    means: Mapping[str, Array] | None = None
    shifts: dict[_Grid, BiasShift | None] = field(default_factory=dict)
    amendments: dict[tuple[Scheme, frozenset[str]], Amendment] = field(default_factory=dict)
    placements: dict[Scheme, tuple[Amendment, Placement]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    refined: Known = field(default_factory=dict)
    untaken: Mapping[str, str] | None = None
    shapes_inside: dict[str, tuple[int, ...]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Planner:
    """Makes plans for one graph, target and scheme, from statistics.

    look: finds layers that onnxruntime would not run as a plan says; what it finds is placed again. None: nobody looks.
    dynamic: whether such a layer may be dynamic instead.
    speed: finds what is faster in float; that is left in float. None: nothing is, for that.
    apart: leave Concats in float whose parts differ in range and are read apart.

    Raises (all methods):
        NothingToQuantizeError: no layer has an integer form on the target.
        UsageError: see `place`.
        ModelError: see `make_plan`.
        CalibrationError: the statistics lack a tensor.
    """

    prepared: Prepared
    statistics: Statistics
    target: Target
    scheme: Scheme
    memo: PlanMemo = field(default_factory=PlanMemo)
    look: Look | None = None
    dynamic: bool = False
    speed: Speed | None = None
    apart: bool = True

    def placement(self, floating: Collection[str] = (), *, settled: bool = True) -> Placement:
        """Decide where Q/DQ go; `floating` are names of nodes that stay float besides what the scheme excludes.

        `settled`: see `plan`.
        """
        amendment = self._amendment(frozenset(floating), settled=settled)
        known = None if floating else self.memo.placements.get(self.scheme)
        if known is not None and known[0] == amendment:
            return known[1]
        placement = self._placed(floating, amendment)
        if not floating:
            self.memo.placements[self.scheme] = (amendment, placement)
        return placement

    def reject(self, layers: Mapping[str, str], floating: Collection[str] = ()) -> None:
        """Leave layers (name -> why) in float from now on, in plans with just these `floating`.

        Where that leaves nothing in integers, the next plan says so.
        """
        key = frozenset(floating)
        start = self._amendment(key, settled=True).leaving(layers)
        try:
            amendment = self._seen_to_run(key, start)
        except NothingToQuantizeError:
            amendment = start
        self.memo.amendments[self.scheme, key] = amendment

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
        refined: bool = False,
        settled: bool = True,
    ) -> Plan:
        """Return the plan with every layer quantised but those `floating`.

        Args:
            calibrator: chooses ranges.
            floating: names of nodes that stay float besides what the scheme excludes; with all of them the plan is one
                that changes nothing.
            ranges: take these, by root tensor, where they are given.
            corrected: let biases take back the shift that rounding the weights makes.
            refined: round the weights to what their layers compute on the examples.
            settled: have a look whether onnxruntime runs the layers so, once for each set `floating`, and place again
                what it does not; otherwise it is only what was found out where nothing is left in float.
        """
        try:
            placement = self.placement(floating, settled=settled)
        except NothingToQuantizeError:
            if not floating:
                raise
            return self.plan(calibrator, ranges=ranges, corrected=False).without_all()
        plan = self._planned(placement, calibrator, ranges)
        if refined:
            plan = refine_weights(
                self.prepared.model, plan, self.statistics.examples, corrects=corrected,
                saturates=self.target.saturates, known=self.memo.refined, memo=self.memo.weights,
            )  # fmt: skip
        return replace(plan, shifts=self._shifts(plan)) if corrected else plan

    def _placed(self, floating: Collection[str], amendment: Amendment) -> Placement:
        prepared, memo = self.prepared, self.memo
        if memo.untaken is None:
            memo.untaken = untaken_nodes(prepared.model, self.statistics)
        if memo.untaken and self.scheme.form == "static":
            amendment = amendment.leaving(memo.untaken)
        return place(
            prepared.model, self.target, self.scheme, name=prepared.name, floating=floating, amendment=amendment,
            folded=prepared.folded,
        )  # fmt: skip

    def _amendment(self, floating: frozenset[str], *, settled: bool) -> Amendment:
        known = self.memo.amendments.get((self.scheme, floating))
        if known is not None or self.look is None:
            return known or NOTHING_AMENDED
        start = self._amendment(frozenset(), settled=True) if floating else self._apart(self._fast())
        if not settled:
            return start
        return self.memo.amendments.setdefault((self.scheme, floating), self._settled(floating, start))

    def _fast(self) -> Amendment:
        if self.speed is None:
            return NOTHING_AMENDED
        return NOTHING_AMENDED.leaving(self.speed(self._placed((), NOTHING_AMENDED)))

    def _apart(self, start: Amendment) -> Amendment:
        try:
            placement = self._placed((), start)
        except NothingToQuantizeError:
            # `_settled` says what to do then
            return start
        if not self.apart or not any(site.union for site in placement.sites):
            return start
        ranges = choose(placement, self.statistics, Max(), self.memo.ranges)
        return start.leaving(joined_apart(self.prepared.model, placement, ranges, self.statistics, self.target))

    def _settled(self, floating: frozenset[str], start: Amendment) -> Amendment:
        try:
            return self._seen_to_run(floating, start)
        except NothingToQuantizeError:
            if floating:
                return start
            if start == NOTHING_AMENDED:
                raise
            # it runs none of what was to be left in integers
            return self._settled(floating, NOTHING_AMENDED)

    def _seen_to_run(self, floating: frozenset[str], start: Amendment) -> Amendment:
        if self.look is None:
            return start

        def make(amendment: Amendment) -> Plan:
            return self._planned(self._placed(floating, amendment), Max(), None)

        return Settler(self.prepared.model, make, self.look, self._remedy).settle(start)

    def _remedy(self, plan: Plan, amendment: Amendment, layer: str, why: str) -> Amendment:
        """The cheapest form that was not tried: with a quantised output, with ranges of each run, in float."""
        node = next((node for node in self.prepared.model.graph.all_nodes() if node.name == layer), None)
        rule = None if node is None else self.target.rule(node)
        if node is not None and rule is not None and rule.kind == "weighted" and self.scheme.form_of(layer) == "static":
            output = end_of(node)
            tried = layer in amendment.closed or layer in amendment.dynamic
            closed = any(row.tensor == output.name and row.produced for row in plan.activations)
            if not (tried or closed) and output.name in self.statistics.tensors:
                return amendment.closing(layer)
            known = Layer.of(node)
            swapped = known is not None and known.transposes_input
            if self.dynamic and rule.dynamic and layer not in amendment.dynamic and not swapped:
                return amendment.turning_dynamic(layer)
        return amendment.leaving({layer: why})

    def _planned(self, placement: Placement, calibrator: Calibrator, ranges: Ranges | None) -> Plan:
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
        return replace(plan, recipe=self.prepared.recipe)

    def _shifts(self, plan: Plan) -> tuple[BiasShift, ...]:
        """They depend on the grids and integers of the weights alone, which plans of one graph mostly share."""
        memo = self.memo
        grids = list(_grids(plan.weights))
        if any(grid not in memo.shifts for grid in grids):
            if memo.means is None:
                memo.means = observe_examples(self.prepared.model, self.statistics.examples).means
            found = correct_biases(self.prepared.model, plan, (), memo.means, memo.weights).shifts
            by_node = {shift.reader[0]: shift for shift in found}
            memo.shifts.update({grid: by_node.get(grid[0][0]) for grid in grids})
        known = {shift.reader[0]: shift for grid in grids if (shift := memo.shifts[grid]) is not None}
        return tuple(known[name] for node in self.prepared.model.graph.all_nodes() if (name := str(node.name)) in known)


def untaken_nodes(model: Model, statistics: Statistics) -> Mapping[str, str]:
    """Return the nodes in bodies of If, Loop and Scan that ran on none of the data, and why they stay float."""
    empty = {tensor for tensor, found in statistics.tensors.items() if found.count == 0}
    untaken = tensors_inside(model, empty) if empty else {}
    nodes = {part.body.name: part.model.graph for part in parts(model)} if untaken else {}
    return {str(node.name): f"the data never runs the body {body!r}" for body in untaken for node in nodes[body]}


def _grids(weights: Collection[WeightPlan]) -> list[_Grid]:
    return [(reader, row.tensor, row.params, row.integers) for row in weights for reader in row.readers]

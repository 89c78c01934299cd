"""A candidate for the plan of a graph, and what it becomes with more in float, or less, or by other ranges."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.sqnr import loudness
from qtool.core.records.plan import Plan
from qtool.core.records.results import Trial
from qtool.pipeline.planning.apart import APART
from qtool.pipeline.planning.planner import Planner
from qtool.quantization.graphs import FloatGraph


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A plan and where it comes from; `trial` says how it measured, None where there was nothing to compare it with.

    floating: names of nodes that the plan leaves in float besides what the scheme excludes.
    """

    graph: FloatGraph
    planner: Planner
    calibrator: Calibrator
    plan: Plan
    trial: Trial | None = None
    floating: frozenset[str] = frozenset()

    @property
    def sqnr_db(self) -> float:
        """The SQNR of the outputs on the examples, in dB, -inf where they have none; the candidate must have run."""
        assert self.trial is not None
        return loudness(self.trial.sqnr_db)

    @property
    def way(self) -> tuple[Calibrator, bool]:
        """The calibrator, and whether biases are corrected: what `by` takes."""
        return self.calibrator, bool(self.plan.shifts)

    def leaving(self, floating: Collection[str], *, settled: bool = True) -> Plan:
        """Return the candidate's plan with some layers (names of nodes) in float; the ranges of the others stay.

        `settled`: see `Planner.plan`.

        Raises:
            ModelError: see `make_plan`.
        """
        if not floating:
            return self.plan
        return self._plan(self.calibrator, floating, corrected=bool(self.plan.shifts), settled=settled)

    def by(self, calibrator: Calibrator, *, corrected: bool) -> "Candidate":
        """Return the candidate with the ranges of another calibrator, biases corrected or not; it was not measured."""
        plan = self._plan(calibrator, self.floating, corrected=corrected)
        return replace(self, calibrator=calibrator, plan=plan, trial=None)

    def everywhere(self) -> "Candidate | None":
        """Return the candidate with nothing in float for speed, not measured; None where nothing is.

        Raises:
            NothingToQuantizeError: onnxruntime runs no layer of it in integers.
        """
        if self.planner.speed is None:
            return None
        planner = replace(self.planner, speed=None, memo=replace(self.planner.memo, amendments={}))
        plan = planner.plan(self.calibrator, corrected=bool(self.plan.shifts), refined=bool(self.plan.refined))
        if plan.integer.keys() == self.plan.integer.keys():
            return None
        return replace(self, planner=planner, plan=plan, trial=None)

    def joined(self) -> "Candidate | None":
        """Return the candidate with each Concat in integers, not measured; None where none is float for its parts.

        Raises:
            NothingToQuantizeError: onnxruntime runs no layer of it in integers.
        """
        if APART not in self.plan.skipped.values():
            return None
        planner = replace(self.planner, apart=False, memo=replace(self.planner.memo, amendments={}))
        plan = planner.plan(self.calibrator, corrected=bool(self.plan.shifts), refined=bool(self.plan.refined))
        return replace(self, planner=planner, plan=plan)

    def rejecting(self, layers: Mapping[str, str]) -> "Candidate":
        """Return the candidate with layers (name -> why) in float, planned again; it was not measured."""
        self.planner.reject(layers, self.floating)
        plan = self._plan(self.calibrator, self.floating, corrected=bool(self.plan.shifts))
        return replace(self, plan=plan)

    def _plan(
        self, calibrator: Calibrator, floating: Collection[str], *, corrected: bool, settled: bool = True
    ) -> Plan:
        refined = bool(self.plan.refined)
        return self.planner.plan(calibrator, floating=floating, corrected=corrected, refined=refined, settled=settled)

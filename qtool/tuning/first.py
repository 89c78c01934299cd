"""The paper's first step: every calibrator on the same statistics, the best is kept (section 6).

Bias correction is tried beside: what a step gives is measured, each time, before it is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.plan import BiasShift, Plan, WeightPlan
from qtool.core.progress import Progress
from qtool.core.ranges import Calibrator
from qtool.core.results import Trial
from qtool.core.scheme import Correction
from qtool.graph.edit import Model
from qtool.recovery.bias_correction import correct_biases
from qtool.tuning.yardstick import Yardstick


def first_plan(
    prepared: Model,
    plan_by: Callable[[Calibrator], Plan],
    calibrators: Sequence[Calibrator],
    correction: Correction,
    examples: Sequence[Mapping[str, np.ndarray]],
    config: Mapping[str, str],
    progress: Progress,
    yardstick: Yardstick | None = None,
) -> tuple[Plan, tuple[Trial, ...]]:
    """The best plan by SQNR of the outputs on the examples, and what was tried, best first (nothing to try: nothing).

    With `auto`, the calibrators are compared with bias correction, and the best of them without it too; equal figures
    go to the one tried first. `yardstick`: to measure with, where one is at hand; a figure is then always there.
    """
    if yardstick is None and len(calibrators) == 1 and correction != "auto":
        plan = plan_by(calibrators[0])
        return (correct_biases(prepared, plan, examples) if correction == "on" else plan), ()
    corrected = correction != "off"
    total = len(calibrators) + (correction == "auto")
    yardstick = yardstick or Yardstick(prepared, examples, config)
    known: dict[tuple[WeightPlan, ...], tuple[BiasShift, ...]] = {}
    tried: list[tuple[Trial, Plan]] = []

    def attempt(calibrator: Calibrator, plan: Plan) -> None:
        progress("try", len(tried), total)
        tried.append((Trial(calibrator, bool(plan.shifts), yardstick.sqnr_db(plan, prepared)), plan))

    for calibrator in calibrators:
        plan = plan_by(calibrator)
        attempt(calibrator, _corrected(prepared, plan, examples, known) if corrected else plan)
    best, plan = max(tried, key=lambda pair: pair[0].sqnr_db)
    if correction == "auto" and plan.shifts:
        attempt(best.calibrator, plan_by(best.calibrator))
    ranked = sorted(tried, key=lambda pair: -pair[0].sqnr_db)
    return ranked[0][1], tuple(trial for trial, _ in ranked)


def _corrected(
    prepared: Model,
    plan: Plan,
    examples: Sequence[Mapping[str, np.ndarray]],
    known: dict[tuple[WeightPlan, ...], tuple[BiasShift, ...]],
) -> Plan:
    """The corrected plan; the shifts depend on the weights' grids alone, which calibrators mostly share."""
    if plan.weights not in known:
        known[plan.weights] = correct_biases(prepared, plan, examples).shifts
    return replace(plan, shifts=known[plan.weights])

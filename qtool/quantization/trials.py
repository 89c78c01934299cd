"""The paper's first step: every calibrator on the same statistics, the best is kept (section 6).

Bias correction is tried beside: what a step gives is measured, each time, before it is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.weights import WeightMemo
from qtool.core.progress import Progress
from qtool.core.records.options import Correction
from qtool.core.records.plan import BiasShift, Plan, WeightPlan
from qtool.core.records.results import Trial
from qtool.graph.edit import Array, Model
from qtool.pipeline.recovery.bias_correction import correct_biases
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.quantization.scoring import Scorer

Tried = tuple[Trial, Plan]


def first_plan(
    prepared: Model,
    plan_by: Callable[[Calibrator], Plan],
    calibrators: Sequence[Calibrator],
    correction: Correction,
    examples: Sequence[Mapping[str, np.ndarray]],
    config: Mapping[str, str],
    progress: Progress,
) -> tuple[Plan, tuple[Trial, ...]]:
    """The best plan by SQNR of the outputs on the examples, and what was tried, best first (nothing to try: nothing).

    With `auto`, the calibrators are compared with bias correction, and the best of them without it too; equal figures
    go to the one tried first.
    """
    if len(calibrators) == 1 and correction != "auto":
        plan = plan_by(calibrators[0])
        return (correct_biases(prepared, plan, examples) if correction == "on" else plan), ()
    seen = observe_examples(prepared, examples, biases=correction != "off")
    scorer, memo = Scorer(prepared, examples, config, seen.outputs), WeightMemo()
    plans = {calibrator: plan_by(calibrator) for calibrator in calibrators}
    if correction != "off":
        plans = dict(zip(plans, corrected(prepared, tuple(plans.values()), seen.means, memo), strict=True))
    tried = try_plans(prepared, tuple(plans.items()), scorer, memo, progress)
    best, plan = max(tried, key=lambda pair: pair[0].sqnr_db)
    if correction == "auto" and plan.shifts:
        tried += try_plans(prepared, ((best.calibrator, replace(plan, shifts=())),), scorer, memo, progress)
    ranked = sorted(tried, key=lambda pair: -pair[0].sqnr_db)
    return ranked[0][1], tuple(trial for trial, _ in ranked)


def try_plans(
    prepared: Model,
    plans: Sequence[tuple[Calibrator, Plan]],
    scorer: Scorer,
    memo: WeightMemo,
    progress: Progress,
) -> list[Tried]:
    """Each plan with its figure, in their order."""
    tried: list[Tried] = []
    figures = scorer.compare([plan for _, plan in plans], prepared, memo)
    for (calibrator, plan), figure in zip(plans, figures, strict=True):
        tried.append((Trial(calibrator, bool(plan.shifts), figure), plan))
        progress("try", len(tried), len(plans))
    return tried


def corrected(prepared: Model, plans: Sequence[Plan], means: Mapping[str, Array], memo: WeightMemo) -> list[Plan]:
    """With shifts, which depend on the weights' grids alone; calibrators mostly share them."""
    known: dict[tuple[WeightPlan, ...], tuple[BiasShift, ...]] = {}
    for plan in plans:
        if plan.weights not in known:
            known[plan.weights] = correct_biases(prepared, plan, (), means, memo).shifts
    return [replace(plan, shifts=known[plan.weights]) for plan in plans]

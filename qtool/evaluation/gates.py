"""The gates: what was asked of every candidate, and whether it holds."""

import math
from collections.abc import Sequence

from qtool.core.errors import UsageError, arg
from qtool.core.records.evaluation import Gate, GateRule, MaxDrop, MetricInfo, MetricKind, ModelResult, Score, percent
from qtool.evaluation.limits import NO_LIMITS, Limits

ROUNDING = 1e-9
"""0.80 - 0.792 is 0.008000000000000007: a drop of exactly what is allowed must pass."""


def check_gates(
    metrics: Sequence[MetricInfo], max_drop: MaxDrop | None, min_sqnr: float | None, unlabelled: str = ""
) -> None:
    """Refuse gates that could not be judged, or could not fail.

    unlabelled: why the data has no labels to compare with, where nobody asked for these metrics.

    Raises:
        UsageError: a drop asked only of similarity metrics, a drop as large as the metric, an SQNR that is no finite
            number.
    """
    if min_sqnr is not None and not math.isfinite(min_sqnr):
        raise UsageError(f"{arg('min_sqnr', min_sqnr)}: give a number of decibels, such as 20")
    if max_drop is None:
        return
    accuracy = [metric for metric in metrics if metric.kind is MetricKind.ACCURACY]
    if not accuracy and unlabelled:
        raise UsageError(
            f"{arg('max_drop', max_drop)}: needs labels, and {unlabelled}; or ask what compares with float's outputs, "
            f"{arg('min_agreement')} or {arg('min_sqnr')}"
        )
    if not accuracy:
        names = ", ".join(metric.name for metric in metrics)
        raise UsageError(
            f"{arg('max_drop', max_drop)}: {names} compares with float's outputs and cannot drop; use "
            f"{arg('min_sqnr')}, or add "
            f"{arg('metric', 'top1')} with labels in {arg('data')}"
        )
    for metric in accuracy:
        check_max_drop(metric, max_drop)


def check_max_drop(metric: MetricInfo, max_drop: MaxDrop) -> None:
    """Refuse a drop that is as large as the metric. Raises `UsageError`."""
    if _cannot_fail(metric, max_drop):
        raise UsageError(
            f"{arg('max_drop', max_drop)}: would pass every model, as {metric.name} lies between "
            f"{metric.worst:g} and 1; for one percent say 1%, for one point say 0.01"
        )


def _cannot_fail(metric: MetricInfo, max_drop: MaxDrop) -> bool:
    if metric.worst is None:
        return False
    # float's value may be next to 0, so that of what lies below 0 no share is too large
    widest = (math.inf if metric.worst < 0 else 1.0) if max_drop.relative else 1.0 - metric.worst
    return max_drop.value >= widest


def scored_drop(metric: MetricInfo, value: float, reference: float) -> Score:
    """Return the score of a candidate beside float's; a positive drop is worse, whichever way the metric counts."""
    if metric.kind is MetricKind.SIMILARITY and not metric.share:
        return Score(metric.name, value)
    drop = value - reference if metric.lower_is_better else reference - value
    return Score(metric.name, value, drop, drop / abs(reference) if reference else None)


def judge(
    float_model: ModelResult,
    candidates: Sequence[ModelResult],
    metrics: Sequence[MetricInfo],
    max_drop: MaxDrop | None,
    min_sqnr: float | None,
    limits: Limits = NO_LIMITS,
    ended: Sequence[str] = (),
) -> tuple[Gate, ...]:
    """Return every gate of every candidate: `max_drop` on each accuracy metric, `min_sqnr` on the worst output, limits.

    `ended`: the outputs of which `quantize` also judges what the Sigmoid or Softmax at their end reads; a message on
    the SQNR says that here it is not.
    """
    gates: list[Gate] = []
    for model in candidates:
        if max_drop is not None:
            for metric in metrics:
                if metric.kind is MetricKind.ACCURACY:
                    gates.append(_drop_gate(float_model, model, metric, max_drop))
        if min_sqnr is not None:
            gates.append(_sqnr_gate(model, min_sqnr, ended))
        gates += limits.gates(
            model.name,
            agreement=model.agreement,
            integer=model.integer_share,
            size=(model.size_bytes, float_model.size_bytes),
            speed=model.latency,
        )
    return tuple(gates)


def _drop_gate(float_model: ModelResult, model: ModelResult, metric: MetricInfo, max_drop: MaxDrop) -> Gate:
    reference, score = float_model.score(metric.name), model.score(metric.name)
    found, asked = _drop_found(metric, score, max_drop), f"asked at most {max_drop}"
    passed = found is not None and model.nan is None and found <= max_drop.value + ROUNDING
    if model.nan is not None:
        found, said = None, f": {model.nan}; {asked}"
    elif found is None:
        said = f" is 0 in float, a share of which says nothing; {asked}; check the labels, or ask for 0.01"
    else:
        amount = percent(found) if max_drop.relative else f"{found:.4g}"
        said = f": drop {amount} ({reference.value:.6g} to {score.value:.6g}), {asked}"
    return Gate(
        model=model.name,
        rule=GateRule.MAX_DROP,
        metric=metric.name,
        limit=max_drop.value,
        relative=max_drop.relative,
        found=found,
        passed=passed,
        message=f"{model.name}: {metric.name}{said}",
    )


def _drop_found(metric: MetricInfo, score: Score, max_drop: MaxDrop) -> float | None:
    if not max_drop.relative or score.drop is None or score.relative_drop is not None:
        return score.relative_drop if max_drop.relative else score.drop
    if metric.lower_is_better:
        # float makes no error: the fraction is not defined, but the question has an answer
        return 0.0 if score.drop <= 0 else math.inf
    return None


def _sqnr_gate(model: ModelResult, min_sqnr: float, ended: Sequence[str]) -> Gate:
    found, asked = model.sqnr_db, f"asked at least {min_sqnr:.4g} dB"
    if model.nan is not None:
        found, said = None, f": {model.nan}; {asked}"
    elif found is None:
        said = f" cannot be measured, since no output of numbers keeps its shape; {asked}; ask for a metric instead"
    else:
        said = f" is {found:.4g} dB, {asked}"
        if ended:
            more = f" and {len(ended) - 1} more" if len(ended) > 1 else ""
            said += f" (outputs as they are; quantize judges in front of the end of '{ended[0]}'{more} too)"
    return Gate(
        model=model.name,
        rule=GateRule.MIN_SQNR,
        metric="sqnr",
        limit=min_sqnr,
        relative=False,
        found=found,
        passed=found is not None and found >= min_sqnr,
        message=f"{model.name}: sqnr{said}",
    )

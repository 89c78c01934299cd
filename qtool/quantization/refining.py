"""The question whether rounding weights to what their layers compute may pay, for `quantize` and `tune`."""

from qtool.core.records.plan import Plan
from qtool.graph.edit import Model
from qtool.pipeline.recovery.weight_rounding import refining_work

_SHARED, _FINE = 3 * 10**10, 10**10
"""Multiply-accumulates that refining weights may take unasked: those that share a grid, and those of 7 bits."""


def refining_may_gain(model: Model, plan: Plan, examples: int) -> bool:
    """Return whether weights share one grid a tensor, or have 7 bits, and other ones are found with little work.

    Args:
        model: the float graph that the plan is for.
        plan: as it is without.
        examples: how many it would be refined on.
    """
    if plan.granularity == "per-tensor":
        most = _SHARED
    elif any(row.reduced_channels for row in plan.weights):
        most = _FINE
    else:
        return False
    return refining_work(model, plan, examples) <= most

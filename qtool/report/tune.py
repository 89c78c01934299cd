"""The lines that `tune` prints: one for each model tried, the best, and how it does on data that chose nothing."""

import math

from qtool.core.records.tuning import Step, Tuned
from qtool.core.records.verification import percent
from qtool.core.text import amount, line
from qtool.report.evaluation import evaluation_text
from qtool.report.quantize import float_line
from qtool.report.text import number


def step_line(step: Step) -> str:
    """Return the line of one model that was tried."""
    mark = "ok  " if step.met else "    "
    share = f"{100 * step.float_macs:.1f} % of MACs"
    floating = f", {amount(step.float_layers, 'layer')} float ({share})" if step.float_layers else ""
    return line(
        f"{mark}metric {_figure(step.metric)}  drop {100 * step.drop:6.2f} %  SQNR {_figure(step.sqnr_db, 1):>5} dB  "
        f"{step.what}{floating}"
    )


def _figure(value: float, digits: int = 4) -> str:
    return number(None if math.isnan(value) else value, digits)


def tuned_text(result: Tuned) -> str:
    """Return the verdict, and the table of the part of the data that reports."""
    verdict = "target met" if result.met else "target missed"
    stopped = "" if result.stopped is None else f"; stopped early: {result.stopped}"
    planned = "" if result.verification.census else "planned "
    head = (
        f"{result.output}: {verdict} (drop at most {result.max_drop}){stopped}; kept: {result.best.what}; "
        f"{percent(result.verification.integer_share)} of multiply-accumulates {planned}in integer kernels"
    )
    floating = [line(float_line(result.verification))] if result.verification.float_layers else []
    return "\n".join([line(head), *floating, line(f"  data: {result.split}"), evaluation_text(result.evaluation)])

"""The lines that `tune` prints: one for each model tried, the best, and how it does on data that chose nothing."""

from qtool.core.records.tuning import Step, Tuned
from qtool.core.records.verification import percent
from qtool.report.evaluation import evaluation_text
from qtool.report.text import number


def step_line(step: Step) -> str:
    """Return the line of one model that was tried."""
    mark = "ok  " if step.met else "    "
    share = f"{100 * step.float_macs:.1f} % of MACs"
    held = "" if step.measured == "sqnr" else f"{step.measured} {number(step.metric)}  "
    drop = "" if step.drop is None else f"drop {_drop(step)}  "
    layers = f"{step.float_layers} layer{'' if step.float_layers == 1 else 's'}"
    floating = f", {layers} float ({share})" if step.float_layers else ""
    return f"{mark}{held}{drop}SQNR {number(step.sqnr_db, 1):>5} dB  {step.what}{floating}"


def _drop(step: Step) -> str:
    return f"{100 * (step.drop or 0.0):6.2f} %" if step.relative else number(step.drop)


def tuned_text(result: Tuned) -> str:
    """Return the verdict, and the table of the part of the data that reports."""
    planned = "" if result.verification.census else "planned "
    head = (
        f"{_verdict(result)}; kept: {result.best.what}; "
        f"{percent(result.verification.integer_share)} of multiply-accumulates {planned}in integer kernels"
    )
    lines = [head, f"  data: {result.split}", *_untried_lines(result)]
    return "\n".join([*lines, evaluation_text(result.evaluation)])


def missed_line(result: Tuned) -> str:
    """Return the line that says what of the target is missed, and what came nearest to it."""
    return f"{_verdict(result)}; nearest: {result.best.what}"


def _verdict(result: Tuned) -> str:
    stopped = "" if result.stopped is None else f"; stopped early: {result.stopped}"
    if result.met:
        return f"{result.output}: target met ({result.target}){stopped}"
    verdict, short = "target missed" if result.missed else "target not shown", list(result.missed)
    if not result.complete:
        count = result.evaluation.samples
        short.append(f"the time budget let only {count} sample{'' if count == 1 else 's'} report")
    return f"{result.output}: {verdict} ({result.target}): {'; '.join(short)}{stopped}"


def _untried_lines(result: Tuned) -> list[str]:
    """A line for each reason, with all that was not tried for it."""
    reasons: dict[str, list[str]] = {}
    for what, why in result.untried.items():
        reasons.setdefault(why, []).append(what)
    return [f"  not tried: {'; '.join(what)} ({why})" for why, what in reasons.items()]

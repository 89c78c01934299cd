"""The lines that `tune` prints: one for each model tried, the best, and how it does on data that chose nothing."""

import math
import shlex
from collections.abc import Sequence

from qtool.core.records.tuning import AGREEMENT, FLOAT, TRAINED, Step, Tuned
from qtool.core.records.verification import percent
from qtool.core.text import amount, line
from qtool.report.commands import data_text, eval_command, options_text
from qtool.report.evaluation import evaluation_text
from qtool.report.proof import float_line
from qtool.report.text import decibels, number
from qtool.report.words import again


def trail_heading(step: Step) -> str:
    """Return the line above those of the models that are tried: what is measured, float's value, and on which data."""
    exact = "" if step.exact is None else f", float {_figure(step.exact)}"
    return line(f"measured: {step.measured}{exact}, on {amount(step.samples, 'sample')} of {step.data}, which chooses")


def step_line(step: Step) -> str:
    """Return the line of one model that was tried."""
    sqnr = None if math.isnan(step.sqnr_db) else step.sqnr_db
    mark = "ok  " if step.met else "    "
    held = "" if step.measured == "sqnr" else f"{step.measured} {_figure(step.metric)}  "
    drop = "" if step.drop is None else f"drop {_drop(step)}  "
    floating = f" ({100 * step.float_macs:.1f} % of MACs in float)" if step.float_layers else ""
    return line(f"{mark}{held}{drop}SQNR {decibels(sqnr):>5} dB  {step.what}{floating}")


def _drop(step: Step) -> str:
    return f"{100 * (step.drop or 0.0):6.2f} %" if step.relative else number(step.drop)


def _figure(value: float) -> str:
    return number(None if math.isnan(value) else value)


def tuned_text(result: Tuned, typed: Sequence[str] = ()) -> str:
    """Return the verdict, what to do next, and the table of the part of the data that reports.

    typed: the words of the command line, for the next one.
    """
    planned = "" if result.verification.census else "planned "
    head = (
        f"{_verdict(result)}; kept: {result.best.what}; "
        f"{percent(result.verification.integer_share)} of multiply-accumulates {planned}in integer kernels"
    )
    floating = [float_line(result.verification)] if result.verification.float_layers else []
    lines = [head, *floating, f"  measured: {_measured(result)}", f"  data: {result.split}"]
    lines += [*_sample_lines(result), *_trained_lines(result), *_untried_lines(result)]
    lines.append(f"  next: {_next(result, typed)}")
    return "\n".join([*map(line, lines), evaluation_text(result.evaluation)])


def _measured(result: Tuned) -> str:
    """What was held, of the model and of float, and on which data."""
    found, exact = result.evaluation.candidates[0], result.evaluation.float_model
    data = f"{amount(result.evaluation.samples, 'sample')} of {result.evaluation.data}, which reports"
    sqnr = f"SQNR {decibels(found.sqnr_db)} dB"
    if result.metric == AGREEMENT:
        return f"{AGREEMENT} with float {number(found.agreement)}, {sqnr}; on {data}"
    name = result.metric if any(score.metric == result.metric for score in found.scores) else found.scores[0].metric
    value = found.score(name)
    if name == "sqnr" or value.drop is None:
        return f"{'' if name == 'sqnr' else f'{name} {_figure(value.value)}, '}{sqnr}; on {data}"
    return f"{name} {_figure(value.value)}, float {_figure(exact.score(name).value)}, {sqnr}; on {data}"


def _sample_lines(result: Tuned) -> list[str]:
    """What one sample is worth, and how often what reports was asked."""
    lines = []
    if result.reports > 1:
        lines.append(f"  the data that reports was asked about {result.reports} models, since it missed the target")
    if result.one_sample is not None and result.max_drop is not None:
        relative = result.best.relative
        worth = [f"one sample that reports is worth {_worth(result.one_sample, relative=relative)}"]
        if result.one_chosen is not None:
            worth.append(f"one that chooses {_worth(result.one_chosen, relative=relative)}")
        lines.append(f"  {', '.join(worth)}; the target is {result.max_drop}")
    return lines


def _trained_lines(result: Tuned) -> list[str]:
    """How the last step went, where there was one."""
    found = result.training
    if found is None:
        return []
    before, after = (decibels(db) for db in found.chosen_db)
    return [
        f"  finetune: {amount(found.steps, 'step')} in {found.seconds:.0f} s from {found.what}; {found.split}: "
        f"SQNR {before} -> {after} dB there{'' if found.kept else ', not kept'}"
    ]


def _worth(value: float, *, relative: bool) -> str:
    return f"{100 * value:.2f} %" if relative else number(value)


def _next(result: Tuned, typed: Sequence[str]) -> str:
    """The command that comes next, and what it is for; where none helps by itself, what else does."""
    asked = result.asked
    # without a command line, the one that asks for the same
    tried = typed or shlex.split(
        f"tune {shlex.quote(asked.model)} {data_text(asked)}{options_text(asked)}{_target_options(result)}"
    )
    if result.met:
        return _timed(result)
    if not result.complete or (result.stopped is not None and "time budget" in result.stopped):
        return f"`{again(tried, without='--time-budget')}` has all the time that it needs"
    if result.stopped is not None:
        return f"`{again(tried)}` again, to the end"
    return _more(result, tried)


def _timed(result: Tuned) -> str:
    """The command that times the model beside float."""
    return f"`{eval_command(result.asked, str(result.output), '--latency')}` times it"


def _more(result: Tuned, tried: Sequence[str]) -> str:
    """The command that tries more than was allowed, where that helps."""
    if result.float_needed is not None:
        share = math.ceil(1000 * result.float_needed) / 10
        return (
            f"`{again(tried, '--max-float-macs', f'{share:g}%')}` meets the target on the data that chooses: with more "
            "in float"
        )
    if result.best.met:
        return "the data that chooses meets the target: give more data, so that both parts agree, or ask for less"
    trained = result.training is not None or TRAINED in result.untried
    train = "" if trained else f"`{again(tried, '--finetune')}` trains the best; or "
    if result.untried.get(FLOAT) is None:
        return f"no share of layers in float meets the target on the data that chooses: {train}ask for less"
    return f"{train}ask for less, or for more layers in float: `{again(tried, '--max-float-macs', '100%')}`"


def _target_options(result: Tuned) -> str:
    drop = "" if result.max_drop is None else f" --max-drop {result.max_drop}"
    return drop + ("" if result.min_sqnr is None else f" --min-sqnr {result.min_sqnr:.4g}")


def missed_line(result: Tuned) -> str:
    """Return the line that says what of the target is missed, and what came nearest to it."""
    return line(f"{_verdict(result)}; nearest: {result.best.what}")


def _verdict(result: Tuned) -> str:
    stopped = "" if result.stopped is None else f"; stopped early: {result.stopped}"
    if result.met:
        return f"{result.output}: target met ({result.target}){stopped}"
    verdict, short = "target missed" if result.missed else "target not shown", list(result.missed)
    if not result.complete:
        short.append(f"the time budget let only {amount(result.evaluation.samples, 'sample')} report")
    return f"{result.output}: {verdict} ({result.target}): {'; '.join(short)}{stopped}"


def _untried_lines(result: Tuned) -> list[str]:
    """A line for each reason, with all that was not tried for it."""
    reasons: dict[str, list[str]] = {}
    for what, why in result.untried.items():
        reasons.setdefault(why, []).append(what)
    return [f"  not tried: {'; '.join(what)} ({why})" for why, what in reasons.items()]

"""The lines that `quantize` and `calibrate` print."""

import math
import shlex
from collections.abc import Sequence

from qtool.core.records.evaluation import Gate, GateRule
from qtool.core.records.placement import NEEDS_RANGES
from qtool.core.records.plan import Plan
from qtool.core.records.recipe import text_of
from qtool.core.records.results import (
    GRU_STEPS,
    MUCH_SMALLER,
    FilePart,
    LeftFloat,
    NoisyRegion,
    Quantized,
    Trial,
    Verdict,
)  # fmt: skip
from qtool.core.records.verification import Verification, percent
from qtool.core.text import amount, line
from qtool.report.blocks import blocks_kind, blocks_next, blocks_rows, less_padding
from qtool.report.commands import after_calibration, calibration_text, data_text, eval_command, options_text, word
from qtool.report.evaluation import gate_line, metric_lines
from qtool.report.gates import Beside, failed_line, steps_after
from qtool.report.proof import accuracy_rows, arithmetic_line, float_line, integer_line
from qtool.report.text import ABSENT, aligned, decibels, file_size
from qtool.report.timing import slower_line, timing_lines
from qtool.report.words import HARDLY, SCALE, again, beyond_limit, hardly_quantised, listed, quality, rows

_NAMED = 3
_COLUMNS = 100
_CHOOSING = ("exclude", "exclude_op", "include_op", "max_float_macs", "optimize_for")
"""Options by which a caller has layers in float."""
_ALIKE = 1.05
"""Sizes within this factor are alike."""
_MOSTLY = 0.5
"""Of the multiply-accumulates: where less is in integers, most is not."""
_NOT_OF_GRIDS = ("fix", "metric", "max_drop", "decode", "labels")
_ROOM_DB = 2.0
"""New data may have so much less SQNR than the samples that report."""
_LARGE_PART = 0.15
"""A part of a file is named as a reason where it is this share of it."""


def quantized_text(result: Quantized, *, verbose: bool = False, typed: Sequence[str] = ()) -> str:
    """Return what was made in one line, then a row for each thing that it rests on, and the verdict on the accuracy.

    verbose: with a table of the candidates that were measured. typed: the words of the command line, for the next one.
    """
    plan, proof = result.plan, result.verification
    lines = [_head(result)]
    why = _why_large(result) if result.float_size / result.size < MUCH_SMALLER else []
    lines += rows("size", f"{file_size(result.size)}, was {file_size(result.float_size)} ({_ratio(result)})", *why)
    weights = "in blocks" if plan.blocks else plan.granularity
    settings = f"target {plan.target}, {plan.scheme}, weights {weights}, {_calibrator(result)}"
    steps = result.changes.get("gru_steps", 0)
    lines += rows("settings", settings, *([f"{steps} {GRU_STEPS}"] if steps else []))
    lines += _tried(result) if verbose else []
    lines += [integer_line(proof), float_line(proof)]
    lines += rows("wider", _wider(plan)) if plan.wider else []
    lines += rows("blocks", *blocks_rows(plan, proof)) if plan.blocks else []
    lines += rows("refined", _refined(result)) if plan.refined or result.unrefined else []
    lines += [arithmetic_line(proof), *rows("accuracy", *accuracy_rows(proof))]
    lines += timing_lines(result.timing, _ratio(result), _faster(result, typed), proof.integer_share)
    if result.verdict is not None and proof.examples:
        lines += rows("left float", *_left(result.verdict)) if result.verdict.left else []
        lines += rows("verdict", _judged(result, result.verdict), *_meaning(result, result.verdict))
        lines += rows("cause", *_causes(result, result.verdict))
        lines += rows("next", *_next(result, result.verdict, typed))
    elif hardly := _hardly_integer(result):
        lines += [*rows("verdict", hardly[0]), *rows("next", hardly[1])]
    lines += rows("metric", *metric_lines(result.evaluation)) if result.evaluation is not None else []
    lines += rows("gates", *(gate_line(gate) for gate in result.gates)) if result.gates else []
    lines += rows("next", *steps_after(_unadvised(result), _beside(result, typed)))
    return "\n".join(map(line, lines))


def _head(result: Quantized) -> str:
    """The file, how much smaller it is, how it was calibrated, and the SQNR of its outputs, in at most 100 columns."""
    proof = result.verification
    words = f"{_ratio(result)}; {_made_with(result.plan)}"
    measured = proof.examples and not math.isnan(proof.judged_db)
    words += f", {proof.judged_db:.1f} dB" if measured else ", accuracy not measured"
    if len(result.trials) > 1:
        words += f", best of {len(result.trials)}"
    # the end of a path tells most
    name = line(str(result.output)[-_COLUMNS:])
    room = _COLUMNS - len(words) - 2
    return f"{name if len(name) <= room else f'…{name[1 - room :]}'}: {words}"


def _made_with(plan: Plan) -> str:
    if plan.activations:
        return f"calibrator {plan.calibrator}{' corrected' if plan.shifts else ''}"
    if plan.blocks:
        return f"weights in blocks of {plan.blocks[0].block}"
    return "dynamic ranges" if plan.dynamic else "weights alone in 8 bits" if plan.stored else "nothing in 8 bits"


def failed_lines(result: Quantized, typed: Sequence[str] = ()) -> list[str]:
    """Return a line for each gate that failed with what comes next, but that on the SQNR, which `bad_verdict` tells.

    typed: the words of the command line, for the next one.
    """
    failed = [gate for gate in result.gates if not gate.passed and gate.rule is not GateRule.MIN_SQNR]
    return [failed_line(gate, _beside(result, typed)) for gate in failed]


def check_lines(result: Quantized, typed: Sequence[str] = ()) -> list[str]:
    """Return a line for each gate below the outcome of a check, with what comes next where it failed.

    typed: the words of the command line, for the next one.
    """
    return [failed_line(gate, _beside(result, typed)) for gate in result.gates]


def _unadvised(result: Quantized) -> list[Gate]:
    """The gates that failed and of which no row above says what comes next."""
    told = (
        {GateRule.MIN_SQNR, GateRule.MAX_DROP} if result.verdict is not None and result.verdict.met is False else set()
    )
    told |= {GateRule.MIN_SPEEDUP} if slower_line(result.timing, _ratio(result), None) else set()
    return [gate for gate in result.gates if gate.rule not in told]


def _beside(result: Quantized, typed: Sequence[str]) -> Beside:
    asked, proof, name = result.asked, result.verification, result.output.name
    return Beside(
        asked.model,
        {name: str(result.output)},
        data_text(asked),
        options_text(asked, only=("decode", "labels")),
        _faster(result, typed),
        {name: proof.judged_db if proof.examples else None},
    )


def bad_verdict(result: Quantized, typed: Sequence[str] = ()) -> str:
    """Return the verdict as a line by itself, with what comes next, where it is no good one; else an empty text.

    typed: the words of the command line, for the next one.
    """
    verdict = result.verdict
    if verdict is None:
        hardly = _hardly_integer(result)
        return line(f"{result.output}: {'; next: '.join(hardly)}") if hardly else ""
    hardly = _hardly(result)
    if verdict.met and hardly and not _chosen(result):
        return line(f"{result.output}: {HARDLY}: {'; '.join(hardly)}; next: {_inspection(result)}")
    if verdict.met or (verdict.met is None and not verdict.asked):
        return ""
    causes = _causes(result, verdict)[:2]
    parts = [_judged(result, verdict), *causes, f"next: {_next(result, verdict, typed)[0]}"]
    return line(f"{result.output}: {'; '.join(parts)}")


def slow_verdict(result: Quantized, typed: Sequence[str] = ()) -> str:
    """Return the line that the model is slower than float, with what comes next; "" where it is not.

    typed: the words of the command line, for the next one.
    """
    slower = slower_line(result.timing, _ratio(result), _faster(result, typed))
    return line(f"{result.output}: {slower}") if slower else ""


def _faster(result: Quantized, typed: Sequence[str]) -> str | None:
    """The command that lets the clock choose; None where it has, or would choose nothing."""
    by_clock = any(trial.latency_ms is not None for trial in result.trials)
    # blocks leave nothing in float for speed
    return None if by_clock or result.plan.blocks else _again(result, typed, "--optimize-for", "latency")


def _hardly_integer(result: Quantized) -> tuple[str, ...]:
    """That most layers stay in float for want of ranges, and what to do; nothing where it is not so."""
    proof = result.verification
    waiting = [name for name, why in proof.float_layers.items() if why == NEEDS_RANGES]
    share = proof.integer_share
    if share is None and proof.layers:
        share = proof.integer_layers / proof.layers
    if not waiting or share is None or share >= _MOSTLY:
        return ()
    return (
        f"{HARDLY}: {len(waiting)} of {amount(proof.layers, 'layer')} have integer kernels for calibrated "
        "ranges alone, and stay in float without data",
        f"`qtool quantize {word(result.asked.model)} --data DATA -o {word(str(result.output))}`, without --dynamic",
    )


def _hardly(result: Quantized) -> tuple[str, ...]:
    """How little is in 8 bits, and why; nothing where it is enough."""
    plan, proof = result.plan, result.verification
    readers = [*(row.readers for row in plan.stored), *(row.readers for row in plan.blocks)]
    stored = {node for found in readers for node, _ in found}
    return hardly_quantised(proof.layers, proof.integer_layers, proof.integer_share, proof.float_layers, stored)


def _chosen(result: Quantized) -> bool:
    """Whether the caller said what is to be float."""
    return any(option in _CHOOSING for option, _ in result.asked.options)


def _inspection(result: Quantized) -> str:
    asked = result.asked
    data = "" if asked.data is None else f" {data_text(asked)}"
    return f"`qtool inspect {word(asked.model)}{data}` says of each layer why it is float, and what helps"


def _judged(result: Quantized, verdict: Verdict) -> str:
    """Whether the outputs are as accurate as wanted."""
    figure, wanted = _figure(result.verification), f"{verdict.min_sqnr:.4g} dB"
    asked = "asked for" if verdict.asked else "wanted"
    if verdict.met is None:
        return f"not known: no output has an SQNR, of which {wanted} are {asked}; compare with labels"
    if _but_for_one(result, verdict):
        return f"ACCURATE BUT FOR ONE SAMPLE: outputs {figure}, at least {wanted} {asked}"
    judged = "accurate" if verdict.met else "NOT ACCURATE"
    if verdict.met and _hardly(result):
        judged = f"{HARDLY}, though accurate"
    return f"{judged}: outputs {figure}, at least {wanted} {asked}"


def _but_for_one(result: Quantized, verdict: Verdict) -> bool:
    """Whether one sample alone makes the outputs too noisy; only more data tells whether there are more like it."""
    return not verdict.met and result.verification.but_for_one(verdict.min_sqnr)


def _meaning(result: Quantized, verdict: Verdict) -> list[str]:
    """What the figure of the verdict means in words, where there is one."""
    db = result.verification.judged_db
    if verdict.met is None or math.isnan(db):
        return []
    hardly = _hardly(result)
    lines = [f"{hardly[0]}: nearly all of these dB are float's", *hardly[1:]] if verdict.met and hardly else []
    lines = lines or [f"{quality(db)}: {db:.1f} dB; {SCALE}"]
    if verdict.met and db < verdict.min_sqnr + _ROOM_DB and verdict.max_float_macs is not None:
        more = f"--min-sqnr {verdict.min_sqnr + _ROOM_DB:.4g}"
        lines.append(
            f"new data may give less than {verdict.min_sqnr:.4g} dB: few samples say no more; {more} leaves room"
        )
    return lines


def _causes(result: Quantized, verdict: Verdict) -> list[str]:
    """What puts the noise into outputs that are not accurate, and what was tried against it; a line each."""
    if verdict.met is not False:
        return []
    uneven = result.verification.uneven
    if uneven is not None and _but_for_one(result, verdict):
        return [f"one sample, at a threshold or unlike the others: {uneven.others_db:.1f} dB without it"]
    causes = []
    if verdict.max_float_macs is not None:
        found = "as much float as helps" if verdict.left else "no layer in float helps enough"
        causes.append(f"{found} within {100 * verdict.max_float_macs:.4g} % of multiply-accumulates")
    return causes + [f"{'more' if i else 'most noise is'} of {_noisy(one)}" for i, one in enumerate(verdict.noisiest)]


def _figure(proof: Verification) -> str:
    """The SQNR of the outputs, and the worst one in front of a saturated end where that is less."""
    if proof.sqnr_db_before and not any(db is not None for db in proof.sqnr_db_by_output.values()) and not proof.unlike:
        return f"{proof.judged_db:.1f} dB SQNR in front of what chooses them"
    if math.isnan(proof.output_sqnr_db):
        return "with NaN or Inf where float has numbers"
    figure = f"{proof.output_sqnr_db:.1f} dB SQNR"
    if not proof.judged_db < proof.output_sqnr_db:
        return figure
    return f"{figure}, {proof.judged_db:.1f} dB in front of a saturated end"


def _next(result: Quantized, verdict: Verdict, typed: Sequence[str]) -> list[str]:
    """The commands that come next, with what they do; a line each."""
    asked = result.asked
    model, data, grid = word(asked.model), data_text(asked), options_text(asked, without=_NOT_OF_GRIDS)
    compared = f"qtool eval {model} {word(str(result.output))}"
    if _but_for_one(result, verdict):
        return ["calibrate with more samples", f"`{compared} {data}` on others tells whether there are more like it"]
    if verdict.met and _hardly(result):
        return [_inspection(result), _comparison(result)]
    if verdict.met is not False:
        return [_comparison(result)]
    if result.plan.blocks:
        return blocks_next(result.plan, f"qtool quantize {model} {data}")
    commands = [
        f"`qtool tune {model} {data}{options_text(asked)} --min-sqnr {verdict.min_sqnr:.4g}` tries more",
        f"{after_calibration(asked, 'sensitivity')} {data}{grid}` shows which layers",
    ]
    if result.verification.trainable:
        # without a calibration file it is of the samples that train
        commands.append(f"`qtool finetune {model}{calibration_text(asked)} {data}{grid}` trains its numbers")
    if verdict.float_needed is not None:
        share = math.ceil(1000 * verdict.float_needed) / 10
        more = _again(result, typed, "--max-float-macs", f"{share:g}%")
        commands.insert(0, f"`{more}` is enough on the examples that choose")
    if asked.data is None:
        commands.append("DATA: what calibrated, with the options that say how it is read")
    return commands


def _comparison(result: Quantized) -> str:
    """The command that compares with labels: with the data that was given, which holds some or not, and a decoder."""
    if result.evaluation is not None:
        return (
            f"`{eval_command(result.asked, str(result.output), '--latency')}` compares on all samples, and times both"
        )
    command = eval_command(result.asked, str(result.output), *[f"--decode {name}" for name in result.decoders[:1]])
    others = f"; --decode {' or '.join(result.decoders[1:])} has the same shapes" if result.decoders[1:] else ""
    by = "boxes with labelled ones" if result.decoders else "by labels, where the data has some (`--metric` says how)"
    return f"`{command}` compares {by}{others}"


def _again(result: Quantized, typed: Sequence[str], option: str, value: str) -> str:
    """The same call with another value of an option; without a command line, the one that asks for the same."""
    asked = result.asked
    source = data_text(asked) if asked.calibration is None else calibration_text(asked).strip()
    same = f"quantize {word(asked.model)} {source}{options_text(asked)} -o {word(str(result.output))}"
    return again(typed or shlex.split(same), option, value)


def _left(verdict: Verdict) -> list[str]:
    """What was left in float for the accuracy, what that is of the work, and what each part gained; a line each."""
    count = amount(sum(len(one.nodes) for one in verdict.left), "node")
    ranked = sorted(verdict.left, key=lambda one: -(one.gain_db or 0.0))
    before = "" if verdict.before_db is None else f", outputs {verdict.before_db:.1f} dB before"
    share = f"{percent(verdict.float_macs)} of multiply-accumulates"
    over = beyond_limit(verdict.float_macs, verdict.max_float_macs)
    said = [f"{count} for accuracy, {share}{before}", *filter(None, [over])]
    return [*said, *listed([_region(one) for one in ranked], _NAMED)]


def _region(one: LeftFloat) -> str:
    return _span(one.nodes) + ("" if one.gain_db is None else f" ({one.gain_db:+.1f} dB)")


def _noisy(one: NoisyRegion) -> str:
    share = f"{percent(one.macs_share)} of multiply-accumulates"
    return f"{_span(one.nodes)} ({one.alone_db:.1f} dB with it alone in integers, {share})"


def _span(nodes: Sequence[str]) -> str:
    return nodes[0] + (f" to {nodes[-1]}" if len(nodes) > 1 else "")


def _wider(plan: Plan) -> str:
    """Which convolutions are written with more channels than they have, and why."""
    named = [f"{row.layer} ({row.channels})" for row in plan.wider]
    more = f", and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return (
        f"{amount(len(named), 'convolution computes', 'convolutions compute')} more channels than wanted, which is "
        f"faster in integers: {', '.join(named[:_NAMED])}{more}"
    )


def _refined(result: Quantized) -> str:
    """How many weights hold other integers than the nearest, what the outputs gained, and why others do not."""
    plan = result.plan
    words = f"{plan.refined} of {amount(len(plan.weights), 'weight')} rounded to what their layers compute"
    most = max((trial.samples for trial in result.trials), default=0)
    figures = [
        [t.sqnr_db for t in result.trials if bool(t.refined) == way and t.samples == most and t.sqnr_db is not None]
        for way in (False, True)
    ]
    if all(figures):
        before, after = map(max, figures)
        words += f": outputs {before:.1f} -> {after:.1f} dB on the samples that choose"
    rows = [f"{name} ({why})" for name, why in result.unrefined.items()]
    more = f", and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return words + (f"; not {', '.join(rows[:_NAMED])}{more}" if rows else "")


def _ratio(result: Quantized) -> str:
    return size_ratio(result.float_size / result.size)


def size_ratio(ratio: float) -> str:
    """Return how many times smaller or larger a model is, of which float's size is `ratio` times its own."""
    if ratio >= _ALIKE:
        return f"{ratio:.1f}x smaller" if ratio >= MUCH_SMALLER else f"{ratio:.2f}x smaller"
    return "about as large" if ratio > 1 / _ALIKE else f"{1 / ratio:.1f}x larger"


def _why_large(result: Quantized) -> list[str]:
    """What most of the bytes are, besides what became smaller; a line each."""
    reasons = []
    others = [p for p in result.parts if p.what != FilePart.IN_8_BITS and p.size >= _LARGE_PART * result.size]
    for part in others[:2] or result.parts[:1]:
        largest = f" ({part.largest} the largest)" if part.largest else ""
        reasons.append(f"{percent(part.size / result.size)} of it are {part.what}{largest}")
        reasons += [less_padding(result.plan)] if part.what == FilePart.PADDING else []
    return reasons


def _calibrator(result: Quantized) -> str:
    plan = result.plan
    chosen = f"calibrator {plan.calibrator}" if plan.activations else "no calibrated ranges"
    chosen += " with bias correction" if plan.shifts else ""
    chosen += f", {amount(len(plan.dynamic), 'dynamic weight')}" if plan.dynamic else ""
    chosen += f", {amount(len(plan.recipe.smoothing), 'smoothed tensor')}" if plan.recipe.smoothing else ""
    fixed = (plan.recipe.fixed or {}).items()
    chosen += f", for {' '.join(text_of(*one) for one in fixed)} alone" if fixed else ""
    if result.trials and all(trial.sqnr_db is None for trial in result.trials):
        chosen += f", the first of {amount(len(result.trials), 'candidate')} (no output has an SQNR to compare them by)"
    return chosen


def _tried(result: Quantized) -> list[str]:
    """The candidates that were measured, in a table, the best first; what was chosen has a mark."""
    if not result.trials:
        return []

    def order(trial: Trial) -> tuple[bool, int, float]:
        return trial.sqnr_db is None, -trial.samples, -(trial.sqnr_db or 0.0)

    kinds = [_kind(trial, "") for trial in result.trials]
    table = []
    for trial in sorted(result.trials, key=order):
        words = _kind(trial, "")
        words = _kind(trial, str(trial.calibrator)) if kinds.count(words) > 1 else words
        timed = ABSENT if trial.latency_ms is None else f"{trial.latency_ms:.2f}"
        mark = "chosen" if trial is result.trials[0] else ""
        table.append([words.rstrip(","), decibels(trial.sqnr_db), str(trial.samples), timed, mark])
    header = ["candidate", "SQNR dB", "samples", "ms", ""]
    if all(row[3] == ABSENT for row in table):
        header, table = [*header[:3], header[4]], [[*row[:3], row[4]] for row in table]
    left = result.verdict is not None and bool(result.verdict.left)
    note = ["measured before layers were left in float for accuracy"] if left else []
    return rows("tried", *aligned(header, table, left=(0, len(header) - 1)).splitlines(), *note)


def _kind(trial: Trial, calibrator: str) -> str:
    """What was tried, in words; a dynamic form names `calibrator`, which its static layers have, where there is one."""
    dynamic = f"dynamic {calibrator}".rstrip()
    if trial.rounding:
        return blocks_kind(trial)
    words = {"dynamic": dynamic, "mixed": f"mixed {trial.calibrator}"}.get(trial.form, str(trial.calibrator))
    words += " refined" if trial.refined else " corrected" if trial.bias_correction else ""
    words += " smoothed" if trial.smoothed else ""
    return words + (f", {trial.floats}," if trial.floats else "")

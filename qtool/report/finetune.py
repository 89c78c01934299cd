"""The lines that `finetune` prints: what was written, what was learned, how it went, and how good it is."""

import math
import shlex
from collections.abc import Sequence

from qtool.core.records.finetuning import Finetuned, MetricFigures, TorchAgreement, TrainedBlock
from qtool.core.records.results import Asked
from qtool.core.records.verification import percent
from qtool.core.text import amount, line
from qtool.report.commands import data_text, eval_command, options_text
from qtool.report.proof import float_line
from qtool.report.quantize import size_ratio
from qtool.report.text import decibels, file_size, number
from qtool.report.timing import slower_line, timing_lines
from qtool.report.words import again, rows

_NAMED = 3
_APART_DB = 1.0
"""Gains that differ by more are told apart in words."""
_GRID = ("scheme", "granularity", "target", "include_op", "exclude_op", "exclude")
"""Options that `tune` has too."""


def finetuned_text(result: Finetuned, typed: Sequence[str] = ()) -> str:
    """Return the verdict, a line for each thing that it rests on, and the next command.

    typed: the words of the command line, for the next one.
    """
    proof = result.verification
    lines = [
        verdict_line(result),
        f"  integer     {percent(proof.integer_share)} of multiply-accumulates",
        *([float_line(proof)] if proof.float_layers else []),
        *([f"  metric      {_metric(result.metric)}"] if result.metric is not None else []),
        f"  learned     {_learned(result)}",
        *([f"  blocks      {_blocks(result.blocks)}"] if result.blocks else []),
        f"  training    {_training(result)}",
        f"  gain        {_gain(result)}",
        *([f"  gap         {_gap(result)}"] if _gap(result) else []),
        f"  data        {result.split}",
        f"  agreement   {_agreement(result.agreement)}",
    ]
    if result.plan.dynamic:
        lines.append(
            f"  dynamic     {amount(len(result.plan.dynamic), 'weight')} of dynamic layers not trained, since each run "
            "finds their ranges; `--static` begins without such layers"
        )
    if result.untrained:
        lines.append(f"  not trained {_untrained(result)}")
    if result.float_path is not None:
        trained = "what was trained" if result.kept else "the weights and biases that training began with"
        lines.append(f"  float       {result.float_path}: the float model with {trained}")
    shrunk = size_ratio(result.float_size / result.size)
    lines += timing_lines(result.timing, shrunk, _fast(result), proof.integer_share)
    lines += rows("next", *_next(result, typed))
    return "\n".join(map(line, lines))


def verdict_line(result: Finetuned) -> str:
    """Return the verdict as a line by itself: how much better the outputs are, or that nothing was gained."""
    size = f"{file_size(result.size)}, was {file_size(result.float_size)}"
    before, after = (_decibels(db) for db in (result.before_db, result.after_db))
    metric = result.metric
    if not result.kept:
        scored = "" if metric is None else f"{metric.name} {number(metric.before)} (float {number(metric.reference)}), "
        return line(
            f"{result.output}: {size}; NOTHING GAINED: no state was better on the samples that choose, by more than "
            f"their noise, and no worse on those that report, so it is the model that training began with: {scored}"
            f"outputs {before} dB SQNR on those"
        )
    scored = ""
    if metric is not None:
        scored = f"{metric.name} {number(metric.before)} -> {number(metric.after)} (float {number(metric.reference)}), "
    return line(f"{result.output}: {size}; {scored}outputs {before} -> {after} dB SQNR on the samples that report")


def bad_lines(result: Finetuned, typed: Sequence[str] = ()) -> list[str]:
    """Return a line for what is bad, where nothing else is printed: nothing gained, slower than float; with what to do.

    typed: the words of the command line, for the next one.
    """
    lines = [] if result.kept else [f"{verdict_line(result)}; next: {'; '.join(_next(result, typed))}"]
    slower = slower_line(result.timing, size_ratio(result.float_size / result.size), _fast(result))
    return list(map(line, [*lines, f"{result.output}: {slower}"] if slower else lines))


def _next(result: Finetuned, typed: Sequence[str]) -> list[str]:
    """The commands that come next, with what they do; a line each."""
    asked = result.asked
    model, shared = shlex.quote(asked.model), options_text(asked, only=("eval_data", "metric", "decode", *_GRID))
    if result.kept:
        known = options_text(asked, only=("metric", "decode"))
        command = eval_command(asked, str(result.output), *([] if known else ["--metric METRIC"]), "--latency")
        return [f"`{command}` compares by your own metric"]
    if "learning_rate" in dict(asked.options):
        advice = f"`{again(_typed(asked, typed), without='--learning-rate')}` takes the steps that are usual"
    else:
        advice = f"`{again(_typed(asked, typed), '--learning-rate', '0.3')}` takes smaller steps"
    more = ["with more `--data`"] if result.warnings else []
    return [
        *more, advice, f"`qtool tune {model} {data_text(asked)}{shared}` tries more",
        "the model of `qtool quantize` is as good",
    ]  # fmt: skip


def _typed(asked: Asked, typed: Sequence[str]) -> Sequence[str]:
    """The words of the command line; where there is none, those that ask for the same."""
    same = f"finetune {shlex.quote(asked.model)}"
    same += "" if asked.calibration is None else f" --calibration {shlex.quote(asked.calibration)}"
    return typed or shlex.split(f"{same} {data_text(asked)}{options_text(asked)}")


def _fast(result: Finetuned) -> str:
    """The command that makes a plan to begin with by this machine's clock."""
    asked = result.asked
    source = data_text(asked) if asked.calibration is None else f"--calibration {shlex.quote(asked.calibration)}"
    grid = options_text(asked, only=_GRID)
    plan = shlex.quote(str(result.output.with_suffix(".plan.json")))
    return f"qtool quantize {shlex.quote(asked.model)} {source}{grid} --optimize-for latency --save-plan {plan}"


def _blocks(blocks: Sequence[TrainedBlock]) -> str:
    kept = [block for block in blocks if block.kept]
    spilled = max(block.spilled for block in blocks)
    held = f"; up to {file_size(spilled)} of activations a block were read from a file" if spilled else ""
    last = kept[-1].held_out_db[1] if kept else blocks[0].held_out_db[0]
    return (
        f"{len(kept)} of {amount(len(blocks), 'block')} kept what each was trained to by itself, since the whole model "
        f"had more of it on the samples that choose: {_decibels(blocks[0].held_out_db[0])} -> {_decibels(last)} dB"
        f"{held}"
    )


def _metric(found: MetricFigures) -> str:
    chosen = " -> ".join(map(number, found.chosen))
    return (
        f"{found.name} chose and reports: {number(found.before)} -> {number(found.after)} on the samples that report "
        f"(float {number(found.reference)}), {chosen} on those that choose; what is equal by it, SQNR decides"
    )


def _gain(result: Finetuned) -> str:
    """How it was decided whether what was trained is better, in words."""
    found = result.gain
    if found is None:
        return (
            "not measured sample by sample, since fewer than 2 of those that choose have a figure of their own; all of "
            "them together decided"
        )
    unit = " dB" if found.by == "SQNR" else f" of {found.by}"
    figures = f"{found.mean:+.3g}{unit} a sample, standard error {found.error:.2g}, of {found.samples} that choose"
    if found.mean == found.error == 0.0:
        return f"{figures}: no state was better than the model to begin with"
    if found.sure:
        return f"{figures}: more than twice that, so it is no chance"
    return f"{figures}: NOT more than twice that, which may be chance, so it was not written"


def _gap(result: Finetuned) -> str | None:
    """What the samples that choose gained beside those that report, where they say other things."""
    first, last = result.chosen_db
    if first is None or last is None or not all(map(math.isfinite, (first, last, result.before_db, result.after_db))):
        return None
    chosen = last - first
    if result.refused_db is not None:
        return (
            f"what was trained has {_decibels(result.refused_db)} dB on the samples that report, {chosen:+.1f} dB on "
            "those that choose: they say different things, so that it was not written"
        )
    reported = result.after_db - result.before_db
    if not result.kept or abs(chosen - reported) < _APART_DB:
        return None
    why = "are of another difficulty"
    if chosen > reported:
        why = "chose the best state, which flatters them"
    return (
        f"{chosen:+.1f} dB on the samples that choose, {reported:+.1f} dB on those that report: the former {why}, and "
        "new data gains what the latter do"
    )


def _learned(result: Finetuned) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in result.learned.items())


def _training(result: Finetuned) -> str:
    rounds = result.rounds
    best = max(rounds, key=lambda one: one.held_out_db)
    resumed = ", resumed" if result.resumed else ""
    return (
        f"{amount(result.steps, 'step')} in {result.seconds:.0f} s{resumed}; on the samples that choose "
        f"{' -> '.join(map(decibels, result.chosen_db))} dB, the best at step {best.step}"
    )


def _agreement(found: TorchAgreement) -> str:
    if found.db is None:
        return "torch and onnxruntime give the same outputs before training"
    where = f"{100 * found.differing:.3g} % of the outputs differ"
    most = amount(found.layers_steps, "step")
    return (
        f"torch and onnxruntime {found.db:.1f} dB before training ({where}); passed: layer by layer "
        f"{100 * found.layers_differing:.3g} % of the 8-bit numbers differ, by {most} at most"
    )


def _untrained(result: Finetuned) -> str:
    by_reason: dict[str, list[str]] = {}
    for layer, why in result.untrained.items():
        by_reason.setdefault(why, []).append(layer)
    shown = []
    for why, layers in by_reason.items():
        more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
        shown.append(f"{', '.join(layers[:_NAMED])}{more}: {why}")
    return "; ".join(shown)


def _decibels(value: float) -> str:
    return decibels(None if math.isnan(value) else value)

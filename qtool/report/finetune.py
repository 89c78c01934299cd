"""The lines that `finetune` prints: what was written, what was learned, how it went, and how good it is."""

import math

from qtool.core.records.finetuning import Finetuned, TorchAgreement
from qtool.core.records.verification import percent
from qtool.core.text import amount, line
from qtool.report.quantize import float_line
from qtool.report.text import decibels, file_size

_NAMED = 3


def finetuned_text(result: Finetuned) -> str:
    """Return the verdict, and a line for each thing that it rests on."""
    proof = result.verification
    lines = [
        verdict_line(result),
        f"  integer     {percent(proof.integer_share)} of multiply-accumulates",
        *([float_line(proof)] if proof.float_layers else []),
        f"  learned     {_learned(result)}",
        f"  training    {_training(result)}",
        f"  data        {result.split}",
        f"  agreement   {_agreement(result.agreement)}",
    ]
    if result.untrained:
        lines.append(f"  not trained {_untrained(result)}")
    if result.float_path is not None:
        trained = "what was trained" if result.kept else "the weights and biases that training began with"
        lines.append(f"  float       {result.float_path}: the float model with {trained}")
    return "\n".join(map(line, lines))


def verdict_line(result: Finetuned) -> str:
    """Return the verdict as a line by itself: how much better the outputs are, or that nothing was gained."""
    size = f"{file_size(result.size)}, was {file_size(result.float_size)}"
    before, after = (_decibels(db) for db in (result.before_db, result.after_db))
    if not result.kept:
        return line(
            f"{result.output}: {size}; NOTHING GAINED: no state was better both on the samples that choose and on "
            f"those that report, so it is the model that training began with: outputs {before} dB SQNR on "
            f"those; next: {_next(result)}"
        )
    words = f"{result.output}: {size}; outputs {before} -> {after} dB SQNR on the samples that report"
    return line(words)


def _next(result: Finetuned) -> str:
    more = "" if result.warnings else ", or give more `--data`"
    return f"try `--learning-rate 0.3`{more}; the model of `qtool quantize` is as good, and `qtool tune` tries more"


def _learned(result: Finetuned) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in result.learned.items())


def _training(result: Finetuned) -> str:
    rounds = result.rounds
    best = max(rounds, key=lambda one: one.held_out_db)
    resumed = ", resumed" if result.resumed else ""
    return (
        f"{amount(result.steps, 'step')} in {result.seconds:.0f} s{resumed}; on the samples that choose "
        f"{decibels(rounds[0].held_out_db)} -> {decibels(best.held_out_db)} dB as torch computes, at step "
        f"{best.step}; as onnxruntime does, {' -> '.join(map(decibels, result.chosen_db))} dB"
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

"""The lines of `quantize` about weights in blocks."""

import math

from qtool.core.records.plan import Plan
from qtool.core.records.results import Trial
from qtool.core.records.verification import Verification
from qtool.core.text import amount

_NAMED = 3
_MOST_BITS = 8
_LEAST = 16
_ROUNDINGS = {"nearest": "nearest", "scales": "searched scales", "gptq": "GPTQ"}


def blocks_rows(plan: Plan, proof: Verification) -> list[str]:
    """Return how many weights are in blocks of how many bits, which have more than others, and how that is written.

    And which layers that run in integers read their weight by channel instead, and why; those in float say so.
    """
    bits = [row.bits for row in plan.blocks]
    counts = [f"{bits.count(n)} in {n} bits" for n in sorted(set(bits))]
    grid = "with zero points" if any(row.zero_point for row in plan.blocks) else "symmetric"
    written = "DequantizeLinear" if plan.blocks[0].written == "qdq" else "operators of onnxruntime's"
    size = f"{plan.blocks[0].block} numbers a scale"
    words = [f"{amount(len(bits), 'weight')}: {', '.join(counts)}; {size}, {grid}, as {written}"]
    if len(set(bits)) > 1:
        wide = [row.tensor for row in plan.blocks if row.bits == max(bits)]
        more = f", and {len(wide) - _NAMED} more" if len(wide) > _NAMED else ""
        words.append(f"in {max(bits)} bits for the accuracy: {', '.join(wide[:_NAMED])}{more}")
    others = [f"{n} ({why})" for n, why in plan.skipped.items() if n in plan.layers and n not in proof.float_layers]
    if others:
        more = f", and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        words.append(f"not in blocks: {', '.join(others[:_NAMED])}{more}")
    return words


def exactness(db: float) -> str:
    """Return how near layers are to their definition, of their SQNR in dB."""
    return "equal" if db == math.inf else f"agree to {db:.1f} dB SQNR with"


def blocks_kind(trial: Trial) -> str:
    """Return what was tried, in words."""
    return _ROUNDINGS[trial.rounding] + (f", {trial.wide} in 8 bits" if trial.wide else "")


def blocks_next(plan: Plan, command: str) -> list[str]:
    """Return what to do where a plan is not accurate; `command`: the one that quantises with the same data."""
    finer = "--weights int8" if any(row.bits < _MOST_BITS for row in plan.blocks) else "--block 16"
    return [
        f"`{command} {finer}` takes more bytes",
        f"`{command}` computes in integers where that is accurate",
    ]


def less_padding(plan: Plan) -> str:
    """Return what takes fewer bytes where much of a file is what fills blocks up."""
    return f"{'a smaller --block' if plan.blocks[0].block > _LEAST else '--weight-only'} takes fewer bytes"

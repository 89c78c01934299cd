"""The verdict on a quantised model in one line, and the step that comes next."""

import re
from collections import Counter
from collections.abc import Sequence

from qtool.anatomy.executed import Executed
from qtool.core.records.inspection import (
    BESIDE_FLOAT,
    FOR_LATENCY,
    OUTPUT_SQNR,
    REQUANTISE,
    TIME_IT,
    Finding,
    InspectedLayer,
    Speed,
)
from qtool.core.text import amount
from qtool.inspection.islands import Island

_ALIKE = 1.03
_MUCH = 0.1
_DEAR = ("slow-pool", "signed-kernel", "conv-integer", "one-channel", "slower-in-integers")
"""What costs time in integers."""
_ONLY_SLOW = ("slower-in-integers", "dynamic")
"""What is to be mended only where the model is no faster than float."""
_BY_CLOCK = ("slow-pool", "one-channel", "slower-in-integers", "seams", "dropped-pairs", "layout", "float-tail")
"""What may cost next to nothing: of a model that was not timed it is no reason to mend it."""
_FIRST = ("does-not-run", "wrong-result", "bad-scale", "accuracy", "no-integers")
"""What is to be mended before anything is made faster."""


def verdict_of(
    layers: Sequence[InspectedLayer],
    islands: Sequence[Island],
    executed: Executed,
    speed: Speed | None,
    findings: Sequence[Finding],
    output_db: float | None,
) -> str:
    """Return the verdict: the share in integers, the speed beside float, and the time in float islands."""
    integer = [layer for layer in layers if layer.integer]
    words = f"{len(integer)} of {amount(len(layers), 'layer')}"
    known = [layer for layer in layers if layer.macs is not None]
    whole = sum(layer.macs or 0 for layer in known)
    if whole and len(known) == len(layers):
        words += f", {100 * sum(layer.macs or 0 for layer in integer) / whole:.0f} % of multiply-accumulates"
    parts = [f"{words} in integers" if layers else "nothing in it multiplies and accumulates", *_narrow(layers)]
    if speed is not None and speed.speedup is not None:
        ratio = f"{speed.speedup:.2g}x {BESIDE_FLOAT}" if speed.speedup < 10 else f"{speed.speedup:.0f}x {BESIDE_FLOAT}"
        slower = ": SLOWER than float" if speed.speedup < 1 / _ALIKE else ""
        parts.append(f"{ratio}{slower}" if not speed.noisy else f"speed beside float too noisy to say (about {ratio})")
    if output_db is not None:
        low = any(one.rule == "accuracy" for one in findings)
        trained = any(one.rule == "trained" for one in findings)
        said = ": it COSTS ACCURACY" if low else " from float's, which it was trained on from" if trained else ""
        parts.append(f"{OUTPUT_SQNR} {output_db:.1f} dB{said}")
    total = executed.total
    if islands:
        share = ""
        if total:
            taken = executed.time([n for island in islands for n in (*island.nodes, *island.seams)]) or 0.0
            share = f"{100 * taken / total:.0f} % of the time in "
        parts.append(f"{share}{amount(len(islands), 'float island')}")
    dear = next((one for one in findings if one.rule in _DEAR and (one.ms_share or 0.0) >= _MUCH), None)
    if dear is not None:
        parts.append(f"{100 * (dear.ms_share or 0.0):.0f} % in {dear.what}")
    refused = next((one for one in findings if one.rule == "does-not-run"), None)
    if refused is not None:
        parts.insert(0, f"DOES NOT RUN: onnxruntime loads it, and fails: {refused.cause}".replace("; ", ", "))
    if any(one.rule == "bad-scale" for one in findings):
        parts.insert(0, "WRONG: a scale is 0, negative or not finite")
    if any(one.rule == "wrong-result" for one in findings):
        parts.insert(0, "WRONG: onnxruntime computes something else than the file says")
    return "; ".join(parts)


def _narrow(layers: Sequence[InspectedLayer]) -> list[str]:
    """How many layers have weights of other than 8 bits, in words."""
    bits = Counter(
        int(found[0])
        for layer in layers
        if layer.weight is not None and (found := re.findall(r"^u?int(\d+)$", layer.weight.dtype)) and found[0] != "8"
    )
    return [f"weights of {number} bits in {amount(count, 'layer')}" for number, count in sorted(bits.items())]


def next_step(findings: Sequence[Finding], speed: Speed | None, *, own: bool) -> str:
    """Return the step that comes next: the remedy of what costs most; "" where nothing is to be done.

    own: whether qtool made the model, so that quantising it anew would give the same.
    """
    slow = speed is not None and speed.speedup is not None and speed.speedup < _ALIKE
    if speed is None:
        findings = [one for one in findings if one.rule not in _BY_CLOCK]
    findings = [one for one in findings if one.remedy and (slow or one.rule not in _ONLY_SLOW)]
    wrong = next((one for one in findings if one.rule in _FIRST), None)
    dear = next((one for one in findings if one.ms_share is None or one.ms_share >= _MUCH or slow), None)
    found = wrong or dear
    if found is not None and found.remedy:
        return found.remedy
    if slow and own:
        return f"{FOR_LATENCY}, or keep the float model where speed is what counts"
    if slow:
        return f"{REQUANTISE} and compare, or keep the float model where speed is what counts"
    return "" if speed is not None else TIME_IT

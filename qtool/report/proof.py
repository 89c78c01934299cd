"""The lines of a proof: what runs in integers, that it computes what was planned, and how accurate it is."""

import math

from qtool.core.records.verification import Verification, percent
from qtool.core.text import amount
from qtool.report.blocks import exactness
from qtool.report.text import by_output

_NAMED = 3


def integer_line(proof: Verification) -> str:
    """Return the line of the layers that run in integers, and of their kernels."""
    layers = f"{proof.integer_layers} of {amount(proof.layers, 'layer')}"
    if not proof.census:
        return f"  integer     {layers} have Q/DQ; this machine cannot run them"
    kernels = ", ".join(f"{proof.kernels[op]} {op}" for op in proof.integer_kernels) or "none"
    return (
        f"  integer     {layers}, {percent(proof.integer_share)} of multiply-accumulates{_uncounted(proof)}, run in "
        f"integer kernels: {kernels}"
    )


def _uncounted(proof: Verification) -> str:
    if not proof.uncounted or proof.unchecked or proof.integer_share is not None:
        return ""
    more = f" and {len(proof.uncounted) - 1} more" if len(proof.uncounted) > 1 else ""
    return f" (those of {proof.uncounted[0]}{more} depend on more than shapes)"


def float_line(proof: Verification) -> str:
    """Return the line of the layers that are float, and why."""
    rows = [f"{name} ({why})" for name, why in proof.float_layers.items()]
    rows += [f"{name} (planned as integer, this onnxruntime runs it in float)" for name in proof.fallbacks]
    if not rows:
        return "  float       no layer"
    more = f", and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"  float       {', '.join(rows[:_NAMED])}{more}"


def arithmetic_line(proof: Verification) -> str:
    """Return the line of what the file computes beside what was planned."""
    said = "  arithmetic  without Q/DQ the float graph comes back; "
    if proof.unchecked:
        return f"{said}not checked in a run: {proof.unchecked}{'; give data' if proof.data_helps else ''}"
    if proof.blocks_sqnr_db is not None:
        return f"{said}layers in blocks by themselves {exactness(proof.blocks_sqnr_db)} their definition"
    if proof.steps is None:
        agree = (
            "are equal" if proof.optimized_sqnr_db == math.inf else f"agree to {proof.optimized_sqnr_db:.1f} dB SQNR"
        )
        return f"{said}no tensor in 8 bits: optimised and unoptimised outputs {agree}"
    tensors = amount(len(proof.tensors), "tensor") if proof.tensors else "the dynamic tensors"
    idle = (
        f"; not checked in {', '.join(proof.idle_bodies[:_NAMED])}, which no sample runs" if proof.idle_bodies else ""
    )
    return f"{said}{tensors}: optimised and unoptimised layers differ by {amount(proof.steps, 'step')} at most{idle}"


def accuracy_rows(proof: Verification) -> list[str]:
    """Return how far the outputs lie from float's, and on what that was measured; a row each."""
    if not proof.examples:
        return ["not measured: no data was given, and made-up inputs say nothing of it; use `qtool eval`"]
    samples = amount(proof.examples, "calibration sample")
    if not proof.held_out:
        samples += " that also chose: calibrate with more to know what new data gives"
    parts = [f"{_outputs(proof)} SQNR against float on {samples}"]
    if proof.uneven is not None:
        one = proof.uneven
        which = "one of these" if one.arrays == proof.examples else "one batch of these"
        middle = "no noise" if one.median_db is None else f"{one.median_db:.1f} dB"
        parts.append(
            f"{which} makes {percent(one.share)} of the noise: {one.others_db:.1f} dB on the others, "
            f"{middle} in the median"
        )
    measured = [tensor for tensor in proof.tensors if tensor.sqnr_db is not None]
    if measured:
        worst = min(measured, key=lambda tensor: tensor.sqnr_db or 0.0)
        maker = f" of node {worst.node}" if worst.node not in ("", worst.tensor) else ""
        parts.append(f"worst tensor {worst.tensor}{maker}: {worst.sqnr_db:.1f} dB")
    parts += [
        f"{amount(count, 'entry', 'entries')} of output {name!r} NaN or Inf unlike float's"
        for name, count in proof.unlike.items()
    ]
    parts += [
        f"{100 * share:.4g} % of {name!r} equal float's, not measured in dB (places or classes)"
        for name, share in proof.agreement_by_output.items()
    ]
    by_output = proof.sqnr_db_by_output
    unmeasured = [repr(name) for name, db in by_output.items() if db is None and name not in proof.agreement_by_output]
    if unmeasured:
        parts.append(
            f"not measured: {', '.join(unmeasured[:_NAMED])} (no finite number, or another shape than float's)"
        )
    return parts


def _before(proof: Verification, name: str, db: float) -> str:
    end = "what chooses" if name in proof.agreement_by_output else "the saturated end of"
    return f"{db:.1f} dB in front of {end} {name!r}"


def _outputs(proof: Verification) -> str:
    """The worst output's figure, and each output's where they are not all the same."""
    before = [_before(proof, name, db) for name, db in proof.sqnr_db_before.items()]
    also = f" ({', '.join(before[:_NAMED])})" if before else ""
    if math.isnan(proof.output_sqnr_db) and not proof.unlike:
        return f"{', '.join(before[:_NAMED])}," if before else "outputs without"
    return f"outputs {proof.output_sqnr_db:.1f} dB{by_output(proof.sqnr_db_by_output)}{also}"

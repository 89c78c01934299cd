"""verify: what onnxruntime will really run, and whether it computes the same. The promise that no peer makes."""

import math

from qtool.core.concurrency import both, side_by_side
from qtool.core.errors import VerificationError, arg
from qtool.core.numerics.sqnr import worst
from qtool.core.records.plan import Plan
from qtool.core.records.verification import Verification
from qtool.graph.edit import Model
from qtool.graph.serialized import Serialized, deserialize
from qtool.pipeline.verify.macs import layer_macs
from qtool.pipeline.verify.measure import by_name, measure, worst_of
from qtool.pipeline.verify.original import Original
from qtool.pipeline.verify.structure import check_structure
from qtool.runtime.census import Census, take_census
from qtool.targets.kernels import COMPUTING
from qtool.targets.rules import Target


def verify(
    original: Original, prepared: Model, shifted: Model, quantized: Serialized, plan: Plan, target: Target
) -> Verification:
    """Check a quantised model against its plan, the float graph and the original, and return what was found.

    They are compared on the original's examples. `shifted` is the prepared graph with the plan's bias shifts: what the
    quantised one is without its Q/DQ.

    Raises:
        VerificationError: the model would compute something else than planned; the message says which and where.
    """
    try:
        return _verified(original, prepared, shifted, quantized, plan, target)
    except VerificationError as error:
        raise VerificationError(f"{original.source}: {error.marked}") from error


def _verified(
    original: Original, prepared: Model, shifted: Model, quantized: Serialized, plan: Plan, target: Target
) -> Verification:
    examples = original.examples
    (session, census), _ = both(
        lambda: take_census(quantized, target.session), lambda: check_structure(shifted, deserialize(quantized))
    )
    _check_census(plan, census, target)
    shipped = list(side_by_side(session.run, examples))
    # its memory is needed
    del session
    measured = measure(original, prepared, quantized, plan, shipped, target.session)
    measured.check()
    macs = layer_macs(prepared, plan.layers, examples[0]) if examples else {}
    integer = {n for n in plan.layers if n in plan.integer and (target.on_cpu or not plan.integer[n])}
    output = worst(by_name(measured.shipped).values())
    return Verification(
        kernels=census.kernels,
        integer_kernels=tuple(op for op in census.kernels if op in COMPUTING),
        layers=len(plan.layers),
        integer_layers=len(integer),
        macs=sum(macs.values()),
        integer_macs=sum(n for layer, n in macs.items() if layer in integer),
        fallbacks=_fallbacks(plan, census, prepared) if target.on_cpu else (),
        float_layers={n: plan.skipped.get(n, "not planned") for n in plan.layers if n not in integer},
        preparation_sqnr_db=worst_of(measured.preparation),
        widening_sqnr_db=worst_of(measured.widening),
        steps=max((steps.largest for steps in measured.steps.values()), default=0),
        optimized_sqnr_db=worst_of(measured.whole),
        output_sqnr_db=math.nan if output is None else output,
        sqnr_db_by_output=by_name(measured.shipped),
        unlike={name: noise.unlike for name, noise in measured.shipped.items() if noise.unlike},
        examples=sum(next((len(array) for array in e.values() if array.ndim), 1) for e in examples),
        census=target.on_cpu,
        tensors=measured.tensors,
    )


def _check_census(plan: Plan, census: Census, target: Target) -> None:
    """Weighted layers run as planned, both ways: integer where planned, float where planned."""
    if not target.on_cpu:
        return
    for layer in plan.layers:
        kernels = plan.integer.get(layer)
        if kernels is not None and not census.runs_as(layer, kernels):
            raise VerificationError(
                f"layer {layer!r} was planned to run as {' or '.join(kernels)}, but this onnxruntime runs it in float; "
                f"leave it float with {arg('exclude', layer)}"
            )
        if kernels is None and census.runs_as(layer, target.rules_kernels):
            raise VerificationError(
                f"layer {layer!r} was planned to stay float, but this onnxruntime re-quantises it; please report this"
            )


def _fallbacks(plan: Plan, census: Census, prepared: Model) -> tuple[str, ...]:
    """Nodes without weights that were planned as integers and run in float.

    A pass-through keeps its operator, and may be merged away: it counts where it stands behind a DequantizeLinear.
    """
    makers = {output: n.op_type for n in census.nodes for output in n.outputs}
    result = []
    for node in prepared.graph:
        kernels = plan.integer.get(node.name or "")
        if kernels is None or node.name in plan.layers:
            continue
        if node.op_type not in kernels:
            if not census.runs_as(node.name or "", kernels):
                result.append(node.name or "")
        elif any(n.name == node.name and makers.get(n.inputs[0]) == "DequantizeLinear" for n in census.nodes):
            result.append(node.name or "")
    return tuple(result)

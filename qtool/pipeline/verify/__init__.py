"""verify: what onnxruntime will really run, and whether it computes the same. The promise that no peer makes."""

import math
from functools import cache

from qtool.core.concurrency import both, side_by_side
from qtool.core.errors import LayerError, VerificationError
from qtool.core.numerics.sqnr import worst
from qtool.core.records.plan import Plan
from qtool.core.records.verification import Verification
from qtool.core.tensorspec import samples_in
from qtool.graph.bodies import beside
from qtool.graph.edit import Model
from qtool.graph.serialized import Serialized, deserialize
from qtool.pipeline.verify.blocks import check_blocks
from qtool.pipeline.verify.census import in_blocks, run_otherwise
from qtool.pipeline.verify.locate import first_difference
from qtool.pipeline.verify.macs import count_macs, known_total, macs_of
from qtool.pipeline.verify.measure import Measured, measure, worst_of
from qtool.pipeline.verify.measure_bodies import measure_bodies
from qtool.pipeline.verify.original import Original
from qtool.pipeline.verify.structure import check_structure
from qtool.runtime.census import Census, take_census
from qtool.runtime.session import kept
from qtool.targets.kernels import BLOCK_WISE, COMPUTING
from qtool.targets.rules import Target


def verify(
    original: Original, prepared: Model, shifted: Model, quantized: Serialized, plan: Plan, target: Target
) -> Verification:
    """Check a quantised model against its plan, the float graph and the original, and return what was found.

    They are compared on the original's examples. `shifted` is the prepared graph with the plan's bias shifts: what the
    quantised one is without its Q/DQ.

    Raises:
        LayerError: some layers would compute something else than planned, which may be left in float.
        VerificationError: the model would compute something else than planned; the message says which and where.
    """
    try:
        return _verified(original, prepared, shifted, quantized, plan, target)
    except LayerError as error:
        raise LayerError(f"{original.source}: {error.marked}", error.layers) from error
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
    shipped = [kept(outputs) for outputs in side_by_side(session.run, examples)]
    # its memory is needed
    del session
    measured = measure(original, prepared, quantized, plan, shipped, target.session)
    idle = measure_bodies(original, prepared, quantized, plan, target.session, measured)
    rounding = cache(lambda: original.rounding_db(prepared))
    try:
        measured.check_preparation(rounding)
    except VerificationError as error:
        where = first_difference(original, prepared)
        raise VerificationError(f"{error.marked}" + (f"; it begins at node {where}" if where else "")) from error
    measured.check(prepared, plan, rounding)
    by_definition = check_blocks(prepared, quantized, plan, original.checked, target.session)
    found_in_blocks = in_blocks(census, target)
    computing = COMPUTING | (BLOCK_WISE if plan.blocks else {node.op_type for node in found_in_blocks})
    macs = count_macs(prepared, examples) if examples else macs_of(prepared, {})
    uncounted = tuple(layer for layer, number in macs.items() if number is None)
    # a weight stored in 8 bits by channel may be multiplied in blocks too
    integer = {n for n in plan.layers if n in plan.integer and (target.on_cpu or not plan.integer[n])}
    integer |= {node.name for node in found_in_blocks}.intersection(plan.layers)
    layers = tuple(dict.fromkeys([*plan.layers, *macs]))
    by_output = {} if measured.shipped is None else measured.shipped.by_output()
    output = worst(by_output.values())
    return Verification(
        kernels=census.kernels,
        integer_kernels=tuple(op for op in census.kernels if op in computing),
        layers=len(layers),
        integer_layers=len(integer),
        macs=None if uncounted else known_total(macs),
        integer_macs=known_total({layer: n for layer, n in macs.items() if layer in integer}),
        uncounted=uncounted,
        fallbacks=_fallbacks(plan, census, prepared) if target.on_cpu else (),
        float_layers={n: why for n, why in _reasons(prepared, plan, layers).items() if n not in integer},
        preparation_sqnr_db=worst_of(measured.preparation) if examples else math.nan,
        widening_sqnr_db=worst_of(measured.widening),
        steps=max((steps.largest for steps in measured.steps.values()), default=None),
        optimized_sqnr_db=worst_of(measured.whole) if measured.whole else math.nan,
        output_sqnr_db=math.nan if output is None else output,
        sqnr_db_by_output=by_output,
        sqnr_db_before={} if measured.shipped is None else measured.shipped.before(),
        agreement_by_output={} if measured.shipped is None else measured.shipped.agreement(),
        unlike={} if measured.shipped is None else measured.shipped.unlike(),
        uneven=None if measured.shipped is None else measured.shipped.uneven(),
        examples=sum(samples_in(example.values()) for example in examples),
        unchecked=_unchecked(original, measured),
        idle_bodies=idle,
        trainable=any(node.name in integer for node in beside(prepared.graph)),
        census=target.on_cpu,
        blocks_sqnr_db=min(by_definition.values(), default=None),
        tensors=measured.tensors(
            {output.name: str(node.name) for node in prepared.graph.all_nodes() for output in node.outputs}
        ),
    )


def _unchecked(original: Original, measured: Measured) -> str:
    """Why the arithmetic was not compared; "" where it was."""
    if not original.examples:
        return original.absent
    return "" if measured.steps or measured.whole else "it has no 8-bit tensor, and no output is real"


def _reasons(prepared: Model, plan: Plan, layers: tuple[str, ...]) -> dict[str, str]:
    """Why each layer is float, if it is."""
    operators = {node.name: node.op_type for node in prepared.graph.all_nodes()}
    unknown = {n: "not planned" if n in plan.layers else f"no integer form of {operators[n]}" for n in layers}
    return {n: plan.skipped.get(n, why) for n, why in unknown.items()}


def _check_census(plan: Plan, census: Census, target: Target) -> None:
    """Weighted layers run as planned, both ways: integer where planned, float where planned."""
    odd = run_otherwise(plan, census, target)
    for layer, what in odd.items():
        planned = " or ".join(plan.integer[layer]) if layer in plan.integer else "float"
        message = f"layer {layer!r} was planned to run as {planned}, but {what}; please report this model"
        raise LayerError(message, odd)


def _fallbacks(plan: Plan, census: Census, prepared: Model) -> tuple[str, ...]:
    """Nodes without weights that were planned as integers and run in float.

    A pass-through keeps its operator, and may be merged away: it counts where it stands behind a DequantizeLinear.
    """
    makers = {output: n.op_type for n in census.nodes for output in n.outputs}
    result = []
    for node in prepared.graph.all_nodes():
        kernels = plan.integer.get(node.name or "")
        if kernels is None or node.name in plan.layers:
            continue
        if node.op_type not in kernels:
            if not census.runs_as(node.name or "", kernels):
                result.append(node.name or "")
        elif any(n.name == node.name and makers.get(n.inputs[0]) == "DequantizeLinear" for n in census.nodes):
            result.append(node.name or "")
    return tuple(result)

"""Runs the bodies of If, Loop and Scan of the float and the quantised graph, and adds up their differences."""

from collections.abc import Mapping

from qtool.core.numerics.affine import dequantize
from qtool.core.numerics.sqnr import SignalToNoise, measured_outputs
from qtool.core.records.plan import Plan
from qtool.graph import compose
from qtool.graph.bodies import parts, tell_types
from qtool.graph.edit import Model
from qtool.graph.serialized import Serialized, deserialize
from qtool.pipeline.verify.measure import ENOUGH, EXACT_INPUTS, LayerSteps, Measured
from qtool.pipeline.verify.original import Original
from qtool.pipeline.verify.paired import BodyPair, paired_bodies
from qtool.pipeline.verify.undo import in_real_numbers
from qtool.runtime.bodies import BodyRun, BodyRuns
from qtool.runtime.session import Session

# Runs of a body, after which it is not run layer by layer any more.
_RUNS = 256


def measure_bodies(
    original: Original,
    prepared: Model,
    quantized: Serialized,
    plan: Plan,
    config: Mapping[str, str],
    result: Measured,
) -> tuple[str, ...]:
    """Compare the bodies of If, Loop and Scan in the same way, add to `result`, and return those that never ran.

    Each run of a body is compared, of the quantised model's own iterations, until there are enough numbers.
    """
    model = deserialize(quantized)
    tell_types(prepared, model)
    if plan.blocks:
        # `check_blocks` compares these
        in_real_numbers(prepared, model, plan.blocks)
    pairs = {pair.name: pair for pair in paired_bodies(prepared, model)}
    planned = [
        part.body.name for part in parts(prepared) if any(node.name in plan.integer for node in part.model.graph)
    ]
    lost = tuple(name for name in planned if name not in pairs)
    in_blocks = {name for row in plan.blocks for name, _ in row.readers}
    bodies = {
        pair.name: _Body(pair, plan, config)
        for pair in pairs.values()
        if pair.quantizes or any(node.name in in_blocks for node in pair.prepared.graph)
    }
    if not bodies:
        return lost
    exact = BodyRuns(prepared, {name: body.tensors for name, body in bodies.items()}, name="the prepared model")
    ran = BodyRuns(model, {name: body.stored for name, body in bodies.items()}, config=config)
    for example in original.checked:
        for one, other in zip(exact.run(example), ran.run(example), strict=False):
            if one.body != other.body:
                # a step has decided which branch is taken, or how often
                break
            bodies[one.body].compare(one, other, result)
    return (*lost, *(name for name, body in bodies.items() if not body.runs))


class _Body:
    """A body of the quantised model: unoptimised, and its optimised layers, each on what it reads there."""

    def __init__(self, pair: BodyPair, plan: Plan, config: Mapping[str, str]) -> None:
        self.grids = {row.tensor: row.params for row in plan.activations if row.tensor in pair.stored}
        self.tensors = list(self.grids)
        self.stored = [pair.stored[tensor] for tensor in self.tensors]
        self.integers = {tensor: pair.stored[tensor] for tensor in self.tensors}
        self.dynamic = compose.dynamic_tensors(pair.quantized)
        self.integers |= {name: name for name in self.dynamic}
        outputs = [str(v.name) for v in pair.quantized.graph.outputs]
        pieces, self.cuts = compose.cut(pair.quantized)
        observed = compose.with_outputs(
            pair.quantized, list(dict.fromkeys([*self.integers.values(), *self.cuts, *outputs]))
        )
        self.outputs = dict(zip(outputs, (str(v.name) for v in pair.prepared.graph.outputs), strict=True))
        self.plain = Session(observed, optimize=False, name="the quantised model")
        self.alone = Session(pieces, config={**config, **EXACT_INPUTS}, name="the quantised model's layers")
        self.runs = self.compared = 0

    def compare(self, exact: BodyRun, ran: BodyRun, result: Measured) -> None:
        self.runs += 1
        for tensor, stored in zip(self.tensors, self.stored, strict=True):
            if exact.found[tensor].shape == ran.found[stored].shape:
                noise = result.sqnr.setdefault(tensor, SignalToNoise())
                noise.add(exact.found[tensor], dequantize(ran.found[stored], self.grids[tensor]))
        if self.compared >= ENOUGH or self.runs > _RUNS:
            return
        plain = self.plain.run(ran.fed)
        alone = self.alone.run({**ran.fed, **{fed: plain[q] for q, fed in self.cuts.items()}})
        result.dynamic |= self.dynamic
        for tensor, stored in self.integers.items():
            result.steps.setdefault(tensor, LayerSteps()).add(plain[stored], alone[stored])
            self.compared += plain[stored].size
        for name in measured_outputs({name: plain[name] for name in self.outputs}):
            result.tail.setdefault(self.outputs[name], SignalToNoise()).add(plain[name], alone[name])

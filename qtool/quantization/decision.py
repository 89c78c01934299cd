"""The plan that is written: decided or given, proven, and with layers in float where its outputs are too noisy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.core.errors import DataError, LayerError, ModelError, VerificationError
from qtool.core.numerics.sqnr import loudness
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.placement import Amendment
from qtool.core.records.plan import Plan
from qtool.core.records.results import LeftFloat, NoisyRegion, Trial
from qtool.core.records.verification import Verification
from qtool.graph.edit import Array
from qtool.graph.serialized import Serialized
from qtool.pipeline.planning.leave import leave_float
from qtool.pipeline.planning.settle import Settler
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify import verify
from qtool.pipeline.verify.original import Original
from qtool.quantization.candidates import Candidate, best_plan
from qtool.quantization.graphs import look_at
from qtool.quantization.halves import Halves
from qtool.quantization.partial import PartialSearch, Wanted
from qtool.quantization.request import Request
from qtool.targets.tables import TARGETS

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, the graph that it is for, and what was tried. candidate: where it comes from; None: it was given."""

    prepared: Prepared
    plan: Plan
    trials: tuple[Trial, ...] = ()
    candidate: Candidate | None = None

    def again(self, layers: Mapping[str, str], examples: Sequence[Mapping[str, Array]]) -> "Decision":
        """Return the decision with layers (name -> why) in float; of a given plan those too that let no model run."""
        if self.candidate is not None:
            found = self.candidate.rejecting(layers)
            return replace(self, plan=found.plan, candidate=found)
        model, name = self.prepared.model, self.prepared.name
        look = look_at(model, TARGETS[self.plan.target], examples, WeightMemo())

        def make(amendment: Amendment) -> Plan:
            return leave_float(model, self.plan, amendment.floating, name=name)

        settler = Settler(model, make, look, lambda _, amendment, layer, why: amendment.leaving({layer: why}))
        return replace(self, plan=make(settler.settle(Amendment(floating=layers))))


@dataclass(frozen=True, slots=True)
class Proven:
    """A decision that was proven: the model that it makes, and the proof.

    left: what was left in float since the outputs were too noisy; before_db: their SQNR in dB without that, None where
    nothing was looked for. float_needed: as `PartialSearch.needed` has it. noisiest: what is in integers and puts the
    most noise into them, where it was looked for.
    """

    decision: Decision
    model: Serialized
    proof: Verification
    left: tuple[LeftFloat, ...] = ()
    before_db: float | None = None
    float_needed: float | None = None
    noisiest: tuple[NoisyRegion, ...] = ()


def decide(prepared: Prepared, half: Halves, request: Request, original: Original) -> Decision:
    """Return the best plan that was found, as a decision. Raises `NothingToQuantizeError`: there is none."""
    best, trials = best_plan(prepared, half.choosing, request, original)
    return Decision(best.graph.prepared, best.plan, trials, best)


def prove(decided: Decision, original: Original) -> Proven:
    """Return the decision, proven; layers that compute something else than planned are left in float, in a few rounds.

    Raises:
        VerificationError: what is left does so too.
    """
    for rounds_left in reversed(range(_ROUNDS)):
        prepared, plan = decided.prepared, decided.plan
        model, shifted = rewritten(prepared.model, plan)
        try:
            proof = verify(original, prepared.model, shifted, model, plan, TARGETS[plan.target])
            return Proven(decided, model, proof)
        except LayerError as error:
            new = {layer: why for layer, why in error.layers.items() if plan.skipped.get(layer) != why}
            if not (new and rounds_left):
                raise
            decided = decided.again(new, original.examples)
        except (ModelError, DataError):
            # a candidate's model has been loaded before
            if decided.candidate is not None or not rounds_left:
                raise
            decided = decided.again({}, original.examples)
            if decided.plan == plan:
                raise
    raise AssertionError("the last round returns or raises")


def mend(proven: Proven, wanted: Wanted | None, request: Request, original: Original) -> Proven:
    """Return what was proven with layers in float, where its outputs are noisier than wanted; never a worse one.

    `wanted`: None leaves no layer in float.
    """
    candidate, before = proven.decision.candidate, proven.proof.judged_db
    figures = proven.proof.sqnr_db_by_output.values()
    if wanted is None or candidate is None or loudness(before) >= wanted.min_sqnr or all(db is None for db in figures):
        return proven
    seen = candidate.graph.seen
    search = PartialSearch(candidate, wanted, None if seen is None else seen.outputs, request)
    found, left = search.found(before)
    proven = replace(proven, before_db=before, noisiest=search.noisiest(()))
    if left:
        try:
            other = prove(replace(proven.decision, plan=found.plan, candidate=found), original)
        except (ModelError, DataError, VerificationError):
            # it was proven without
            return replace(proven, float_needed=search.needed)
        if loudness(other.proof.judged_db) > loudness(before):
            noisiest = search.noisiest(found.floating)
            return replace(other, left=left, before_db=before, float_needed=search.needed, noisiest=noisiest)
    return replace(proven, float_needed=search.needed)

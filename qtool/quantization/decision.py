"""The plan that is written: decided or given, proven, and with layers in float where its outputs are too noisy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.core.errors import DataError, LayerError, ModelError, VerificationError
from qtool.core.numerics.calibrators import Max
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
from qtool.quantization.blockwise import MARGIN_DB, BlockSearch
from qtool.quantization.candidate import Candidate
from qtool.quantization.candidates import best_plan
from qtool.quantization.graphs import look_at
from qtool.quantization.halves import Halves
from qtool.quantization.partial import FAR_DB, WORTH_DB, PartialSearch
from qtool.quantization.request import Request
from qtool.quantization.wanted import Wanted
from qtool.targets.tables import TARGETS

_ROUNDS = 4
_FALLEN_DB = 6.0
"""Where the examples that report have so much less SQNR than those that chose, something was seen in none of these."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, the graph that it is for, and what was tried.

    candidate: where it comes from; None: it was given, or is in blocks. blocks: the search for these.
    """

    prepared: Prepared
    plan: Plan
    trials: tuple[Trial, ...] = ()
    candidate: Candidate | None = None
    blocks: BlockSearch | None = None

    def widened(self, aim: float) -> "Decision":
        """Return the decision with more bits for weights in blocks, as few as reach `aim`, in dB; else as it is."""
        found = None if self.blocks is None else self.blocks.widened(aim)
        if found is None:
            return self
        plan, trial = found
        return replace(self, plan=plan, trials=(trial, *self.trials))

    def again(self, layers: Mapping[str, str], examples: Sequence[Mapping[str, Array]]) -> "Decision":
        """Return the decision with layers (name -> why) in float; of a given plan those too that let no model run.

        Weights that were to be in blocks are in 8 bits by channel instead.
        """
        narrower = None if self.blocks is None else self.blocks.without(layers, self.plan)
        if narrower is not None:
            return replace(self, plan=narrower[1], blocks=narrower[0])
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

    left: what was left in float since the outputs were too noisy; before_db: their SQNR in dB without that, None
    where there is none, or the plan was given. float_needed: as `PartialSearch.needed` has it. noisiest: what is in
    integers and puts the most noise into them, where it was looked for.
    """

    decision: Decision
    model: Serialized
    proof: Verification
    left: tuple[LeftFloat, ...] = ()
    before_db: float | None = None
    float_needed: float | None = None
    noisiest: tuple[NoisyRegion, ...] = ()


def decide(
    prepared: Prepared, half: Halves, request: Request, original: Original, wanted: Wanted | None = None
) -> Decision:
    """Return the best plan that was found, as a decision. Raises `NothingToQuantizeError`: there is none.

    `wanted`: the accuracy that weights in blocks get more bits for; None gives them none.
    """
    if request.blocks is not None:
        search = BlockSearch.begin(prepared, half.choosing, request)
        plan, trials = search.rounded()
        decided = Decision(prepared, plan, trials, blocks=search)
        return decided if wanted is None else decided.widened(wanted.min_sqnr + MARGIN_DB)
    best, trials = best_plan(prepared, half.choosing, request, original)
    return Decision(best.graph.prepared, best.plan, trials, best)


def prove(decided: Decision, original: Original) -> Proven:
    """Return the decision, proven; layers that compute something else than planned are left in float, in a few rounds.

    Raises:
        VerificationError: what is left does so too.
    """
    narrow = False
    for rounds_left in reversed(range(_ROUNDS)):
        prepared, plan, candidate = decided.prepared, decided.plan, decided.candidate
        if candidate is not None:
            plan = replace(plan, wider=()) if narrow else candidate.graph.wider(plan)
        known = None if candidate is None else candidate.graph.memo.weights
        model, shifted = rewritten(prepared.model, plan, known)
        try:
            proof = verify(original, prepared.model, shifted, model, plan, TARGETS[plan.target])
            return Proven(replace(decided, plan=plan), model, proof)
        except VerificationError as error:
            if candidate is not None and plan.wider and rounds_left:
                # whatever it is, it may be of what need not be
                narrow = True
                continue
            layers = error.layers if isinstance(error, LayerError) else {}
            new = {layer: why for layer, why in layers.items() if plan.skipped.get(layer) != why}
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
    if proven.decision.blocks is not None:
        return _with_more_bits(proven, wanted, original)
    figures = [*proven.proof.sqnr_db_by_output.values(), *proven.proof.sqnr_db_before.values()]
    if candidate is None or all(db is None for db in figures):
        return proven
    proven = _unclipped(proven, candidate, request, original)
    candidate, before = proven.decision.candidate or candidate, proven.proof.judged_db
    proven = replace(proven, before_db=before)
    if wanted is None or loudness(before) >= wanted.min_sqnr:
        return proven
    seen = candidate.graph.seen
    exact = None if seen is None else seen.outputs
    search = PartialSearch(candidate, wanted, exact, request)
    if proven.proof.but_for_one(wanted.min_sqnr) and search.figure >= wanted.min_sqnr + FAR_DB:
        # nothing that chooses is like that one
        return proven
    mended = _searched(proven, search, search.found(before), original)
    if loudness(mended.proof.judged_db) >= wanted.min_sqnr:
        return mended
    if mended.left and mended.decision.candidate is not None:
        found = search.further(mended.decision.candidate, loudness(mended.proof.judged_db))
        mended = _searched(mended, search, found, original)
    return _everywhere(proven, mended, search, original)


def _unclipped(proven: Proven, candidate: Candidate, request: Request, original: Original) -> Proven:
    """What was proven, or the same with ranges that hold all that calibrated, where that is far better on new examples.

    A calibrator that clips what none of the examples that choose holds loses nothing on these. Which of two plans it is
    that is written is all that the examples that report decide.
    """
    chosen, widest = candidate.trial, Max()
    if chosen is None or candidate.calibrator == widest or widest not in request.calibrators:
        return proven
    if loudness(proven.proof.judged_db) >= loudness(chosen.sqnr_db) - _FALLEN_DB:
        return proven
    try:
        whole = candidate.by(widest, corrected=bool(candidate.plan.shifts))
        trials = proven.decision.trials
        alike = [one for one in trials if _way(one) == (widest, *_way(chosen)[1:])]
        whole = replace(whole, trial=alike[0] if alike else None)
        first = tuple(alike[:1])
        decided = replace(
            proven.decision,
            plan=whole.plan,
            candidate=whole,
            trials=(*first, *(one for one in trials if one not in first)),
        )
        other = prove(decided, original)
    except (ModelError, DataError, VerificationError):
        return proven
    return other if loudness(other.proof.judged_db) >= loudness(proven.proof.judged_db) + WORTH_DB else proven


def _way(trial: Trial) -> tuple[object, ...]:
    return trial.calibrator, trial.bias_correction, trial.form, trial.smoothed, bool(trial.refined), trial.floats


def _with_more_bits(proven: Proven, wanted: Wanted | None, original: Original) -> Proven:
    """What was proven, or once more with more bits, for as much as the examples that report miss; the better one."""
    before, search = loudness(proven.proof.judged_db), proven.decision.blocks
    if wanted is None or search is None or search.reached is None or not -math.inf < before < wanted.min_sqnr:
        return proven
    wider = proven.decision.widened(search.reached + wanted.min_sqnr - before + MARGIN_DB)
    if wider.plan == proven.decision.plan:
        return proven
    other = prove(wider, original)
    return other if loudness(other.proof.judged_db) > before else proven


def _searched(
    proven: Proven, search: PartialSearch, found: tuple[Candidate, tuple[LeftFloat, ...]], original: Original
) -> Proven:
    """What the search has found, proven, or what was proven before, where that is better; and what was seen."""
    candidate, left = found
    before = proven.proof.judged_db if proven.before_db is None else proven.before_db
    if left:
        try:
            other = prove(replace(proven.decision, plan=candidate.plan, candidate=candidate), original)
        except (ModelError, DataError, VerificationError):
            # it was proven without
            left = ()
        else:
            gained = loudness(other.proof.judged_db) - loudness(proven.proof.judged_db)
            met = loudness(other.proof.judged_db) >= search.wanted.min_sqnr
            if gained >= WORTH_DB or (met and gained > 0.0):
                proven = replace(other, left=left)
    floating = {name for one in proven.left for name in one.nodes}
    return replace(proven, before_db=before, float_needed=search.needed, noisiest=search.noisiest(floating))


def _everywhere(proven: Proven, mended: Proven, search: PartialSearch, original: Original) -> Proven:
    """What is as good as it gets with nothing in float for speed, where that is far better; else what was mended.

    Each border of what is float for speed rounds a tensor, whose noise may count for more than that of kernels between.
    """
    try:
        candidate = None if proven.decision.candidate is None else proven.decision.candidate.everywhere()
        if candidate is None:
            return mended
        other = PartialSearch(candidate, search.wanted, search.exact, search.request)
    except (ModelError, DataError, VerificationError):
        return mended
    if other.figure < search.figure + FAR_DB:
        return mended
    try:
        plain = prove(replace(proven.decision, plan=candidate.plan, candidate=candidate), original)
    except (ModelError, DataError, VerificationError):
        return mended
    plain = replace(plain, before_db=proven.proof.judged_db)
    if loudness(plain.proof.judged_db) < search.wanted.min_sqnr:
        plain = _searched(plain, other, other.found(loudness(plain.proof.judged_db)), original)
    return plain if loudness(plain.proof.judged_db) > loudness(mended.proof.judged_db) else mended

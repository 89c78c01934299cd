"""The gates on what `quantize` writes, answered by what it has measured."""

from qtool.core.errors import DataError, ModelError
from qtool.core.records.evaluation import Gate, GateRule, Latency
from qtool.core.records.results import Verdict
from qtool.core.records.timing import Timing
from qtool.core.records.verification import Verification
from qtool.core.tensorspec import samples_in
from qtool.evaluation.limits import Limits
from qtool.evaluation.metrics.classes import Agreement
from qtool.evaluation.metrics.heads import find_heads
from qtool.evaluation.metrics.observation import Observation
from qtool.graph.serialized import Serialized
from qtool.pipeline.verify.original import Original
from qtool.quantization.decision import Proven
from qtool.runtime.session import Session


def gates_of(
    limits: Limits,
    name: str,
    proven: Proven,
    original: Original,
    timing: Timing,
    verdict: Verdict | None,
    size: tuple[int, int],
) -> tuple[Gate, ...]:
    """Return the gates of what is asked of the model of that name.

    verdict: on its SQNR; None where it was not measured. size: of the int8 and the float model, in bytes.
    """
    proof = proven.proof
    speed = None
    if timing.speedup is not None and timing.int8_ms is not None:
        speed = Latency(timing.int8_ms, timing.speedup)
    given = {} if proof.examples else {"unread": "there are no examples"}
    found = limits.gates(
        name,
        agreement=None if limits.min_agreement is None else agreement_of(original, proven.model),
        integer=proof.integer_share if proof.census else None,
        size=size,
        speed=speed,
        unknown=proof.unchecked if proof.census else "this machine cannot run it",
        untimed=timing.absent,
        **given,
    )
    return (*_sqnr(name, verdict, proof), *found)


def _sqnr(name: str, verdict: Verdict | None, proof: Verification) -> tuple[Gate, ...]:
    """The gate on the SQNR of the outputs, where one was asked for."""
    if verdict is None or not verdict.asked:
        return ()
    found = None if verdict.met is None else proof.judged_db
    said = "cannot be measured, since no output has one" if found is None else f"is {found:.4g} dB"
    message = f"{name}: sqnr {said}, asked at least {verdict.min_sqnr:.4g} dB"
    return (Gate(name, GateRule.MIN_SQNR, "sqnr", verdict.min_sqnr, False, found, bool(verdict.met), message),)


def agreement_of(original: Original, model: Serialized) -> float | None:
    """Return the share of predictions that are float's on the examples that report; None where there are no classes."""
    counted: Agreement | None = None
    start = 0
    try:
        sessions = [original.session(), Session(model, name="the quantised model")]
        for example in original.examples:
            exact, found = (session.run(dict(example)) for session in sessions)
            size = samples_in(example.values())
            if counted is None:
                heads = find_heads(exact, {}, size)
                if heads.predicted is None:
                    return None
                counted = Agreement(heads.predicted, likely=heads.likely)
            counted.update(Observation("the quantised model", found, exact, {}, start, size))
            start += size
    except (ModelError, DataError):
        return None
    return None if counted is None else counted.result()

"""The latency of a model, beside the float one where there is one."""

from collections.abc import Sequence

from qtool.core.records.evaluation import Latency
from qtool.core.records.inspection import Speed
from qtool.evaluation.latency import measure_speed
from qtool.inspection.inputs import Example, fed_to
from qtool.runtime.session import Session

SECONDS = 2.0
ROUNDS = 200
PROFILE_SECONDS = 1.0
"""The time nodes are measured for."""


def speed_of(session: Session, floating: Session | None, examples: Sequence[Example]) -> Speed:
    """Time a model in one thread, interleaved with the float one where there is one, and return what was found.

    Raises:
        DataError: a model does not run on an example.
        ModelError: the float model has other inputs.
    """
    sessions = [session] if floating is None else [floating, session]
    feeds = [[fed_to(one, example) for example in examples] for one in sessions]
    found, rounds = measure_speed(sessions, feeds[-1], SECONDS, ROUNDS, feeds=feeds)
    own = found[-1]
    return Speed(
        ms=_spread(own),
        float_ms=None if floating is None else _spread(found[0]),
        speedup=None if floating is None else own.speedup,
        noisy=own.noisy,
        rough=own.rough,
        threads=1,
        rounds=rounds,
    )


def _spread(latency: Latency) -> tuple[float, float, float]:
    assert latency.p10_ms is not None and latency.p90_ms is not None
    return latency.median_ms, latency.p10_ms, latency.p90_ms

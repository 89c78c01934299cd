"""The record of how fast an int8 model is beside the float one."""

from dataclasses import dataclass, field

from qtool.core.records.codec import called


@dataclass(frozen=True, slots=True)
class Timing:
    """The speed of the int8 model beside float, on this machine, in one thread, on the examples; or why there is none.

    speedup: the median of float over that of int8; None where it was not measured. int8_ms, float_ms: medians of one
    run, None likewise. rounds: how many; each runs both, in another order. causes: kernels that take longer than float,
    with what the target's table of times says, the worst first. absent: why it was not measured. int8_spread_ms,
    float_spread_ms: 10th and 90th percentile of one run; None where it was not measured. noisy: whether the rounds
    differ so much that they do not say which is faster.
    """

    speedup: float | None = None
    int8_ms: float | None = None
    float_ms: float | None = None
    rounds: int = 0
    causes: tuple[str, ...] = ()
    absent: str = field(default="", metadata=called("not_measured"))
    int8_spread_ms: tuple[float, float] | None = None
    float_spread_ms: tuple[float, float] | None = None
    noisy: bool = False

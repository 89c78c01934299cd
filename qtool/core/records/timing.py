"""The record of how fast an int8 model is beside the float one."""

from dataclasses import dataclass, field

from qtool.core.records.codec import called


@dataclass(frozen=True, slots=True)
class Timing:
    """The speed of the int8 model beside float, on this machine, in one thread, on the examples; or why there is none.

    speedup: the median of float / int8 over rounds that run both; None where it was not measured. int8_ms, float_ms:
    medians of one run, None likewise. rounds: how many. causes: kernels that take longer than float, with what the
    target's table of times says, the worst first. absent: why it was not measured.
    """

    speedup: float | None = None
    int8_ms: float | None = None
    float_ms: float | None = None
    rounds: int = 0
    causes: tuple[str, ...] = ()
    absent: str = field(default="", metadata=called("not_measured"))

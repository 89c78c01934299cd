"""The record of how fast an int8 model is beside the float one."""

from dataclasses import dataclass
from typing import Any

from qtool.core.records.codec import json_number


@dataclass(frozen=True, slots=True)
class Timing:
    """The speed of the int8 model beside float, on this machine, in one thread, on the examples; or why there is none.

    speedup: the median of float / int8 over rounds that run both; None where it was not measured. int8_ms, float_ms:
    medians of one run. rounds: how many. causes: kernels that take longer than float, with what the target's table of
    times says, the worst first. absent: why it was not measured.
    """

    speedup: float | None = None
    int8_ms: float = 0.0
    float_ms: float = 0.0
    rounds: int = 0
    causes: tuple[str, ...] = ()
    absent: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the timing as strict JSON."""
        if self.speedup is None:
            return {"speedup": None, "not_measured": self.absent}
        return {
            "speedup": json_number(self.speedup),
            "int8_ms": self.int8_ms,
            "float_ms": self.float_ms,
            "rounds": self.rounds,
            "causes": list(self.causes),
        }

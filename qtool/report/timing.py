"""The lines that say how fast the int8 model is beside float."""

from qtool.core.records.timing import Timing
from qtool.core.text import rounded
from qtool.report.text import ABSENT
from qtool.report.words import rows

ALIKE = 1.03
"""Times within this factor are alike."""


def timing_lines(timing: Timing, shrunk: str, *, by_clock: bool) -> list[str]:
    """Return the lines: how much faster or slower than float, and where it is slower, why and what to do.

    `shrunk`: how the sizes compare. `by_clock`: whether this machine's clock has decided already what is float.
    """
    if timing.speedup is None:
        return rows("speed", f"not measured: {timing.absent}")
    figures = f"{_ms(timing.int8_ms)}, float {_ms(timing.float_ms)}, one thread"
    if timing.speedup >= ALIKE:
        return rows("speed", f"{timing.speedup:.2f}x faster than float on this machine ({figures})")
    causes = timing.causes or (
        "its layers are so small that calls and moves between float and integers take what integers give",
    )
    if by_clock:
        remedy = "nothing to gain here: keep the float model where speed is what counts"
    else:
        remedy = "--optimize-for latency, which lets this machine's clock choose what stays float"
    times = f"float on this machine: {timing.speedup:.2f}x ({figures})"
    also = "though" if shrunk.endswith("smaller") else "and"
    words = f"as fast as {times}; {shrunk}"
    if timing.speedup <= 1 / ALIKE:
        words = f"WARNING: slower than {times}, {also} {shrunk}"
    return [*rows("speed", words), *rows("  because", *causes), *rows("  next", remedy)]


def _ms(time: float | None) -> str:
    return ABSENT if time is None else f"{rounded(time)} ms"

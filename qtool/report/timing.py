"""The lines that say how fast the int8 model is beside float."""

from qtool.core.records.timing import Timing
from qtool.core.records.verification import percent
from qtool.core.text import amount, rounded
from qtool.report.text import ABSENT
from qtool.report.words import rows

ALIKE = 1.03
"""Times within this factor are alike."""
_HALF = 0.5


def timing_lines(timing: Timing, shrunk: str, remedy: str | None, share: float | None) -> list[str]:
    """Return the lines: how much faster or slower than float, and where it is slower, why and what to do.

    shrunk: how the sizes compare. remedy: the command that lets this machine's clock choose; None where it has.
    share: of the multiply-accumulates, what runs in integers; None where it is not known.
    """
    if timing.speedup is None:
        return rows("speed", f"not measured: {timing.absent}")
    figures = _figures(timing)
    if timing.noisy:
        words = f"too noisy to say which is faster on this machine, about {timing.speedup:.2g}x; repeat it when idle"
        return rows("speed", words, *figures)
    if timing.speedup >= ALIKE:
        return rows("speed", f"{timing.speedup:.2f}x faster than float on this machine", *figures)
    causes = timing.causes or (_cause(share),)
    words = _slower(timing, shrunk) or f"as fast as float on this machine: {timing.speedup:.2f}x; {shrunk}"
    return [*rows("speed", words, *figures), *rows("  because", *causes), *rows("  next", _advice(remedy))]


def _cause(share: float | None) -> str:
    """Why nothing is gained, where no kernel is known to be slower than float's."""
    if share is not None and share < _HALF:
        return f"{percent(1 - share)} of multiply-accumulates stay in float, and take the time"
    return "its layers are so small that calls and moves between float and integers take what integers give"


def slower_line(timing: Timing, shrunk: str, remedy: str | None) -> str:
    """Return what is said where nothing but bad verdicts is: that int8 is slower than float, and what to do; or "".

    shrunk, remedy: as `timing_lines` takes them.
    """
    words = _slower(timing, shrunk)
    return f"{words}; next: {_advice(remedy)}" if words else ""


def _slower(timing: Timing, shrunk: str) -> str:
    if timing.speedup is None or timing.noisy or timing.speedup > 1 / ALIKE:
        return ""
    also = "though" if shrunk.endswith("smaller") else "and"
    return f"WARNING: slower than float on this machine: {timing.speedup:.2f}x, {also} {shrunk}"


def _advice(remedy: str | None) -> str:
    if remedy is None:
        return "nothing to gain here: keep the float model where speed is what counts"
    return f"`{remedy}` lets this machine's clock choose what stays float"


def _figures(timing: Timing) -> list[str]:
    """The medians that the ratio is of, with their spread, and how they were taken."""
    ratio = f"float {_ms(timing.float_ms, timing.float_spread_ms)} / int8 {_ms(timing.int8_ms, timing.int8_spread_ms)}"
    spread = " (p10 to p90)" if timing.int8_spread_ms is not None else ""
    return [f"{ratio}: medians{spread} of {amount(timing.rounds, 'shuffled round')}, one thread"]


def _ms(time: float | None, spread: tuple[float, float] | None) -> str:
    if time is None:
        return ABSENT
    ends = "" if spread is None else f" ({rounded(spread[0])} to {rounded(spread[1])})"
    return f"{rounded(time)} ms{ends}"

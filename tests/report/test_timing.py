"""The lines about speed: faster, as fast, slower with cause and next command, not measured."""

import pytest

from qtool.core.records.codec import encoded
from qtool.core.records.timing import Timing
from qtool.report.timing import timing_lines

pytestmark = pytest.mark.fast
CAUSES = ("QLinearConv first takes 30 us, float 10",)


@pytest.mark.parametrize(
    ("timing", "by_clock", "line"),
    [
        (
            Timing(1.8, 3.7, 6.66, 90),
            False,
            "1.80x faster than float on this machine (3.7 ms, float 6.66 ms, one thread)",
        ),
        (
            Timing(2.0, 1234.5, 2469.0, 90),
            False,
            "2.00x faster than float on this machine (1234 ms, float 2469 ms, one thread)",
        ),
        (
            Timing(0.8, 2.0, 1.6, 90, CAUSES),
            False,
            "WARNING: slower than float on this machine: 0.80x (2 ms, float 1.6 ms, one thread), though 3.0x smaller\n"
            "    because   QLinearConv first takes 30 us, float 10\n"
            "    next      --optimize-for latency, which lets this machine's clock choose what stays float",
        ),
        (
            Timing(0.8, 2.0, 1.6, 90, CAUSES),
            True,
            "WARNING: slower than float on this machine: 0.80x (2 ms, float 1.6 ms, one thread), though 3.0x smaller\n"
            "    because   QLinearConv first takes 30 us, float 10\n"
            "    next      nothing to gain here: keep the float model where speed is what counts",
        ),
        (
            Timing(1.01, 1.0, 1.01, 90),
            False,
            "as fast as float on this machine: 1.01x (1 ms, float 1.01 ms, one thread); 3.0x smaller\n"
            "    because   its layers are so small that calls and moves between float and integers take what integers "
            "give\n    next      --optimize-for latency, which lets this machine's clock choose what stays float",
        ),
        (Timing(absent="no data was given"), False, "not measured: no data was given"),
    ],
)
def test_the_line_about_speed(timing, by_clock, line):
    assert "\n".join(timing_lines(timing, "3.0x smaller", by_clock=by_clock)) == f"  speed       {line}"


def test_what_was_not_measured_is_null():
    document = encoded(Timing(absent="no data was given"))
    assert (document["speedup"], document["int8_ms"], document["float_ms"]) == (None, None, None)
    assert document["not_measured"] == "no data was given"
    assert encoded(Timing(2.0, 1.0, 2.0, 3, CAUSES))["causes"] == list(CAUSES)

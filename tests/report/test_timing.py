"""The lines about speed: faster, as fast, slower with cause and next command, too noisy, not measured."""

import pytest

from qtool.core.records.codec import encoded
from qtool.core.records.timing import Timing
from qtool.report.timing import slower_line, timing_lines

pytestmark = pytest.mark.fast
CAUSES = ("QLinearConv first takes 30 us, float 10",)
TIMES = "float 1.6 ms / int8 2 ms: medians of 90 shuffled rounds, one thread"


@pytest.mark.parametrize(
    ("timing", "by_clock", "line"),
    [
        (
            Timing(1.8, 3.7, 6.66, 90, int8_spread_ms=(3.6, 3.9), float_spread_ms=(6.5, 7.123)),
            False,
            "1.80x faster than float on this machine\n"
            "              float 6.66 ms (6.5 to 7.12) / int8 3.7 ms (3.6 to 3.9): medians (p10 to p90) of 90 shuffled "
            "rounds, one thread",
        ),
        (
            Timing(2.0, 1234.5, 2469.0, 90),
            False,
            "2.00x faster than float on this machine\n"
            "              float 2469 ms / int8 1234 ms: medians of 90 shuffled rounds, one thread",
        ),
        (
            Timing(0.8, 2.0, 1.6, 90, CAUSES),
            False,
            f"WARNING: slower than float on this machine: 0.80x, though 3.0x smaller\n              {TIMES}\n"
            "    because   QLinearConv first takes 30 us, float 10\n"
            "    next      `qtool q` lets this machine's clock choose what stays float",
        ),
        (
            Timing(0.8, 2.0, 1.6, 90, CAUSES),
            True,
            f"WARNING: slower than float on this machine: 0.80x, though 3.0x smaller\n              {TIMES}\n"
            "    because   QLinearConv first takes 30 us, float 10\n"
            "    next      nothing to gain here: keep the float model where speed is what counts",
        ),
        (
            Timing(0.8, 2.0, 1.6, 90, CAUSES, noisy=True),
            False,
            f"too noisy to say which is faster on this machine, about 0.8x; repeat it when idle\n              {TIMES}",
        ),
        (
            Timing(1.01, 1.0, 1.01, 1),
            False,
            "as fast as float on this machine: 1.01x; 3.0x smaller\n"
            "              float 1.01 ms / int8 1 ms: medians of 1 shuffled round, one thread\n"
            "    because   its layers are so small that calls and moves between float and integers take what integers "
            "give\n    next      `qtool q` lets this machine's clock choose what stays float",
        ),
        (Timing(absent="no data was given"), False, "not measured: no data was given"),
    ],
)
def test_the_line_about_speed(timing, by_clock, line):
    assert (
        "\n".join(timing_lines(timing, "3.0x smaller", None if by_clock else "qtool q", 0.9)) == f"  speed       {line}"
    )


def test_what_was_not_measured_is_null():
    document = encoded(Timing(absent="no data was given"))
    assert (document["speedup"], document["int8_ms"], document["float_ms"]) == (None, None, None)
    assert (document["int8_spread_ms"], document["noisy"]) == (None, False)
    assert document["not_measured"] == "no data was given"
    assert encoded(Timing(2.0, 1.0, 2.0, 3, CAUSES))["causes"] == list(CAUSES)


@pytest.mark.parametrize(
    ("timing", "remedy", "line"),
    [
        (
            Timing(0.8, 2.0, 1.6, 90),
            "qtool q",
            "WARNING: slower than float on this machine: 0.80x, though 3.0x smaller; next: `qtool q` lets this "
            "machine's clock choose what stays float",
        ),
        (
            Timing(0.8, 2.0, 1.6, 90),
            None,
            "WARNING: slower than float on this machine: 0.80x, though 3.0x smaller; next: nothing to gain here: keep "
            "the float model where speed is what counts",
        ),
        (Timing(0.8, 2.0, 1.6, 90, noisy=True), None, ""),
        (Timing(1.01, 1.0, 1.01, 90), None, ""),
        (Timing(absent="no data was given"), None, ""),
    ],
)
def test_the_line_where_only_what_is_bad_is_printed(timing, remedy, line):
    assert slower_line(timing, "3.0x smaller", remedy) == line


def test_what_stays_float_is_the_cause_where_it_is_most_of_the_work():
    lines = timing_lines(Timing(1.01, 1.0, 1.01, 1), "3.0x smaller", None, 0.025)
    assert "    because   97.5 % of multiply-accumulates stay in float, and take the time" in lines

"""Gates that need no metric: what they take, and what they answer."""

import pytest

from qtool.core.errors import UsageError
from qtool.core.records.evaluation import Latency, MaxSize
from qtool.evaluation.limits import Limits

FOUND = {"agreement": 0.98, "integer": 0.95, "size": (300, 1000), "speed": Latency(2.0, 1.5)}


def limits(**given):
    asked = {"min_agreement": None, "min_integer": None, "min_speedup": None, "max_size": None, **given}
    return Limits.of(**asked)


@pytest.mark.parametrize(
    ("asked", "passed", "says"),
    [
        ({"min_agreement": 0.98}, True, "m: agreement: 98% of predictions are float's, asked at least 98%"),
        ({"min_agreement": "98.1%"}, False, "m: agreement: 98% of predictions are float's, asked at least 98.1%"),
        ({"min_integer": "95%"}, True, "m: integer: 95% of multiply-accumulates run in integer kernels, asked at"),
        ({"min_integer": 0.951}, False, "asked at least 95.1%"),
        ({"min_speedup": 1.5}, True, "m: speed is 1.50x float's (2 ms), asked at least 1.5x"),
        ({"min_speedup": 1.51}, False, "asked at least 1.51x"),
        ({"max_size": "30%"}, True, "m: size is 30% of float's (300 bytes), asked at most 30% of float's"),
        ({"max_size": "29.9%"}, False, "asked at most 29.9% of float's"),
        ({"max_size": 300}, True, "m: size is 300 bytes, asked at most 300 bytes"),
        ({"max_size": "0.29kB"}, False, "asked at most 290 bytes"),
    ],
)
def test_the_answer_is_the_comparison(asked, passed, says):
    (gate,) = limits(**asked).gates("m", **FOUND)
    assert (gate.passed, gate.rule.value.replace("-", "_")) == (passed, next(iter(asked)))
    assert says in gate.message and "\n" not in gate.message


def test_what_is_not_measured_fails_and_says_why():
    asked = limits(min_agreement=0.5, min_integer=0.5, min_speedup=0.5)
    unknown = {"agreement": None, "integer": None, "size": (1, 1), "speed": None}
    gates = asked.gates("m", **unknown, unknown="a Loop", untimed="no data was given")
    assert [(gate.found, gate.passed) for gate in gates] == [(None, False)] * 3
    assert "since no output says classes" in gates[0].message
    assert "is not known (a Loop)" in gates[1].message
    assert "was not measured (no data was given)" in gates[2].message


def test_times_that_say_nothing_pass_no_gate():
    (gate,) = limits(min_speedup=1.2).gates("m", **{**FOUND, "speed": Latency(2.0, 1.5, noisy=True)})
    assert not gate.passed and gate.found == 1.5 and "differ too much to say" in gate.message


@pytest.mark.parametrize(
    "asked",
    [
        {"min_agreement": 0},
        {"min_agreement": "101%"},
        {"min_integer": "0%"},
        {"min_integer": "most"},
        {"min_speedup": 0.0},
        {"min_speedup": float("nan")},
        {"max_size": 0},
        {"max_size": "5 apples"},
        {"max_size": "-5MB"},
    ],
)
def test_a_gate_that_says_nothing_is_refused(asked):
    with pytest.raises(UsageError) as refused:
        limits(**asked)
    assert next(iter(asked)) in str(refused.value)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("30%", MaxSize(0.3, relative=True)),
        ("5MB", MaxSize(5e6, relative=False)),
        ("1.5 MiB", MaxSize(1.5 * 2**20, relative=False)),
        (7, MaxSize(7.0, relative=False)),
    ],
)
def test_sizes(said, size):
    assert MaxSize.parse(said) == size

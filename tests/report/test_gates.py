"""What is typed next after a gate that failed."""

import shlex
from dataclasses import replace

import pytest

from qtool.cli.group import command_of
from qtool.core.records.evaluation import Gate, GateRule
from qtool.report.gates import Beside, next_step, steps_after

BESIDE = Beside(
    "m y.onnx", {"q": "out/q.onnx"}, "--data d.npz --preprocess p.json", " --decode yolov8", None, {"q": 17.2}
)


def gate(rule, limit, found, *, passed=False, relative=False, metric="map"):
    return Gate("q", rule, metric, limit, relative, found, passed, "said")


FAILED = {
    GateRule.MAX_DROP: (
        gate(GateRule.MAX_DROP, 0.01, 0.3, relative=True),
        "tune 'm y.onnx' --data d.npz --preprocess p.json --metric map --decode yolov8 --max-drop 1%",
    ),
    GateRule.MIN_SQNR: (
        gate(GateRule.MIN_SQNR, 20.0, 17.2),
        "tune 'm y.onnx' --data d.npz --preprocess p.json --min-sqnr 20",
    ),
    GateRule.MIN_AGREEMENT: (
        gate(GateRule.MIN_AGREEMENT, 0.99, 0.9),
        "tune 'm y.onnx' --data d.npz --preprocess p.json --min-sqnr 24",
    ),
    GateRule.MIN_INTEGER: (gate(GateRule.MIN_INTEGER, 0.9, 0.5), "inspect out/q.onnx --float 'm y.onnx'"),
    GateRule.MIN_SPEEDUP: (gate(GateRule.MIN_SPEEDUP, 2.0, 1.5), "inspect out/q.onnx --float 'm y.onnx' --latency"),
    GateRule.MAX_SIZE: (
        gate(GateRule.MAX_SIZE, 0.3, 0.4, relative=True),
        "quantize 'm y.onnx' --data d.npz --preprocess p.json --optimize-for size",
    ),
}


@pytest.mark.parametrize("rule", GateRule)
def test_each_gate_has_a_command_that_can_be_pasted(rule):
    failed, wanted = FAILED[rule]
    step = next_step(failed, BESIDE)
    assert step.startswith(f"`qtool {wanted}` ")
    for text in step.split("`")[1::2]:
        name, *words = shlex.split(text)[1:]
        command_of(name).make_context(name, words)


def test_what_was_met_or_not_measured_has_none():
    assert next_step(gate(GateRule.MIN_SQNR, 20.0, 30.0, passed=True), BESIDE) == ""
    assert next_step(gate(GateRule.MIN_SQNR, 20.0, None), BESIDE) == ""
    # too noisy to say
    assert next_step(gate(GateRule.MIN_SPEEDUP, 2.0, 2.5), BESIDE) == ""


def test_what_is_asked_of_several_models_is_said_once():
    beside = Beside("m.onnx", {"q": "q.onnx", "r": "r.onnx"})
    first = gate(GateRule.MIN_INTEGER, 0.9, 0.5)
    other = gate(GateRule.MIN_SQNR, 20.0, 3.0)
    gates = [first, other, replace(first, model="r"), replace(other, model="r")]
    assert steps_after(gates, beside) == [next_step(other, beside), next_step(first, beside)]

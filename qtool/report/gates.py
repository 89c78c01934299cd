"""The commands that come next where gates fail."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtool.core.records.evaluation import Evaluation, Gate, GateRule
from qtool.report.commands import word
from qtool.report.evaluation import gate_line

_ROOM_DB = 6.0
"""Half the noise: so much more is asked of the outputs where too few predictions are float's."""


@dataclass(frozen=True, slots=True)
class Beside:
    """The model, data and options that the next command is about.

    model: the float one. paths: of the candidates, by the name that gates have. data: how it is given and read, to
    calibrate with. measured: the options of the metric but its name, with a space in front of each. faster: the same
    call that lets the clock choose, None where there is none. sqnr_db: of each candidate's worst output, by name.
    """

    model: str
    paths: Mapping[str, str]
    data: str = "--data DATA"
    measured: str = ""
    faster: str | None = None
    sqnr_db: Mapping[str, float | None] | None = None


def limit_text(gate: Gate) -> str:
    """Return the limit of a gate as its option takes it."""
    in_percent = gate.relative or gate.rule in (GateRule.MIN_AGREEMENT, GateRule.MIN_INTEGER)
    return f"{100 * gate.limit:g}%" if in_percent else f"{gate.limit:g}"


def next_step(gate: Gate, beside: Beside) -> str:
    """Return the command that comes next after a gate that failed, and what it does.

    "" where the gate was met, or was not measured: why that is so then stands in its message.
    """
    if gate.passed or gate.found is None or (gate.rule is GateRule.MIN_SPEEDUP and gate.found >= gate.limit):
        return ""
    model, path = word(beside.model), word(beside.paths[gate.model])
    tuned = f"qtool tune {model} {beside.data}"
    found = (beside.sqnr_db or {}).get(gate.model)
    nearer = str(math.ceil(found + _ROOM_DB)) if found is not None and math.isfinite(found) else "DB"
    smaller = f"qtool quantize {model} {beside.data}"
    looks = f"qtool inspect {path} --float {model}"
    clock = f"`{looks} --latency` says which layers take the time"
    if beside.faster is not None:
        clock = f"`{beside.faster}` lets this machine's clock choose what stays float"
    metric = f"--metric {word(gate.metric)}{beside.measured}"
    return {
        GateRule.MAX_DROP: f"`{tuned} {metric} --max-drop {limit_text(gate)}` looks for a model that keeps it",
        GateRule.MIN_SQNR: f"`{tuned} --min-sqnr {limit_text(gate)}` looks for a model that keeps it",
        GateRule.MIN_AGREEMENT: f"`{tuned} --min-sqnr {nearer}` looks for outputs nearer to float's, which decide "
        "as it does",
        GateRule.MIN_INTEGER: f"`{looks}` says of each layer why it is float",
        GateRule.MIN_SPEEDUP: clock,
        GateRule.MAX_SIZE: f"`{smaller} --optimize-for size` leaves nothing in float for speed, and "
        f"`{smaller} --weights int4` stores weights of MatMul and Gemm in 4 bits",
    }[gate.rule]


def failed_line(gate: Gate, beside: Beside) -> str:
    """Return `PASS` or `FAIL`, what was asked and found, and behind it what comes next where the gate failed."""
    step = next_step(gate, beside)
    return f"{gate_line(gate)}; next: {step}" if step else gate_line(gate)


def steps_after(gates: Sequence[Gate], beside: Beside) -> list[str]:
    """Return the commands that come next, once for each thing that was asked and is not met."""
    found = {gate.rule: step for gate in reversed(gates) if (step := next_step(gate, beside))}
    return [found[rule] for rule in GateRule if rule in found]


def beside_evaluation(evaluation: Evaluation, measured: str) -> Beside:
    """Return what the next command after an evaluation is about; measured: see `Beside`."""
    models = evaluation.candidates
    return Beside(
        evaluation.float_model.path,
        {model.name: model.path for model in models},
        measured=measured,
        sqnr_db={model.name: model.sqnr_db for model in models},
    )

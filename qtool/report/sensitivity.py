"""A sensitivity analysis as a text table."""

import shlex
from collections.abc import Iterable

from qtool.core.numerics.sqnr import loudness
from qtool.core.records.evaluation import MetricInfo
from qtool.core.records.sensitivity import Figures, HeadSensitivity, LayerSensitivity, Sensitivity, View
from qtool.core.text import amount, line
from qtool.report.text import ABSENT, aligned, decibels, number

_GAIN_DB = 0.1
"""What a table rounds away is no gain."""
_WORST = 3
"""Layers of the option that is ready to be typed, where none asks for another number."""
_TITLES: dict[View, str] = {"alone": "alone", "without": "all but it"}


def sensitivity_text(result: Sensitivity, top: int | None = None) -> str:
    """Return what was measured, a table of layers and one of heads, the worst first, and what was not measured.

    top: show only so many layers; None shows all.
    """
    titles = [title for view in result.views for title in _titles(view, result.metric)]
    rows = [_row(result, layer, layer.op) for layer in result.layers[:top]]
    parts = [*map(line, _setup(result)), "", aligned(["layer", "op", "MACs %", *titles], rows, left=(0, 1))]
    hidden = len(result.layers) - len(rows)
    parts += [f"and {amount(hidden, 'more layer')}, which cost less"] if hidden else []
    parts += _ready(result, _WORST if top is None else top)
    if result.heads:
        rows = [_row(result, head, str(len(head.layers))) for head in result.heads]
        parts += ["", aligned(["head", "layers", "MACs %", *titles], rows, left=(0,))]
        parts += [
            line(f"{head.name} in float: {exclude_options(head.exclude)}")
            for head in result.heads
            if _gains(result, head)
        ]
    every: list[LayerSensitivity | HeadSensitivity] = [*result.layers, *result.heads]
    notes = [f"{one.name}: not measured ({why})" for one in every for why in one.unmeasured.values()]
    notes += [f"{layer}: not ranked, stays float ({why})" for layer, why in result.unranked.items()]
    return "\n".join([*parts, *map(line, notes)])


NO_GAIN = "no layer in float gains much by itself"


def worth_leaving(result: Sensitivity, number: int) -> tuple[str, ...]:
    """Return the layers that gain most in float, at most so many; where that was not measured, the worst alone."""
    layers = {layer.name: layer for layer in result.layers}
    return tuple(name for name in result.ranking(_deciding(result)) if _gains(result, layers[name]))[:number]


def _deciding(result: Sensitivity) -> View:
    return "without" if "without" in result.views else "alone"


def said_of(result: Sensitivity) -> str:
    """Return what the layers of `worth_leaving` are, in words."""
    return {"alone": "the worst in float", "without": "in float these gain most"}[_deciding(result)]


def _ready(result: Sensitivity, number: int) -> list[str]:
    """The option that leaves the worst layers in float, to be typed behind `qtool quantize`."""
    worst = worth_leaving(result, number)
    if not worst:
        return ["", NO_GAIN] if _deciding(result) == "without" else []
    return ["", line(f"{said_of(result)}: {exclude_options(worst)}")]


def _gains(result: Sensitivity, one: LayerSensitivity | HeadSensitivity) -> bool:
    """Whether the model is better with it in float; where that was not measured it may be."""
    before, after = result.quantized, one.without
    if after is None:
        return "without" not in result.views and one.alone is not None
    if before.drop is not None and after.drop is not None and before.drop != after.drop:
        return after.drop < before.drop
    return loudness(after.sqnr_db) >= loudness(before.sqnr_db) + _GAIN_DB


def _row(result: Sensitivity, one: LayerSensitivity | HeadSensitivity, what: str) -> list[str]:
    share = ABSENT if one.share is None else f"{100 * one.share:.2f}"
    return [
        one.name,
        what,
        share,
        *(cell for view in result.views for cell in _cells(one.figures(view), result.metric)),
    ]


def _setup(result: Sensitivity) -> list[str]:
    corrected = " with bias correction" if result.bias_correction else ""
    setup = (
        f"{result.model}: {amount(result.samples, 'sample')} of {result.data}; target {result.target}, "
        f"{result.scheme}, weights {result.granularity}, calibrator {result.calibrator}{corrected}"
    )
    every = "the only layer" if len(result.layers) == 1 else f"all {len(result.layers)} layers"
    whole = f"{every} quantised: SQNR {decibels(result.quantized.sqnr_db)} dB"
    if result.metric is not None:
        whole += f", {result.metric.name} {number(result.quantized.value)}"
        if result.quantized.drop is not None:
            whole += f" (float {number(result.float_value)}, drop {number(result.quantized.drop)})"
    order = {"alone": "it costs most alone", "without": "most is gained by leaving it in float"}[result.views[0]]
    return [setup, whole, f"worst first: {order}; by the metric, then by SQNR"]


def _titles(view: View, metric: MetricInfo | None) -> list[str]:
    if metric is None or metric.name == "sqnr":
        return [f"{_TITLES[view]}: SQNR dB"]
    return [f"{_TITLES[view]}: {metric.name}", "drop", "SQNR dB"]


def _cells(figures: Figures | None, metric: MetricInfo | None) -> list[str]:
    if metric is None or metric.name == "sqnr":
        return [ABSENT if figures is None else decibels(figures.sqnr_db, 2)]
    if figures is None:
        return [ABSENT] * 3
    return [number(figures.value), number(figures.drop), decibels(figures.sqnr_db, 2)]


def exclude_options(names: Iterable[str]) -> str:
    """Return what leaves nodes in float, as a shell takes it."""
    return " ".join(f"--exclude {shlex.quote(name)}" for name in names)

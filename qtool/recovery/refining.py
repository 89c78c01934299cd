"""Steps that need nothing but a calibration file: smoothing of activations, and mild masks. Decided, then measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.preparation import SMOOTH, SOFTEN_MASKS, STEPS, Preparation
from qtool.core.side_by_side import side_by_side
from qtool.core.statistics import Statistics
from qtool.core.verification import signal_to_noise
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.recovery.masks import has_masks, soften_masks
from qtool.recovery.smoothing import find_smoothing, smooth, smoothed_ranges
from qtool.recovery.survey import Survey, survey
from qtool.runtime.session import Session
from qtool.stages.prepare import Prepared

_SAME_DB = 90.0
Arrays = Mapping[str, np.ndarray]


def softened(prepared: Prepared, examples: Sequence[Arrays]) -> Prepared:
    """The graph with mild masks where it has any, and where its outputs on the examples are the same with them."""
    mild = with_mild_masks(prepared)
    return mild if mild and agree(_outputs(prepared.model, examples), _outputs(mild.model, examples)) else prepared


def with_mild_masks(prepared: Prepared) -> Prepared | None:
    """The graph with mild masks, which may be another function; None where it has no masks."""
    if not has_masks(prepared.model):
        return None
    changes = prepared.changes | {"softened masks": 1}
    preparation = _with(prepared.preparation, SOFTEN_MASKS)
    return replace(prepared, model=soften_masks(prepared.model), changes=changes, preparation=preparation)


def agree(exact: Sequence[Arrays], other: Sequence[Arrays]) -> bool:
    """Whether the float outputs, by name, are the same for each example but for the rounding of float32."""
    return all(
        array.dtype.kind != "f" or signal_to_noise(array, b[name]) >= _SAME_DB
        for a, b in zip(exact, other, strict=True)
        for name, array in a.items()
    )


def smoothed(
    prepared: Prepared, statistics: Statistics, layers: Sequence[str], seen: Survey | None = None
) -> tuple[Prepared, Statistics] | None:
    """The graph with its outliers migrated, and its statistics; None where no tensor would gain.

    `layers` are the nodes that will be integer; `seen` is the survey of the graph, where there is one.
    """
    if not statistics.channels:
        return None
    channels = (seen or survey(prepared.model, statistics.examples, biases=False)).channels
    squares = {tensor: found.squares for tensor, found in channels.items()}
    scales = find_smoothing(prepared.model, statistics.channels, squares, layers)
    if not scales:
        return None
    result = replace(
        prepared,
        model=smooth(prepared.model, scales),
        changes=prepared.changes | {"smoothed tensors": len(scales)},
        preparation=replace(_with(prepared.preparation, SMOOTH), smoothing=scales),
    )
    return result, replace(statistics, ranges=smoothed_ranges(prepared.model, scales, statistics.channels))


def _with(preparation: Preparation, step: str) -> Preparation:
    steps = {*preparation.steps, step}
    return replace(preparation, steps=tuple(s for s in STEPS if s in steps))


def _outputs(model: Model, examples: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    return list(side_by_side(Session(model_io.serialize(model), name="the prepared model").run, examples))

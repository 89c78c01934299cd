"""Steps that need nothing but a calibration file: smoothing of activations, and mild masks. Decided, then measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.preparation import SMOOTH, SOFTEN_MASKS, STEPS, Preparation
from qtool.core.statistics import Statistics
from qtool.core.verification import signal_to_noise
from qtool.graph import compose, model_io
from qtool.graph.edit import Array
from qtool.recovery.masks import has_masks, soften_masks
from qtool.recovery.smoothing import find_smoothing, smooth, smoothable_tensors, smoothed_ranges
from qtool.runtime.session import Session
from qtool.stages.prepare import Prepared

_SAME_DB = 90.0
Examples = Sequence[Mapping[str, np.ndarray]]


def softened(prepared: Prepared, examples: Examples) -> Prepared:
    """The graph with mild masks where it has any, and where its outputs on the examples are the same with them."""
    if not has_masks(prepared.model):
        return prepared
    model = soften_masks(prepared.model)
    before = Session(model_io.serialize(prepared.model), name="the prepared model")
    after = Session(model_io.serialize(model), name="the prepared model")
    for example in examples:
        exact, mild = before.run(example), after.run(example)
        if any(a.dtype.kind == "f" and signal_to_noise(a, mild[name]) < _SAME_DB for name, a in exact.items()):
            return prepared
    changes = prepared.changes | {"softened masks": 1}
    return replace(prepared, model=model, changes=changes, preparation=_with(prepared.preparation, SOFTEN_MASKS))


def smoothed(prepared: Prepared, statistics: Statistics, layers: Sequence[str]) -> tuple[Prepared, Statistics] | None:
    """The graph with its outliers migrated, and its statistics; None where no tensor would gain.

    `layers` are the nodes that will be integer.
    """
    if not statistics.channels:
        return None
    squares = _mean_squares(prepared, statistics.examples)
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


def _mean_squares(prepared: Prepared, examples: Examples) -> dict[str, Array]:
    """Of each channel of the tensors that smoothing may serve, over the examples; float64 [C]."""
    tensors = smoothable_tensors(prepared.model)
    fed = {v.name for v in prepared.model.graph.inputs}
    computed = [t for t in tensors if t not in fed]
    session = Session(compose.with_outputs(prepared.model, computed), name="the prepared model") if computed else None
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for example in examples:
        arrays = {**example, **(session.run(example) if session else {})}
        for tensor in tensors:
            rows = arrays[tensor].reshape(-1, arrays[tensor].shape[-1])
            sums[tensor] = sums.get(tensor, 0.0) + np.square(rows, dtype=np.float64).sum(axis=0)
            counts[tensor] = counts.get(tensor, 0) + len(rows)
    return {tensor: total / max(counts[tensor], 1) for tensor, total in sums.items()}

"""Steps that need nothing but a calibration file: smoothing, mild masks, attention in one kernel. All are measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.numerics.sqnr import signal_to_noise
from qtool.core.records.recipe import JOIN_ATTENTION, SMOOTH, SOFTEN_MASKS, STEPS, Recipe
from qtool.core.records.statistics import Statistics
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.attention import join_attention
from qtool.pipeline.recovery.example_statistics import ExampleStatistics, observe_examples
from qtool.pipeline.recovery.masks import has_masks, soften_masks
from qtool.pipeline.recovery.smoothing import find_smoothing, smooth, smoothed_ranges

_SAME_DB, _MORE_DB = 90.0, 6.0
Arrays = Mapping[str, np.ndarray]


def with_mild_masks(prepared: Prepared) -> Prepared | None:
    """Return the graph with mild masks, which may be another function; None where it has no masks."""
    if not has_masks(prepared.model):
        return None
    changes = prepared.changes | {"softened masks": 1}
    recipe = _with(prepared.recipe, SOFTEN_MASKS)
    return replace(prepared, model=soften_masks(prepared.model), changes=changes, recipe=recipe)


def with_joined_attention(prepared: Prepared, names: Sequence[str]) -> Prepared:
    """Return the graph with one kernel for each of these attentions, by name."""
    return replace(
        prepared,
        model=join_attention(prepared.model, names),
        changes=prepared.changes | {"joined attention": len(names)},
        recipe=replace(_with(prepared.recipe, JOIN_ATTENTION), attention=tuple(names)),
    )


def agree(exact: Sequence[Arrays], other: Sequence[Arrays], same: Sequence[Arrays] | None = None) -> bool:
    """Return whether the float outputs, by name, are the same for each example but for the rounding of float32.

    `same`: of a graph that is known to compute the same; where rounding already changes these more (an output that is
    nearly 0), the others may be changed as much.
    """
    return all(
        array.dtype.kind != "f"
        or signal_to_noise(array, b[name]) >= min(_SAME_DB, signal_to_noise(array, c[name]) - _MORE_DB)
        for a, b, c in zip(exact, other, exact if same is None else same, strict=True)
        for name, array in a.items()
    )


def smoothed(
    prepared: Prepared, statistics: Statistics, layers: Sequence[str], seen: ExampleStatistics | None = None
) -> tuple[Prepared, Statistics] | None:
    """Return the graph with its outliers migrated, and its statistics; None where no tensor would gain.

    `layers` are the nodes that will be integer; `seen` is what `observe_examples` gave for the graph, if known.
    """
    if not statistics.channels:
        return None
    channels = (seen or observe_examples(prepared.model, statistics.examples, biases=False)).channels
    squares = {tensor: found.squares for tensor, found in channels.items()}
    scales = find_smoothing(prepared.model, statistics.channels, squares, layers)
    if not scales:
        return None
    result = replace(
        prepared,
        model=smooth(prepared.model, scales),
        changes=prepared.changes | {"smoothed tensors": len(scales)},
        recipe=replace(_with(prepared.recipe, SMOOTH), smoothing=scales),
    )
    return result, replace(statistics, ranges=smoothed_ranges(prepared.model, scales, statistics.channels))


def _with(recipe: Recipe, step: str) -> Recipe:
    steps = {*recipe.steps, step}
    return replace(recipe, steps=tuple(s for s in STEPS if s in steps))

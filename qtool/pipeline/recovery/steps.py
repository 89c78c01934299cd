"""The steps that change the prepared float graph: decided from weights and data, then done, then or later."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from qtool.core.compute import HERE, Compute
from qtool.core.errors import CalibrationError, DataError
from qtool.core.records.recipe import (
    ABSORB_BIASES,
    ASKED,
    EQUALIZE,
    JOIN_ATTENTION,
    SMOOTH,
    SOFTEN_MASKS,
    STEPS,
    Recipe,
)
from qtool.core.records.statistics import Statistics, load_statistics
from qtool.core.state import Arrays, State, rollout
from qtool.core.tensorspec import InputSpec
from qtool.feeds import Batch, Feeds
from qtool.feeds.checks import castable, fits_dimensions
from qtool.graph import compose, edit, model_io
from qtool.graph.edit import Model
from qtool.graph.positions import note_mask
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.recovery.absorption import absorb_biases, absorbable_tensors, find_shifts
from qtool.pipeline.recovery.attention import join_attention
from qtool.pipeline.recovery.equalization import Extremes, equalizable_tensors, equalize, find_scales
from qtool.pipeline.recovery.masks import soften_masks
from qtool.pipeline.recovery.smoothing import check_channels, smooth
from qtool.runtime.session import Session

_NEEDED = {
    EQUALIZE: "no two layers follow each other whose channels may be rescaled",
    ABSORB_BIASES: "no channel in front of a layer stays above 0 on all of the data",
}


def chosen_steps(**asked: bool) -> tuple[str, ...]:
    """Return the names of the steps asked for, as `Recipe` has them and in its order; each argument must be given."""
    return tuple(step for step in STEPS if step in ASKED and asked[ASKED[step]])


def decide(prepared: Prepared, steps: Sequence[str], feeds: Feeds, compute: Compute = HERE) -> Recipe:
    """Decide what the steps do to a graph that none was applied to; reads all of the data.

    Raises:
        DataError: the model cannot run on the data.
    """
    model = prepared.model
    tensors = equalizable_tensors(model) if EQUALIZE in steps else []
    tensors += absorbable_tensors(model) if ABSORB_BIASES in steps else []
    extremes = channel_extremes(model, list(dict.fromkeys(tensors)), feeds, compute)
    scales = find_scales(model, extremes) if EQUALIZE in steps else {}
    shifts = find_shifts(model, extremes, scales) if ABSORB_BIASES in steps else {}
    return replace(prepared.recipe, steps=tuple(steps), scales=scales, shifts=shifts)


def idle_lines(recipe: Recipe, steps: Sequence[str]) -> tuple[str, ...]:
    """Return a line for each of the steps asked for that has found nothing to do."""
    return tuple(
        f"{ASKED[step].replace('_', '-')} was asked for, and changes nothing: {_NEEDED[step]}"
        for step in recipe.idle
        if step in steps
    )


def apply(prepared: Prepared, recipe: Recipe) -> Prepared:
    """Return the graph that the recipe says, made of one that none was applied to.

    Where the recipe fixes inputs to other values, or leaves something else as it is, the model is read and prepared
    again.

    Raises:
        ValueError: the recipe belongs to another graph; the message says why.
    """
    if (recipe.fixed, recipe.left) != (prepared.recipe.fixed, prepared.recipe.left):
        again = prepare(model_io.load(prepared.path), recipe.fixed, **recipe.left)
        prepared = replace(again, name=prepared.name)
    model, changes = prepared.model, dict(prepared.changes)
    if EQUALIZE in recipe.steps:
        model = equalize(model, recipe.scales)
        changes["equalized pairs"] = len(recipe.scales)
    if ABSORB_BIASES in recipe.steps:
        model = absorb_biases(model, recipe.shifts)
        changes["absorbed biases"] = len(recipe.shifts)
    if SOFTEN_MASKS in recipe.steps:
        model = soften_masks(model)
        changes["softened masks"] = 1
    if JOIN_ATTENTION in recipe.steps:
        model = join_attention(model, recipe.attention or ())
        changes["joined attention"] = len(recipe.attention or ())
    if SMOOTH in recipe.steps:
        model = smooth(model, recipe.smoothing)
        changes["smoothed tensors"] = len(recipe.smoothing)
    return replace(prepared, model=model, changes=changes, recipe=recipe)


def statistics_for(prepared: Prepared, calibration: str | Path | Statistics) -> Statistics:
    """Load the statistics in a calibration file, or take those given, once they are known to be this model's.

    The graph's metadata name the mask of its padding afterwards, if there was one.

    Raises:
        CalibrationError: unreadable, of another model, or with samples that are not the model's inputs.
    """
    if not isinstance(calibration, Statistics):
        calibration = load_statistics(calibration, prepared.digest, prepared.name)
    elif calibration.model_digest != prepared.digest:
        raise CalibrationError(f"the statistics belong to another model than {prepared.name}; calibrate this model")
    if calibration.part is not None and not calibration.part.complete:
        raise CalibrationError(
            f"{calibration.name}: is unfinished; run its `qtool calibrate` again, which goes on from it"
        )
    if calibration.part is not None:
        raise CalibrationError(
            f"{calibration.name}: is shard {calibration.part.shard} of a calibration; `qtool merge` all shards first"
        )
    if calibration.samples < 1:
        raise CalibrationError(f"{calibration.name}: holds no samples; calibrate again")
    wanted = {spec.name: spec for spec in edit.input_specs(prepared.model)}
    fits = bool(calibration.examples) and all(
        set(example) == set(wanted) and all(_feeds(array, wanted[name]) for name, array in example.items())
        for example in calibration.examples
    )
    if not fits:
        raise CalibrationError(f"{calibration.name}: its samples are not the model's inputs; calibrate again")
    note_mask(prepared.model, calibration.mask)
    return calibration


def _feeds(array: np.ndarray, spec: InputSpec) -> bool:
    return castable(array.dtype, spec) and (spec.shape is None or fits_dimensions(array.shape, spec.shape))


def apply_recorded(prepared: Prepared, statistics: Statistics) -> Prepared:
    """Return the graph that the statistics were collected on, made of the prepared one.

    What was left in it as it came is so afterwards too, since ranges of the tensors that it would be rewritten as are
    not needed then, if what was decided fits it as well.

    Raises:
        CalibrationError: they belong to another graph.
    """
    more = {what: True for what, left in prepared.recipe.left.items() if left and not statistics.recipe.left[what]}
    if more:
        with suppress(CalibrationError):
            return apply_recorded(prepared, replace(statistics, recipe=replace(statistics.recipe, **more)))  # type: ignore[arg-type]
    try:
        result = apply(prepared, statistics.recipe)
        check_channels(result.model, statistics.channels)
    except ValueError as error:
        raise CalibrationError(f"{statistics.name}: damaged preparation ({error}); calibrate again") from error
    return result


def channel_extremes(model: Model, tensors: Sequence[str], feeds: Feeds, compute: Compute = HERE) -> Extremes:
    """Measure and return the least and the greatest value of each channel (axis 1) of layers' outputs over all data.

    Raises:
        DataError: the model cannot run on the data, or there is none.
    """
    if not tensors:
        return {}
    carried = [state.output for state in feeds.states]
    wanted = list(dict.fromkeys([*tensors, *carried]))
    session = Session(compose.with_outputs(model, wanted), name="the prepared model", provider=compute.provider)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    done = 0
    for batch in feeds:
        for made in _runs(session, feeds.states, batch):
            for tensor in tensors:
                array = made[tensor]
                others = tuple(i for i in range(array.ndim) if i != 1)
                low, high = array.min(axis=others, initial=np.inf), array.max(axis=others, initial=-np.inf)
                old = found.get(tensor, (low, high))
                found[tensor] = np.minimum(low, old[0]), np.maximum(high, old[1])
        done += batch.size
        compute.progress("measure channels", done, feeds.samples)
    if done == 0:
        raise DataError(f"{feeds.name}: holds no samples; give at least one")
    return found


def _runs(session: Session, states: Sequence[State], batch: Batch) -> Iterator[Arrays]:
    """Yield the outputs of the batch, or of each step where it is a sequence."""
    if not states:
        yield session.run(batch.inputs)
        return
    for _, made in rollout(lambda _, fed: session.run(fed), states, batch.inputs):
        yield made

"""Recurrent models: each runs over a whole sequence with its own state, and its outputs are stacked over the steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from qtool.core.errors import ModelError
from qtool.core.state import State, rollout
from qtool.evaluation.trial import run_numeric
from qtool.runtime.session import Session


def run_sequence(session: Session, inputs: Mapping[str, np.ndarray], states: Sequence[State]) -> dict[str, np.ndarray]:
    """Run a model over a sequence; return its outputs by name, [1, steps, ...], read-only.

    Outputs that are states are among them only where a model has no other.

    Args:
        session: the model.
        inputs: as `qtool.core.state.rollout` takes them.
        states: what is fed back.

    Raises:
        ModelError: an output is not a tensor of numbers, or changes its shape from step to step.
        DataError: the model does not run on these inputs.
    """
    made: dict[str, list[np.ndarray]] = {name: [] for name in compared(session.outputs, states)}
    for _, outputs in rollout(lambda _, fed: run_numeric(session, fed), states, inputs):
        for name, arrays in made.items():
            arrays.append(outputs[name])
    for name, arrays in made.items():
        first = arrays[0].shape
        for array in arrays:
            if array.shape != first:
                raise ModelError(
                    f"{session.name}: output '{name}' is {list(first)} at the first step, {list(array.shape)} later; "
                    "compare models whose outputs keep their shape, or declare it as a state"
                )
    return {name: _stacked(arrays) for name, arrays in made.items()}


def as_sequence(outputs: Mapping[str, np.ndarray], states: Sequence[State]) -> dict[str, np.ndarray]:
    """Return the outputs of a single step in the form of `run_sequence`, [1, 1, ...]."""
    return {name: _stacked([outputs[name]]) for name in compared(list(outputs), states)}


def compared(outputs: Sequence[str], states: Sequence[State]) -> list[str]:
    """Return the outputs that are no states; all of them where every one is a state."""
    carried = {state.output for state in states}
    return [name for name in outputs if name not in carried] or list(outputs)


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[1, steps, ...], read-only; a batch axis of 1 is left out."""
    stacked: np.ndarray = (np.concatenate(arrays) if arrays[0].shape[:1] == (1,) else np.stack(arrays))[None]
    stacked.flags.writeable = False
    return stacked

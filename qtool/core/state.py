"""State: the outputs of a recurrent model that are fed back to inputs, step after step of a sequence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.tensorspec import InputSpec, describe

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class State:
    """A pair of names: `input` takes at every step what `output` held after the step before."""

    input: str
    output: str

    @classmethod
    def parse(cls, text: str) -> "State":
        """Return the state that `INPUT=OUTPUT` declares. Raises `UsageError`."""
        taking, _, giving = text.partition("=")
        if not taking or not giving:
            raise UsageError(f"{arg('state', text)}: names no input and output; write {arg('state', 'INPUT=OUTPUT')}")
        return cls(taking, giving)

    def __str__(self) -> str:
        return f"{self.input}={self.output}"


StateSpec = State | str | Sequence[State | str]


def parsed_states(given: StateSpec) -> tuple[State, ...]:
    """Return the states that are given: one or several, as values or as `INPUT=OUTPUT`. Raises `UsageError`."""
    several = [given] if isinstance(given, State | str) else given
    return tuple(one if isinstance(one, State) else State.parse(one) for one in several)


def check_states(states: Sequence[State], inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> None:
    """Refuse states that the model cannot have.

    Raises:
        UsageError: an input or output that the model does not have, an input named twice, a pair of different types or
            shapes, or no input left that data could feed.
    """
    takes, gives = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    for index, state in enumerate(states):
        for what, name, known in (("input", state.input, takes), ("output", state.output, gives)):
            if name not in known:
                raise UsageError(
                    f"{arg('state', state)}: the model has no {what} '{name}'; write INPUT=OUTPUT with one of its "
                    f"{what}s, {', '.join(known)}"
                )
        if any(state.input == other.input for other in states[:index]):
            raise UsageError(
                f"{arg('state', state)}: the input '{state.input}' is declared twice; leave one of them out"
            )
        if not may_feed_back(gives[state.output], takes[state.input]):
            given, taken = gives[state.output], takes[state.input]
            raise UsageError(
                f"{arg('state', state)}: the output is {describe(given.dtype, given.shape)}, the input takes "
                f"{describe(taken.dtype, taken.shape)}; name an output of that type and shape"
            )
    if states and len(states) == len(inputs):
        raise UsageError(
            f"{arg('state', states[-1])}: no input is left for the data, which says how many steps there are; leave "
            "it out"
        )


def may_feed_back(giving: InputSpec, taking: InputSpec) -> bool:
    """Return whether numbers of an output's type and shape can be an input's, as far as the model says them."""
    if giving.dtype != taking.dtype or taking.dtype.kind == "O":
        return False
    if giving.shape is None or taking.shape is None:
        return True
    return len(giving.shape) == len(taking.shape) and all(
        a == b or not isinstance(a, int) or not isinstance(b, int)
        for a, b in zip(giving.shape, taking.shape, strict=True)
    )


def sequence_length(states: Sequence[State], sequence: Arrays) -> int:
    """Return the number of steps of a sequence, in the form that `rollout` takes."""
    fed_back = {state.input for state in states}
    return next(len(array) for name, array in sequence.items() if name not in fed_back)


def rollout(
    run: Callable[[int, dict[str, np.ndarray]], Arrays], states: Sequence[State], sequence: Arrays
) -> Iterator[tuple[dict[str, np.ndarray], Arrays]]:
    """Run a model over a sequence, its state fed back; yield the inputs and the outputs of each step.

    Args:
        run: takes the number of the step and its inputs, and gives at least the outputs that are states.
        states: what is fed back.
        sequence: for each input that is a state its first value; for each other one an array [T, ...], a step each.
    """
    carried = {state.input: sequence[state.input] for state in states}
    for step in range(sequence_length(states, sequence)):
        inputs = {
            name: carried[name] if name in carried else np.asarray(array[step]) for name, array in sequence.items()
        }
        outputs = run(step, inputs)
        yield inputs, outputs
        carried = {state.input: outputs[state.output] for state in states}

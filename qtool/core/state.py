"""State: the outputs of a recurrent model that are fed back to inputs, step after step of a sequence."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.tensorspec import InputSpec, describe

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class State:
    """A pair of names: `input` takes at every step what `output` held after the step before.

    As declared, each may be a pattern with `*` for any characters: see `expanded_states`.
    """

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


def expanded_states(
    states: Sequence[State], inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]
) -> tuple[State, ...]:
    """Return the states that patterns stand for, each in the place of its pattern.

    Each `*` of the input's pattern stands for any characters, and the output's name has the same ones in the place of
    its own `*`, in order: `past.*=present.*` pairs past.0.key with present.0.key. An input of which the model has no
    such output is no state: data feed it. An input that is declared by its full name is that state only. A name of the
    model that holds `*` itself is taken as it stands.

    Raises:
        UsageError: the two patterns have different numbers of `*`, or a pattern pairs nothing.
    """
    takes, gives = [spec.name for spec in inputs], {spec.name for spec in outputs}
    plain = {state.input for state in states if "*" not in state.input or state.input in takes}
    found: list[State] = []
    for state in states:
        if state.input in plain:
            found.append(state)
            continue
        if state.input.count("*") != state.output.count("*"):
            raise UsageError(
                f"{arg('state', state)}: the output must have as many * as the input, which stand for the same "
                f"characters; write as {arg('state', 'past_key_values.*=present.*')}"
            )
        pattern = re.compile("(.*)".join(map(re.escape, state.input.split("*"))), re.DOTALL)
        pairs = [
            State(name, _filled(state.output, match.groups()))
            for name in takes
            if name not in plain and (match := pattern.fullmatch(name))
        ]
        paired = [pair for pair in pairs if pair.output in gives]
        if not paired:
            raise UsageError(f"{arg('state', state)}: {_no_pair(pairs, takes, list(gives))}")
        found.extend(paired)
    return tuple(found)


def _filled(pattern: str, captured: Sequence[str]) -> str:
    parts = pattern.split("*")
    return parts[0] + "".join(text + part for text, part in zip(captured, parts[1:], strict=True))


def _no_pair(pairs: Sequence[State], takes: Sequence[str], gives: Sequence[str]) -> str:
    """Why a pattern pairs nothing, and the pattern that would."""
    if pairs:
        why = f"the model has an input '{pairs[0].input}', but no output '{pairs[0].output}'"
    else:
        why = f"no input of the model has such a name (its inputs are {_few(takes)})"
    likely = common_pattern(pair for name in takes if (pair := same_end(name, gives)) is not None)
    remedy = "write INPUT=OUTPUT with one of each" if likely is None else f"write {arg('state', likely)}"
    return f"{why}; {remedy}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def same_end(name: str, gives: Sequence[str]) -> State | None:
    """Return the state whose output ends as the input `name` does from its first number on; None unless one does."""
    start = re.search(r"\d", name)
    ends = [other for other in gives if start and re.sub(r"^\D*", "", other) == name[start.start() :]]
    return State(name, ends[0]) if len(ends) == 1 else None


def common_pattern(states: Iterable[State]) -> str | None:
    """Return the pattern `INPUT*=OUTPUT*` that stands for several states, or None where no one does."""
    ways = set()
    for state in states:
        number = re.search(r"\d", state.input)
        end = state.input[number.start() :] if number else ""
        if not end or not state.output.endswith(end):
            return None
        ways.add((state.input.removesuffix(end), state.output.removesuffix(end)))
    if len(ways) != 1:
        return None
    (heads,) = ways
    return f"{heads[0]}*={heads[1]}*"


def growing_axes(
    states: Sequence[State], inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]
) -> dict[str, frozenset[int]]:
    """Return the axes of each state that grow from step to step, as those of a cache of keys and values do.

    An axis grows where the model leaves it free in both, and the output names it otherwise than the input. Axes that
    another input of the model, which is no state, has too do not.
    """
    takes, gives = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    carried = {state.input for state in states}
    shared = {dim for spec in inputs if spec.name not in carried for dim in spec.shape or () if isinstance(dim, str)}
    growing = {}
    for state in states:
        taken, given = takes[state.input].shape or (), gives[state.output].shape or ()
        growing[state.input] = frozenset(
            axis
            for axis, (before, after) in enumerate(zip(taken, given, strict=False))
            if isinstance(before, str)
            and before
            and not isinstance(after, int)
            and before != after
            and before not in shared
        )
    return growing


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

    What differs in shape from step to step is an array of objects, [T], which holds an array a step.

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

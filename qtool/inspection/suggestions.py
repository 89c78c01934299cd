"""The options that a model's inputs and outputs ask for, as far as its file tells: state, trim, tokenizer, fix.

Each is a line `argument='value': why`, the argument as the public functions call it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from qtool.core.records.inspection import ANY_VALUE
from qtool.core.state import State
from qtool.core.tensorspec import InputSpec
from qtool.graph import edit
from qtool.graph.edit import Model, Node, Value
from qtool.inspection.pictures import picture_suggestions
from qtool.pipeline.calibration.advice import deciding_inputs

Arrays = Mapping[str, np.ndarray]
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_DIRECTIONS = frozenset({
    "in", "input", "inputs", "out", "output", "outputs", "n", "new", "next", "prev", "previous", "past", "present",
    "last", "init", "initial", "cur", "current", "old", "updated",
})  # fmt: skip
_SHORT = {"hn": "h", "cn": "c", "ho": "h", "co": "c", "hout": "h", "cout": "c", "hin": "h", "cin": "c"}
_STATE = frozenset({
    "state", "states", "hidden", "h", "c", "cell", "cache", "caches", "mem", "memory", "rnn", "lstm", "gru", "past",
    "present", "context", "ctx", "buffer", "carry",
})  # fmt: skip
_INITIAL, _FINAL = 5, 1
"""Of LSTM, GRU and RNN: the first of the inputs that states begin with, and of the outputs that they end with."""
_Place = tuple[Node, int]
_RECURRENT = ("LSTM", "GRU", "RNN")
_MOVING = ("Squeeze", "Unsqueeze", "Reshape", "Transpose", "Slice", "Gather", "Split", "Identity", "Cast", "Concat")
_TOKENS, _MASK = ("input_ids", "token_type_ids"), "mask"
_FEW = 16
"""Elements of an input that may be a setting; one of more is data."""


def suggest(model: Model, path: Path, examples: Sequence[Arrays] = ()) -> tuple[str, ...]:
    """Return the options that a model as it came asks for, a line each.

    Args:
        path: of its file, beside which others may lie that belong to it.
        examples: of the data that it will see, if there is any: an input that varies there is fixed to nothing.
    """
    if not all(map(edit.is_tensor, model.graph.inputs)):
        return ()
    fed = [value for value in model.graph.inputs if not value.is_initializer()]
    specs = [spec for spec in edit.input_specs(model) if spec.name in {value.name for value in fed}]
    states = find_states(model, specs)
    taken = {state.input for state, _ in states}
    free = [spec for spec in specs if spec.name not in taken]
    lines = [f"state='{state}': {why}" for state, why in states]
    lines += [f"fix='{name}={value}': {why}" for name, value, why in _settings(model, free, examples)]
    lines += _texts(free, path)
    lines += picture_suggestions(model, free, path)
    return tuple(lines)


def find_states(model: Model, inputs: Sequence[InputSpec]) -> list[tuple[State, str]]:
    """Return the pairs of an input and an output that is fed back to it, with the reason; the last input is left out.

    A pair has one type, and shapes that agree. Its names must say so, or a recurrent operator begins with the one and
    ends with the other. `inputs`: those that are fed.
    """
    outputs = {spec.name: spec for spec in edit.output_specs(model)}
    begun = {str(v.name): {(node, i - _INITIAL) for node, i in _reaching(v, _begins)} for v in model.graph.inputs}
    ended = {str(v.name): _reached(v) for v in model.graph.outputs}
    found: list[tuple[State, str]] = []
    left = dict(outputs)
    for spec in inputs:
        fitting = [other for other in left.values() if _alike(spec, other)]
        named = [other for other in fitting if _base(spec.name) & _base(other.name)]
        loops = [other for other in fitting if begun[spec.name] and ended[other.name] & begun[spec.name]]
        why = ""
        if len(loops) == 1:
            chosen, why = loops[0], f"{_operator(begun[spec.name])} begins with it and ends with that"
        elif named and (_words(spec.name) | _words(named[0].name)) & _STATE:
            chosen, why = named[0], "their names and shapes say that it is fed back"
        if why:
            found.append((State(spec.name, chosen.name), why))
            del left[chosen.name]
    return found if len(found) < len(inputs) else []


def _words(name: str) -> frozenset[str]:
    return frozenset(_SHORT.get(word.lower(), word.lower()) for word in _WORD.findall(name))


def _base(name: str) -> set[frozenset[str]]:
    """The words of a name without those for a direction, with and without a 0: h0 and hn are both h."""
    words = _words(name) - _DIRECTIONS
    says = not _STATE.isdisjoint(_words(name))
    return {kept for kept in (words, words - {"0"}) if (says and kept) or any(not word.isdecimal() for word in kept)}


def _alike(one: InputSpec, other: InputSpec) -> bool:
    """Whether type and shape agree; 0, which some exporters write for what is free, agrees with all."""
    if one.dtype != other.dtype or one.dtype.kind not in "fiu" or one.shape is None or other.shape is None:
        return False
    pairs = list(zip(one.shape, other.shape, strict=False))
    numbers = all(a == b or not a or not b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    # what grows by each step is no state of one size
    grown = any(isinstance(a, str) and isinstance(b, str) and a != b and a in b for a, b in pairs)
    return len(one.shape) == len(other.shape) and numbers and not grown


def _begins(node: Node, index: int) -> bool:
    return edit.is_main_op(node, *_RECURRENT) and index >= _INITIAL


def _reaching(value: Value, wanted: Callable[[Node, int], bool]) -> set[_Place]:
    """The nodes that read a value at a wanted input, with its number, however it was moved and cut before."""
    found: set[_Place] = set()
    waiting, seen = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses():
            if wanted(node, index):
                found.add((node, index))
            elif edit.is_main_op(node, *_MOVING):
                more = [output for output in node.outputs if output not in seen]
                seen.update(more)
                waiting += more
    return found


def _reached(value: Value) -> set[_Place]:
    """The recurrent nodes whose last state a value is, and which of their states, however it was moved behind."""
    found: set[_Place] = set()
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if node is None:
            continue
        if edit.is_main_op(node, *_RECURRENT):
            index = list(node.outputs).index(current)
            found |= {(node, index - _FINAL)} if index >= _FINAL else set()
        elif edit.is_main_op(node, *_MOVING):
            more = [v for _, v in edit.activations(node) if v not in seen]
            seen.update(more)
            waiting += more
    return found


def _operator(places: set[_Place]) -> str:
    first = min((node for node, _ in places), key=lambda node: str(node.name))
    return f"{first.op_type} {str(first.name or first.outputs[-1].name)!r}"


def _settings(model: Model, inputs: Sequence[InputSpec], examples: Sequence[Arrays]) -> Iterator[tuple[str, str, str]]:
    """Inputs that may have one value in all use, and have it in the examples: (name, value, why)."""
    deciding = deciding_inputs(model)
    for spec in inputs:
        size = 1
        for dim in spec.shape or ():
            size *= dim if isinstance(dim, int) else _FEW + 1
        read = next(v for v in model.graph.inputs if v.name == spec.name).uses()
        if len(inputs) < 2 or size != 1 or spec.shape is None or not read:
            continue
        seen = np.unique([float(array.reshape(-1)[0]) for e in examples if (array := e.get(spec.name)) is not None])
        if len(seen) > 1:
            continue
        compared = _compared(model, spec.name)
        value = f"{seen[0]:.17g}" if len(seen) else (*compared, ANY_VALUE)[0]
        others = f"; it is compared with {', '.join(compared)}" if compared else ""
        always = "which has one value in this data" if len(seen) else "if it always has one value"
        kind = "it decides which branch an If takes" if spec.name in deciding else "a single number"
        gone = ": the others are gone then" if spec.name in deciding else ""
        yield spec.name, value, f"{kind}, {always}{gone}{others}"


def _compared(model: Model, name: str) -> list[str]:
    """The constants that an input is compared with for equality."""
    value = next(v for v in model.graph.inputs if v.name == name)
    comparisons = _reaching(value, lambda node, _: edit.is_main_op(node, "Equal"))
    arrays = [edit.known_constant(operand) for node, _ in comparisons for operand in node.inputs]
    return sorted(f"{array.reshape(())[()]:g}" for array in arrays if array is not None and array.size == 1)


def _texts(inputs: Sequence[InputSpec], path: Path) -> Iterator[str]:
    """Tokens of texts, and masks of what is padded."""
    whole = [spec for spec in inputs if spec.dtype.kind in "iu" and len(spec.shape or ()) == 2]
    if any(spec.name in _TOKENS for spec in whole):
        beside = path.parent / "tokenizer.json"
        file, where = (beside, "which lies beside the model") if beside.is_file() else ("tokenizer.json", "the model's")
        yield f"tokenizer='{file}': input '{whole[0].name}' takes tokens of text; {where}, for a .jsonl of texts"
    for spec in inputs:
        lengths = (spec.shape or ())[1:2]
        free = len(spec.shape or ()) == 2 and not isinstance(lengths[0], int)
        together = [s.name for s in inputs if s is not spec and (s.shape or ())[1:2] == lengths]
        if _MASK in _words(spec.name) and spec.dtype.kind in "iubf" and free and together:
            yield (
                f"trim='{spec.name}': '{', '.join(together)}' has its length, which is free: padded samples are cut to "
                "the longest of their batch"
            )
            return

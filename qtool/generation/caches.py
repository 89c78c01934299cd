"""The inputs of a decoder by name: tokens, its cache, what the encoder said, and what follows from their lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qtool.core.errors import UsageError, in_file
from qtool.core.state import State, check_states, expanded_states
from qtool.core.tensorspec import InputSpec
from qtool.generation.description import LoopSettings
from qtool.generation.part import PartModel

_TOKENS = ("decoder_input_ids", "input_ids")
_MASKS = ("decoder_attention_mask", "attention_mask")
_LOGITS = "logits"
OWN_LOOP = "write a loop of your own: loop = 'file.py:FUNCTION'"
"""What to do where a part is in none of the forms that the loops know."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The tokens so far, with the score that a beam gives them, and the cache that holds all but those in `fresh`.

    fresh: how many at the end the cache has not seen.
    """

    tokens: tuple[int, ...]
    fresh: int
    score: float = 0.0
    cache: Mapping[str, np.ndarray] = field(default_factory=dict)


class Decoding:
    """Runs a decoder one step at a time, in the forms in which exporters write it.

    With or without an encoder; without a cache (all tokens are fed each time), with one that begins empty, with a first
    step of its own (`decoder` beside `decoder_with_past`), or both in one (an input `use_cache_branch`). The batch is
    1.

    Args:
        parts: decoder, and as far as there are such, encoder and decoder_with_past.
        states: which outputs are the cache, as patterns.
        inputs: of the sample, by name: those of the encoder, or of the decoder where there is none.

    Raises:
        UsageError: an input of the decoder is none that is known, or no output is scores.
        DataError: a part does not run.
    """

    def __init__(
        self, parts: Mapping[str, PartModel], states: Sequence[State], inputs: Mapping[str, np.ndarray]
    ) -> None:
        self._first = parts["decoder"]
        self._later = parts.get("decoder_with_past", self._first)
        self._memory: dict[str, np.ndarray] = {}
        encoder = parts.get("encoder")
        self.prompt: tuple[int, ...] = ()
        if encoder is not None:
            said = encoder({spec.name: inputs[spec.name] for spec in encoder.inputs})
            of_inputs = {**inputs, **{f"encoder_{name}": array for name, array in inputs.items()}}
            self._memory = {**of_inputs, "encoder_hidden_states": next(iter(said.values())), **said}
        else:
            self.prompt = tuple(int(token) for token in np.reshape(inputs[_token_input(self._first)], -1))
        self._of_first = paired(states, self._later, self._first)
        self._of_later = paired(states, self._later, self._later)

    def step(self, so_far: Hypothesis) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the scores of the next token, float64 [tokens], and the cache behind this step. Raises `DataError`."""
        begun = bool(so_far.cache)
        part, pairs = (self._later, self._of_later) if begun else (self._first, self._of_first)
        count = so_far.fresh if self._of_later else len(so_far.tokens)
        outputs = part(self._feeds(part, so_far, count, begun=begun))
        cache = dict(so_far.cache)
        for pair in pairs:
            # exporters give nothing where what the encoder said stays as it is
            if outputs[pair.output].size or pair.input not in cache:
                cache[pair.input] = outputs[pair.output]
        scores = outputs[_score_output(part, outputs)]
        return scores.reshape(-1, scores.shape[-1])[-1].astype(np.float64), cache

    def _feeds(self, part: PartModel, so_far: Hypothesis, count: int, *, begun: bool) -> dict[str, np.ndarray]:
        length = len(so_far.tokens)
        tokens = _token_input(part)
        known: dict[str, np.ndarray] = {
            tokens: np.array([so_far.tokens[length - count :]], np.int64),
            "position_ids": np.arange(length - count, length)[None],
            "cache_position": np.arange(length - count, length),
            "use_cache_branch": np.array([begun]),
            **dict.fromkeys(_MASKS[: 1 if self._memory else 2], np.ones((1, length), np.int64)),
        }
        cached = {pair.input for pair in (*self._of_first, *self._of_later)}
        feeds = {}
        for spec in part.inputs:
            if spec.name in so_far.cache:
                feeds[spec.name] = so_far.cache[spec.name]
            elif spec.name in cached:
                feeds[spec.name] = _empty(spec)
            elif spec.name in known:
                feeds[spec.name] = known[spec.name]
            elif spec.name in self._memory:
                feeds[spec.name] = self._memory[spec.name]
            else:
                have = ", ".join((*known, *self._memory))
                raise UsageError(
                    f"part '{part.name}': nothing feeds its input '{spec.name}' (there are {have}, and what settings."
                    f"state feeds back); declare it there, or {OWN_LOOP}"
                )
        return feeds


def check_caches(path: Path, states: Sequence[State], parts: Mapping[str, PartModel]) -> None:
    """Refuse declared states that pair nothing, and a decoder that goes on from another one without any.

    path: of the file that declares them.

    Raises:
        UsageError: a state pairs no output of a decoder with an input of the one that goes on, or only its own.
    """
    first = parts["decoder"]
    later = parts.get("decoder_with_past", first)
    if later is first and tuple(states) == LoopSettings().state:
        # a decoder may have no cache
        return
    outputs = list({spec.name: spec for spec in (*first.outputs, *later.outputs)}.values())
    with in_file(path, state="settings.state"):
        check_states(expanded_states(states, later.inputs, outputs), later.inputs, outputs)
    if later is not first and not paired(states, later, first):
        raise UsageError(
            f"{path}: settings.state pairs no output of part '{first.name}' with an input of '{later.name}', which "
            f"would never run (the outputs are {', '.join(spec.name for spec in first.outputs)}); write INPUT=OUTPUT "
            "with one of them, or leave the part out"
        )


def paired(states: Sequence[State], taking: PartModel, giving: PartModel) -> tuple[State, ...]:
    """Return the states that outputs of one part feed to inputs of another, or its own; none where no pattern fits."""
    found: list[State] = []
    for state in states:
        try:
            found += expanded_states([state], taking.inputs, giving.outputs)
        except UsageError:
            continue
    takes, gives = {spec.name for spec in taking.inputs}, {spec.name for spec in giving.outputs}
    return tuple(pair for pair in found if pair.input in takes and pair.output in gives)


def _token_input(part: PartModel) -> str:
    name = next((name for name in _TOKENS if part.takes(name)), None)
    if name is None:
        names = ", ".join(spec.name for spec in part.inputs)
        raise UsageError(f"part '{part.name}': has no input {' or '.join(_TOKENS)} but {names}; {OWN_LOOP}")
    return name


def _score_output(part: PartModel, outputs: Mapping[str, np.ndarray]) -> str:
    found = _LOGITS if _LOGITS in outputs else next((n for n, a in outputs.items() if a.ndim in (2, 3)), None)
    if found is None:
        raise UsageError(f"part '{part.name}': no output has the shape [1, tokens, classes]; {OWN_LOOP}")
    return found


def _empty(spec: InputSpec) -> np.ndarray:
    """A cache without an entry: a free axis behind the batch has no length."""
    lengths = [d if isinstance(d, int) else int(axis == 0) for axis, d in enumerate(spec.shape or ())]
    return np.zeros(lengths, spec.dtype)
